"""A type checker accepts a correct user's program, and finds the errors in a wrong one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

pytestmark = pytest.mark.any_keras

# Keras and the backends as a user's checker sees them that has no types of theirs: whatever is
# installed here.
CONFIG = """
[mypy]
strict = true
follow_imports = silent

[mypy-jax.*,keras.*,tensorflow.*,torch.*]
ignore_missing_imports = true
follow_imports = skip
"""

# A line that is wrong names the error after `# E:`.
PROGRAM = """
from typing import Literal

import keras

import keras_decay

cosine = keras.optimizers.schedules.CosineDecay(0.1, 50)
decay = keras_decay.StepDecay(0.1, 0.5, [30, 60])
warm = keras_decay.LinearWarmup(keras_decay.InEpochs(cosine), 1.5, steps_per_epoch=100)
joined = keras_decay.JoinedSchedule([0.05, warm, decay], [2, 20])
product = keras_decay.ProductSchedule((warm, 0.1))
table = keras_decay.EpochSchedule.from_function(lambda epoch: 0.1 * 0.9**epoch, epochs=100)

mode: Literal["min", "max"] = "max"
plateau = keras_decay.PlateauDecay("val_accuracy", mode=mode, patience=[20, 10], verbose=True)
keras_decay.PlateauDecay(mode="max", reduce_on="improvement")
keras_decay.PlateauDecay(mode="maximum")  # E: arg-type
keras_decay.PlateauDecay(reduce_on="drop")  # E: arg-type
keras_decay.PlateauDecay(patiance=3)  # E: call-arg
keras_decay.StepDecay("0.1")  # E: arg-type

best: float | None = plateau.state["best"]
waited: int = plateau.state["wait"]
plateau.state["worst"]  # E: typeddict-item
reduced: bool = plateau.update(0.5, epoch=3)
plateau.state["best"] + 1.0  # E: operator

rehearsal: keras_decay.Rehearsal = keras_decay.rehearse(plateau, [1.0, 0.9], 0.1)
epochs: list[int] = rehearsal.reductions.tolist()
epoch, rate = keras_decay.preview(decay, 60, steps_per_epoch=44)
found: keras_decay.RangeTest = keras_decay.find_learning_rate(keras.Sequential())
start: float = found.suggestion
number: int = keras_decay.steps_per_epoch([1.0], batch_size=1)
logger = keras_decay.LearningRateLogger(every=10)
"""


def test_a_users_program_is_checked_strictly(tmp_path):
    """By the package's own types: arguments, what is returned, and the keys of a state."""
    program, config = tmp_path / "program.py", tmp_path / "mypy.ini"
    program.write_text(PROGRAM)
    config.write_text(CONFIG)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", config, "--cache-dir", tmp_path, program],
        cwd=Path(__file__).parent.parent,  # Where it finds the package.
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.findall(r"program\.py:(\d+): error: .*\[([a-z-]+)\]$", checked.stdout, re.MULTILINE)
    expected = [
        (str(number), line.partition("  # E: ")[2])
        for number, line in enumerate(PROGRAM.splitlines(), start=1)
        if "  # E: " in line
    ]
    assert len(expected) > 5
    assert found == expected, checked.stdout + checked.stderr
