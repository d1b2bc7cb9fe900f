"""What a step of torch does on an accelerator, seen on torch's device that has no memory: the rates
themselves are those of the same operations on a CPU."""

from __future__ import annotations

import copy
import pickle

import keras
import numpy as np
import pytest
from support import BACKEND, number

from keras_decay import (
    EpochSchedule,
    InverseTimeDecay,
    JoinedSchedule,
    LinearWarmup,
    PlateauScale,
    StepDecay,
)

pytestmark = [
    pytest.mark.any_keras,
    pytest.mark.skipif(BACKEND != "torch", reason="the others compile their steps"),
]


def step_decay(**arguments):
    return StepDecay(0.1, 0.5, 2, steps_per_epoch=5, **arguments)


SCHEDULES = {
    "step": step_decay,
    "step to a floor": lambda: step_decay(min_learning_rate=0.02),
    "milestones": lambda: StepDecay(0.1, 0.5, [1, 3], steps_per_epoch=5),
    "inverse": lambda: InverseTimeDecay(0.1, 0.5, steps_per_epoch=5),
    "inverse in stairs": lambda: InverseTimeDecay(
        0.1, 0.5, steps_per_epoch=5, staircase=True, min_learning_rate=0.02
    ),
    "table": lambda: EpochSchedule([0.1, 0.3, 0.2], steps_per_epoch=5),
    "warmup": lambda: LinearWarmup(step_decay(), 2, steps_per_epoch=5),
    "joined": lambda: JoinedSchedule([step_decay(), 0.01], [3], steps_per_epoch=5),
    "scaled": lambda: PlateauScale(step_decay(), min_learning_rate=0.001),
}
every_schedule = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)


def operations(function):
    """The names of torch's own operations that a call comes down to."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            names.append(operation.name())
            return operation(*args, **(kwargs or {}))

    names = []
    with Names():
        function()
    return names


def test_a_number_of_the_host_is_seen_as_a_copy():
    """Keras's operations copy a Python number, which the next test would see."""
    with keras.device("meta"):
        step = keras.ops.convert_to_tensor(7, "int32")
        assert "aten::empty_like" in operations(lambda: keras.ops.maximum(step, 0))


@every_schedule
def test_a_step_copies_no_number_to_the_accelerator(make):
    """The device would wait for the host at each copy, in every step."""
    schedule = make()
    with keras.device("meta"):
        step = keras.ops.convert_to_tensor(7, "int32")
        schedule(step)  # Moves its tables.
        assert "aten::empty_like" not in operations(lambda: schedule(step))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
@every_schedule
def test_a_copy_leaves_the_accelerator_behind(make, copied):
    """A schedule that trained on one gives its rates on a machine that has none."""
    schedule, steps = make(), np.arange(40)
    with keras.device("meta"):
        schedule(keras.ops.convert_to_tensor(steps, "int32"))
    rates = copied(schedule)(keras.ops.convert_to_tensor(steps, "int32"))
    expected = [number(make()(step)) for step in steps]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(rates), expected, rtol=1e-6)
