"""The command line: `python -m keras_decay demo`.

Nothing here imports Keras: a backend can be chosen only before that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")


class Failure(Exception):
    """Something that the user can mend: told in one line, without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 1 where one line says what is missing.

    Args:
        argv: The arguments, those of the process unless given.

    Raises:
        SystemExit: bad arguments (status 2) or `--help` (status 0), as always with argparse.
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m keras_decay", description="Learning-rate decay for Keras 3."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="train on handwritten digits with each kind of decay and compare",
        description="Trains a small network on handwritten digits five times, from the same "
        "weights: with a constant rate, StepDecay, InverseTimeDecay, PlateauDecay, and "
        "PlateauDecay over StepDecay. Prints a table, draws a picture, saves the best model, "
        "and checks that it goes on, once loaded, where it was.",
    )
    demo.set_defaults(run=_run_demo)
    demo.add_argument(
        "--epochs",
        type=_int(1, 10_000),
        default=40,
        metavar="N",
        help="epochs of each training (default: %(default)s)",
    )
    demo.add_argument(
        "--seed",
        type=_int(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="seed of the split, the initial weights, the order of the data and the dropout "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("keras-decay-demo"),
        metavar="DIR",
        help="folder for the picture, the table (CSV) and the model; made if it is not there "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--backend",
        choices=BACKENDS,
        help="backend of Keras (default: the one that Keras is set to, else one that is installed)",
    )
    return parser


def _int(least: int, most: int) -> Callable[[str], int]:
    """A type for argparse: an int in [least, most]."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"must be an int from {least} to {most}. Received: {text}"
            )
        return number

    return parse


def _run_demo(arguments: argparse.Namespace) -> None:
    _require({"sklearn": "scikit-learn", "matplotlib": "Matplotlib", "rich": "Rich"}, "demo")
    _choose_backend(arguments.backend)
    _make_writable(arguments.out)
    from keras_decay import _demo

    if not _demo.run(arguments.epochs, arguments.seed, arguments.out):
        raise Failure("the loaded model does not go on as the saved one; see the last table")


def _require(modules: dict[str, str], extra: str) -> None:
    """Fails unless all `modules`, given with the names that people know, are installed."""
    missing = [name for module, name in modules.items() if find_spec(module) is None]
    if missing:
        raise Failure(
            f"not installed, but needed: {', '.join(missing)}. "
            f'Install with: pip install "keras-decay[{extra}]"'
        )


def _choose_backend(wanted: str | None) -> None:
    """Sets the backend that Keras, not imported yet, will run on.

    It is what the option says, or `KERAS_BACKEND`, or Keras's own settings file, or, where
    that one is not installed, the first one that is.
    """
    asked = f"--backend {wanted}"
    if wanted is None and (wanted := os.environ.get("KERAS_BACKEND") or None):
        asked = f"KERAS_BACKEND={wanted}"
    if "keras" in sys.modules:
        running = sys.modules["keras"].config.backend()
        if wanted not in (None, running):
            raise Failure(f"{asked}: Keras runs on {running} in this process already")
        return
    installed = [backend for backend in BACKENDS if find_spec(backend) is not None]
    if not installed:
        raise Failure(
            "Keras needs TensorFlow, JAX or torch, and none of them is installed. "
            'Install with: pip install "keras-decay[tensorflow]" (or [jax], or [torch])'
        )
    if wanted is None:
        configured = _configured_backend()
        wanted = configured if configured in installed else installed[0]
    elif wanted not in BACKENDS:
        raise Failure(f"{asked}: the backend must be one of {', '.join(BACKENDS)}")
    elif wanted not in installed:
        raise Failure(
            f'{asked}: it is not installed. Install with: pip install "keras-decay[{wanted}]", '
            f"or take one that is: --backend {' or --backend '.join(installed)}"
        )
    os.environ["KERAS_BACKEND"] = wanted
    # TensorFlow's notes about the machine would come between the lines of the progress bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # On so small a network torch's threads mostly wait for each other: on a busy machine, that
    # takes six times as long as a single one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _configured_backend() -> object:
    """What Keras's settings file says, which Keras writes when it is first imported."""
    folder = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    try:
        return json.loads((folder / "keras.json").read_text())["backend"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make_writable(folder: Path) -> None:
    """Makes the folder, and fails now rather than after the training if it takes no files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Failure(f"--out {folder}: cannot write there: {error.strerror}") from None
