"""Files of version 0.1.0 of a plateau that was waiting: the next bad value reduces, no other."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest
from support import new_keras, number

pytestmark = new_keras

FILES = Path(__file__).parent / "waiting_files"
spec = importlib.util.spec_from_file_location("make_waiting_files", FILES / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

WAITING = {"best": 5.0, "wait": 1, "cooldown": 0, "scale": 0.5, "reductions": 1}
every_rate = pytest.mark.parametrize("name", make.RATES)


def steps(rates, weight=0.0, momentum=0.0):
    """The weight and the momentum after steps at these rates, on a gradient of 1."""
    for rate in rates:
        momentum = make.MOMENTUM * momentum - rate
        weight += momentum
    return weight, momentum


BEST, MOMENTUM = steps([make.RATE])
AT_REDUCTION = steps([make.RATE] * 3)
# The reduction has put the best weight back, and has left the momentum.
LAST = steps([make.RATE / 2] * 2, BEST, AT_REDUCTION[1])


def weight(model):
    return model.get_weights()[0].item()


def momentum(model):
    (slot,) = (each for each in model.optimizer.variables if "momentum" in each.path)
    return number(keras.ops.sum(slot))


def assert_waits(model, callback):
    """The memory, the rate, and the optimizer's own state are those of the run that was saved."""
    assert {name: callback.state[name] for name in WAITING} == WAITING
    assert number(model.optimizer.learning_rate) == pytest.approx(make.RATE / 2)
    assert (weight(model), momentum(model)) == pytest.approx(LAST, rel=1e-6)


def assert_reduces_to_the_best_weight(model, callback):
    """At the first value that is not better."""
    assert callback.update(9.0)
    assert weight(model) == pytest.approx(BEST, rel=1e-6)
    assert number(model.optimizer.learning_rate) == pytest.approx(make.RATE / 4)
    assert callback.state["cooldown"] == 1


@every_rate
def test_a_plateau_in_a_weights_file_waits_on(name):
    """With the best weights, which the next reduction restores."""
    model, callback = make.network(make.RATES[name]()), make.plateau()
    callback.attach(model)
    model.load_weights(FILES / f"{name}.weights.h5")
    assert_waits(model, callback)
    assert_reduces_to_the_best_weight(model, callback)


def test_a_plateau_in_a_model_file_waits_on():
    """Of a schedule; such a file has no best weights."""
    model, callback = keras.models.load_model(FILES / "schedule.keras"), make.plateau()
    callback.attach(model)
    assert_waits(model, callback)
    with pytest.warns(UserWarning, match="best weights are not known"):
        assert callback.update(9.0)
    assert number(model.optimizer.learning_rate) == pytest.approx(make.RATE / 4)


def test_a_model_file_of_a_float_rate_has_the_rate_alone():
    """As Keras saves it, with the momentum."""
    model, callback = keras.models.load_model(FILES / "float.keras"), make.plateau()
    callback.attach(model)
    assert callback.state["best"] is None
    assert number(model.optimizer.learning_rate) == pytest.approx(make.RATE / 2)
    assert (weight(model), momentum(model)) == pytest.approx(LAST, rel=1e-6)


@every_rate
def test_a_plateau_in_a_backup_folder_waits_on(name, tmp_path):
    """`fit` goes on at the epoch after the last one, which trains at the rate that was saved."""
    for file in (FILES / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model, callback = make.network(make.RATES[name]()), make.plateau()
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    history = make.fit(model, callback, backup, values=[*make.VALUES, 9.0])
    np.testing.assert_allclose(history["learning_rate"], [make.RATE / 2], rtol=1e-6)
    assert callback.state["reductions"] == 2
    assert weight(model) == pytest.approx(BEST, rel=1e-6)
    assert momentum(model) == pytest.approx(steps([make.RATE / 2], *LAST)[1], rel=1e-6)
