"""`restore_best_weights=True`: what happens to the optimizer when training goes on from there."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support import has_multi_optimizer, measuring, model, two_optimizers, weight

from keras_decay import PlateauDecay, StepDecay

ONES = np.ones((1, 1), "float32")
RATE, FACTOR, MOMENTUM = 0.125, 0.5, 0.75


def plateau(**arguments):
    return PlateauDecay(factor=FACTOR, patience=1, restore_best_weights=True, **arguments)


@pytest.mark.parametrize(
    "rate", [lambda: RATE, lambda: StepDecay(RATE, 0.5, 99, steps_per_epoch=99)]
)
def test_momentum_begins_from_zero_at_the_best_weights(rate):
    """The closed form of the steps before and after."""
    network, callback = measuring(optimizer=keras.optimizers.SGD(rate(), MOMENTUM)), plateau()
    callback.attach(network)

    def step(observed):
        network.train_on_batch(ONES, ONES)
        before = weight(network)
        callback.update(observed)
        return before

    first = step(1.0)
    assert first == pytest.approx(-RATE)
    assert step(2.0) == pytest.approx(first - RATE * (1 + MOMENTUM))
    assert weight(network) == pytest.approx(first)
    # The gradient is 1, and nothing is left of the speed that led away.
    network.train_on_batch(ONES, ONES)
    assert weight(network) == pytest.approx(first - RATE * FACTOR)
    network.train_on_batch(ONES, ONES)
    assert weight(network) == pytest.approx(first - RATE * FACTOR * (2 + MOMENTUM))


def kernel_and_bias(names):
    return {f"{variable}_{name}" for variable in ("kernel", "bias") for name in names}


WITH_MOMENTUM = {
    "SGD": {"momentum": 0.9},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Nadam": {},
    "Adamax": {},
    "Lion": {},
    "Lamb": {},
}
WITHOUT = ["Adagrad", "Adadelta", "Ftrl", "Adafactor"]


def slots(optimizer):
    """Copies of the variables that are neither the counter nor the rate."""
    own = [each for each in optimizer.variables if each.ndim]
    return {each.path: keras.ops.convert_to_numpy(each).copy() for each in own}


def reduced(optimizer):
    """The variables of an optimizer before and after a reduction that restores."""
    network, callback = model(optimizer=optimizer), plateau()
    callback.attach(network)
    x, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    for observed in (1.0, 2.0):
        for _ in range(2):
            network.train_on_batch(x, y)
        before, weights = slots(optimizer), network.get_weights()
        callback.update(observed)
        if observed == 1.0:
            best = weights
    for mine, other in zip(network.get_weights(), best, strict=True):
        assert np.array_equal(mine, other)
    return before, slots(optimizer)


@pytest.mark.any_keras
@pytest.mark.parametrize("name", [*WITH_MOMENTUM, *WITHOUT])
def test_of_every_optimizer_the_first_moments_alone_begin_from_zero(name):
    """Second moments and counters go on, so none is zero beside a counter that is not."""
    if not hasattr(keras.optimizers, name):
        pytest.skip("this version of Keras has no such optimizer")
    before, after = reduced(getattr(keras.optimizers, name)(0.01, **WITH_MOMENTUM.get(name, {})))
    changed = [path for path in before if not np.array_equal(before[path], after[path])]
    assert len(changed) == (2 if name in WITH_MOMENTUM else 0)
    for path in changed:
        assert not after[path].any()
        # Of an Adam of Keras's: the first moments are the first that it makes.
        assert before[path].any()


def test_what_is_not_finite_begins_from_zero_too():
    """A second moment that has diverged would spoil the weights again."""
    network = model(optimizer=(adam := keras.optimizers.Adam(0.01)))
    callback = plateau()
    callback.attach(network)
    x, y = np.ones((8, 3), "float32"), np.ones((8, 1), "float32")
    network.train_on_batch(x, y)
    callback.update(1.0)
    for each in adam.variables:
        if each.ndim:
            each.assign(np.full(each.shape, np.inf))
    network.set_weights([np.full_like(each, np.nan) for each in network.get_weights()])
    callback.update(2.0)
    network.train_on_batch(x, y)
    assert all(np.isfinite(each).all() for each in network.get_weights())


def test_averages_of_the_weights_begin_at_the_best_ones():
    """`use_ema=True`."""
    optimizer = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.5)
    network, callback = measuring(optimizer=optimizer), plateau()
    callback.attach(network)
    network.train_on_batch(ONES, ONES)
    callback.update(1.0)
    network.train_on_batch(ONES, ONES)
    callback.update(2.0)
    (average,) = optimizer._model_variables_moving_average
    assert float(keras.ops.convert_to_numpy(average)[0, 0]) == pytest.approx(-RATE)


def test_inside_a_loss_scale_optimizer_and_several():
    """The optimizers inside are those that have the moments."""
    inner = keras.optimizers.SGD(0.01, momentum=0.9)
    before, after = reduced(keras.optimizers.LossScaleOptimizer(inner, initial_scale=1.0))
    assert any(each.any() for each in before.values())
    assert not any(each.any() for each in after.values())


@has_multi_optimizer
def test_all_inner_optimizers_begin_from_zero():
    """Of a `MultiOptimizer`."""
    several = two_optimizers(0.01, 0.02)
    for each in several.optimizers:
        each.momentum = 0.9
    before, after = reduced(several)
    assert any(each.any() for each in before.values())
    assert not any(each.any() for each in after.values())
