"""The package as a whole: its names, its help, its version, what importing it costs."""

from __future__ import annotations

import ast
import doctest
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_decay

WINGS = ("schedules", "optimizer", "callbacks", "plateau", "tools")
"""The folders of the package, each after those that it imports."""

every_name = pytest.mark.parametrize("name", keras_decay.__all__)

# Keras loads some of these where they are installed, so they are out of reach here: what
# `keras_decay` still asked for would be an error.
IMPORT = """
import json, sys
for name in sys.argv[1:]:
    sys.modules[name] = None
import keras
before = {name.partition(".")[0] for name in sys.modules}
import keras_decay
after = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(after - before - set(sys.stdlib_module_names))))
"""


def test_names_without_an_underscore_are_the_public_ones():
    """`dir(keras_decay)` shows what `__all__` lists, and the folders that it is in."""
    visible = [name for name in dir(keras_decay) if not name.startswith("_")]
    assert visible == sorted([*keras_decay.__all__, *WINGS])


@every_name
def test_public_name_has_a_docstring_of_its_own(name):
    """`help` describes it; what it would inherit from Keras describes something else."""
    assert getattr(keras_decay, name).__doc__.strip()


@every_name
def test_files_and_pickles_name_no_file_of_the_package(name):
    """So that the source can move without them."""
    assert getattr(keras_decay, name).__module__ == "keras_decay"


@every_name
def test_help_describes_each_argument(name):
    """Each argument has an entry under `Args:`, so none is added without one."""
    public = getattr(keras_decay, name)
    entries = inspect.getdoc(public).partition("Args:\n")[2]
    for argument in inspect.signature(public).parameters:
        assert f"\n    {argument}: " in "\n" + entries


@every_name
def test_example_in_the_docstring_gives_what_it_shows(name):
    """Each public docstring has an example, which runs as it stands."""
    names = {"keras": keras, "keras_decay": keras_decay, "np": np}
    documented = inspect.getdoc(getattr(keras_decay, name))
    example = doctest.DocTestParser().get_doctest(documented, names, name, None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_importing_imports_keras_and_nothing_else():
    """No plotting, no scikit-learn, no backend but the one that Keras runs on."""
    others = {"tensorflow", "jax", "torch"} - {keras.backend.backend()}
    run = subprocess.run(
        [sys.executable, "-c", IMPORT, "matplotlib", "pandas", "sklearn", *sorted(others)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == ["keras_decay"]


def test_imports_go_one_way():
    """A folder imports those before it, and the files beside the folders import none."""
    package = Path(keras_decay.__file__).parent
    for file in package.glob("*/*.py"):
        wing = WINGS.index(file.parent.name)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", [])]
            imported = [getattr(node, "module", None) or "", *names]
            later = [f"keras_decay.{name}" for name in WINGS[wing + 1 :]]
            assert not any(name.startswith(tuple(later)) for name in imported), file
    for file in package.glob("_[!_]*.py"):
        assert not re.search(
            rf"keras_decay\.({'|'.join(WINGS)})\b", file.read_text(encoding="utf-8")
        )


def test_one_file_knows_the_backends():
    """No other one asks which backend it is, or imports one."""
    package = Path(keras_decay.__file__).parent
    for file in set(package.rglob("*.py")) - {package / "_backend.py"}:
        code = file.read_text(encoding="utf-8")
        assert not re.search(
            r"\bBACKEND\b|^ *(import|from) (tensorflow|jax|torch)\b", code, re.MULTILINE
        ), file


def test_version_is_the_one_in_the_metadata():
    """pip and `keras_decay.__version__` agree (install the package to run this)."""
    assert importlib.metadata.version("keras-decay") == keras_decay.__version__
