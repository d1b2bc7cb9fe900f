"""What several test files need: models, data, and running things on the backend at hand."""

from __future__ import annotations

import contextlib
import logging
import re

import keras
import numpy as np
import pytest

from keras_decay._backend import COUNTER
from keras_decay.schedules._base import rate_of

BACKEND = keras.backend.backend()

STEPS_PER_EPOCH = 4
BATCH_SIZE = 8


def number(value):
    """A scalar of any kind as a Python float."""
    return float(keras.ops.convert_to_numpy(value))


def compiled(function):
    """The function as the backend compiles it into a training step: a graph, XLA, or dynamo."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import torch

    torch._dynamo.reset()
    return torch.compile(function, backend="eager", fullgraph=True)


def on_host(schedule, steps):
    """The rates that a schedule gives for NumPy steps."""
    return keras.ops.convert_to_numpy(schedule(np.asarray(steps)))


def in_step(schedule, steps):
    """The rates that a schedule gives inside a compiled training step."""
    steps = keras.ops.convert_to_tensor(np.asarray(steps), COUNTER)
    if BACKEND == "torch":  # What runs on an accelerator; dynamo takes a second an example.
        return keras.ops.convert_to_numpy(rate_of(schedule, steps, steps))
    return keras.ops.convert_to_numpy(compiled(lambda step: schedule(step))(steps))


def data(seed=0):
    """Features and targets of a small regression, `STEPS_PER_EPOCH` batches."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(STEPS_PER_EPOCH * BATCH_SIZE, 3)).astype("float32")
    return x, (x @ np.array([[1.0], [-2.0], [0.5]], "float32")).astype("float32")


def batches():
    """The arguments of `fit` for `data`, in the order it has."""
    x, y = data()
    if BACKEND == "tensorflow":  # Of arrays it makes a pipeline that takes longer than training.
        import tensorflow as tf

        dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH_SIZE)
        return {"x": dataset, "shuffle": False}
    return {"x": x, "y": y, "batch_size": BATCH_SIZE, "shuffle": False}


def model(learning_rate=0.1, *, optimizer=None, seed=0, metrics=(), **compile_arguments):
    """A compiled linear model, the same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="dense")])
    if optimizer is None:
        optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
    network.compile(
        optimizer, keras.losses.MeanSquaredError(), metrics=list(metrics), **compile_arguments
    )
    network.optimizer.build(network.trainable_variables)
    return network


@keras.saving.register_keras_serializable(package="tests")
class Prediction(keras.losses.Loss):
    """The prediction itself."""

    def call(self, y, prediction):
        return prediction


def measuring(learning_rate=0.1, *, optimizer=None):
    """A model of one weight, which each step on inputs of 1 moves by the rate."""
    layers = [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    network = keras.Sequential(layers)
    network.compile(optimizer or keras.optimizers.SGD(learning_rate), Prediction())
    return network


def weight(network):
    """The weight of a `measuring` model."""
    return network.get_weights()[0].item()


class Measure(keras.callbacks.Callback):
    """Logs a metric that never changes, and records the rate at which each epoch's steps train."""

    def __init__(self, steps=1):
        super().__init__()
        self.steps = steps
        self.trained = []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = weight(self.model)

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = 1.0
        self.trained.append((self.before - weight(self.model)) / self.steps)


def cases(names, values, *, oldest=1):
    """Parametrizes over a dict of cases; the oldest versions take the first ones only."""
    parameters = []
    for name, value in values.items():
        marks = [pytest.mark.any_keras] if len(parameters) >= oldest else []
        several = value if "," in names else (value,)
        parameters.append(pytest.param(*several, id=name, marks=marks))
    return pytest.mark.parametrize(names, parameters)


new_keras = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="old Keras does otherwise"
)
has_multi_optimizer = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)


def two_optimizers(kernel_rate, bias_rate):
    """One optimizer for the kernel of `support.model` and another for its bias."""
    kernel = keras.optimizers.SGD(kernel_rate, name="kernel")
    bias = keras.optimizers.SGD(bias_rate, name="bias")
    rates = keras.optimizers.OptimizerMap(bias, {".*kernel": kernel})
    return keras.optimizers.MultiOptimizer(rates)


def jax_step(network, loss_function):
    """A training step as in Keras's guide for JAX, and the variables that make up its state."""
    import jax

    def loss_of(trainable, non_trainable, x, y):
        prediction, non_trainable = network.stateless_call(
            trainable, non_trainable, x, training=True
        )
        return loss_function(y, prediction), non_trainable

    @jax.jit
    def step(state, x, y):
        trainable, non_trainable, optimizer = state
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (_, non_trainable), gradients = gradient(trainable, non_trainable, x, y)
        trainable, optimizer = network.optimizer.stateless_apply(optimizer, gradients, trainable)
        return trainable, non_trainable, optimizer

    return step, (
        network.trainable_variables,
        network.non_trainable_variables,
        network.optimizer.variables,
    )


@contextlib.contextmanager
def jax_compilations(name):
    """A list that gets an item whenever JAX compiles a function of that name."""
    import jax

    compilations = []

    class Handler(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            # Old versions of Keras have another name for the compiled step.
            if re.match(rf"Finished XLA compilation of jit\((compiled_)?{name}\)", message):
                compilations.append(message)

    logger, handler = logging.getLogger("jax"), Handler()
    logger.addHandler(handler)
    try:
        with jax.log_compiles():
            yield compilations
    finally:
        logger.removeHandler(handler)


def write_back(groups, state):
    """Assigns what a step on JAX returned to the variables."""
    for group, values in zip(groups, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)


class Metric(keras.callbacks.Callback):
    """Puts given values of a metric, one per epoch, into the logs before other callbacks run."""

    def __init__(self, values, name="val_loss"):
        super().__init__()
        self.values = values
        self.name = name

    def on_epoch_end(self, epoch, logs=None):
        if epoch < len(self.values) and self.values[epoch] is not None:
            logs[self.name] = self.values[epoch]


def fit(network, callbacks=(), *, epochs, values=None, monitor="val_loss", **arguments):
    """Trains silently; `values` stand in for the monitored metric. Returns the history."""
    injected = [] if values is None else [Metric(values, monitor)]
    callbacks = [*injected, *callbacks]
    return network.fit(
        **batches(), epochs=epochs, callbacks=callbacks, verbose=0, **arguments
    ).history


class Around(keras.optimizers.Optimizer):
    """A user's optimizer around another one, whose rate it forwards."""

    def __init__(self, inner):
        super().__init__(learning_rate=0.0)
        self.inner = inner

    @property
    def learning_rate(self):
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, value):
        self.inner.learning_rate = value

    def build(self, variables):
        super().build(variables)
        self.inner.build(variables)

    def apply(self, grads, trainable_variables=None):
        self.inner.apply(grads, trainable_variables)
