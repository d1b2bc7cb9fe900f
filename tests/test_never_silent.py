"""Each mistake that would go unnoticed is one warning, with the fix."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support import BACKEND, BATCH_SIZE, STEPS_PER_EPOCH, data, fit, has_multi_optimizer, model

from keras_decay import (
    EpochSchedule,
    LearningRateLogger,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    StepDecay,
)

FLAT = [1.0] * 20


def plateau(**arguments):
    return PlateauDecay(**{"factor": 0.5, "patience": 1, **arguments})


def every_epoch():
    return keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)


@pytest.mark.parametrize(
    "callbacks",
    [lambda: [plateau(), every_epoch()], lambda: [every_epoch(), plateau()]],
    ids=["before", "after"],
)
def test_a_scheduler_that_undoes_every_reduction_is_one_warning(callbacks):
    """Wherever it stands in the list; the fix is a schedule."""
    with pytest.warns(UserWarning, match="LearningRateScheduler.*EpochSchedule") as seen:
        fit(model(0.1), callbacks(), epochs=5, values=FLAT)
    assert len([each for each in seen if each.category is UserWarning]) == 1


@pytest.mark.any_keras
def test_the_fix_for_such_a_scheduler_is_silent():
    """The plateau scales the table."""
    table = EpochSchedule.from_function(lambda epoch: 0.1, 3)
    history = fit(model(table), [plateau()], epochs=4, values=FLAT)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.05, 0.025], rtol=1e-6)


def one_warning(match, network, callbacks, **arguments):
    """Trains with one warning, which the first `fit` gives and no epoch after it again."""
    with pytest.warns(UserWarning, match=match) as seen:
        history = fit(network, callbacks, **{"epochs": 5, "values": FLAT, **arguments})
    assert len([each for each in seen if each.category is UserWarning]) == 1
    return history


@pytest.mark.parametrize("order", [1, -1])
def test_another_callback_that_reduces_too_is_one_warning(order):
    """Wherever it stands in the list."""
    theirs = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, min_delta=9.0)
    match = "stands below where `PlateauDecay` has left it.*`ReduceLROnPlateau`"
    one_warning(match, model(0.1), [plateau(), theirs][::order])


@pytest.mark.parametrize("callback", [lambda: plateau(patience=99), LearningRateLogger])
def test_a_schedule_that_has_come_to_zero_is_one_warning(callback):
    """In the first epoch that trains nothing; the last one before it is silent."""
    network = model(keras.optimizers.schedules.CosineDecay(0.1, 2 * STEPS_PER_EPOCH))
    fit(network, [callback()], epochs=2, values=FLAT)
    history = one_warning("exactly 0 for an epoch", network, [callback()], epochs=3)
    assert history["learning_rate"] == [0.0] * 3


@pytest.mark.any_keras
def test_a_schedule_that_passes_zero_is_silent():
    """As a warmup does at its first step."""
    network = model(LinearWarmup(0.1, 1, steps_per_epoch=STEPS_PER_EPOCH))
    fit(network, [plateau(patience=99)], epochs=2, values=FLAT)


@pytest.mark.any_keras
@pytest.mark.parametrize("rate", [lambda: 0.1, lambda: PlateauScale(0.1)], ids=["float", "scale"])
def test_a_floor_at_the_rate_is_one_warning(rate):
    """When the first reduction is due; one that is reached by reductions is silent."""
    match = "reduction is due, but the learning rate is at its floor.*min_learning_rate=0.1"
    one_warning(match, model(rate()), [plateau(min_learning_rate=0.1)])
    fit(model(rate()), [plateau(min_learning_rate=0.05)], epochs=5, values=FLAT)


@has_multi_optimizer
@pytest.mark.parametrize("callback", [plateau, LearningRateLogger])
def test_an_inner_optimizer_that_trains_nothing_is_one_warning(callback):
    """By its name: no variable matches its pattern."""
    used, unused = (keras.optimizers.SGD(0.1, name=name) for name in ("used", "unused"))
    rates = keras.optimizers.OptimizerMap(used, {"no such layer": unused})
    network = model(optimizer=keras.optimizers.MultiOptimizer(rates))
    one_warning("inner optimizer `unused` has taken no step.*pattern", network, [callback()])


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others count right")
@pytest.mark.parametrize("callback", [LearningRateLogger, lambda: PlateauDecay("loss")])
def test_a_counter_that_runs_ahead_of_the_batches_is_one_warning(callback):
    """TensorFlow, on data of unknown size; with a known one it is silent."""
    import tensorflow as tf

    schedule = StepDecay(0.1, 0.5, 2, steps_per_epoch=4)
    batches = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH_SIZE)
    unknown = batches.filter(lambda x, y: True)
    with pytest.warns(UserWarning, match="counted 5 steps in an epoch of 4 batches.*assert_card"):
        model(schedule).fit(unknown, epochs=3, shuffle=False, verbose=0, callbacks=[callback()])
    told = unknown.apply(tf.data.experimental.assert_cardinality(4))
    model(schedule).fit(told, epochs=3, shuffle=False, verbose=0, callbacks=[callback()])


@pytest.mark.any_keras
def test_a_monitor_that_is_the_rate_itself_is_one_warning():
    """The plateau would react to its own reductions."""
    with pytest.warns(UserWarning, match="the rate that it changes itself.*'loss'") as seen:
        fit(model(0.1), [plateau(monitor="learning_rate", mode="min")], epochs=3)
    assert len([each for each in seen if each.category is UserWarning]) == 1


@pytest.mark.any_keras
def test_steps_counted_as_epochs_are_never_warned_of():
    """`steps_per_epoch=1` says "a warmup of three steps"."""
    fit(model(LinearWarmup(0.1, 3, steps_per_epoch=1)), [LearningRateLogger()], epochs=2)


def test_an_optimizer_that_scales_the_loss_may_leave_out_a_whole_epoch():
    """If the scale is so high that every gradient overflows, it rightly takes no step."""
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**120
    )
    network = model(optimizer=optimizer)
    x, y = data()
    network.fit(
        x * 1e10, y, batch_size=len(x), epochs=2, verbose=0, callbacks=[LearningRateLogger()]
    )
