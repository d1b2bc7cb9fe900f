"""The operations in which schedules write their formula once, for numbers and for tensors.

`Numbers` computes with Python numbers, in float64, where the value of the step can be read: for
the logs, outside of compiled code, and in every training step of torch on a CPU. `Tensors` has the
same operations on tensors, in float32: for a compiled training step, and for torch on an
accelerator, which would have to wait if the step were read.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_decay import _checks
from keras_decay._backend import (
    COUNTER,
    LAST_STEP,
    Table,
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


class Scalar:
    """A number that the host writes and the compiled step reads.

    Args:
        read: Returns the number, from the state.
        variable: Holds it on the devices; `None` if it is a constant of the compiled step.
    """

    def __init__(self, read: Callable[[], Any], variable: Any = None):
        self._read, self.variable = read, variable

    @property
    def number(self) -> Any:
        return self._read()


class Numbers:
    """The operations of a formula on a Python number."""

    maximum: Callable[[Any, Any], Any] = staticmethod(max)
    minimum: Callable[[Any, Any], Any] = staticmethod(min)
    floor_divide = staticmethod(operator.floordiv)
    floating = staticmethod(float)

    def __init__(self, step: float, clock: Any):
        self.step = step
        self.clock = clock
        """The same step, as the variable or tensor that a foreign schedule expects."""

    @staticmethod
    def where(condition: bool, then: Any, otherwise: Any) -> Any:
        return then if condition else otherwise

    @staticmethod
    def constant(value: float, step: int) -> float:
        return value

    @staticmethod
    def searchsorted(boundaries: Table, step: int) -> int:
        """How many of the increasing `boundaries` are at or below `step`."""
        return bisect.bisect_right(boundaries.numbers, step)

    @staticmethod
    def take(table: Table, index: int) -> Any:
        return table.numbers[index]

    @staticmethod
    def read(scalar: Scalar) -> Any:
        return scalar.number

    def evaluate(self, schedule: Callable[[Any], Any], step: float) -> float:
        """The rate of a foreign schedule: one that is not written in these operations."""
        if isinstance(step, float):
            clock = rate_tensor(step)
        else:
            clock = self.clock if step == self.step else ops.convert_to_tensor(step, COUNTER)
        return float(to_number(schedule(clock)))


class Unshifted(Numbers):
    """`Numbers` that ignore the clock's offset, so the step is the optimizer's counter."""

    @staticmethod
    def read(scalar: Scalar) -> int:
        return 0


class Tensors:
    """The operations of `Numbers` on tensors: float32, traceable."""

    constant = staticmethod(constant)
    where = staticmethod(where)
    maximum = staticmethod(maximum)
    minimum = staticmethod(minimum)
    searchsorted = staticmethod(Table.searchsorted)
    take = staticmethod(Table.take)

    def __init__(self, step: Any, clock: Any):
        self.step = step
        self.clock = clock

    @staticmethod
    def floor_divide(step: Any, period: int) -> Any:
        return step // period if period <= LAST_STEP else step * 0

    @staticmethod
    def floating(number: Any) -> Any:
        return ops.cast(number, "float32")

    @staticmethod
    def read(scalar: Scalar) -> Any:
        return scalar.number if scalar.variable is None else scalar.variable.value

    def evaluate(self, schedule: Callable[[Any], Any], step: Any) -> Any:
        if len(step.shape):
            return _for_each(schedule, step)
        return _float32(schedule(self.clock if step is self.step else step))


class Schedule(Configured, LearningRateSchedule):
    """A schedule whose formula is written once, for numbers and for tensors."""

    name: str
    outermost = False
    """Whether this schedule must not be inside another one."""
    inner: tuple[str, ...] = ()
    """The names of the attributes that hold schedules, or lists of them."""
    _prepared = False

    def __call__(self, step: Any) -> Any:
        return compute(self._rate, step)

    def _rate(self, step: Any, xp: Numbers | Tensors) -> Any:
        """The rate at an integer `step`, in the operations of `xp`."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Computes what depends on `steps_per_epoch`, once it is known here and inside."""

    def _prepare_if_known(self) -> None:
        if not counting_epochs(self):
            self._prepare()
            self._prepared = True

    def _known(self) -> int:
        """The value of `steps_per_epoch`, or an error if it is not known yet."""
        steps: int | None = self.steps_per_epoch
        if steps is None:
            raise ValueError(
                f"`{type(self).__name__}` does not know yet how many steps an epoch has. Pass "
                "`steps_per_epoch=` to it, or put `keras_decay.PlateauDecay` or "
                "`keras_decay.LearningRateLogger` into the `callbacks` of `fit`, which count the "
                "epochs of its optimizer."
            )
        return steps

    def _check_prepared(self) -> None:
        """Raises an error if `steps_per_epoch` is not known yet, here or inside."""
        if not self._prepared:
            for each in counting_epochs(self):
                each._known()


def iter_schedules(
    schedule: Any, leave_out: Callable[[Any], bool] = lambda each: False
) -> Iterator[Any]:
    """The schedule and all schedules inside it, outer ones first.

    Those for which `leave_out` is true are left out, with all that is inside them.
    """
    if not isinstance(schedule, LearningRateSchedule) or leave_out(schedule):
        return
    yield schedule
    for name in _inner_names(schedule):
        value = getattr(schedule, name)
        for each in value if isinstance(value, (list, tuple)) else [value]:
            yield from iter_schedules(each, leave_out)


