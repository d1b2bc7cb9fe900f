"""A `fit` that is interrupted at any line of a reduction, and the `fit` that comes after it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support import BACKEND, new_keras

import keras_decay
from keras_decay import LearningRateLogger, PlateauDecay, StepDecay

pytestmark = new_keras

PACKAGE = str(Path(keras_decay.__file__).parent)
RATE, FACTOR, HALF_LIFE = 0.125, 0.5, 2


def constant(epoch):
    return RATE


def halved(epoch):
    return RATE * 0.5 ** (epoch // HALF_LIFE)


KINDS = {
    "float": (constant, {}),
    "schedule": (halved, {}),
    "float-weights": (constant, {"restore_best_weights": True}),
    "schedule-weights": (halved, {"restore_best_weights": True}),
}


def network(base):
    """A model whose weight moves by the rate in each step, and an epoch is a step."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    rate = RATE if base is constant else StepDecay(RATE, 0.5, HALF_LIFE, steps_per_epoch=1)
    model.compile(keras.optimizers.SGD(rate), lambda y, prediction: keras.ops.mean(prediction))
    return model


def weight(model):
    return model.get_weights()[0].item()


class Interrupt(keras.callbacks.Callback):
    """From the end of an epoch on, where it is first in the list, counts the lines of the package
    that run, and raises before one of them."""

    def __init__(self, epoch, at=None):
        super().__init__()
        self.epoch, self.at, self.lines = epoch, at, 0

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            sys.settrace(self._call)

    def _call(self, frame, event, argument):
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


class Measure(keras.callbacks.Callback):
    """A metric that stands still, and the rate that each epoch trains at."""

    def __init__(self):
        super().__init__()
        self.trained = []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = weight(self.model)

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = 1.0
        self.trained.append(self.before - weight(self.model))


class Look(keras.callbacks.Callback):
    """The memory and the weight when all callbacks have begun an epoch."""

    def __init__(self, plateau):
        super().__init__()
        self.plateau, self.seen = plateau, []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append((self.plateau.state, weight(self.model)))


def fit(model, *callbacks, epochs):
    x = np.ones((1, 1), "float32")
    return model.fit(x, x, epochs=epochs, verbose=0, callbacks=list(callbacks)).history


def interrupted_and_continued(model, base, arguments, interrupt):
    """Two epochs, the second of which reduces and is interrupted, and three more; returns how
    many reductions there were when these began, and whether the first `fit` ended."""
    plateau, ended = PlateauDecay(factor=FACTOR, patience=1, **arguments), False
    with contextlib.suppress(KeyboardInterrupt):
        fit(model, Measure(), interrupt, plateau, LearningRateLogger(), epochs=2)
        ended = True
    sys.settrace(None)
    measure, look = Measure(), Look(plateau)
    logged = fit(model, measure, plateau, look, epochs=3)["learning_rate"]

    first = look.seen[0][0]["reductions"]
    for epoch, (state, begin) in enumerate(look.seen):
        rate = base(2 + epoch) * state["scale"]
        assert logged[epoch] == pytest.approx(rate, rel=1e-6)
        assert state["scale"] == FACTOR ** state["reductions"]
        assert state["reductions"] == first + epoch
        assert measure.trained[epoch] == pytest.approx(rate, rel=1e-6)
        if arguments and state["reductions"] > 0:  # The best are those of the first epoch's end.
            assert begin == pytest.approx(-RATE, rel=1e-6)
        elif epoch == 0:
            assert begin == pytest.approx(-base(0) - base(1), rel=1e-6)
    return first, ended


@pytest.mark.parametrize("kind", KINDS)
def test_after_an_interrupt_at_any_line_the_next_fit_trains_at_what_memory_and_log_say(kind):
    """The reduction was made as a whole or not at all, and those that follow are made as ever."""
    base, arguments = KINDS[kind]
    model = network(base)
    untouched = model.get_weights()

    def run(interrupt):
        # One model for all runs, since it takes longest to compile its step.
        begin = PlateauDecay()
        begin.attach(model)
        begin.reset()
        model.set_weights(untouched)
        model.optimizer.iterations.assign(0)
        if base is constant:
            model.optimizer.learning_rate = RATE
        return interrupted_and_continued(model, base, arguments, interrupt)

    count = Interrupt(epoch=1)
    assert run(count) == (1, True)
    assert count.lines > 50
    # TensorFlow takes ten times as long as the others; there each kind has lines of its own.
    apart = 2 * len(KINDS) if BACKEND == "tensorflow" else 1
    first = 1 + 2 * list(KINDS).index(kind) if BACKEND == "tensorflow" else 1
    outcomes = set()
    for line in range(first, count.lines + 1, apart):
        try:
            reductions, ended = run(Interrupt(epoch=1, at=line))
        except AssertionError as error:
            raise AssertionError(f"interrupted before line {line} of {count.lines}") from error
        assert not ended
        outcomes.add(reductions)
    assert outcomes == {0, 1}
