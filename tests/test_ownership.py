"""One decision, one memory: which optimizer it belongs to, and what never shares it."""

from __future__ import annotations

import copy

import keras
import numpy as np
import pytest
from support import BACKEND, STEPS_PER_EPOCH, Around, fit, has_multi_optimizer, model, number

from keras_decay import LearningRateLogger, PlateauDecay, PlateauScale, StepDecay

FLAT = [1.0] * 20


def plateau(**arguments):
    return PlateauDecay(**{"factor": 0.5, "patience": 1, **arguments})


def schedule():
    return StepDecay(0.1, 0.5, 100, steps_per_epoch=STEPS_PER_EPOCH)


def rates(network, *callbacks, epochs=3, **arguments):
    return fit(network, callbacks, epochs=epochs, values=FLAT, **arguments)["learning_rate"]


@pytest.mark.parametrize("rate", [lambda: 0.1, schedule], ids=["float", "schedule"])
def test_compiled_again_under_mixed_precision_the_memory_goes_on(rate):
    """Keras puts a new `LossScaleOptimizer` around the optimizer each time."""
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        network, optimizer, callback = model(rate()), keras.optimizers.SGD(rate()), plateau()
        logged = []
        for _ in range(2):
            network.compile(optimizer, "mse")
            assert network.optimizer is not optimizer
            logged += rates(network, callback)
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    np.testing.assert_allclose(logged, [0.1, 0.1, 0.05, 0.025, 0.0125, 0.00625], rtol=1e-6)


def two(bias_rate, kernel_rate):
    inner = [keras.optimizers.SGD(rate, name="sgd") for rate in (bias_rate, kernel_rate)]
    optimizers = keras.optimizers.OptimizerMap(inner[0], {".*kernel": inner[1]})
    return inner, keras.optimizers.MultiOptimizer(optimizers)


@has_multi_optimizer
@pytest.mark.parametrize("scaled", [False, True], ids=["bare", "loss-scale"])
def test_inner_optimizers_of_one_name_are_two(scaled):
    """Both show in the logs, and the one at its floor does not hide that the other is reduced."""
    inner, optimizer = two(1e-3, 0.1)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    callback = plateau(min_learning_rate=1e-3, cooldown=1, stop_at_minimum=True)
    history = fit(model(optimizer=optimizer), [callback], epochs=6, values=FLAT)
    assert len(history["loss"]) == 6
    assert [number(each.learning_rate) for each in inner] == pytest.approx([1e-3, 0.0125])
    assert callback.state["reductions"] == 3
    names = sorted(name for name in history if name.startswith("learning_rate"))
    assert names == ["learning_rate_sgd", "learning_rate_sgd_1"]
    ends = sorted(history[name][-1] for name in names)
    assert ends == pytest.approx([1e-3, 0.025])


@pytest.mark.skipif(BACKEND == "jax", reason="there such a one does not train in Keras either")
def test_an_optimizer_that_forwards_its_rate_is_reduced_through_its_property():
    """Trained at the reduced rate, and logged."""
    network = model(optimizer=Around(keras.optimizers.SGD(0.1)))
    logged = rates(network, plateau(patience=2), epochs=4)
    np.testing.assert_allclose(logged, [0.1, 0.1, 0.1, 0.05], rtol=1e-6)
    assert number(network.optimizer.inner.learning_rate) == pytest.approx(0.05)


def test_an_optimizer_that_forwards_what_cannot_be_set_is_an_error_at_once():
    """Not at the first reduction."""
    network = model(optimizer=Around(keras.optimizers.SGD(schedule())))
    with pytest.raises(TypeError, match=r"`learning_rate` must be a float or a schedule that can"):
        plateau().attach(network)


@pytest.mark.any_keras
def test_a_scale_that_serves_two_models_is_changed_by_neither():
    """A plateau puts a scale of its own into the optimizer."""
    scale = PlateauScale(0.1)
    before = scale.get_config()
    first, second = model(scale), model(scale)
    assert rates(first, plateau()) == pytest.approx([0.1, 0.1, 0.05])
    assert scale.get_config() == before
    assert rates(second, LearningRateLogger()) == pytest.approx([0.1] * 3)
    assert rates(first, plateau())[0] == pytest.approx(0.025)


