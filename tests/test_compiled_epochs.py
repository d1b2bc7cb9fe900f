"""What counting the epochs of `fit` costs in the compiled training step, and how often it is made.

Nothing where nothing changes on the way.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from internals import rate_of, schedule_of
from rates import each_callback, inverse, ones, train
from support import BACKEND, Prediction, measuring

from keras_decay import (
    EpochSchedule,
    InverseTimeDecay,
    LearningRateLogger,
    LinearWarmup,
    ProductSchedule,
    StepDecay,
)

# Counted in the steps that a new Keras compiles.
pytestmark = pytest.mark.any_keras

MAKERS = {
    "step": lambda **steps: StepDecay(0.1, 0.5, 2, **steps),
    "inverse": lambda **steps: InverseTimeDecay(0.1, 1.0, **steps),
    "table": lambda **steps: EpochSchedule([0.1, 0.02, 0.05], **steps),
    "warmup": lambda **steps: LinearWarmup(StepDecay(0.1, 0.5, 2, **steps), 1.5, **steps),
    "product": lambda **steps: ProductSchedule([EpochSchedule([0.1, 0.2], **steps), 0.5]),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def operations(network):
    """The kinds of all operations that an update of the weights comes down to."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.function(network.train_step)
        graph = step.get_concrete_function((tf.ones((1, 1)), tf.ones((1, 1)))).graph.as_graph_def()
        parts = [graph.node, *(function.node_def for function in graph.library.function)]
        return sorted(node.op for part in parts for node in part)
    if BACKEND == "jax":
        import jax

        optimizer = network.optimizer
        own = [variable.value for variable in optimizer.variables]
        weights = [variable.value for variable in network.trainable_variables]
        jaxpr = jax.make_jaxpr(optimizer.stateless_apply)(own, weights, weights).jaxpr
        # What is passed to the step counts too.
        return [f"{len(jaxpr.invars)} arguments", *_primitives(jaxpr)]
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    with Recorder():
        network.train_on_batch(ones(1), ones(1))
    step = keras.ops.convert_to_tensor(0, "int32")
    with Recorder():  # What runs on an accelerator.
        rate_of(schedule_of(network.optimizer), step, step)
    return seen


def _primitives(jaxpr):
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from _primitives(value.jaxpr)


@makers
def test_an_unchanged_run_takes_the_operations_of_one_with_a_given_number(make):
    """Whole epochs of one size; and what a change of it costs is a few operations."""
    given = measuring(make(steps_per_epoch=3))
    train(given, steps=3, epochs=1)
    inferred = measuring(make())
    for _ in range(2):
        train(inferred, LearningRateLogger(), steps=3, epochs=1)
    unchanged = operations(inferred)
    assert unchanged == operations(given)
    again = measuring(make())
    for steps in (3, 2):
        train(again, LearningRateLogger(), steps=steps, epochs=1)
    assert 0 < len(operations(again)) - len(unchanged) < 16


class Counting(keras.Sequential):
    """A model that counts how often its training step is traced."""

    traced = 0

    def train_step(self, *given):
        self.traced += 1
        return super().train_step(*given)


def counting():
    layers = [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    network = Counting(layers)
    network.compile(keras.optimizers.SGD(InverseTimeDecay(0.5, 1.0)), Prediction())
    return network


compiles = pytest.mark.skipif(BACKEND == "torch", reason="torch compiles nothing here")


@compiles
@each_callback
def test_a_step_is_compiled_once_a_change_of_batch_size(callback):
    """As often as in a first `fit`, and not at all if nothing has changed."""
    network, ours, traced = counting(), callback(), []
    for steps in (3, 3, 2, 2, 2, 4, 4):
        before = network.traced
        trained, _ = train(network, ours, steps=steps, epochs=1)
        traced.append(network.traced - before)
    once = traced[0]
    assert once > 0
    assert traced[1] == traced[3] == traced[4] == traced[6] == 0
    assert 0 < traced[2] <= once
    assert 0 < traced[5] <= once
    np.testing.assert_allclose(trained, [inverse(6, 4)], rtol=1e-3)


@compiles
@each_callback
def test_a_step_is_compiled_once_for_all_offsets(callback):
    """For epochs of one size, with steps in between that do not make a whole epoch."""
    network, ours, traced = counting(), callback(), []
    for epoch in range(5):
        before = network.traced
        trained, _ = train(network, ours, steps=3, epochs=1)
        traced.append(network.traced - before)
        np.testing.assert_allclose(trained, [inverse(epoch, 3)], rtol=1e-3)
        before = network.traced
        train(network, steps=1 + epoch % 2, epochs=1)
        assert network.traced == before
    assert 0 < traced[1] <= traced[0]
    assert traced[2:] == [0, 0, 0]
