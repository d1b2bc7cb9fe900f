"""Numbers on the host and on the devices: the one file that knows backends."""

from __future__ import annotations

import contextlib
import functools
import itertools
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

    def take(self, index: Any) -> Any:
        """The values at indices that are all within the table."""
        # `ops.take` looks for negative indices first: five operations more, and JAX's own does
        # so for signed ints.
        values = self.tensor(like=index)
        if BACKEND == "tensorflow":
            return tf.gather(values, index)
        if BACKEND == "jax":
            return values.at[index.astype("uint32")].get(mode="promise_in_bounds")
        if BACKEND == "torch":
            return torch.take(values, index.long())
        return ops.take(values, index)


def divide(counts: Any, divisor: int) -> Any:
    """`counts // divisor`, for a tensor of ints that are not negative."""
    # The sign that `//` looks at takes seven operations more on JAX, and with XLA on TensorFlow.
    if BACKEND == "tensorflow":
        return tf.truncatediv(counts, divisor)
    if BACKEND == "jax":
        return jax.lax.div(counts, counts.dtype.type(divisor))
    return counts // divisor


class HostScalar:
    """A float32 number that the host writes and a compiled training step reads.

    It is not one of the optimizer's variables: Keras refuses to load optimizer state whose
    number of variables has changed. So on JAX, where a variable that Keras does not pass in is
    compiled in as a constant, it comes into Keras's step by `pass_to_step`, and into any other
    as a mutable reference. (Not into both: JAX dispatches a step that has a reference from
    Python, which takes longer than a small network's step.)
    """

    def __init__(self, value: float):
        self.value = float(value)
        self.argument: list[Any] = []
        """JAX: the number as an array, in a list that compiled steps hold; empty until there is
        somebody who may change it."""
        self.passed: Any = None
        """JAX: what stands for the argument in the step that is being traced."""
        if BACKEND != "jax":
            self._variable = keras.Variable(
                value, dtype="float32", trainable=False, autocast=False, name="host_scalar"
            )

    def place(self, variable: Any) -> bool:
        """Readies the number for being changed, beside a variable of the optimizer.

        Returns whether steps that are compiled already have to be compiled anew.
        """
        # Only JAX refuses to compute with numbers that are on different devices.
        if BACKEND != "jax":
            return False
        like = variable.value
        if self.argument and self.argument[0].sharding == like.sharding:
            return False
        if not hasattr(jax, "new_ref"):
            raise ImportError(
                "A plateau over a schedule needs JAX 0.7.2 or later, for `jax.new_ref`. "
                f"Received: JAX {jax.__version__}"
            )
        self.argument[:] = [_beside(like, self.value)]
        self._reference = jax.new_ref(self.argument[0])
        return True

    def assign(self, value: float) -> None:
        self.value = float(value)
        if BACKEND != "jax":
            self._variable.assign(value)
        elif self.argument:
            self.argument[0] = _beside(self.argument[0], self.value)
            self._reference[...] = self.argument[0]

    def tensor(self) -> Any:
        if BACKEND != "jax":
            return self._variable.value
        if self.passed is not None:
            return self.passed
        return self._reference[...] if self.argument else jax.numpy.float32(self.value)

    def __reduce__(self) -> Any:
        return HostScalar, (self.value,)


class _WithScalars:
    """The `make_train_function` of a Keras model on JAX, whose step takes the numbers too."""

    def __init__(self, model: Any, scalars: Callable[[], list[HostScalar]]):
        self._model, self._scalars = model, scalars
        self._make = model.make_train_function

    def __call__(self, force: bool = False) -> None:
        model = self._model
        if model.train_function is not None and not force:
            return
        # Of an optimizer that came by a later `compile`, no number may have a place yet.
        scalars = [scalar for scalar in self._scalars() if scalar.argument]
        own_step = model.train_step
        # Gathered once: to look them up in each step would take two microseconds.
        arguments = [scalar.argument for scalar in scalars]

        def train_step(state: Any, data: Any) -> Any:
            numbers, batch = data
            for scalar, (number,) in zip(scalars, numbers, strict=True):
                scalar.passed = number
            try:
                return own_step(state, batch)
            finally:
                for scalar in scalars:
                    scalar.passed = None

        patched = "train_step" in vars(model)
        model.train_step = train_step
        try:
            self._make(force)
        finally:
            if patched:
                model.train_step = own_step
            else:
                del model.train_step
        function = model.train_function

        def train_function(state: Any, batches: Any) -> Any:
            return function(state, zip(itertools.repeat(arguments), batches))

        model.train_function = train_function


