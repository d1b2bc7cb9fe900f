"""A plateau in a training loop written by hand, as in Keras's guides for each backend."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support import (
    BACKEND,
    BATCH_SIZE,
    STEPS_PER_EPOCH,
    data,
    jax_step,
    measuring,
    model,
    number,
    weight,
    write_back,
)

from keras_decay import PlateauDecay, PlateauScale, StepDecay

EPOCHS = 4
ONE = np.ones((1, 1), "float32")
loss_function = keras.losses.MeanSquaredError()


def train_tensorflow(network, after_epoch):
    import tensorflow as tf

    optimizer = network.optimizer

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, network(x, training=True))
        optimizer.apply(tape.gradient(loss, network.trainable_weights), network.trainable_weights)

    for epoch in range(EPOCHS):
        for x, y in batches():
            step(x, y)
        after_epoch(epoch)


def train_torch(network, after_epoch):
    import torch

    for epoch in range(EPOCHS):
        for x, y in batches():
            network.zero_grad()
            loss = loss_function(torch.as_tensor(y), network(torch.as_tensor(x), training=True))
            loss.backward()
            with torch.no_grad():
                gradients = [v.value.grad for v in network.trainable_weights]
                network.optimizer.apply(gradients, network.trainable_weights)
        after_epoch(epoch)


def train_jax(network, after_epoch):
    step, groups = jax_step(network, loss_function)
    for epoch in range(EPOCHS):
        state = [[v.value for v in group] for group in groups]
        for x, y in batches():
            state = step(state, x, y)
        write_back(groups, state)
        after_epoch(epoch)


train = {"tensorflow": train_tensorflow, "jax": train_jax, "torch": train_torch}[BACKEND]


def batches():
    x, y = data()
    for start in range(0, len(x), BATCH_SIZE):
        yield x[start : start + BATCH_SIZE], y[start : start + BATCH_SIZE]


@pytest.mark.parametrize(
    ("rate", "base"),
    [
        (lambda: 0.1, [0.1] * EPOCHS),
        (lambda: PlateauScale(0.1), [0.1] * EPOCHS),
        (
            lambda: StepDecay(0.1, 0.5, 2, steps_per_epoch=STEPS_PER_EPOCH),
            [0.1, 0.1, 0.05, 0.05],
        ),
    ],
    ids=["float", "constant", "schedule"],
)
def test_attach_and_update_make_a_plateau_of_any_loop(rate, base):
    """The weights are those of the same loop with the rates set by hand."""
    network, plateau = model(rate()), PlateauDecay(patience=1, factor=0.5)
    plateau.attach(network)
    reduced = []
    train(network, lambda epoch: reduced.append(plateau.update(1.0, epoch)))
    assert reduced == [False, True, True, True]

    rates = base * np.array([1.0, 1.0, 0.5, 0.25])
    by_hand = model(rates[0])

    def set_next(epoch):
        if epoch + 1 < EPOCHS:
            by_hand.optimizer.learning_rate = rates[epoch + 1]

    train(by_hand, set_next)
    for a, b in zip(network.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_an_observation_before_attach_is_an_error():
    """There is no optimizer yet whose memory could take it."""
    with pytest.raises(RuntimeError, match=r"call `attach\(model\)` first"):
        PlateauDecay().update(1.0)


def test_update_ignores_epochs_before_the_start():
    """`start_from_epoch` needs to be told the epoch; without one every observation counts."""
    network, plateau = model(0.1), PlateauDecay(patience=1, start_from_epoch=3)
    plateau.attach(network)
    assert plateau.update(0.0, epoch=2) is False
    assert plateau.state["best"] is None
    plateau.update(1.0, epoch=3)
    assert plateau.update(2.0) is True
    assert number(network.optimizer.learning_rate) == pytest.approx(0.01)


@pytest.mark.parametrize("rate", [lambda: 0.5, lambda: PlateauScale(0.5)], ids=["float", "scale"])
def test_a_plateau_of_batches_reduces_in_the_middle_of_an_epoch(rate):
    """On JAX too, where `fit` does not update the variables until the epoch ends."""
    network = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    network.compile(keras.optimizers.SGD(rate()), lambda y, prediction: keras.ops.mean(prediction))
    plateau = PlateauDecay("loss", factor=0.5, patience=2)
    plateau.attach(network)
    observe = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: plateau.update(1.0)
    )
    network.fit(np.ones((6, 1)), np.ones((6, 1)), batch_size=1, verbose=0, callbacks=[observe])
    # Reduced after the third and the fifth step.
    moved = 3 * 0.5 + 2 * 0.25 + 0.125
    assert network.get_weights()[0].item() == pytest.approx(-moved, rel=1e-6)


def test_update_reduces_a_schedule_that_was_set_since_attach():
    """The plateau attaches to it then."""
    network = model(0.1)
    plateau = PlateauDecay(factor=0.5, patience=1, mode="min")
    plateau.attach(network)
    plateau.update(1.0)
    network.optimizer.learning_rate = StepDecay(0.2, 0.5, 1, steps_per_epoch=10)
    assert plateau.update(1.0)
    assert number(network.optimizer.learning_rate) == pytest.approx(0.1)


def test_a_step_after_loaded_weights_trains_at_their_scale(tmp_path):
    """At once, in a step that is compiled already, before any epoch begins."""
    networks = [measuring(StepDecay(0.5, 0.5, 9, steps_per_epoch=9)) for _ in range(2)]
    for network in networks:
        plateau = PlateauDecay(factor=0.5, patience=1, mode="min")
        plateau.attach(network)
        network.train_on_batch(ONE, ONE)
        if network is networks[0]:
            plateau.update(1.0)
            assert plateau.update(1.0)
            network.save_weights(tmp_path / "model.weights.h5")
    network.load_weights(tmp_path / "model.weights.h5")
    before = weight(network)
    network.train_on_batch(ONE, ONE)
    assert before - weight(network) == pytest.approx(0.25)
