"""Numbers on the host and on the devices: all code that depends on the backend."""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import keras
except ModuleNotFoundError as error:
    raise ImportError(
        f"Keras runs on TensorFlow, JAX or torch, and `{error.name}` is not installed. Install one "
        'of them with: pip install "keras-decay[tensorflow]" (or [jax], or [torch]; from a '
        'checkout ".[jax]"), and set the environment variable KERAS_BACKEND to its name.'
    ) from error
from keras import ops

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch

# The dtype of Keras's own step counters. Keras's operations do not support wider ints either: on
# torch the minimum of two int64 tensors is an int32 tensor.
COUNTER = "int64" if BACKEND == "tensorflow" else "int32"
LAST_STEP = int(np.iinfo(COUNTER).max)

PURE_STEP = BACKEND == "jax"
"""Whether a compiled training step takes all variables of the model and its optimizer as arguments,
and returns their new values. Any other variable is a constant of the step."""
STEP_TAKES_ITERATOR = BACKEND == "tensorflow"
"""Whether it takes an iterator of batches."""


class Table:
    """A constant array in which a schedule looks up numbers."""

    def __init__(self, values: Any, dtype: str = "float32"):
        self.values = np.asarray(values)
        self.numbers = self.values.tolist()
        self._dtype = dtype
        self._tensor: Any = self.values.astype(dtype)
        if BACKEND == "torch":
            # On the device of the step counter from the start: torch's compiler recompiles for a
            # table that is moved later.
            self._tensor = ops.convert_to_tensor(self._tensor)

    def __len__(self) -> int:
        return len(self.numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the tensor: the machine that loads the pickle may not have its device.
        return Table, (self.values, self._dtype)

    def _on_device_of(self, index: Any) -> Any:
        # torch runs this in every step, so the table stays on the device to which it was moved.
        # TensorFlow and JAX trace it once, and a tensor must not outlive its trace.
        if BACKEND != "torch":
            return ops.convert_to_tensor(self._tensor, self._dtype)
        if self._tensor.device != index.device:
            self._tensor = self._tensor.to(index.device)
        return self._tensor

    def take(self, index: Any) -> Any:
        """The values at the indices, all of which must be in range."""
        if isinstance(index, int):
            return self.numbers[index]
        values = self._on_device_of(index)
        # `ops.take` handles negative indices: four more operations in a step that is not fused.
        if BACKEND == "tensorflow":
            return tf.gather(values, index)
        if BACKEND == "jax":
            return jax.numpy.take(values, index, mode="clip")
        # torch's compiler cannot lower `torch.take` of a single index.
        return torch.index_select(values, 0, index.reshape(-1)).reshape(index.shape)

    def searchsorted(self, number: Any) -> Any:
        """How many values of an increasing table are less than or equal to each number."""
        if isinstance(number, int):
            return bisect.bisect_right(self.numbers, number)
        values = self._on_device_of(number)
        if BACKEND == "torch":
            return torch.bucketize(number, values, out_int32=True, right=True)
        return ops.sum(ops.cast(ops.expand_dims(number, -1) >= values, COUNTER), axis=-1)


class Scalar:
    """A number that the host writes and the compiled step reads.

    Args:
        read: Returns the number.
        variable: Holds it on the devices; `None` if it is a constant of the compiled step.
    """

    def __init__(self, read: Callable[[], Any], variable: Any = None):
        self.read, self.variable = read, variable

    def at(self, step: Any) -> Any:
        """A number beside a number, a tensor beside a tensor."""
        on_host = self.variable is None or isinstance(step, int)
        return self.read() if on_host else self.variable.value

    def write(self, beside: Any) -> None:
        """Writes the number to the devices of the variable `beside`, if it has changed."""
        if self.variable is None:
            return
        number = np.asarray(self.read(), self.variable.dtype)
        # A write on TensorFlow takes ten times as long as a read.
        if to_number(self.variable) == number:
            return
        value: Any = number
        if BACKEND == "jax" and beside.value.committed:
            # Each process fills its own devices. Keras would call `jax.device_put`, which waits
            # for the other processes to compare the values.
            value = jax.make_array_from_callback((), beside.value.sharding, lambda _: number)
        self.variable.assign(value)


# A formula is written in these functions, whose first argument is a number or a tensor. On torch
# they pass on plain numbers: Keras's operations convert each number to a tensor first, which is a
# copy to the accelerator in every step.


def constant(value: float, step: Any) -> Any:
    """The value with the shape of the step."""
    if isinstance(step, (int, float)):
        return value
    if BACKEND == "torch":
        return torch.full_like(step, value, dtype=torch.float32)
    return ops.broadcast_to(ops.convert_to_tensor(value, "float32"), ops.shape(step))


def floating(number: Any) -> Any:
    return float(number) if isinstance(number, int) else ops.cast(number, "float32")


def floor_divide(step: Any, period: int) -> Any:
    return step // period if period <= LAST_STEP else step * 0


def where(condition: Any, then: Any, otherwise: Any) -> Any:
    if isinstance(condition, bool):
        return then if condition else otherwise
    if BACKEND == "torch":
        return torch.where(condition, then, otherwise)
    return ops.where(condition, _like(then, otherwise), otherwise)


def maximum(value: Any, bound: Any) -> Any:
    if isinstance(value, (int, float)):
        return max(value, bound)
    if BACKEND == "torch":
        return torch.clamp(value, min=bound)
    return ops.maximum(value, _like(bound, value))


def minimum(value: Any, bound: Any) -> Any:
    if isinstance(value, (int, float)):
        return min(value, bound)
    if BACKEND == "torch":
        return torch.clamp(value, max=bound)
    return ops.minimum(value, _like(bound, value))


def _like(number: Any, tensor: Any) -> Any:
    # Keras converts a plain number to `floatx`; on JAX even an int beside an int tensor.
    if isinstance(number, (int, float)):
        return ops.convert_to_tensor(number, keras.backend.standardize_dtype(tensor.dtype))
    return number


def read_if_eager(step: Any) -> int | None:
    """The step as an int if it is a scalar tensor that is cheap to read, else `None`.

    It is cheap outside of compiled code. On torch and TensorFlow, where a training step may run
    eagerly, it must also be on the CPU: reading it from an accelerator would make that wait.
    """
    if BACKEND == "torch":
        if not isinstance(step, torch.Tensor) or not step.is_cpu or step.ndim:
            return None
        return None if torch.compiler.is_compiling() else int(step.item())
    if BACKEND == "tensorflow":
        if not tf.executing_eagerly() or not tf.is_tensor(step) or step.shape.rank:
            return None
        return int(to_number(step)) if "CPU" in step.device else None
    if not isinstance(step, jax.Array) or isinstance(step, jax.core.Tracer) or step.ndim:
        return None
    return int(step.item())  # Training steps are traced on JAX, so this is read for the logs only.


def to_numpy(tensor: Any) -> Any:
    """A tensor, a variable or a number as a NumPy array."""
    tensor = value_of(tensor)
    if BACKEND == "tensorflow" and hasattr(tensor, "numpy"):
        return tensor.numpy()  # Keras's conversion of a mirrored variable warns with NumPy 2.
    return ops.convert_to_numpy(tensor)


def to_number(tensor: Any) -> Any:
    """A scalar tensor, variable or number as a Python number."""
    tensor = value_of(tensor)
    if BACKEND == "torch" and isinstance(tensor, torch.Tensor):
        return tensor.item()  # Runs in every training step; faster than through NumPy.
    return to_numpy(tensor).item()


def rounded_to(dtype: str, number: float) -> float:
    """A number, rounded as a variable of this dtype rounds it."""
    return float(to_number(ops.cast(ops.convert_to_tensor(number, "float32"), dtype)))


def rate_tensor(rate: float) -> Any:
    """A rate that was computed in Python, as a float32 tensor."""
    if BACKEND == "torch":  # Keras's conversion takes 4 % of a small network's step.
        return torch.scalar_tensor(rate, dtype=torch.float32)
    return ops.convert_to_tensor(np.float32(rate), "float32")


def value_of(variable: Any) -> Any:
    """The tensor of a `keras.Variable`; anything else unchanged."""
    # By attribute, because the class of `keras.Variable` differs between versions of Keras. (In a
    # `tf.Variable` `value` is a method.)
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else value


def sync_variables(model: Any) -> None:
    """Writes the present training state into the model's variables, also inside an epoch."""
    if BACKEND == "jax" and hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def variable_scope(model: Any) -> Any:
    """The scope in which to create a scalar that every device of the model must read."""
    if BACKEND == "tensorflow" and hasattr(model, "distribute_strategy"):
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()


def device_copy(value: Any) -> Any:
    """A copy on the devices of the variable or tensor.

    A training step on torch overwrites its tensors in place; on JAX it donates their memory.
    """
    value = value_of(value)
    return value.detach().clone() if BACKEND == "torch" else ops.copy(value)


def is_float(value: Any) -> bool:
    """Whether a variable or a tensor holds floats."""
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype)))