def pass_to_step(model: Any, scalars: Callable[[], list[HostScalar]]) -> bool:
    """Has the training step that Keras compiles take the numbers as it takes a batch, on JAX.

    Returns whether a step that is compiled already has to be compiled anew.
    """
    if BACKEND != "jax":
        return False
    # Where the step is made in another way, by the model's own class or for Flax's NNX, the
    # numbers are read from their references.
    make = getattr(type(model), "make_train_function", None)
    nnx = getattr(keras.config, "is_nnx_enabled", None)  # Since Keras 3.11.
    if make is not keras.Model.make_train_function or (nnx and nnx()):
        return False
    if isinstance(model.make_train_function, _WithScalars):
        return False
    model.make_train_function = _WithScalars(model, scalars)
    return True


def readable(step: Any) -> bool:
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
            and (step.is_fully_addressable or step.is_fully_replicated)
            and all(device.platform == "cpu" for device in step.devices())
        )
    if BACKEND == "torch":
        return step.device.type == "cpu" and not torch.compiler.is_compiling()
    return True


def to_numpy(tensor: Any) -> Any:
    """A tensor, a variable or a number as a NumPy array."""
    # Keras's own conversion of a torch tensor takes longer than a rate takes to compute, and
    # that of a variable warns, with NumPy 2.
    tensor = value_of(tensor)
    if BACKEND == "tensorflow" and hasattr(tensor, "numpy"):
        return tensor.numpy()
    if BACKEND == "torch" and isinstance(tensor, torch.Tensor) and tensor.dtype != torch.bfloat16:
        return tensor.detach().cpu().numpy()
    return ops.convert_to_numpy(tensor)


def to_number(tensor: Any) -> Any:
    """A scalar tensor, variable or number as a Python number."""
    # On torch the array in between would take longer than the rest of a step's rate; what
    # TensorFlow mirrors over devices is no number without it.
    tensor = value_of(tensor)
    if BACKEND == "torch" and isinstance(tensor, torch.Tensor):
        return tensor.item()
    return to_numpy(tensor).item()


def rate_tensor(rate: Any, step: Any) -> Any:
    """A rate that the host computed for a step, as a float32 tensor."""
    if BACKEND == "torch" and isinstance(rate, float) and isinstance(step, torch.Tensor):
        # The training step: Keras's own conversion takes longer than all that came before.
        return torch.scalar_tensor(rate, dtype=torch.float32)
    return ops.convert_to_tensor(np.asarray(rate, "float32"), "float32")


def value_of(variable: Any) -> Any:
    """The tensor of a `keras.Variable`; anything else as it is."""
    # By attribute, since a `keras.Variable` has had several classes. (A `tf.Variable` has a
    # method of that name.)
    value = getattr(variable, "value", None)
    return variable if value is None or callable(value) else value


def _beside(array: Any, value: float) -> Any:
    """A float32 scalar on the devices of a JAX array."""
    if not array.committed:
        # JAX would compile a step once for arrays that are tied to a device and once more for
        # those that are not.
        return jax.numpy.asarray(value, "float32")
    # Each process fills its own devices; `jax.device_put` would first compare the values of all.
    return jax.make_array_from_callback((), array.sharding, lambda _: np.asarray(value, "float32"))


def gather_of(variable: Any) -> Callable[[Any], Any] | None:
    """What collects a row of float64 from each process that trains the model with this one.

    It returns the rows in the same order on every process, and every process has to call it.
    `None` where this process trains alone. `variable` is one of the optimizer's.
    """
    if BACKEND == "tensorflow":
        strategy = getattr(variable.value, "distribute_strategy", None)
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return _gather_over(strategy)
    if BACKEND == "jax" and not variable.value.is_fully_addressable:
        from jax.experimental.multihost_utils import process_allgather

        # As integers, since JAX would round to float32.
        return lambda row: process_allgather(row.view("uint32")).view("float64")
    if BACKEND == "torch":
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():

            def gather(row: Any) -> Any:
                own = torch.from_numpy(row)
                if distributed.get_backend() == "nccl":
                    own = own.cuda()
                rows = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
                distributed.all_gather(rows, own)
                return torch.stack(rows).cpu().numpy()

            return gather
    return None


@functools.cache
def _gather_over(strategy: Any) -> Callable[[Any], Any]:
    """Kept, since TensorFlow takes 0.4 s to trace it and 0.01 s to run it."""

    @tf.function  # type: ignore[untyped-decorator]
    def gather(row: Any) -> Any:
        rows = strategy.run(tf.identity, (row[None],))
        return strategy.gather(rows, axis=0)

    return lambda row: gather(tf.constant(row)).numpy()


def variable_scope(model: Any) -> Any:
    """Where to create a scalar so that every device that trains the model can read it."""
    if BACKEND == "tensorflow" and hasattr(model, "distribute_strategy"):
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()
