"""An interrupt at any line of a reduction leaves nothing half done."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np
import pytest
from support import BACKEND, measuring, weight

import keras_decay
from keras_decay import PlateauDecay, StepDecay

# Lines of our own.
pytestmark = pytest.mark.any_keras

PACKAGE = str(Path(keras_decay.__file__).parent)
RATE, FACTOR = 0.125, 0.5
# The lines are those of all backends: each third one here, and the others on the other two.
FIRST, EVERY = 1 + ("tensorflow", "jax", "torch").index(BACKEND), 3
KINDS = {
    "schedule": (lambda: StepDecay(RATE, 0.5, 10**6, steps_per_epoch=1), {}),
    "float and weights": (lambda: RATE, {"restore_best_weights": True}),
}


class Interrupt:
    """Raises `KeyboardInterrupt` before the n-th line of the package, of those that run while it
    is active; counts them."""

    def __init__(self, at=None):
        self.at, self.lines = at, 0

    def __enter__(self):
        sys.settrace(self._call)

    def __exit__(self, *error):
        sys.settrace(None)

    def _call(self, frame, event, argument):
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def begin(model, callback):
    """What `fit` does first."""
    callback.set_model(model)
    callback.set_params({"steps": 1})
    callback.on_train_begin({})


def epoch(model, callback, number, value, interrupt=None):
    """An epoch of one step: the rate trained at, the one logged, and the weight it began with."""
    x, logs = np.ones((1, 1), "float32"), {"val_loss": value}
    callback.on_epoch_begin(number, {})
    before = weight(model)
    model.train_on_batch(x, x)
    trained = before - weight(model)
    with interrupt or contextlib.nullcontext():
        callback.on_epoch_end(number, logs)
    return trained, logs["learning_rate"], before


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_at_any_line_of_a_reduction_leaves_nothing_half_done(kind):
    """When the next epoch begins, the rate trained at, the one in the log, the scale and the number
    of reductions say the same, and best weights are restored with it or not at all."""
    make, arguments = KINDS[kind]
    model = measuring(make())
    untouched = model.get_weights()

    def run(interrupt):
        """Two epochs, the second of which reduces and is interrupted, and a run that goes on;
        returns whether the second one ended, and how many reductions there were."""
        callback = PlateauDecay(factor=FACTOR, patience=1, **arguments)
        callback.attach(model)
        callback.reset()
        model.set_weights(untouched)
        if isinstance(make(), float):
            model.optimizer.learning_rate = RATE
        begin(model, callback)
        epoch(model, callback, 0, 1.0)
        ended = False
        with contextlib.suppress(KeyboardInterrupt):
            epoch(model, callback, 1, 1.0, interrupt)
            ended = True
        begin(model, callback)
        trained, logged, start = epoch(model, callback, 0, 0.0)
        state = callback.state
        assert trained == pytest.approx(logged, rel=1e-6)
        assert logged == pytest.approx(RATE * state["scale"], rel=1e-6)
        assert state["scale"] == FACTOR ** state["reductions"]
        # Two steps at the first rate; the best weights are those after the first of them.
        restored = arguments and state["reductions"] == 1
        assert start == pytest.approx(-RATE if restored else -2 * RATE, rel=1e-6)
        return ended, state["reductions"]

    count = Interrupt()
    assert run(count) == (True, 1)
    assert count.lines > 50
    outcomes = [run(Interrupt(line)) for line in range(FIRST, count.lines + 1, EVERY)]
    assert not any(ended for ended, _ in outcomes)
    assert {reductions for _, reductions in outcomes} == {0, 1}
