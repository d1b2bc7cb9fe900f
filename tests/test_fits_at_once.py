"""One callback object serves one `fit` at a time."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
from support import fit, model

from keras_decay import PlateauDecay


class Meanwhile(keras.callbacks.Callback):
    """Does something in another thread at the beginning of an epoch, and waits for it."""

    def __init__(self, what, epoch=1):
        super().__init__()
        self.what, self.epoch, self.errors = what, epoch, []

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            thread = threading.Thread(target=self.run)
            thread.start()
            thread.join()

    def run(self):
        try:
            self.what()
        except ValueError as error:
            self.errors.append(str(error))


def plateau():
    return PlateauDecay(factor=0.5, patience=1)


def rates(network, *callbacks, epochs=4):
    return fit(network, callbacks, epochs=epochs, values=[1.0] * epochs)["learning_rate"]


def test_a_callback_that_is_in_another_fit_is_an_error_and_does_not_disturb_it():
    """The second `fit` says so; the first goes on, and after it the callback is free."""
    shared, other = plateau(), model(0.1)
    before = other.get_weights()
    meanwhile = Meanwhile(lambda: rates(other, shared))
    logged = rates(model(0.1), shared, meanwhile)
    (message,) = meanwhile.errors
    assert message.startswith("This `PlateauDecay` is in another `fit` that has not ended.")
    np.testing.assert_allclose(logged, [0.1, 0.1, 0.05, 0.025], rtol=1e-6)
    assert np.array_equal(other.get_weights()[0], before[0])
    np.testing.assert_allclose(rates(other, shared), [0.1, 0.1, 0.05, 0.025], rtol=1e-6)


def test_each_fit_has_a_callback_of_its_own():
    """Then two at once are as one after the other."""
    seen = []
    meanwhile = Meanwhile(lambda: seen.append(rates(model(0.1), plateau())))
    for logged in (rates(model(0.1), plateau(), meanwhile), *seen):
        np.testing.assert_allclose(logged, [0.1, 0.1, 0.05, 0.025], rtol=1e-6)
    assert len(seen) == 1


def test_a_fit_that_was_stopped_by_an_error_leaves_the_callback_free_for_another_thread():
    """Keras tells a callback nothing of an error."""
    shared = plateau()

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise RuntimeError("stopped")

    def fails():
        with pytest.raises(RuntimeError, match="stopped"):
            rates(model(0.1), shared, Stop())

    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    np.testing.assert_allclose(rates(model(0.1), shared), [0.1, 0.1, 0.05, 0.025], rtol=1e-6)
