"""What a schedule's formula is written in, once for the host and for the device.

`NUMBER`, `ARRAY` and `DEVICE` have the same operations. Wherever the step can be read at no cost
(Python and NumPy numbers; eager tensors on the CPU), `NUMBER` computes in Python's own numbers
and `ARRAY`, for many steps, in NumPy, both in float64. `DEVICE` computes in tensors and float32,
inside a compiled training step and on accelerators, where reading the step would make the device
wait for the host.
"""

from __future__ import annotations

import bisect
import contextlib
import operator
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_decay._backend import (
    COUNTER,
    LAST_STEP,
    HostScalar,
    Table,
    divide,
    rate_tensor,
    readable,
    to_number,
    to_numpy,
    value_of,
)

LAST_HOST_STEP = int(np.iinfo("int64").max)


class NUMBER:
    """The operations of a formula on a Python number: what a torch training step runs."""

    maximum: Callable[[Any, Any], Any] = staticmethod(max)
    minimum: Callable[[Any, Any], Any] = staticmethod(min)
    floor_divide = staticmethod(operator.floordiv)
    floating = staticmethod(float)

    @staticmethod
    def where(condition: bool, then: Any, otherwise: Any) -> Any:
        return then if condition else otherwise

    @staticmethod
    def count_reached(boundaries: Table, step: int) -> int:
        """How many of the increasing `boundaries` are at or below `step`."""
        return bisect.bisect_right(boundaries.numbers, step)

    @staticmethod
    def lookup(table: Table, index: int) -> Any:
        return table.numbers[index]

    @staticmethod
    def read(scalar: HostScalar) -> float:
        return scalar.value

    @staticmethod
    def evaluate(schedule: Callable[[Any], Any], step: int) -> float:
        """The rate of a schedule that is not written against these operations."""
        return float(to_number(schedule(ops.convert_to_tensor(step, _counter_for(step)))))


class ARRAY:
    """The same operations on NumPy arrays."""

    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)
    where: Callable[[Any, Any, Any], Any] = staticmethod(np.where)
    read = staticmethod(NUMBER.read)

    @staticmethod
    def floor_divide(step: Any, period: int) -> Any:
        return step // min(period, LAST_HOST_STEP)

    @staticmethod
    def floating(number: Any) -> Any:
        return np.asarray(number, "float64")

    @staticmethod
    def count_reached(boundaries: Table, step: Any) -> Any:
        return np.searchsorted(boundaries.values, step, side="right")

    @staticmethod
    def lookup(table: Table, index: Any) -> Any:
        return table.values[index]

    @staticmethod
    def evaluate(schedule: Callable[[Any], Any], step: Any) -> Any:
        # Many a schedule, some of Keras's among them, takes scalars only; and not every backend
        # can make such a one into one for arrays.
        for function in (schedule, lambda steps: ops.vectorized_map(schedule, steps)):
            with contextlib.suppress(Exception):
                rate = function(ops.convert_to_tensor(step, _counter_for(step.max(initial=0))))
                together = ARRAY.floating(rate if isinstance(rate, float) else to_numpy(rate))
                if together.shape == step.shape:
                    return together
        rates = [NUMBER.evaluate(schedule, int(each)) for each in step.flat]
        return np.reshape(rates, step.shape)


class DEVICE:
    """The same operations on tensors: float32, traceable."""

    where = staticmethod(ops.where)

    @staticmethod
    def maximum(number: Any, bound: Any) -> Any:
        return ops.maximum(number, _like(bound, number))

    @staticmethod
    def minimum(number: Any, bound: Any) -> Any:
        return ops.minimum(number, _like(bound, number))

    @staticmethod
    def floor_divide(step: Any, period: int) -> Any:
        return divide(step, period) if period <= LAST_STEP else step * 0

    @staticmethod
    def count_reached(boundaries: Table, step: Any) -> Any:
        reached = ops.expand_dims(step, -1) >= boundaries.tensor(like=step)
        return ops.sum(ops.cast(reached, COUNTER), axis=-1)

    @staticmethod
    def floating(number: Any) -> Any:
        return ops.cast(number, "float32")

    @staticmethod
    def lookup(table: Table, index: Any) -> Any:
        return table.take(index)

    @staticmethod
    def read(scalar: HostScalar) -> Any:
        return scalar.tensor()

    @staticmethod
    def evaluate(schedule: Callable[[Any], Any], step: Any) -> Any:
        rate = schedule(step)
        if isinstance(rate, (int, float)):
            return ops.convert_to_tensor(rate, "float32")
        return ops.cast(rate, "float32")


def compute(formula: Callable[[Any, Any], Any], step: Any) -> Any:
    """`formula(step, operations)` on the host where the step is at hand, else on the device.

    Returns a float32 tensor with the shape of `step`.
    """
    step = value_of(step)
    if isinstance(step, (int, float, np.generic, np.ndarray, list, tuple)):
        step = np.asarray(step).astype(np.int64)
        number = step if step.ndim else int(step)
    elif not readable(step):
        return formula(ops.cast(step, COUNTER), DEVICE)
    elif len(step.shape) == 0:
        number = int(to_number(step))
    else:
        number = to_numpy(step).astype(np.int64)
    rate = formula(number, NUMBER if isinstance(number, int) else ARRAY)
    return rate_tensor(rate, step)


def _like(number: Any, tensor: Any) -> Any:
    """A Python number as a tensor of the same dtype."""
    # Keras converts a bare number through `floatx`: on JAX even an int beside an int tensor.
    if isinstance(number, (int, float)):
        return ops.convert_to_tensor(number, keras.backend.standardize_dtype(tensor.dtype))
    return number


def _counter_for(last: int) -> str:
    """The dtype for steps up to `last`: int32, as most optimizers count in, where it fits."""
    return "int32" if last < 2**31 else COUNTER