def _inner_names(schedule: Any) -> tuple[str, ...]:
    if isinstance(schedule, Schedule):
        return schedule.inner
    # Assume that a user's own class names the schedules inside it as ours do.
    return tuple(name for name in ("schedule", "schedules", "factors") if hasattr(schedule, name))


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


def with_steps_per_epoch(
    schedule: Any, steps_per_epoch: int | None, offset: Scalar | None = None
) -> Any:
    """A copy of the schedule with `steps_per_epoch` filled in where it is missing.

    These parts run `offset` steps ahead. Parts with their own number, and schedules from outside
    this package, keep their clock. The schedule itself is never changed.
    """
    if steps_per_epoch is None or not counting_epochs(schedule):
        return schedule
    filled, lacks = copy.copy(schedule), _lacks_number(schedule)
    inside = None if lacks else offset
    if lacks:
        filled.steps_per_epoch = steps_per_epoch
    for name in _inner_names(schedule):
        value = getattr(schedule, name)
        if isinstance(value, (list, tuple)):
            each = [with_steps_per_epoch(part, steps_per_epoch, inside) for part in value]
        else:
            each = with_steps_per_epoch(value, steps_per_epoch, inside)
        setattr(filled, name, each)
    if isinstance(filled, Schedule):
        filled._prepare_if_known()
    return Shifted(filled, offset) if lacks and offset is not None else filled


class Shifted(Schedule):
    """A schedule some steps ahead of the optimizer's counter, or behind it."""

    inner = ("schedule",)

    def __init__(self, schedule: Any, offset: Scalar):
        self.schedule, self.offset = schedule, offset

    def _rate(self, step: Any, xp: Numbers | Tensors) -> Any:
        offset = xp.read(self.offset)
        # At most the last step, since the counter would wrap after it.
        ahead = max(offset, 0) if isinstance(offset, int) else xp.maximum(offset, 0)
        last = LAST_STEP - ahead
        return rate_of(self.schedule, xp.maximum(xp.minimum(step, last) + offset, 0), xp)


def rate_of(schedule: Any, step: Any, xp: Numbers | Tensors) -> Any:
    """The rate of a float or of any schedule at an integer `step`."""
    if isinstance(schedule, float):
        return xp.constant(schedule, step)
    if isinstance(schedule, Schedule):
        return schedule._rate(step, xp)
    return xp.evaluate(schedule, step)


def rate_at(schedule: Any, step: float, operations: type[Numbers] = Numbers) -> float:
    """The rate of a float or of any schedule at a step of the optimizer's counter."""
    foreign = not all(isinstance(each, Schedule) for each in iter_schedules(schedule))
    # Keras calls a schedule with its counter, a variable. A variable's operators accept Python
    # floats, which those of a TensorFlow int tensor do not.
    counts = foreign and isinstance(step, int)
    clock = keras.Variable(step, dtype=COUNTER, trainable=False) if counts else step
    return float(rate_of(schedule, step, operations(step, clock)))


def compute(formula: Callable[[Any, Any], Any], step: Any) -> Any:
    """`formula(step, operations)` as a float32 tensor with the shape of `step`.

    It computes with Python numbers if it can read the value of a single step, else with tensors.
    """
    value = value_of(step)
    number = read_if_eager(value)
    if number is not None:
        return _in_numbers(formula, number, step)
    if isinstance(value, (np.generic, np.ndarray)) or not hasattr(value, "dtype"):
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            _checks.fail("step", step, "an int or an array of ints", TypeError)
        if array.ndim == 0:
            return _in_numbers(formula, int(array), step)
        value = ops.convert_to_tensor(array.clip(max=LAST_STEP).astype(COUNTER), COUNTER)
    steps = ops.cast(value, COUNTER)
    if COUNTER == "int32" and not len(steps.shape):
        # A counter that has wrapped stays at its last step.
        steps = where(steps < 0, LAST_STEP, steps)
    return formula(steps, Tensors(steps, step))


def _in_numbers(formula: Callable[[Any, Any], Any], step: int, clock: Any) -> Any:
    step = LAST_STEP if step < 0 else step
    return rate_tensor(formula(step, Numbers(step, clock)))


def _for_each(schedule: Callable[[Any], Any], steps: Any) -> Any:
    """The rates of a schedule at an array of steps."""
    # Many schedules, including some of Keras's, take scalars only, and `vectorized_map` does not
    # work for all of them on every backend.
    for function in (schedule, lambda steps: ops.vectorized_map(schedule, steps)):
        with contextlib.suppress(Exception):
            rates = _float32(function(steps))
            if tuple(rates.shape) == tuple(steps.shape):
                return rates
    numbers = to_numpy(steps)
    flat = [rate_at(schedule, step) for step in numbers.ravel().tolist()]
    return ops.convert_to_tensor(np.reshape(flat, numbers.shape), "float32")


def _float32(rate: Any) -> Any:
    if isinstance(rate, (int, float)):
        return ops.convert_to_tensor(rate, "float32")
    return ops.cast(rate, "float32")


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
    zero = ops.convert_to_tensor(0, dtype)
    foreign = [each for each in iter_schedules(schedule) if not isinstance(each, Schedule)]
    try:
        for each in foreign:
            if not counting_epochs(each):
                each(zero)
    except Exception as error:
        kind = "ints" if dtype == COUNTER else "floats"
        must = (
            f"a schedule that takes a tensor of {kind} for its step, since its clock is not the "
            'optimizer\'s here: begin it with `step = keras.ops.cast(step, "float32")`'
        )
        raise ValueError(f"`{name}` must be {must}. Received: {name}={schedule!r}") from error
