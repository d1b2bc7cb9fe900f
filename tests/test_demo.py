"""`python -m keras_decay demo`: what it writes and prints, and what it says when it cannot run."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from support import BACKEND, number

import keras_decay
from keras_decay import PlateauDecay, _cli, _demo

OTHER = "torch" if BACKEND == "jax" else "jax"


def run_demo(*arguments, cwd, absent=(), **environment):
    """`python -m keras_decay demo` as a user runs it, `absent` modules not installed."""
    hidden = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    (cwd / "sitecustomize.py").write_text(hidden)
    inherited = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    path = os.pathsep.join([str(cwd), str(Path(keras_decay.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "keras_decay", "demo", *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": path, "KERAS_HOME": str(cwd), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def no_training(monkeypatch):
    """Makes a demo that gets as far as training fail the test."""

    def run(*arguments):
        pytest.fail("the demo trained")

    monkeypatch.setattr(_demo, "run", run)


def error_line(capsys):
    """The one line on stderr; there is nothing on stdout."""
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


def test_demo_trains_five_times_and_leaves_picture_table_and_model(tmp_path):
    """The user's whole path, `--backend` against `KERAS_BACKEND`; the model then loads here."""
    done = run_demo(
        "--epochs", "3", "--backend", BACKEND, "--seed", "1", cwd=tmp_path, KERAS_BACKEND=OTHER
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"on {BACKEND}: 1347 handwritten digits" in done.stdout
    assert "3 epochs, seed 1" in done.stdout
    assert "3/3" in done.stdout
    assert "one more epoch" in done.stdout

    out = tmp_path / "keras-decay-demo"
    assert sorted(path.name for path in out.iterdir()) == ["demo.csv", "demo.keras", "demo.png"]
    assert (out / "demo.png").read_bytes().startswith(b"\x89PNG")
    with (out / "demo.csv").open(newline="") as file:
        rows = {
            row.pop("run"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(file)
        }
    assert list(rows) == [
        "constant",
        "StepDecay",
        "InverseTimeDecay",
        "PlateauDecay",
        "PlateauDecay over StepDecay",
    ]
    for row in rows.values():
        assert row["first_learning_rate"] == pytest.approx(0.1)
        assert row["last_learning_rate"] <= row["first_learning_rate"]
        assert 0 < row["best_val_loss"] <= row["final_val_loss"]
        assert 0 < row["final_val_accuracy"] <= row["best_val_accuracy"] <= 1
        assert row["seconds"] > 0
    assert rows["constant"]["last_learning_rate"] == pytest.approx(0.1)
    # Three epochs: two decays of StepDecay; the last step of epoch 2 is step 43 * 3 - 1.
    assert rows["StepDecay"]["last_learning_rate"] == pytest.approx(0.1 / 4)
    smooth = 0.1 / (1 + 0.5 * (43 * 3 - 1) / 43)
    assert rows["InverseTimeDecay"]["last_learning_rate"] == pytest.approx(smooth)

    best = min(rows.values(), key=lambda row: row["final_val_loss"])
    loaded = keras.models.load_model(out / "demo.keras")
    _, _, x, y = _demo._digits(1)
    loss = loaded.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(best["final_val_loss"], rel=1e-4)
    assert number(loaded.optimizer.iterations) == 3 * 43
    assert number(loaded.optimizer.learning_rate) <= best["last_learning_rate"] * (1 + 1e-6)


def test_default_plan_decays_and_starts_the_plateaus_afresh():
    """In the default 40 epochs StepDecay halves four times; no two runs share a plateau."""
    constant, step, inverse, plateau, both = _demo._runs(40, 43)
    assert constant.learning_rate == plateau.learning_rate == 0.1
    assert float(step.learning_rate(40 * 43 - 1)) == pytest.approx(0.1 / 16)
    assert float(inverse.learning_rate(0)) == pytest.approx(0.1)
    assert isinstance(plateau.plateau, PlateauDecay)
    assert plateau.plateau is not both.plateau
    assert [run.plateau for run in (constant, step, inverse)] == [None] * 3


def test_loaded_model_that_goes_on_differently_is_an_error(monkeypatch, tmp_path, capsys):
    """The comparison's outcome is the exit status."""
    monkeypatch.setattr(_demo, "run", lambda *arguments: False)
    assert _cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert "does not go on" in error_line(capsys)


def test_unwritable_folder_is_one_line_before_any_training(no_training, tmp_path, capsys):
    """A folder below a file cannot be made."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "out"
    assert _cli.main(["demo", "--out", str(folder)]) == 1
    assert error_line(capsys).startswith(f"error: --out {folder}: cannot write there: ")


@pytest.mark.parametrize(
    ("module", "name"),
    [("sklearn", "scikit-learn"), ("matplotlib", "Matplotlib"), ("rich", "Rich")],
)
def test_missing_package_is_one_line_with_the_fix(
    module, name, no_training, monkeypatch, tmp_path, capsys
):
    """Nothing is trained first, and no folder is made."""
    monkeypatch.setitem(sys.modules, module, None)
    assert _cli.main(["demo", "--out", str(tmp_path / "out")]) == 1
    assert error_line(capsys) == (
        f'error: not installed, but needed: {name}. Install with: pip install "keras-decay[demo]"'
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "argument --epochs: must be an int from 1 to 10000. Received: 0"),
        (["--epochs", "2.5"], "argument --epochs: must be an int from 1 to 10000. Received: 2.5"),
        (["--seed", "-1"], "argument --seed: must be an int from 0 to 4294967295. Received: -1"),
        (["--backend", "mxnet"], "argument --backend: invalid choice: 'mxnet'"),
        (["--epoch-count", "3"], "unrecognized arguments: --epoch-count 3"),
    ],
)
def test_bad_option_is_a_usage_error(arguments, message, no_training, capsys):
    """Status 2 and what was expected."""
    with pytest.raises(SystemExit, match="2"):
        _cli.main(["demo", *arguments])
    assert message in capsys.readouterr().err


def test_other_backend_in_a_running_process_is_one_line(no_training, tmp_path, capsys):
    """Keras cannot change its backend once it is imported."""
    assert _cli.main(["demo", "--backend", OTHER, "--out", str(tmp_path)]) == 1
    assert error_line(capsys) == (
        f"error: --backend {OTHER}: Keras runs on {BACKEND} in this process already"
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "absent", "message"),
    [
        (
            (),
            {},
            ("tensorflow", "jax", "torch"),
            (
                "Keras needs TensorFlow, JAX or torch, and none of them is installed. "
                'Install with: pip install "keras-decay[tensorflow]" (or [jax], or [torch])'
            ),
        ),
        (
            ("--backend", OTHER),
            {},
            (OTHER,),
            (
                f"--backend {OTHER}: it is not installed. Install with: "
                f'pip install "keras-decay[{OTHER}]", or take one that is: --backend '
            ),
        ),
        (
            (),
            {"KERAS_BACKEND": OTHER},
            (OTHER,),
            f"KERAS_BACKEND={OTHER}: it is not installed.",
        ),
        (
            (),
            {"KERAS_BACKEND": "mxnet"},
            (),
            "KERAS_BACKEND=mxnet: the backend must be one of tensorflow, jax, torch",
        ),
    ],
)
def test_missing_backend_is_one_line_with_the_fix(
    arguments, environment, absent, message, tmp_path
):
    """As a process of its own, since there Keras fails on import with a traceback."""
    done = run_demo(*arguments, cwd=tmp_path, absent=absent, **environment)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "keras-decay-demo").exists()


@pytest.mark.parametrize(
    ("settings", "installed", "chosen"),
    [
        (None, {"tensorflow", "jax", "torch"}, "tensorflow"),
        ('{"backend": "jax"}', {"tensorflow", "jax"}, "jax"),
        ('{"backend": "tensorflow"}', {"torch"}, "torch"),
        ('{"backend": "openvino"}', {"jax", "torch"}, "jax"),
        ("not JSON", {"torch"}, "torch"),
        ("[]", {"jax"}, "jax"),
    ],
)
def test_backend_is_the_one_keras_is_set_to_or_else_an_installed_one(
    settings, installed, chosen, monkeypatch, tmp_path
):
    """Keras writes "tensorflow" into its settings by itself, so that is no reason to fail."""
    if settings is not None:
        (tmp_path / "keras.json").write_text(settings)
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(_cli, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    for name in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
    _cli._choose_backend(None)
    assert os.environ["KERAS_BACKEND"] == chosen
