"""Numbers on the host and on the devices: what only the backends know."""

from __future__ import annotations

import contextlib
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

# The dtype of Keras's own step counters. Keras's operations take no wider int either: on torch
# the minimum of two int64 tensors comes back as int32.
COUNTER = "int64" if BACKEND == "tensorflow" else "int32"
LAST_STEP = int(np.iinfo(COUNTER).max)


class Table:
    """A constant array that a schedule looks numbers up in."""

    def __init__(self, values: Any, dtype: str = "float32"):
        self.values = np.asarray(values)
        self.numbers = self.values.tolist()
        self._dtype = dtype
        self._tensor: Any = self.values.astype(dtype)
        if BACKEND == "torch":
            # Where Keras puts the step counter: a table that is moved later is to torch's compiler
            # another one.
            self._tensor = ops.convert_to_tensor(self._tensor)

    def __len__(self) -> int:
        return len(self.numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the tensor, since the next machine may lack its device.
        return Table, (self.values, self._dtype)

    def _on_device_of(self, index: Any) -> Any:
        # torch runs this in every step, so the table stays on the device it was moved to.
        # TensorFlow and JAX trace it once, and a tensor must not outlive its trace.
        if BACKEND != "torch":
            return ops.convert_to_tensor(self._tensor, self._dtype)
        if self._tensor.device != index.device:
            self._tensor = self._tensor.to(index.device)
        return self._tensor

    def take(self, index: Any) -> Any:
        """The values at indices that are all within the table."""
        values = self._on_device_of(index)
        # `ops.take` looks for negative indices first: four operations more, each of which is one
        # in a step where nothing fuses them.
        if BACKEND == "tensorflow":
            return tf.gather(values, index)
        if BACKEND == "jax":
            return jax.numpy.take(values, index, mode="clip")
        # (`torch.take` of one index is nothing that its compiler lowers.)
        return torch.index_select(values, 0, index.reshape(-1)).reshape(index.shape)

    def searchsorted(self, number: Any) -> Any:
        """How many values of an increasing table are at or below the numbers."""
        values = self._on_device_of(number)
        if BACKEND == "torch":
            return torch.bucketize(number, values, out_int32=True, right=True)
        return ops.sum(ops.cast(ops.expand_dims(number, -1) >= values, COUNTER), axis=-1)


if BACKEND == "torch":
    # With numbers as they are: Keras's operations first make tensors of them, one copy to an
    # accelerator each, in every step.
    where = torch.where

    def constant(value: float, step: Any) -> Any:
        return torch.full_like(step, value, dtype=torch.float32)

    def maximum(tensor: Any, bound: Any) -> Any:
        return torch.clamp(tensor, min=bound)

    def minimum(tensor: Any, bound: Any) -> Any:
        return torch.clamp(tensor, max=bound)

else:

    def constant(value: float, step: Any) -> Any:
        return ops.broadcast_to(ops.convert_to_tensor(value, "float32"), ops.shape(step))

    def where(condition: Any, then: Any, otherwise: Any) -> Any:
        return ops.where(condition, _like(then, otherwise), otherwise)

    def maximum(tensor: Any, bound: Any) -> Any:
        return ops.maximum(tensor, _like(bound, tensor))

    def minimum(tensor: Any, bound: Any) -> Any:
        return ops.minimum(tensor, _like(bound, tensor))

    def _like(number: Any, tensor: Any) -> Any:
        # Keras converts a bare number through `floatx`: on JAX even an int beside an int tensor.
        if isinstance(number, (int, float)):
            return ops.convert_to_tensor(number, keras.backend.standardize_dtype(tensor.dtype))
        return number


def read_if_eager(step: Any) -> int | None:
    """A scalar tensor of a step as an int, where it is faster to read it than to compute with it:
    outside of compiled code and, where a training step can be that, on a CPU only, since an
    accelerator would have to wait."""
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
    return int(step.item())  # No training step: what is to be logged is read anyway.


def to_numpy(tensor: Any) -> Any:
    """A tensor, a variable or a number as a NumPy array."""
    tensor = value_of(tensor)
    if BACKEND == "tensorflow" and hasattr(tensor, "numpy"):
        return tensor.numpy()  # Keras's own conversion of what is mirrored warns, with NumPy 2.
    return ops.convert_to_numpy(tensor)


def to_number(tensor: Any) -> Any:
    """A scalar tensor, variable or number as a Python number."""
    tensor = value_of(tensor)
    if BACKEND == "torch" and isinstance(tensor, torch.Tensor):
        return tensor.item()  # In every training step: faster than by NumPy.
    return to_numpy(tensor).item()


def rounded_to(dtype: str, number: float) -> float:
    """A number as a variable of that dtype holds it."""
    return float(to_number(ops.cast(ops.convert_to_tensor(number, "float32"), dtype)))


def rate_tensor(rate: float) -> Any:
    """A rate that was computed in Python as a float32 tensor."""
    if BACKEND == "torch":  # Keras's own conversion is 4 % of a small network's step.
        return torch.scalar_tensor(rate, dtype=torch.float32)
    return ops.convert_to_tensor(np.float32(rate), "float32")


def value_of(variable: Any) -> Any:
    """The tensor of a `keras.Variable`; anything else as it is."""
    # By attribute, since a `keras.Variable` has had several classes. (A `tf.Variable` has a
    # method of that name.)
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else value


def assign(variable: Any, number: float, beside: Any) -> None:
    """Writes a number into a scalar variable, on the devices of the variable `beside`."""
    if BACKEND == "jax" and beside.value.committed:
        # Each process fills its own devices; `jax.device_put`, as Keras would do it, waits for
        # the others to compare the values.
        number = jax.make_array_from_callback(
            (), beside.value.sharding, lambda _: np.asarray(number, variable.dtype)
        )
    variable.assign(number)


def sync_variables(model: Any) -> None:
    """Has the variables of a model hold what training has made of them, inside an epoch too."""
    if BACKEND == "jax" and hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def variable_scope(model: Any) -> Any:
    """Where to create a scalar so that every device that trains the model can read it."""
    if BACKEND == "tensorflow" and hasattr(model, "distribute_strategy"):
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()


def device_copy(value: Any) -> Any:
    """A tensor of its own, on the devices of the variable or tensor. A training step on torch
    writes into the tensor that it was given, one on JAX gives its memory away."""
    value = value_of(value)
    return value.detach().clone() if BACKEND == "torch" else ops.copy(value)


def is_float(value: Any) -> bool:
    """Whether a variable or a tensor holds floats."""
    return bool(keras.backend.is_float_dtype(keras.backend.standardize_dtype(value.dtype)))


def outside_of_graph() -> Any:
    """Where variables have their values at once. While TensorFlow traces a step, they get them
    when it runs."""
    return tf.init_scope() if BACKEND == "tensorflow" else contextlib.nullcontext()


def without_gradients() -> Any:
    """torch alone keeps what a gradient needs of each forward pass."""
    return torch.no_grad() if BACKEND == "torch" else contextlib.nullcontext()


def compiled_for(model: Any, function: Any) -> Any:
    """A function that is compiled as Keras compiles the training step of the model.

    On TensorFlow it runs on every replica, and its results are added up, as Keras divides the loss
    of each by their number. On torch it stays as it is.
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
        # What data lacks comes as an empty optional of TensorFlow's.
        arguments = keras.tree.map_structure(
            lambda each: None if isinstance(each, tf.experimental.Optional) else each, arguments
        )
        return strategy.reduce("SUM", compiled(*arguments), axis=None)

    return on_replicas
