"""The recipes for several devices, for files that are handed on, and for folds."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from processes import run_together
from support import BACKEND, data, fit, model, number

from keras_decay import PlateauDecay, StepDecay

# Programs that are the same on all versions, and slow.
pytestmark = pytest.mark.any_keras

RECIPES = Path(__file__).parent.parent / "notebooks" / "devices"


def test_every_backend_has_its_recipes():
    """The names of the recipes cover every backend."""
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


ELSEWHERE = """
import sys

sys.modules["keras_decay"] = None  # Not installed.
import keras
import numpy as np

x = np.ones((4, 3), "float32")
for path in sys.argv[1:]:
    model = keras.models.load_model(path)
    print(model.predict(x, verbose=0)[0].item())
"""


def test_a_model_is_handed_on_to_people_without_this_package(tmp_path):
    """To predict, without an optimizer; to train on, at the user's rate, with the momentum."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    network = model(schedule)
    fit(network, [PlateauDecay(factor=0.5, patience=1)], epochs=4, values=[1.0] * 4)
    assert number(network.optimizer.learning_rate) < 0.5 * number(schedule(16))
    prediction = network.predict(np.ones((4, 3), "float32"), verbose=0)[0].item()
    slots = [keras.ops.convert_to_numpy(each) for each in network.optimizer.variables[:3]]
    to_predict, to_train_on = tmp_path / "to_predict.keras", tmp_path / "to_train_on.keras"

    keras.Model(network.inputs, network.outputs).save(to_predict)
    network.optimizer.learning_rate = schedule
    network.save(to_train_on)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE, to_predict, to_train_on],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert [float(first), float(second)] == pytest.approx([prediction] * 2)

    loaded = keras.models.load_model(to_train_on)
    assert type(loaded.optimizer.get_config()["learning_rate"]) is dict
    assert number(loaded.optimizer.learning_rate) == pytest.approx(number(schedule(16)))
    for slot, kept in zip(slots, loaded.optimizer.variables, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(kept), slot, rtol=1e-6)


@pytest.mark.skipif(not hasattr(keras, "wrappers"), reason="this Keras has no wrappers")
def test_folds_of_keras_own_wrapper_train_with_the_plateau():
    """Each fold all of its epochs, at the rates by hand: callbacks go in as `params`."""
    from sklearn.model_selection import cross_val_score

    def build(X, y):
        layers = [keras.Input(X.shape[1:]), keras.layers.Dense(y.shape[1], "softmax")]
        network = keras.Sequential(layers)
        network.compile(keras.optimizers.SGD(StepDecay(0.1, 0.5)), "categorical_crossentropy")
        return network

    rates = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: rates.append((epoch, logs["learning_rate"]))
    )
    plateau = PlateauDecay("loss", factor=0.5, patience=1, min_delta=9.0)
    params = {"epochs": 3, "verbose": 0, "callbacks": [plateau, record]}
    labels = (data()[1][:, 0] > 0).astype("int32")
    classifier = keras.wrappers.SKLearnClassifier(build)
    scores = cross_val_score(classifier, data()[0], labels, cv=2, params=params)
    assert np.isfinite(scores).all()
    # The second observation is the first one that reduces.
    expected = [(0, 0.1), (1, 0.05), (2, 0.0125)] * 2
    np.testing.assert_allclose(rates, expected, rtol=1e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="Keras on JAX trains all that an optimizer knows")
def test_the_memory_goes_on_where_a_layer_is_unfrozen():
    """Of one optimizer, built for all variables before the layer was frozen."""
    layers = [keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dense(1)]
    network = keras.Sequential(layers)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(network.trainable_variables)
    plateau = PlateauDecay(factor=0.5, patience=1)
    rates = []
    for trainable in (False, True):
        network.layers[0].trainable = trainable
        before = network.layers[0].get_weights()[0]
        network.compile(optimizer, "mse")
        rates += fit(network, [plateau], epochs=2, values=[1.0] * 2)["learning_rate"]
        moved = not np.array_equal(network.layers[0].get_weights()[0], before)
        assert moved is trainable
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.025], rtol=1e-6)
