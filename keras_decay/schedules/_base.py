"""What all schedules have in common: how a rate is computed, and the schedules inside others.

A formula is written once, in the functions of `_backend`, which take numbers and tensors. The rate
is computed with Python numbers, in float64, where the value of the step can be read: for the logs,
outside of compiled code, and in every training step of torch on a CPU. It is computed with
tensors, in float32, in a compiled training step, and on torch with an accelerator, which would
have to wait if the step were read.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_decay import _checks
from keras_decay._backend import (
    COUNTER,
    LAST_STEP,
    Scalar,
    constant,
    maximum,
    minimum,
    rate_tensor,
    read_if_eager,
    to_number,
    to_numpy,
    value_of,
    where,
)
from keras_decay._config import Configured, LearningRateSchedule


class Schedule(Configured, LearningRateSchedule):
    """A schedule whose formula is written once, for numbers and for tensors."""

    name: str
    steps_per_epoch: Any
    """`None` to count the epochs of `fit`. Those made only of other schedules do not have it."""
    outermost = False
    """Whether this schedule must not be inside another one."""
    offset: Scalar | None = None
    """How many steps this schedule is ahead of the optimizer's counter."""

    def __call__(self, step: Any) -> Any:
        return compute(self, step)

    def _rate(self, step: Any, counter: Any) -> Any:
        """The rate at an integer `step`; for `counter` see `rate_of`."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Computes what depends on `steps_per_epoch`, once it is known."""

    def _finish(self, name: str, steps_per_epoch: int | None) -> None:
        """Ends the constructor, with the arguments that most schedules have."""
        self.name = _checks.string("name", name)
        self.steps_per_epoch = _checks.steps_per_epoch(steps_per_epoch)
        if steps_per_epoch is not None:
            self._prepare()


def compute(schedule: Any, step: Any) -> Any:
    """The rate of a float or of any schedule, as a float32 tensor with the shape of `step`."""
    value = value_of(step)
    number = read_if_eager(value)
    if number is None and (
        isinstance(value, (np.generic, np.ndarray)) or not hasattr(value, "dtype")
    ):
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            _checks.fail("step", step, "an int or an array of ints", TypeError)
        if array.ndim == 0:
            number = min(int(array), LAST_STEP)
        else:
            value = ops.convert_to_tensor(array.clip(max=LAST_STEP).astype(COUNTER), COUNTER)
    # A counter that has wrapped stays at its last step.
    if number is not None:
        return rate_tensor(rate_of(schedule, LAST_STEP if number < 0 else number, step))
    steps = ops.cast(value, COUNTER)
    if COUNTER == "int32" and not len(steps.shape):
        steps = where(steps < 0, LAST_STEP, steps)
    return rate_of(schedule, steps, step)


def rate_at(schedule: Any, step: int) -> float:
    """The rate of a float or of any schedule at a step of the optimizer's counter."""
    foreign = not all(isinstance(each, Schedule) for each in iter_schedules(schedule))
    counter = keras.Variable(step, dtype=COUNTER, trainable=False) if foreign else None
    return float(rate_of(schedule, step, counter))


def rate_of(schedule: Any, step: Any, counter: Any = None) -> Any:
    """The rate of a float or of any schedule at an integer `step`, a number or a tensor.

    `counter` is the same step as Keras passes it to a schedule: a variable, whose operators accept
    Python floats, which those of a TensorFlow int tensor do not. It is `None` on another clock
    than the optimizer's.
    """
    if isinstance(schedule, float):
        return constant(schedule, step)
    if not isinstance(schedule, Schedule):
        return _foreign_rate(schedule, step, counter)
    if getattr(schedule, "steps_per_epoch", 0) is None:
        raise ValueError(
            f"`{type(schedule).__name__}` does not know yet how many steps an epoch has. Pass "
            "`steps_per_epoch=` to it, or put `keras_decay.PlateauDecay` or "
            "`keras_decay.LearningRateLogger` into the `callbacks` of `fit`, which count the "
            "epochs of its optimizer."
        )
    if schedule.offset is not None:
        offset, counter = schedule.offset.at(step), None
        # At most the last step, since the counter would wrap after it.
        last = LAST_STEP - maximum(offset, 0)
        step = maximum(minimum(step, last) + offset, 0)
    return schedule._rate(step, counter)


