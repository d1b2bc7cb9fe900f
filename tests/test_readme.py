"""The README's examples run, in the order in which a reader meets them."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support import STEPS_PER_EPOCH, fit, model

import keras_decay

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.skipif(
    "double_checkpoint" not in inspect.signature(keras.callbacks.BackupAndRestore).parameters,
    reason="the README is written for a Keras that keeps a second checkpoint",
)
def test_every_python_block_of_the_readme_runs():
    """One namespace for all of them, as for a reader who types them in."""
    assert len(blocks("python")) >= 5
    namespace = {}
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"README.md, python block {number}", "exec"), namespace)
    assert namespace["plateau"].state["best"] is not None


class Compiled:
    """A model as the README's `compiled` makes it, whose metric is known beforehand."""

    def __init__(self, learning_rate):
        self.learning_rate = learning_rate

    def fit(self, *_, epochs, callbacks, **__):
        values = np.random.default_rng(0).integers(8, size=epochs) / 8
        network = model(self.learning_rate)
        self.rates = fit(network, callbacks, epochs=epochs, values=values)["learning_rate"]


@pytest.mark.parametrize("block", blocks("diff"))
def test_both_sides_of_a_migration_give_the_same_rates(block):
    """The lines with a minus and those with a plus are two programs, which do the same."""
    rates = []
    for sign in "-+":
        lines = [line[1:] for line in block.splitlines() if line[0] in (" ", sign)]
        namespace = {
            **dict.fromkeys(("x", "y", "x_val", "y_val")),
            "compiled": Compiled,
            "keras": keras,
            "keras_decay": keras_decay,
            "model": Compiled(0.1),
            "steps_per_epoch": STEPS_PER_EPOCH,
        }
        exec("\n".join(lines), namespace)
        rates.append(namespace["model"].rates)
    np.testing.assert_allclose(*rates, rtol=1e-6)
    assert len(set(rates[0])) > 2


def test_the_shell_commands_of_the_readme_run(tmp_path):
    """Those of the package; the demo and tox are run elsewhere."""
    commands = [
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if line.startswith("python -m keras_decay preview")
    ]
    assert commands
    for command in commands:
        arguments = shlex.split(command)[1:]
        subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True)
    assert list(tmp_path.glob("*.png"))
