"""The recipes for several devices run as they stand."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import keras
import pytest
from processes import run_together
from support import BACKEND

RECIPES = Path(__file__).parent.parent / "notebooks" / "devices"


def test_every_backend_has_its_recipes():
    """None is left out by its name."""
    backends = {recipe.name.partition("_")[0] for recipe in RECIPES.iterdir()}
    assert backends == {"tensorflow", "jax", "torch"}


@pytest.mark.skipif(
    BACKEND == "jax"
    and "auto_shard_dataset" not in inspect.signature(keras.distribution.DataParallel).parameters,
    reason="the recipe is written for a Keras that can leave the data as they are",
)
@pytest.mark.parametrize("recipe", sorted(RECIPES.glob(f"{BACKEND}_*.py")), ids=lambda r: r.stem)
def test_recipe_trains_with_the_same_rates_on_all_processes(recipe, tmp_path):
    """They print them."""
    count = 1 if recipe.stem == "tensorflow_mirrored" else 2
    processes = run_together(recipe, count=count, cwd=tmp_path, timeout=240)
    for process in processes:
        assert process.status == 0, process.errors
    rates = [re.findall(r"\d\.\d+", process.output) for process in processes]
    assert len(rates[0]) >= 3
    assert all(printed == rates[0] for printed in rates)
