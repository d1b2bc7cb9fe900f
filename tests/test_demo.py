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
from keras_decay import PlateauDecay
from keras_decay.tools import _demo

STEPS = 43  # Of 1,347 images, in batches of 32.


def run_demo(*arguments, cwd, absent=()):
    """`python -m keras_decay demo` as a user runs it, `absent` modules not installed."""
    hidden = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    (cwd / "sitecustomize.py").write_text(hidden)
    path = os.pathsep.join([str(cwd), str(Path(keras_decay.__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-m", "keras_decay", "demo", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_demo_trains_five_times_and_leaves_picture_table_and_model(tmp_path):
    """The user's whole path, on the backend of `KERAS_BACKEND`; the model then loads here."""
    done = run_demo("--epochs", "3", "--seed", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"on {BACKEND}: 1347 handwritten digits" in done.stdout
    assert "3 epochs, seed 1" in done.stdout
    assert "after an epoch more" in done.stdout

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
    for name, row in rows.items():
        assert name in done.stdout
        assert 0 < row["best val loss"] <= row["final val loss"]
        assert 0 < row["final val accuracy"] <= 1
    assert rows["constant"]["last rate"] == pytest.approx(0.1)
    # Three epochs: two decays of StepDecay; the last step of epoch 2 is step 43 * 3 - 1.
    assert rows["StepDecay"]["last rate"] == pytest.approx(0.1 / 4)
    smooth = 0.1 / (1 + 0.5 * (STEPS * 3 - 1) / STEPS)
    assert rows["InverseTimeDecay"]["last rate"] == pytest.approx(smooth)

    best = min(rows.values(), key=lambda row: row["final val loss"])
    loaded = keras.models.load_model(out / "demo.keras")
    _, _, x, y = _demo.digits(1)
    loss = loaded.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(best["final val loss"], rel=1e-4)
    assert number(loaded.optimizer.iterations) == 3 * STEPS
    assert number(loaded.optimizer.learning_rate) <= best["last rate"] * (1 + 1e-6)


def test_no_two_trainings_share_a_plateau():
    """And each of the five has another learning rate, without a counted step."""
    plateaus = [each[2] for each in _demo.trainings(40) if isinstance(each[2], PlateauDecay)]
    assert len({id(each) for each in plateaus}) == len(plateaus) == 2
    schedules = [each[1] for each in _demo.trainings(40) if not isinstance(each[1], float)]
    assert [each.steps_per_epoch for each in schedules] == [None] * 3


def test_loaded_model_that_goes_on_differently_is_an_error(monkeypatch, tmp_path, capsys):
    """The comparison's outcome is the exit status."""
    monkeypatch.setattr(_demo, "run", lambda *arguments: False)
    assert _demo.main(["demo", "--out", str(tmp_path)]) == 1
    assert "does not go on" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["sklearn", "matplotlib"])
def test_missing_package_is_one_line_with_the_fix(module, monkeypatch, tmp_path, capsys):
    """Nothing is trained first, and no folder is made."""
    monkeypatch.setitem(sys.modules, module, None)
    assert _demo.main(["demo", "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"Not installed: {module}. pip install 'keras-decay[demo]'"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--epochs", "0"], "--epochs must be at least 1"),
        (["demo", "--epochs", "2.5"], "argument --epochs: invalid int value: '2.5'"),
        (["demo", "--epoch-count", "3"], "unrecognized arguments: --epoch-count 3"),
        (["preview"], "invalid choice: 'preview'"),
    ],
)
def test_bad_option_is_a_usage_error(arguments, message, capsys):
    """Status 2 and what was expected."""
    with pytest.raises(SystemExit, match="2"):
        _demo.main(arguments)
    assert message in capsys.readouterr().err


def test_a_missing_backend_is_named_in_the_last_line_with_the_fix(tmp_path):
    """As a process of its own, since there Keras fails on import."""
    done = run_demo(cwd=tmp_path, absent=("tensorflow", "jax", "torch"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert (
        'pip install "keras-decay[tensorflow]" (or [jax], or [torch])'
        in (done.stderr.splitlines()[-1])
    )
    assert not (tmp_path / "keras-decay-demo").exists()