def _foreign_rate(schedule: Callable[[Any], Any], step: Any, counter: Any) -> Any:
    """The rate of a schedule that is not from this package."""
    if isinstance(step, float):
        return float(to_number(schedule(rate_tensor(step))))
    if isinstance(step, int):
        if counter is None:
            counter = ops.convert_to_tensor(step, COUNTER)
        return float(to_number(schedule(counter)))
    if not len(step.shape):
        return ops.cast(schedule(step if counter is None else counter), "float32")
    # Many schedules, including some of Keras's, take scalars only, and `vectorized_map` does not
    # work for all of them on every backend.
    for function in (schedule, lambda steps: ops.vectorized_map(schedule, steps)):
        with contextlib.suppress(Exception):
            rates = ops.cast(function(step), "float32")
            if tuple(rates.shape) == tuple(step.shape):
                return rates
    steps = to_numpy(step)
    one = keras.Variable(0, dtype=str(steps.dtype), trainable=False)
    rates = np.empty(steps.shape, "float32")
    for index, each in np.ndenumerate(steps):
        one.assign(each)
        rates[index] = to_number(schedule(one))
    return ops.convert_to_tensor(rates, "float32")


def _inner(schedule: Any) -> dict[str, Any]:
    """The attributes that hold schedules, or lists of them."""
    # Assume that a user's own class names the schedules inside it as ours do.
    names = [name for name in ("schedule", "schedules", "factors") if hasattr(schedule, name)]
    return {name: getattr(schedule, name) for name in names}


def _parts(schedule: Any) -> list[Any]:
    """What is directly inside a schedule: schedules and floats."""
    parts: list[Any] = []
    for value in _inner(schedule).values():
        parts += value if isinstance(value, (list, tuple)) else [value]
    return parts


def iter_schedules(
    schedule: Any, leave_out: Callable[[Any], bool] = lambda each: False
) -> Iterator[Any]:
    """The schedule and all schedules inside it, outer ones first.

    Those for which `leave_out` is true are left out, with all that is inside them.
    """
    if not isinstance(schedule, LearningRateSchedule) or leave_out(schedule):
        return
    yield schedule
    for part in _parts(schedule):
        yield from iter_schedules(part, leave_out)


def _lacks_number(schedule: Any) -> bool:
    return isinstance(schedule, Schedule) and getattr(schedule, "steps_per_epoch", 0) is None


def counting_epochs(schedule: Any) -> list[Any]:
    """The schedules within this one that count the epochs of `fit`: no `steps_per_epoch`."""
    return [each for each in iter_schedules(schedule) if _lacks_number(each)]


def counting_steps(schedule: Any) -> list[Any]:
    """The schedules within this one that count the optimizer's steps, not the epochs of `fit`."""
    return [
        each
        for each in iter_schedules(schedule, leave_out=_lacks_number)
        if not isinstance(each, Schedule) or getattr(each, "steps_per_epoch", None) is not None
    ]


def with_steps_per_epoch(schedule: Any, steps_per_epoch: int | None) -> Any:
    """A copy of the schedule with `steps_per_epoch` filled in where it is missing.

    The schedule itself is never changed.
    """
    if steps_per_epoch is None or not counting_epochs(schedule):
        return schedule
    filled = copy.copy(schedule)
    for name, value in _inner(schedule).items():
        if isinstance(value, (list, tuple)):
            setattr(filled, name, [with_steps_per_epoch(each, steps_per_epoch) for each in value])
        else:
            setattr(filled, name, with_steps_per_epoch(value, steps_per_epoch))
    if _lacks_number(schedule):
        filled.steps_per_epoch = steps_per_epoch
    if getattr(filled, "steps_per_epoch", None) is not None and isinstance(filled, Schedule):
        filled._prepare()
    return filled


def set_offset(filled: Any, schedule: Any, offset: Scalar) -> None:
    """Shifts the parts of a copy whose number was missing in the schedule that it was made of.

    Parts with their own number, and schedules from outside this package, keep their clock.
    """
    if filled is schedule:
        return
    if _lacks_number(schedule):
        filled.offset = offset
    else:
        for part, original in zip(_parts(filled), _parts(schedule), strict=True):
            set_offset(part, original, offset)


def check_schedule(name: str, value: Any) -> Any:
    """`value` as a float rate, or as a schedule that may go into another one."""
    if getattr(value, "outermost", False):
        _checks.fail(name, value, "a schedule that is not a `PlateauScale`, which goes around all")
    if isinstance(value, LearningRateSchedule):
        return value
    if callable(value) or isinstance(value, (str, dict)):
        _checks.fail(name, value, "a float or a `LearningRateSchedule`", TypeError)
    return _checks.learning_rate(name, value)


def check_on_another_clock(name: str, schedule: Any, dtype: str = COUNTER) -> None:
    """Raises an error for a schedule that needs the counter itself but gets a tensor."""
    try:
        for each in iter_schedules(schedule):
            if not isinstance(each, Schedule) and not counting_epochs(each):
                each(ops.convert_to_tensor(0, dtype))
    except Exception as error:
        kind = "ints" if dtype == COUNTER else "floats"
        must = (
            f"a schedule that takes a tensor of {kind} for its step, since its clock is not the "
            'optimizer\'s here: begin it with `step = keras.ops.cast(step, "float32")`'
        )
        raise ValueError(f"`{name}` must be {must}. Received: {name}={schedule!r}") from error
