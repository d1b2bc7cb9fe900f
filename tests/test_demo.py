"""`notebooks/demo.py`: what it writes, prints and draws, and what it says when it cannot run."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from support import BACKEND, number

import keras_decay
from keras_decay import PlateauDecay

DEMO = Path(__file__).parent.parent / "notebooks" / "demo.py"
# The program is the same on all versions, and slow.
pytestmark = pytest.mark.any_keras

STEPS = 43  # Of 1,347 images, in batches of 32.


@pytest.fixture(scope="module")
def demo():
    """The program as a module."""
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_demo(*arguments, cwd, absent=()):
    """The program as a user runs it in 80 columns, `absent` modules not installed."""
    hidden = "import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in absent)
    (cwd / "sitecustomize.py").write_text(hidden)
    path = os.pathsep.join([str(cwd), str(Path(keras_decay.__file__).parents[1])])
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}
    environment = {**os.environ, "PYTHONPATH": path, **terminal}
    # What the tests set, and a user does not.
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    return subprocess.run(
        [sys.executable, DEMO, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_demo_trains_five_times_and_leaves_picture_table_and_model(demo, tmp_path):
    """The user's whole path, on the backend of `KERAS_BACKEND`; the model then loads here."""
    done = run_demo("--epochs", "3", "--seed", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    printed = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", done.stdout)  # Without colours.
    assert max(map(len, re.split(r"[\r\n]", printed))) == 80
    assert "…" not in printed
    text = " ".join(printed.split())
    assert f"on {BACKEND}: 1347 handwritten digits" in text
    assert "3 epochs, seed 1" in text
    assert "after an epoch more" in text

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
        assert f"{name} " in printed
        assert 0 < row["best val loss"] <= row["final val loss"]
        assert 0 < row["final val accuracy"] <= 1
    assert rows["constant"]["last rate"] == pytest.approx(0.1)
    # Three epochs: two decays of StepDecay; the last step of epoch 2 is step 43 * 3 - 1.
    assert rows["StepDecay"]["last rate"] == pytest.approx(0.1 / 4)
    smooth = 0.1 / (1 + 0.5 * (STEPS * 3 - 1) / STEPS)
    assert rows["InverseTimeDecay"]["last rate"] == pytest.approx(smooth)

    best = min(rows.values(), key=lambda row: row["final val loss"])
    loaded = keras.models.load_model(out / "demo.keras")
    _, _, x, y = demo.digits(1)
    loss = loaded.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(best["final val loss"], rel=1e-4)
    assert number(loaded.optimizer.iterations) == 3 * STEPS
    assert number(loaded.optimizer.learning_rate) <= best["last rate"] * (1 + 1e-6)


def test_no_two_runs_share_a_plateau(demo):
    """Each run has its own; and no schedule has a counted `steps_per_epoch`."""
    plateaus = [each[2] for each in demo.training_runs(40) if isinstance(each[2], PlateauDecay)]
    assert len({id(each) for each in plateaus}) == len(plateaus) == 2
    schedules = [each[1] for each in demo.training_runs(40) if not isinstance(each[1], float)]
    assert [each.steps_per_epoch for each in schedules] == [None] * 3


def test_every_rate_is_drawn_where_its_epoch_is_and_can_be_seen(demo, monkeypatch, tmp_path):
    """Epoch k lies between k and k + 1, as in `plot`; the smooth rate begins with its first."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: figures.append(figure))
    logged = {"val_loss": [3.0, 2.0, 1.0], "learning_rate": [0.1, 0.1, 0.05]}
    demo.draw(dict.fromkeys(demo.STYLES, logged), STEPS, tmp_path / "demo.png")
    rates, losses = figures[0].axes
    assert len(rates.patches) == 4
    for stairs in rates.patches:
        assert stairs.get_data().edges.tolist() == [0, 1, 2, 3]
        assert stairs.get_data().values.tolist() == logged["learning_rate"]
    (smooth,) = rates.lines
    steps = np.arange(3 * STEPS) / STEPS
    np.testing.assert_allclose(smooth.get_xdata(), steps)
    np.testing.assert_allclose(smooth.get_ydata(), 0.1 / (1 + 0.5 * steps), rtol=1e-6)
    assert all(line.get_xdata().tolist() == [1, 2, 3] for line in losses.lines)
    # Where two are equal, the one above is narrower, or its dashes let the other through.
    below, *above = rates.patches[1:]
    assert all(each.get_linewidth() < below.get_linewidth() for each in above)
    assert len({each.get_linestyle() for each in rates.patches[1:]}) == 3
    assert len({each.get_edgecolor() for each in rates.patches}) == 4


def test_loaded_model_that_goes_on_differently_is_an_error(demo, monkeypatch, tmp_path):
    """The comparison's outcome is the exit status."""
    monkeypatch.setattr(demo, "run", lambda *arguments: False)
    with pytest.raises(SystemExit, match="The loaded model does not go on as the saved one"):
        demo.main(["--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("absent", "what"),
    [
        (["matplotlib"], "matplotlib"),
        (["tensorflow", "jax", "torch"], "not installed. Install one of them"),
    ],
)
def test_what_is_missing_is_named_with_the_fix(absent, what, tmp_path):
    """As a process of its own, since a backend fails on import; no folder is made."""
    done = run_demo(cwd=tmp_path, absent=absent)
    assert done.returncode == 1
    message, fix = done.stderr.splitlines()
    assert what in message
    assert fix == "The demo needs: python -m pip install -e '.[demo]'"
    assert not (tmp_path / "keras-decay-demo").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "--epochs must be at least 1"),
        (["--epochs", "2.5"], "argument --epochs: invalid int value: '2.5'"),
        (["--epoch-count", "3"], "unrecognized arguments: --epoch-count 3"),
    ],
)
def test_bad_option_is_a_usage_error(arguments, message, demo, capsys):
    """Status 2 and what was expected."""
    with pytest.raises(SystemExit, match="2"):
        demo.main(arguments)
    assert message in capsys.readouterr().err
