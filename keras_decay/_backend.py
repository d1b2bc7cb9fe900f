"""Numbers on the host and on the device: the one file that knows backends.

A schedule's formula is written once, against the small set of operations that `NUMBER`, `ARRAY`
and `DEVICE` share. Wherever the step can be read at no cost (Python and NumPy numbers; eager
tensors on the CPU), `NUMBER` computes in Python's own numbers and `ARRAY`, for many steps, in
NumPy, both in float64. `DEVICE` computes in tensors and float32, inside a compiled training step
and on accelerators, where reading the step would make the device wait for the host.
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

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch


# The dtype of Keras's own step counters. Keras's operations take no wider int either: on torch
# the minimum of two int64 tensors comes back as int32.
COUNTER = "int64" if BACKEND == "tensorflow" else "int32"
LAST_STEP = int(np.iinfo(COUNTER).max)
LAST_HOST_STEP = int(np.iinfo("int64").max)


class Table:
    """A constant array that a schedule looks numbers up in."""

    def __init__(self, values: Any, dtype: str = "float32"):
        self.values = np.asarray(values)
        self.numbers = self.values.tolist()
        self._tensor: Any = self.values.astype(dtype)
        if BACKEND == "torch":
            self._tensor = torch.from_numpy(self._tensor)

    def tensor(self, like: Any) -> Any:
        """The values as a tensor on the device of `like`."""
        # torch runs this in every step, so the table stays on the device it was moved to.
        # TensorFlow and JAX trace it once, and a tensor must not outlive its trace.
        if BACKEND != "torch":
            return ops.convert_to_tensor(self._tensor, self._tensor.dtype.name)
        if self._tensor.device != like.device:
            self._tensor = self._tensor.to(like.device)
        return self._tensor


class HostScalar:
    """A float32 number that the host writes and a compiled training step reads.

    It is not one of the optimizer's variables: Keras refuses to load optimizer state whose
    number of variables has changed. On JAX a variable that Keras does not pass in is compiled
    in as a constant, so there it is a mutable reference. (Its price there: JAX dispatches such
    a step from Python, and compiles it for committed and uncommitted arrays apart.)
    """

    def __init__(self, value: float):
        self.value = float(value)
        if BACKEND == "jax":
            if not hasattr(jax, "new_ref"):
                raise ImportError(
                    "A plateau over a schedule needs JAX 0.7.2 or later, for `jax.new_ref`. "
                    f"Received: JAX {jax.__version__}"
                )
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
        rate = schedule(ops.convert_to_tensor(step, _counter_for(step)))
        return float(rate if isinstance(rate, (int, float)) else to_numpy(rate))


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
        return step // period if period <= LAST_STEP else step * 0

    @staticmethod
    def count_reached(boundaries: Table, step: Any) -> Any:
        reached = ops.expand_dims(step, -1) >= boundaries.tensor(like=step)
        return ops.sum(ops.cast(reached, COUNTER), axis=-1)

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
    step = _value(step)
    if isinstance(step, (int, float, np.generic, np.ndarray, list, tuple)):
        step = np.asarray(step).astype(np.int64)
        number = step if step.ndim else int(step)
    elif not _readable(step):
        return formula(ops.cast(step, COUNTER), DEVICE)
    elif len(step.shape) == 0:
        number = int(step)
    else:
        number = to_numpy(step).astype(np.int64)
    rate = formula(number, NUMBER if isinstance(number, int) else ARRAY)
    if BACKEND == "torch" and isinstance(number, int) and isinstance(step, torch.Tensor):
        # The training step: Keras's own conversion takes longer than all that came before.
        return torch.scalar_tensor(rate, dtype=torch.float32)
    return ops.convert_to_tensor(np.asarray(rate, "float32"), "float32")


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


def to_numpy(tensor: Any) -> Any:
    """A tensor, a variable or a number as a NumPy array."""
    # Keras's own conversion of a torch tensor takes longer than a rate takes to compute, and
    # that of a variable warns, with NumPy 2.
    tensor = _value(tensor)
    if BACKEND == "tensorflow" and hasattr(tensor, "numpy"):
        return tensor.numpy()
    if BACKEND == "torch" and isinstance(tensor, torch.Tensor) and tensor.dtype != torch.bfloat16:
        return tensor.detach().cpu().numpy()
    return ops.convert_to_numpy(tensor)


def _value(variable: Any) -> Any:
    """The tensor of a `keras.Variable`; anything else as it is."""
    # By attribute, since a `keras.Variable` has had several classes. (A `tf.Variable` has a
    # method of that name.)
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else value


def _like(number: Any, tensor: Any) -> Any:
    """A Python number as a tensor of the same dtype."""
    # Keras converts a bare number through `floatx`: on JAX even an int beside an int tensor.
    if isinstance(number, (int, float)):
        return ops.convert_to_tensor(number, keras.backend.standardize_dtype(tensor.dtype))
    return number


def _counter_for(last: int) -> str:
    """The dtype for steps up to `last`: int32, as most optimizers count in, where it fits."""
    return "int32" if last < 2**31 else COUNTER


def variable_scope(model: Any) -> Any:
    """Where to create a scalar so that every device that trains the model can read it."""
    if BACKEND == "tensorflow" and hasattr(model, "distribute_strategy"):
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()
