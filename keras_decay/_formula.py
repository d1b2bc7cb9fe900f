"""What a schedule's formula is written in: once, for Python's numbers and for tensors.

`Numbers` computes in Python's own numbers, in float64, wherever the step is at hand: in the logs,
outside of compiled code, and so in every training step of torch on a CPU. `Tensors` has the same
operations on tensors, in float32: inside a compiled training step, and in one of torch on an
accelerator, where reading the step would make the device wait for the host.
"""

from __future__ import annotations

import bisect
import contextlib
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
    at_hand,
    constant,
    maximum,
    minimum,
    rate_tensor,
    to_number,
    to_numpy,
    value_of,
    where,
)
from keras_decay._config import Configured, LearningRateSchedule


class Numbers:
    """The operations of a formula on a Python number."""

    maximum: Callable[[Any, Any], Any] = staticmethod(max)
    minimum: Callable[[Any, Any], Any] = staticmethod(min)
    floor_divide = staticmethod(operator.floordiv)
    floating = staticmethod(float)

    def __init__(self, step: int, clock: Any):
        self.step = step
        self.clock = clock
        """What says `step` in the words that a schedule of Keras's or a user's expects."""

    @staticmethod
    def where(condition: bool, then: Any, otherwise: Any) -> Any:
        return then if condition else otherwise

    @staticmethod
    def constant(value: float, step: int) -> float:
        return value

    @staticmethod
    def count_reached(boundaries: Table, step: int) -> int:
        """How many of the increasing `boundaries` are at or below `step`."""
        return bisect.bisect_right(boundaries.numbers, step)

    @staticmethod
    def lookup(table: Table, index: int) -> Any:
        return table.numbers[index]

    @staticmethod
    def read(scale: Any) -> float:
        number: float = scale.memory.scale
        return number

    def evaluate(self, schedule: Callable[[Any], Any], step: int) -> float:
        """The rate of a schedule that is not written against these operations."""
        clock = self.clock if step == self.step else ops.convert_to_tensor(step, COUNTER)
        return float(to_number(schedule(clock)))


class Tensors:
    """The same operations on tensors: float32, traceable."""

    constant = staticmethod(constant)
    where = staticmethod(where)
    maximum = staticmethod(maximum)
    minimum = staticmethod(minimum)
    count_reached = staticmethod(Table.count_reached)
    lookup = staticmethod(Table.take)

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
    def read(scale: Any) -> Any:
        return scale.memory.scale if scale.variable is None else scale.variable.value

    def evaluate(self, schedule: Callable[[Any], Any], step: Any) -> Any:
        if len(step.shape):
            return _for_each(schedule, step)
        return _float32(schedule(self.clock if step is self.step else step))


class FormulaSchedule(Configured, LearningRateSchedule):
    """A schedule whose formula is written once, for numbers and for tensors."""

    name: str
    outermost = False
    """Whether other schedules refuse to have this one inside them."""
    told = False
    """Whether `fit` has told how many steps an epoch has."""

    def __call__(self, step: Any) -> Any:
        return compute(self._rate, step)

    def _rate(self, step: Any, xp: Numbers | Tensors) -> Any:
        """The rate at an integer `step`, in the operations of `xp`."""
        raise NotImplementedError

    def _prepare(self) -> None:
        """Computes what follows from `steps_per_epoch`, once it is known here and in the
        schedules inside."""

    def _known(self) -> int:
        """`steps_per_epoch`, of a schedule that has one."""
        steps: int | None = self.steps_per_epoch
        if steps is None:
            raise ValueError(
                f"`{type(self).__name__}` does not know yet how many steps an epoch has. Pass "
                "`steps_per_epoch=` to it, or put `keras_decay.PlateauDecay` or "
                "`keras_decay.LearningRateLogger` into the `callbacks` of `fit`, which tell it "
                "when training begins."
            )
        return steps


def within(schedule: Any) -> Iterator[Any]:
    """The schedule and all that are inside it, each before what is inside it."""
    if not isinstance(schedule, LearningRateSchedule):
        return
    yield schedule
    inner = [getattr(schedule, "schedule", None)]
    for several in ("schedules", "factors"):
        inner += getattr(schedule, several, ())
    for each in inner:
        yield from within(each)


