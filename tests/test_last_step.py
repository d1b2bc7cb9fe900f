"""A counter that has wrapped gives the rate of the last step that it could hold."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support import BACKEND, number

from keras_decay import (
    InverseTimeDecay,
    JoinedSchedule,
    LinearWarmup,
    PlateauScale,
    StepDecay,
)
from keras_decay.schedules import _base

pytestmark = [
    pytest.mark.any_keras,
    pytest.mark.skipif(
        BACKEND == "tensorflow", reason="its counter has 64 bits, which no training fills"
    ),
]
LAST = 2**31 - 1


def decay(**arguments):
    return StepDecay(0.1, 0.5, 10, steps_per_epoch=1, **arguments)


SCHEDULES = {
    "decayed": (decay(), 0.0),
    "floor": (decay(min_learning_rate=0.01), 0.01),
    "milestones": (StepDecay(0.1, 0.5, [10, 20], steps_per_epoch=1), 0.025),
    "inverse": (InverseTimeDecay(0.1, 1.0, steps_per_epoch=1), 0.1 / (1 + LAST)),
    "staircase": (
        InverseTimeDecay(0.1, 1.0, steps_per_epoch=10, staircase=True),
        0.1 / (1 + LAST // 10),
    ),
    "warmup": (LinearWarmup(0.1, 5, steps_per_epoch=1), 0.1),
    "joined": (
        JoinedSchedule(
            [decay(), InverseTimeDecay(0.1, 0.0, steps_per_epoch=1)], [5], steps_per_epoch=1
        ),
        0.1,
    ),
    "scaled": (
        PlateauScale(
            LinearWarmup(0.1, 5, steps_per_epoch=1), state={"scale": 0.5, "reductions": 1}
        ),
        0.05,
    ),
}
every_schedule = pytest.mark.parametrize(("schedule", "rate"), SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
@pytest.mark.parametrize("steps", [-(2**31), -(2**31) + 5, -1])
def test_a_counter_that_has_wrapped_gives_the_rate_of_the_last_step(schedule, rate, steps):
    """Never a negative one, never a start over."""
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.iterations.assign(steps)
    assert number(optimizer.learning_rate) == pytest.approx(rate, rel=1e-5)


@every_schedule
def test_tensors_give_that_rate_too(schedule, rate, monkeypatch):
    """As a step of torch on an accelerator computes it."""
    monkeypatch.setattr(_base, "read_if_eager", lambda step: None)
    step = keras.ops.convert_to_tensor(-(2**31) + 5, "int32")
    assert number(schedule(step)) == pytest.approx(rate, rel=1e-5)


@every_schedule
def test_a_step_after_it_trains_at_that_rate(schedule, rate):
    """The weight moves by the rate, in the step as it is compiled."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    model.compile(keras.optimizers.SGD(schedule), lambda y, prediction: keras.ops.mean(prediction))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(-(2**31) + 5)
    x = np.ones((1, 1), "float32")
    model.train_on_batch(x, x)
    assert -model.get_weights()[0].item() == pytest.approx(rate, rel=1e-5)
