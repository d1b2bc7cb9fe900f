"""The README's examples run, in the order in which a reader meets them."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import keras
import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.skipif(
    "double_checkpoint" not in inspect.signature(keras.callbacks.BackupAndRestore).parameters,
    reason="the README is written for a Keras that keeps a second checkpoint",
)
def test_every_python_block_of_the_readme_runs():
    """One namespace for all of them, as for a reader who types them in."""
    assert len(BLOCKS) >= 5
    namespace = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README.md, python block {number}", "exec"), namespace)
    assert namespace["plateau"].state["best"] is not None
