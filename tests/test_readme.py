"""The examples of the README and of the guide run, in the order in which a reader meets them."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support import BACKEND, fit, model

import keras_decay

# Pages, which are the same on all versions.
pytestmark = pytest.mark.any_keras

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
# On the backend that compiles fastest: what the pages show is tested on all of them.
GUIDE = sorted((ROOT / "notebooks" / "guide").glob("*.md")) if BACKEND == "jax" else []


def blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def after_the_readme():
    """The names that a reader has after running the README's blocks."""
    namespace = {}
    run_blocks(README, namespace)
    return namespace


def run_blocks(page, namespace):
    for number, block in enumerate(blocks(page, "python")):
        exec(compile(block, f"{page.name}, python block {number}", "exec"), namespace)


@pytest.mark.skipif(
    "double_checkpoint" not in inspect.signature(keras.callbacks.BackupAndRestore).parameters,
    reason="the pages are written for a Keras that keeps a second checkpoint",
)
@pytest.mark.parametrize("page", [README, *GUIDE], ids=lambda page: page.stem)
def test_every_python_block_of_a_page_runs(page, after_the_readme):
    """One namespace for a page, which goes on from that of the README."""
    if page == README:
        assert len(blocks(page, "python")) >= 5
        assert after_the_readme["plateau"].state["best"] is not None
    else:
        run_blocks(page, dict(after_the_readme))


def test_the_readme_can_be_read_to_its_end():
    """Longer texts belong in the guide."""
    assert len(README.read_bytes()) <= 8 * 1024


def test_every_backend_has_its_line_in_the_readme():
    """From a checkout and from PyPI; each extra exists, and the backend is named."""
    text = README.read_text(encoding="utf-8")
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for backend in ("tensorflow", "jax", "torch"):
        (line,) = re.findall(rf"\| `(pip install -e [^`]*KERAS_BACKEND={backend})` \|.*", text)
        assert line == f'pip install -e ".[{backend},examples]" && export KERAS_BACKEND={backend}'
        assert f'`pip install "keras-decay[{backend}]"`' in text
        assert any(line.startswith(f"{backend} = [") for line in extras)
    assert 'demo = ["keras-decay[tensorflow,examples]"]' in extras


def test_what_the_readme_imports_its_lines_install():
    """The blocks import only packages from the extras in these lines."""
    text = "\n".join(blocks(README, "python"))
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported <= {"keras", "keras_decay", "sklearn", *sys.stdlib_module_names}


class Compiled:
    """A model as the README's `compiled` makes it, whose metric is known beforehand."""

    def __init__(self, learning_rate):
        self.learning_rate = learning_rate

    def fit(self, *_, epochs, callbacks, **__):
        values = np.random.default_rng(0).integers(8, size=epochs) / 8
        network = model(self.learning_rate)
        self.rates = fit(network, callbacks, epochs=epochs, values=values)["learning_rate"]


@pytest.mark.skipif(not GUIDE, reason="pages of the guide run on one backend")
@pytest.mark.parametrize("block", blocks(ROOT / "notebooks/guide/moving_here.md", "diff"))
def test_both_sides_of_a_migration_give_the_same_rates(block):
    """The minus lines and the plus lines make two programs that do the same."""
    rates = []
    for sign in "-+":
        lines = [line[1:] for line in block.splitlines() if line[0] in (" ", sign)]
        namespace = {
            **dict.fromkeys(("x", "y", "x_val", "y_val")),
            "compiled": Compiled,
            "keras": keras,
            "keras_decay": keras_decay,
            "model": Compiled(0.1),
        }
        exec("\n".join(lines), namespace)
        rates.append(namespace["model"].rates)
    np.testing.assert_allclose(*rates, rtol=1e-6)
    assert len(set(rates[0])) > 2