@pytest.mark.any_keras
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_scale_has_nothing_in_common_with_it(copied):
    """Also of the one that a plateau holds, with the memory that it had then."""
    network = model(PlateauScale(0.1))
    rates(network, plateau())
    held = network.optimizer._learning_rate
    duplicate = copied(held)
    other = model(duplicate)
    assert rates(other, LearningRateLogger()) == pytest.approx([0.025] * 3)
    assert rates(network, plateau())[-1] == pytest.approx(0.025 / 4)
    assert rates(other, LearningRateLogger()) == pytest.approx([0.025] * 3)


def test_a_clone_of_a_trained_optimizer_starts_afresh_with_one_warning():
    """Its config has the memory of the other, and it is at step 0."""
    network = model(schedule())
    rates(network, plateau(), epochs=4)
    clone = keras.optimizers.SGD.from_config(network.optimizer.get_config())
    with pytest.warns(UserWarning, match="at step 0 and its `PlateauScale` has the state") as seen:
        logged = rates(model(optimizer=clone), plateau())
    assert len([each for each in seen if each.category is UserWarning]) == 1
    np.testing.assert_allclose(logged, [0.1, 0.1, 0.05], rtol=1e-6)


def test_weights_that_were_loaded_before_the_plateau_came_are_a_warning_with_the_fix(tmp_path):
    """Nothing was there to take the memory in the file; with `attach` it goes on."""
    network, path = model(schedule()), tmp_path / "model.weights.h5"
    rates(network, plateau(), epochs=4)
    network.save_weights(path)
    late = model(schedule())
    late.load_weights(path)
    with pytest.warns(UserWarning, match=r"no state of the epochs before.*`attach\(model\)`"):
        rates(late, plateau(), initial_epoch=4, epochs=6)
    in_time, callback = model(schedule()), plateau()
    callback.attach(in_time)
    in_time.load_weights(path)
    logged = rates(in_time, callback, initial_epoch=4, epochs=6)
    np.testing.assert_allclose(logged, [0.0125, 0.00625], rtol=1e-6)


@pytest.mark.any_keras
def test_a_loop_of_one_epoch_fits_passes_the_start():
    """`start_from_epoch` counts the epochs of the optimizer's life."""
    network, callback, logged = model(0.1), plateau(start_from_epoch=2, patience=2), []
    for _ in range(8):
        logged += rates(network, callback, epochs=1)
    np.testing.assert_allclose(logged, [0.1] * 5 + [0.05] * 2 + [0.025], rtol=1e-6)


class Noted(PlateauDecay):
    """A subclass with an argument of its own."""

    def __init__(self, note):
        super().__init__(patience=2)
        self.note = note


@pytest.mark.any_keras
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_subclass_keeps_what_is_its_own(copied):
    """It has no optimizer, even if the original has one."""
    original = Noted("mine")
    original.attach(model(0.1))
    duplicate = copied(original)
    assert (duplicate.note, duplicate.patience) == ("mine", 2)
    with pytest.raises(RuntimeError, match="has no optimizer yet"):
        _ = duplicate.state


def test_best_weights_that_are_no_longer_the_models_are_dropped_with_a_warning():
    """A layer was added since; the reduction itself is made."""
    network = model(0.1)
    callback = plateau(restore_best_weights=True)
    rates(network, callback, epochs=1)
    grown = keras.Sequential(
        [keras.Input((3,)), *network.layers, keras.layers.Dense(1, name="more")]
    )
    grown.compile(network.optimizer, "mse")
    callback.attach(grown)
    with pytest.warns(UserWarning, match="forgets the best ones, since their number or shapes"):
        assert callback.reduce()
    assert number(grown.optimizer.learning_rate) == pytest.approx(0.05)
