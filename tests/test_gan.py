"""A model with two optimizers, each with a plateau of its own: a small GAN."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras.ops import convert_to_numpy
from support import BACKEND, cases, number

from keras_decay import LearningRateLogger, PlateauDecay, StepDecay

if BACKEND == "jax":
    pytest.skip("Keras on JAX trains with one optimizer", allow_module_level=True)

STEPS = 4
NAMES = ("d_optimizer", "g_optimizer")
# One improves all the time, the other never.
VALUES = {"d_loss": [1.0] * 8, "g_loss": [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]}
RATES = {
    "schedule": lambda: StepDecay(0.1, 0.5, 2, steps_per_epoch=STEPS),
    "float": lambda: 0.1,
}
every_rate = cases("rate", RATES)


class Gan(keras.Model):
    """Trains its discriminator and its generator with an optimizer each, as in Keras's guide."""

    def __init__(self):
        super().__init__()
        self.discriminator = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.generator = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
        self.noise = keras.random.SeedGenerator(0)
        self.traces = 0
        self.built = True

    def compile(self, rate):
        super().compile()
        self.d_optimizer = keras.optimizers.SGD(rate(), momentum=0.9)
        self.g_optimizer = keras.optimizers.SGD(rate(), momentum=0.9)

    def losses_of(self, real):
        noise = keras.random.normal((8, 2), seed=self.noise)
        fake = self.discriminator(self.generator(noise))
        d_loss = keras.ops.mean((self.discriminator(real) - 1.0) ** 2) + keras.ops.mean(fake**2)
        return d_loss, keras.ops.mean((fake - 1.0) ** 2)

    def train_step(self, real):
        self.traces += 1
        parts = (self.discriminator, self.d_optimizer), (self.generator, self.g_optimizer)
        gradients = self.gradients_of(real, [part.trainable_weights for part, _ in parts])
        for (part, optimizer), each in zip(parts, gradients, strict=True):
            optimizer.apply(each, part.trainable_weights)
        return {"loss": keras.ops.mean(real) * 0.0}

    if BACKEND == "tensorflow":

        def gradients_of(self, real, weights):
            import tensorflow as tf

            with tf.GradientTape(persistent=True) as tape:
                losses = self.losses_of(real)
            return [tape.gradient(*each) for each in zip(losses, weights, strict=True)]

    else:

        def gradients_of(self, real, weights):
            import torch

            losses = self.losses_of(real)
            return [
                torch.autograd.grad(loss, [each.value for each in group], retain_graph=True)
                for loss, group in zip(losses, weights, strict=True)
            ]


class Metrics(keras.callbacks.Callback):
    """Puts `VALUES` into the logs."""

    def on_epoch_end(self, epoch, logs=None):
        logs.update({name: values[epoch] for name, values in VALUES.items()})


def gan(rate, seed=0):
    keras.utils.set_random_seed(seed)
    network = Gan()
    network.compile(rate)
    network.d_optimizer.build(network.discriminator.trainable_variables)
    network.g_optimizer.build(network.generator.trainable_variables)
    # The one that Keras gives a model compiled without one; some backends build it in `fit`.
    network.optimizer.build(network.trainable_variables)
    return network


def plateaus(**arguments):
    arguments = {"mode": "min", "factor": 0.5, "patience": 2, **arguments}
    return [PlateauDecay(f"{name[0]}_loss", optimizer=name, **arguments) for name in NAMES]


def fit(network, callbacks, epochs, **arguments):
    real = np.random.default_rng(0).normal(size=(8 * STEPS, 3)).astype("float32")
    arguments = {"batch_size": 8, "verbose": 0, "shuffle": False, **arguments}
    return network.fit(real, epochs=epochs, callbacks=[Metrics(), *callbacks], **arguments).history


