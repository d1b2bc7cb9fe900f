"""Numbers on the host and on the device: the one file that knows backends.

A schedule's formula is written once, against the small set of operations that `HOST` and
`DEVICE` share. `HOST` computes in NumPy and float64, wherever the step can be read at no cost
(Python and NumPy numbers; eager tensors on the CPU). `DEVICE` computes in tensors and float32,
inside a compiled training step and on accelerators, where reading the step would make the
device wait for the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch


class Table:
    """A constant float array that a schedule looks rates up in."""

    def __init__(self, values: Any):
        self.values = np.asarray(values, "float64")
        self._tensors: dict[Any, Any] = {}

    def tensor(self, like: Any) -> Any:
        """The values as a float32 tensor on the device of `like`."""
        # torch runs this in every step and must not copy the table to the device each time.
        # TensorFlow and JAX trace it once, and a tensor must not outlive its trace.
        if BACKEND != "torch":
            return ops.convert_to_tensor(self.values.astype("float32"), "float32")
        if like.device not in self._tensors:
            self._tensors[like.device] = torch.tensor(
                self.values, dtype=torch.float32, device=like.device
            )
        return self._tensors[like.device]

    def __reduce__(self) -> Any:
        return Table, (self.values,)


class HostScalar:
    """A float32 number that the host writes and a compiled training step reads.

    It is not one of the optimizer's variables: Keras refuses to load optimizer state whose
    number of variables has changed. On JAX a variable that Keras does not pass in is compiled
    in as a constant, so there it is a mutable reference.
    """

    def __init__(self, value: float):
        self.value = float(value)
        if BACKEND == "jax":
            self._cell: Any = jax.new_ref(jax.numpy.asarray(value, "float32"))
        else:
            self._cell = keras.Variable(
                value, dtype="float32", trainable=False, autocast=False, name="host_scalar"
            )

    def assign(self, value: float) -> None:
        self.value = float(value)
        if BACKEND == "jax":
            self._cell[...] = jax.numpy.asarray(value, "float32")
        else:
            self._cell.assign(value)

    def tensor(self) -> Any:
        return self._cell[...] if BACKEND == "jax" else self._cell.value

    def __reduce__(self) -> Any:
        return HostScalar, (self.value,)


class HOST:
    """The operations of a formula on host numbers: NumPy, float64."""

    maximum = staticmethod(np.maximum)
    minimum = staticmethod(np.minimum)

    @staticmethod
    def floor_divide(step: Any, period: int) -> Any:
        return step // period

    @staticmethod
    def count_reached(boundaries: np.ndarray, step: Any) -> Any:
        """How many of the increasing `boundaries` are at or below `step`."""
        return np.searchsorted(boundaries, step, side="right")

    @staticmethod
    def floating(number: Any) -> Any:
        return np.asarray(number, "float64")[()]

    @staticmethod
    def lookup(table: Table, index: Any) -> Any:
        return table.values[index]

    @staticmethod
    def read(scalar: HostScalar) -> Any:
        return scalar.value

    @staticmethod
    def evaluate(schedule: Callable[[Any], Any], step: Any) -> Any:
        """The rates of a schedule that is not written against these operations."""
        rate = schedule(_integer_tensor(step))
        if not isinstance(rate, float):
            rate = ops.convert_to_numpy(rate)
        return HOST.floating(rate)


class DEVICE:
    """The same operations on tensors: float32, traceable."""

    maximum = staticmethod(ops.maximum)
    minimum = staticmethod(ops.minimum)

    @staticmethod
    def floor_divide(step: Any, period: int) -> Any:
        # A period that the counter's dtype cannot hold is one that it never reaches.
        return step // period if period <= _largest(step) else step * 0

    @staticmethod
    def count_reached(boundaries: np.ndarray, step: Any) -> Any:
        reachable = boundaries[boundaries <= _largest(step)]
        reached = ops.expand_dims(step, -1) >= ops.convert_to_tensor(reachable, _dtype(step))
        return ops.sum(ops.cast(reached, "int32"), axis=-1)

    @staticmethod
    def floating(number: Any) -> Any:
        return ops.cast(number, "float32")

    @staticmethod
    def lookup(table: Table, index: Any) -> Any:
        return ops.take(table.tensor(like=index), index, axis=0)

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
    if not callable(getattr(step, "value", len)):  # A `keras.Variable`, whatever its class.
        step = step.value
    if isinstance(step, (int, np.integer, np.ndarray, list, tuple)):
        number = np.asarray(step)
    elif _readable(step):
        number = ops.convert_to_numpy(step)
    else:
        return formula(_counter(step), DEVICE)
    if number.dtype != np.int64:
        number = number.astype(np.int64)
    rate = np.asarray(formula(number[()], HOST), "float32")
    return ops.convert_to_tensor(rate, "float32")


def _readable(step: Any) -> bool:
    """Whether reading the tensor costs no wait: it is eager and in the host's own memory."""
    if BACKEND == "tensorflow":
        return (
            tf.executing_eagerly()
            and not tf.distribute.has_strategy()
            and "CPU" in getattr(step, "device", "")
        )
    if BACKEND == "jax":
        return (
            isinstance(step, jax.Array)
            and not isinstance(step, jax.core.Tracer)
            and step.is_fully_addressable
            and all(device.platform == "cpu" for device in step.devices())
        )
    if BACKEND == "torch":
        return step.device.type == "cpu" and not torch.compiler.is_compiling()
    return True


def _counter(step: Any) -> Any:
    """The tensor as a step counter: int32 and int64 as they are, the rest as Keras's int."""
    return step if _dtype(step) in ("int32", "int64") else ops.cast(step, "int")


def _integer_tensor(step: Any) -> Any:
    """Host steps as a tensor, in the dtype of the step counter."""
    fits = BACKEND == "jax" or np.max(step, initial=0) < 2**31
    return ops.convert_to_tensor(np.asarray(step), "int32" if fits else "int64")


def _dtype(tensor: Any) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _largest(step: Any) -> int:
    return int(np.iinfo(_dtype(step)).max)


def variable_scope(model: Any) -> Any:
    """Where to create a scalar so that every device that trains the model can read it."""
    if BACKEND == "tensorflow" and hasattr(model, "distribute_strategy"):
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()
