"""Numbers on the host and on the devices: what only the backends know."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

try:
    import keras
except ModuleNotFoundError as error:
    # With this name `python -m keras_decay` shows the message alone, without a traceback.
    raise ImportError(
        f"Keras runs on TensorFlow, JAX or torch, and `{error.name}` is not installed. Install one "
        'of them with: pip install "keras-decay[tensorflow]" (or [jax], or [torch]), and set the '
        "environment variable KERAS_BACKEND to its name.",
        name="keras_decay",
    ) from None
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
        self._tensor: Any = self.values.astype(dtype)
        if BACKEND == "torch":
            self._tensor = torch.from_numpy(self._tensor)

    def __len__(self) -> int:
        return len(self.numbers)

    def tensor(self, like: Any) -> Any:
        """The values as a tensor on the device of `like`."""
        # torch runs this in every step, so the table stays on the device it was moved to.
        # TensorFlow and JAX trace it once, and a tensor must not outlive its trace.
        if BACKEND != "torch":
            return ops.convert_to_tensor(self._tensor, self._tensor.dtype.name)
        if self._tensor.device != like.device:
            self._tensor = self._tensor.to(like.device)
        return self._tensor

    def take(self, index: Any) -> Any:
        """The values at indices that are all within the table."""
        values = self.tensor(like=index)
        # `ops.take` looks for negative indices first: four operations more, each of which is one
        # in a step where nothing fuses them.
        if BACKEND == "tensorflow":
            return tf.gather(values, index)
        if BACKEND == "torch":  # (`torch.take` of one index is nothing that its compiler lowers.)
            return torch.index_select(values, 0, index.reshape(-1)).reshape(index.shape)
        return values[index]


def at_hand(step: Any) -> int | None:
    """A scalar tensor of a step as an int, where it costs no wait to read it: outside of compiled
    code, on a CPU, as in every training step of torch there."""
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
    return int(step.item()) if next(iter(step.devices())).platform == "cpu" else None


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
            (), beside.value.sharding, lambda _: np.asarray(number, "float32")
        )
    variable.assign(number)


def variable_scope(model: Any) -> Any:
    """Where to create a scalar so that every device that trains the model can read it."""
    if BACKEND == "tensorflow" and hasattr(model, "distribute_strategy"):
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()