def outside_of_graph() -> Any:
    """A scope in which new variables have values at once, also while TensorFlow traces a step."""
    return tf.init_scope() if BACKEND == "tensorflow" else contextlib.nullcontext()


def without_gradients() -> Any:
    """Saves the memory that torch would use for gradients; the other backends need nothing."""
    return torch.no_grad() if BACKEND == "torch" else contextlib.nullcontext()


def compiled_for(model: Any, function: Any) -> Any:
    """The function, compiled as Keras compiles the training step of the model.

    On TensorFlow it runs on every replica and the results are added up, because Keras divides the
    loss of each replica by their number. On torch the function is returned as it is.
    """
    if BACKEND == "torch" or model.run_eagerly:
        return function
    if BACKEND == "jax":
        return jax.jit(function) if model.jit_compile else function
    strategy = model.distribute_strategy
    compiled = tf.function(
        lambda *arguments: strategy.run(function, arguments),
        autograph=False,
        reduce_retracing=True,
        jit_compile=model.jit_compile,
    )

    def on_replicas(*arguments: Any) -> Any:
        # A missing part of the data, such as the sample weights, is an empty `Optional`.
        arguments = keras.tree.map_structure(
            lambda each: None if isinstance(each, tf.experimental.Optional) else each, arguments
        )
        return strategy.reduce("SUM", compiled(*arguments), axis=None)

    return on_replicas


