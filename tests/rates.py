"""What each step trained at, measured: the weight of a `measuring` model moves by the rate."""

from __future__ import annotations

import keras
import numpy as np
from support import cases, weight

from keras_decay import LearningRateLogger, PlateauDecay


def waiting(**arguments):
    """A plateau that never reaches a reduction."""
    return PlateauDecay(**{"factor": 0.5, "patience": 99, **arguments})


each_callback = cases("callback", {"plateau": waiting, "logger": LearningRateLogger})


class Rates(keras.callbacks.Callback):
    """Records the rates of all steps, by epoch, and logs a metric that never changes."""

    def __init__(self):
        super().__init__()
        self.trained = []

    def weight(self):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        return weight(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.trained.append([])
        self.before = self.weight()

    def on_train_batch_end(self, batch, logs=None):
        now = self.weight()
        self.trained[-1].append(self.before - now)
        self.before = now

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = 1.0


def ones(steps, batch_size=1):
    return np.ones((steps * batch_size, 1), "float32")


def train(network, *callbacks, steps, batch_size=1, rates=None, **arguments):
    """Trains epochs of so many steps; the rates of all of them, and what was logged."""
    rates = rates or Rates()
    inputs = ones(steps, batch_size)
    history = network.fit(
        inputs,
        inputs,
        batch_size=batch_size,
        shuffle=False,
        verbose=0,
        callbacks=[rates, *callbacks],
        **arguments,
    ).history
    return rates.trained, history.get("learning_rate")


def assert_rates(trained, expected, what=""):
    """Each epoch trained at its rate, or each of its steps at its own."""
    assert len(trained) == len(expected), what
    for epoch, (own, right) in enumerate(zip(trained, expected, strict=True)):
        assert own, (what, epoch)
        right = np.broadcast_to(right, len(own)) if np.ndim(right) == 0 else right
        message = f"{what} in the epoch {epoch} of this fit"
        np.testing.assert_allclose(own, right, rtol=1e-4, atol=1e-7, err_msg=message)


def inverse(epoch, steps):
    """The rates of all steps of an epoch with `InverseTimeDecay(0.5, 1.0)`."""
    return [0.5 / (1.0 + epoch + step / steps) for step in range(steps)]


class Kill(keras.callbacks.Callback):
    """Ends the process, as far as a test can, after so many steps of a `fit`."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch, logs=None):
        self.steps -= 1
        if self.steps == 0:
            raise KilledError


class KilledError(Exception):
    pass