def untaught(schedule: Any) -> list[Any]:
    """Those within the schedule that do not know how many steps an epoch has."""
    return [each for each in counting(schedule) if each.steps_per_epoch is None]


def teach(schedule: Any, steps_per_epoch: int) -> list[Any]:
    """Tells the schedule, and those inside it, how many steps an epoch has, where they do not
    know it yet. Returns those that it told."""
    told = untaught(schedule)
    for each in told:
        each.steps_per_epoch, each.told = steps_per_epoch, True
    try:
        prepare(schedule)
    except ValueError:
        forget(told)
        raise
    return told


def forget(told: list[Any]) -> None:
    """Takes back what `teach` has told."""
    for each in told:
        each.steps_per_epoch, each.told = None, False


def counting(schedule: Any) -> list[Any]:
    """Those within the schedule that have a `steps_per_epoch`, known or not."""
    own = [each for each in within(schedule) if isinstance(each, FormulaSchedule)]
    return [each for each in own if hasattr(each, "steps_per_epoch")]


def prepare(schedule: Any) -> None:
    """Readies the schedule, and those inside it, for being called, as soon as that can be."""
    for each in reversed(list(within(schedule))):
        if isinstance(each, FormulaSchedule) and not untaught(each):
            each._prepare()


def rate_of(schedule: Any, step: Any, xp: Numbers | Tensors) -> Any:
    """The rate of a float or of any schedule at an integer `step`."""
    if isinstance(schedule, float):
        return xp.constant(schedule, step)
    if isinstance(schedule, FormulaSchedule):
        return schedule._rate(step, xp)
    return xp.evaluate(schedule, step)


def rate_at(schedule: Any, step: int) -> float:
    """The rate of a float or of any schedule at a step of the optimizer's clock."""
    foreign = not all(isinstance(each, FormulaSchedule) for each in within(schedule))
    # Keras calls a schedule with its counter, a variable, whose operators take more than those
    # of a tensor do.
    clock = keras.Variable(step, dtype=COUNTER, trainable=False) if foreign else step
    return float(rate_of(schedule, step, Numbers(step, clock)))


def compute(formula: Callable[[Any, Any], Any], step: Any) -> Any:
    """`formula(step, operations)`: in Python's numbers where one step is at hand, else in tensors.

    Returns a float32 tensor with the shape of `step`.
    """
    value = value_of(step)
    number = at_hand(value)
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
    # Many a schedule, some of Keras's among them, takes scalars only; and not every backend can
    # make such a one into one for arrays.
    for function in (schedule, lambda steps: ops.vectorized_map(schedule, steps)):
        with contextlib.suppress(Exception):
            rates = _float32(function(steps))
            if tuple(rates.shape) == tuple(steps.shape):
                return rates
    numbers = to_numpy(steps)
    flat = [rate_at(schedule, int(step)) for step in numbers.flat]
    return ops.convert_to_tensor(np.reshape(flat, numbers.shape), "float32")


def _float32(rate: Any) -> Any:
    if isinstance(rate, (int, float)):
        return ops.convert_to_tensor(rate, "float32")
    return ops.cast(rate, "float32")


def check_schedule(name: str, value: Any) -> Any:
    """`value` as a float rate, or a Keras schedule to put into another."""
    if getattr(value, "outermost", False):
        _checks.fail(name, value, "a schedule that is not a `PlateauScale`, which goes around all")
    if isinstance(value, LearningRateSchedule):
        return value
    if callable(value) or isinstance(value, (str, dict)):
        _checks.fail(name, value, "a float or a `LearningRateSchedule`", TypeError)
    return _checks.learning_rate(name, value)


def check_on_another_clock(name: str, schedule: Any) -> None:
    """Refuses a schedule that computes with the counter itself, where it gets another clock."""
    foreign = [each for each in within(schedule) if not isinstance(each, FormulaSchedule)]
    try:
        for each in foreign:
            if not untaught(each):
                each(ops.convert_to_tensor(0, COUNTER))
    except Exception as error:
        must = (
            "a schedule that takes a tensor of ints for its step, since its clock is not the "
            'optimizer\'s here: begin it with `step = keras.ops.cast(step, "float32")`'
        )
        raise ValueError(f"`{name}` must be {must}. Received: {name}={schedule!r}") from error
