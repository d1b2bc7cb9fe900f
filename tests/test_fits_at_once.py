"""One callback object serves one `fit` at a time."""

from __future__ import annotations

import contextlib
import re
import threading

import keras
import numpy as np
import pytest
from internals import ONE_FIT
from support import data, fit, model, number

from keras_decay import LearningRateLogger, PlateauDecay, StepDecay

# What a callback knows of its own `fit`s.
pytestmark = pytest.mark.any_keras


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


callbacks = pytest.mark.parametrize("make", [plateau, LearningRateLogger])


@callbacks
def test_of_two_fits_that_share_a_callback_the_second_trains_and_the_first_is_told(make):
    """At its next event; after it the callback is free."""
    shared, logged = make(), []
    meanwhile = Meanwhile(lambda: logged.append(rates(model(0.1), shared)))
    with pytest.raises(ValueError, match=re.escape(ONE_FIT.format(type(shared).__name__))):
        rates(model(0.1), shared, meanwhile)
    assert not meanwhile.errors
    logged.append(rates(model(0.1), shared))
    for each in logged:
        expected = [0.1] * 4 if make is LearningRateLogger else [0.1, 0.1, 0.05, 0.025]
        np.testing.assert_allclose(each, expected, rtol=1e-6)


def test_a_fit_inside_a_fit_with_the_same_callback_is_the_same():
    """It is an error too, although both are in one thread."""
    shared, logged = plateau(), []

    class Inside(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                logged.append(rates(model(0.1), shared))

    with pytest.raises(ValueError, match="has been given to another `fit` or `evaluate`"):
        rates(model(0.1), Inside(), shared)
    np.testing.assert_allclose(logged, [[0.1, 0.1, 0.05, 0.025]], rtol=1e-6)


class Together(keras.callbacks.Callback):
    """Lets two `fit`s pass this point together."""

    def __init__(self):
        super().__init__()
        self.barrier = threading.Barrier(2)

    def on_train_begin(self, logs=None):
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(timeout=0.5)


def test_of_two_fits_that_begin_together_one_trains_and_the_other_is_told():
    """Neither has begun to train when the other takes the callback."""
    shared, together = plateau(), Together()
    networks, outcomes = [model(0.1), model(0.1)], []
    begun = threading.Barrier(2)

    def run(network):
        begun.wait()
        try:
            # Keras calls the callbacks in this order: the first waits before the other begins.
            outcomes.append((network, rates(network, together, shared)))
        except ValueError as error:
            outcomes.append((None, str(error)))

    threads = [threading.Thread(target=run, args=(network,)) for network in networks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (_, message), (network, logged) = sorted(outcomes, key=lambda each: each[0] is not None)
    assert message == ONE_FIT.format("PlateauDecay")
    np.testing.assert_allclose(logged, [0.1, 0.1, 0.05, 0.025], rtol=1e-6)
    assert number(network.optimizer.learning_rate) == pytest.approx(0.0125)


def test_an_evaluation_leaves_the_callback_free_for_another_thread():
    """`evaluate` takes callbacks too."""
    shared, network = plateau(), model(0.1)
    network.evaluate(*data(), verbose=0, callbacks=[shared])
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(rates(network, shared)))
    thread.start()
    thread.join()
    np.testing.assert_allclose(outcome, [[0.1, 0.1, 0.05, 0.025]], rtol=1e-6)


def batches():
    """Data of a length that `fit` does not know."""
    x, y = data()
    yield from [(x, y)] * 2


def unknown_length(shared):
    model(StepDecay(0.1)).fit(batches(), shuffle=False, verbose=0, callbacks=[shared])


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda shared: shared.set_model(keras.Sequential()), "needs a model with an optimizer"),
        (unknown_length, "counts the epochs of `fit`, but `fit` does not know"),
        (lambda shared: rates(model(0.1), shared, shared), "can have only one"),
    ],
    ids=["no optimizer", "no steps", "twice"],
)
def test_a_fit_that_the_callback_refuses_leaves_it_free_for_another_thread(refused, message):
    """At whatever point it was refused."""
    shared, outcome = plateau(), []
    with pytest.raises(ValueError, match=message):
        refused(shared)
    thread = threading.Thread(target=lambda: outcome.append(rates(model(0.1), shared)))
    thread.start()
    thread.join()
    np.testing.assert_allclose(outcome, [[0.1, 0.1, 0.05, 0.025]], rtol=1e-6)


def test_each_fit_has_a_callback_of_its_own():
    """Then two at once give the same results as one after the other."""
    seen = []
    meanwhile = Meanwhile(lambda: seen.append(rates(model(0.1), plateau())))
    for logged in (rates(model(0.1), plateau(), meanwhile), *seen):
        np.testing.assert_allclose(logged, [0.1, 0.1, 0.05, 0.025], rtol=1e-6)
    assert len(seen) == 1


def test_a_fit_that_was_stopped_by_an_error_leaves_the_callback_free_for_another_thread():
    """Keras does not tell a callback about an error."""
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