def rates_by_hand(rate, scales):
    """The rates of the epochs: base times scale."""
    bases = [0.1 * (1.0 if rate is RATES["float"] else 0.5 ** (e // 2)) for e in range(len(scales))]
    return np.array(bases) * scales


@every_rate
def test_each_optimizer_has_its_own_plateau_rate_and_log(rate):
    """The one whose loss stands still is reduced; the other is not."""
    network = gan(rate)
    d, g = plateaus()
    history = fit(network, [d, g], 6)
    d_rates = rates_by_hand(rate, [1, 1, 1, 0.5, 0.5, 0.25])
    g_rates = rates_by_hand(rate, [1] * 6)
    np.testing.assert_allclose(history["learning_rate_d_optimizer"], d_rates, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate_g_optimizer"], g_rates, rtol=1e-6)
    assert "learning_rate" not in history
    if rate is RATES["schedule"]:
        assert history["learning_rate_scale_d_optimizer"] == [1, 1, 1, 0.5, 0.5, 0.25]
        assert history["learning_rate_scale_g_optimizer"] == [1] * 6
    else:
        assert not [name for name in history if "scale" in name]
    assert (d.state["reductions"], g.state["reductions"]) == (2, 0)
    assert (d.state["best"], g.state["best"]) == (1.0, 3.0)


@pytest.mark.any_keras
@every_rate
def test_it_trains_at_these_rates(rate):
    """The weights are those of a run whose float rates were set by hand before each epoch."""
    network, by_hand = gan(rate), gan(RATES["float"])
    history = fit(network, plateaus(), 4)
    for epoch in range(4):
        for name in NAMES:
            getattr(by_hand, name).learning_rate = history[f"learning_rate_{name}"][epoch]
        fit(by_hand, [], 1)
    for a, b in zip(network.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.any_keras
@pytest.mark.skipif(BACKEND != "tensorflow", reason="torch traces nothing here")
def test_two_plateaus_trace_the_step_no_more_than_none():
    """In two calls of `fit`, with reductions in both."""
    traces = {}
    for patience in (None, 1):
        network = gan(RATES["schedule"])
        for _ in range(2):
            fit(network, plateaus(patience=patience) if patience else [], 4)
        traces[patience] = network.traces
    assert traces[1] == traces[None] > 0


@every_rate
def test_a_run_goes_on_from_its_weights_file(rate, tmp_path):
    """With both memories, both scales and both momenta, after `attach`."""
    expected = fit(gan(rate), plateaus(), 6)
    first = gan(rate)
    fit(first, plateaus(), 3)
    first.save_weights(tmp_path / "gan.weights.h5")
    second = gan(rate, seed=1)
    again = plateaus()
    for each in again:
        each.attach(second)
    second.load_weights(tmp_path / "gan.weights.h5")
    for name in NAMES:
        pairs = zip(*(getattr(each, name).variables for each in (first, second)), strict=True)
        for a, b in pairs:
            np.testing.assert_array_equal(convert_to_numpy(a), convert_to_numpy(b))
    history = fit(second, again, 6, initial_epoch=3)
    for name in NAMES:
        rates = expected[f"learning_rate_{name}"][3:]
        np.testing.assert_allclose(history[f"learning_rate_{name}"], rates, rtol=1e-6)
    assert [each.state["reductions"] for each in again] == [2, 0]


def test_an_optimizer_is_built_for_the_weights_that_it_trains():
    """By the training step, not by the plateau for all weights of the model."""
    network = Gan()
    network.compile(RATES["float"])
    fit(network, plateaus(), 1)
    plain = Gan()
    plain.compile(RATES["float"])
    fit(plain, [], 1)
    for name in NAMES:
        ours, theirs = (getattr(each, name).variables for each in (network, plain))
        assert [each.shape for each in ours] == [each.shape for each in theirs]


def test_an_attribute_that_is_no_optimizer_names_those_that_are():
    """As soon as the callback meets the model."""
    network = gan(RATES["float"])
    match = (
        r"`optimizer` must be the attribute of an optimizer of the model, one of "
        r"\[.*'d_optimizer', 'g_optimizer'.*\]\. Received: optimizer='{}'"
    )
    for name in ("e_optimizer", "generator"):
        with pytest.raises(ValueError, match=match.format(name)):
            PlateauDecay("d_loss", optimizer=name).set_model(network)


def test_two_plateaus_on_one_of_the_optimizers_are_an_error():
    """As they are on the only one of a model."""
    network = gan(RATES["float"])
    with pytest.raises(ValueError, match="can have only one `PlateauDecay`"):
        fit(network, [*plateaus(), plateaus()[0]], 1)


@pytest.mark.any_keras
def test_an_optimizer_that_trains_nothing_is_one_warning():
    """Keras gives a model that was compiled without one an optimizer that never steps."""
    match = r'taken no step in this epoch.*optimizer="g_optimizer"'
    with pytest.warns(UserWarning, match=match) as caught:
        fit(gan(RATES["float"]), [PlateauDecay("d_loss", mode="min"), LearningRateLogger()], 3)
    assert [each.category for each in caught].count(UserWarning) == 1


def test_each_recovers_the_model_and_all_its_optimizers():
    """The metric of one is NaN. A NaN left in the other's slots would spoil the weights again, so
    they are put back too; the other's rate stays."""

    class Bad(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                logs["d_loss"] = float("nan")

    class Copy(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.states = []

        def on_epoch_end(self, epoch, logs=None):
            momenta = [getattr(self.model, name).variables[2:] for name in NAMES]
            groups = [self.model.weights, *momenta]
            self.states.append([[np.array(convert_to_numpy(v)) for v in group] for group in groups])

    before, after = Copy(), Copy()
    network = gan(RATES["float"])
    history = fit(network, [Bad(), before, *plateaus(recover=True), after], 4)
    for group in range(3):
        for a, b in zip(after.states[2][group], before.states[1][group], strict=True):
            np.testing.assert_array_equal(a, b)
    assert history["learning_rate_d_optimizer"][3] == pytest.approx(0.05)
    assert number(network.g_optimizer.learning_rate) == pytest.approx(0.1)


def test_a_logger_counts_and_logs_for_every_optimizer_of_the_model():
    """By the name of the attribute; each schedule counts the epochs of `fit`."""
    network = gan(lambda: StepDecay(0.1, 0.5, 1))
    # That Keras's own one takes no step is nothing to warn of.
    history = fit(network, [LearningRateLogger()], 3)
    for name in NAMES:
        np.testing.assert_allclose(history[f"learning_rate_{name}"], [0.1, 0.05, 0.025], rtol=1e-6)
        assert number(getattr(network, name).learning_rate) == pytest.approx(0.0125)


@pytest.mark.any_keras
def test_a_logger_beside_plateaus_that_name_their_optimizers_is_silent():
    """A user who names the optimizers knows of the one that takes no step."""
    fit(gan(RATES["float"]), [*plateaus(), LearningRateLogger()], 2)


class Spoil(keras.callbacks.Callback):
    """In one epoch, makes the generator, its optimizer and a loss NaN."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            generator, optimizer = self.model.generator, self.model.g_optimizer
            for each in (*generator.trainable_variables, *optimizer.variables):
                if each.ndim:
                    each.assign(np.full(each.shape, np.nan))
            logs["d_loss"] = float("nan")


@pytest.mark.any_keras
def test_going_back_takes_all_optimizers_of_the_model_along():
    """A momentum that stayed NaN would spoil the weights again."""
    network = gan(RATES["float"])
    plateau = PlateauDecay(
        "d_loss", mode="min", optimizer="d_optimizer", recover=True, factor=0.5, patience=99
    )
    fit(network, [Spoil(), plateau], 4)
    assert plateau.state["reductions"] == 1
    assert all(np.isfinite(each).all() for each in network.get_weights())
    for each in network.g_optimizer.variables:
        assert np.isfinite(keras.ops.convert_to_numpy(each)).all()