def all_gather(variable: Any) -> Callable[[Any], Any] | None:
    """A function that collects a row of float64 from each process that trains the model.

    It returns the rows in the same order on every process, and every process has to call it.
    `None` if this process trains alone. `variable` is any variable of the optimizer.
    """
    if BACKEND == "tensorflow":
        strategy = getattr(variable.value, "distribute_strategy", None)
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return _all_gather_over(strategy)
    if BACKEND == "jax" and not variable.value.is_fully_addressable:
        from jax.experimental.multihost_utils import process_allgather

        # As integers: JAX would round floats to float32.
        return lambda row: process_allgather(row.view("uint32")).view("float64")
    if BACKEND == "torch" and torch.distributed.is_available():
        return _all_gather_on_torch if torch.distributed.is_initialized() else None
    return None


def _all_gather_on_torch(row: Any) -> Any:
    rows: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(rows, row)
    return np.array(rows)


@functools.cache
def _all_gather_over(strategy: Any) -> Callable[[Any], Any]:
    """Cached, because TensorFlow takes 0.4 s to trace it and 0.01 s to run it."""

    @tf.function  # type: ignore[untyped-decorator]
    def gather(row: Any) -> Any:
        rows = strategy.run(tf.identity, (row[None],))
        return strategy.gather(rows, axis=0)

    return lambda row: gather(tf.constant(row)).numpy()
