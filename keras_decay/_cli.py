"""The command line: `python -m keras_decay demo` and `python -m keras_decay preview`.

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
from itertools import groupby
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
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.run is _run_preview:
        arguments.schedules = rest
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
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
    preview = commands.add_parser(
        "preview",
        help="print and draw schedules without training",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s SCHEDULE [options] [+ SCHEDULE [options]]...",
        description="Prints the learning rate at the epochs where it changes, and draws it.",
        epilog=_schedule_parser().format_help().partition("\n\n")[2] + PREVIEW_EXAMPLES,
        allow_abbrev=False,
    )
    preview.set_defaults(run=_run_preview)
    preview.add_argument(
        "--epochs", type=_int(1, 1_000_000), default=60, metavar="N", help="default: %(default)s"
    )
    preview.add_argument(
        "--steps-per-epoch",
        type=_int(1, 1_000_000),
        default=100,
        metavar="N",
        help="steps (batches) in an epoch (default: %(default)s)",
    )
    preview.add_argument("--out", type=Path, metavar="FILE", help="draw a picture into this file")
    return parser


PREVIEW_EXAMPLES = """
Several schedules, with + between them, are compared.

examples:
  python -m keras_decay preview step --initial-learning-rate 0.1 --decay-rate 0.5 \\
      --decay-epochs 10 --epochs 60 --out lr.png
  python -m keras_decay preview step --decay-epochs 30 45 + inverse-time --decay-rate 0.5 \\
      + step --decay-epochs 20 --warmup-epochs 5 --out compared.png
"""


def _schedule_parser() -> argparse.ArgumentParser:
    """The options of one schedule; those that are not given are the defaults of its class."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_decay preview",
        usage="%(prog)s SCHEDULE [options] [+ SCHEDULE [options]]...",
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    kinds = ("step", "inverse-time", "constant")
    parser.add_argument("kind", choices=kinds, metavar="SCHEDULE", help=", ".join(kinds))
    parser.add_argument(
        "--initial-learning-rate", type=float, default=0.1, metavar="X", help="default: %(default)s"
    )
    parser.add_argument(
        "--decay-rate",
        type=float,
        metavar="X",
        help="step: the factor at each decay (default: 0.1). inverse-time: per epoch, "
        "rate / (1 + X * epoch) (default: 1)",
    )
    parser.add_argument(
        "--decay-epochs",
        type=int,
        nargs="+",
        metavar="N",
        help="step: one number, every N epochs (default: 1); several, the epochs that decay",
    )
    parser.add_argument(
        "--staircase", action="store_true", help="inverse-time: change once an epoch"
    )
    parser.add_argument("--min-learning-rate", type=float, metavar="X", help="the floor")
    parser.add_argument(
        "--warmup-epochs", type=int, metavar="N", help="rise from 0 for N epochs first"
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


def _run_preview(arguments: argparse.Namespace) -> None:
    needed = {"rich": "Rich"} | ({} if arguments.out is None else {"matplotlib": "Matplotlib"})
    _require(needed, "demo")
    parts = [list(part) for plus, part in groupby(arguments.schedules, "+".__ne__) if plus]
    parser = _schedule_parser()
    if not parts:
        parser.error("give a schedule: step, inverse-time or constant")
    specs = [(" ".join(part), vars(parser.parse_args(part))) for part in parts]
    if arguments.out is not None:
        _check_picture(arguments.out)
    _choose_backend(None)
    from keras_decay import _plot, _preview, _show

    try:
        named = {
            text: _show.schedule(**spec, steps_per_epoch=arguments.steps_per_epoch)
            for text, spec in specs
        }
    except (TypeError, ValueError) as error:
        raise Failure(str(error)) from None
    for text, schedule in named.items():
        _, rates = _preview.preview(
            schedule, arguments.epochs, steps_per_epoch=arguments.steps_per_epoch
        )
        _show.print_changes(text, rates, arguments.steps_per_epoch)
    if arguments.out is not None:
        figure = _plot.plot(named, arguments.epochs, steps_per_epoch=arguments.steps_per_epoch)
        figure.savefig(arguments.out)
        print(f"Drawn in {arguments.out}")


def _check_picture(path: Path) -> None:
    """Fails now, rather than after the table, if no picture can be written to `path`."""
    from matplotlib.figure import Figure

    kinds = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in kinds:
        raise Failure(f"--out {path}: the name must end in one of .{', .'.join(sorted(kinds))}")
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Failure(f"--out {path}: cannot write there: not a file in a folder that exists")


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
