"""What is set on `optimizer.learning_rate` between two fits is what the next one trains at."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support import BACKEND, Around, Measure, measuring

from keras_decay import LearningRateLogger, PlateauDecay, PlateauScale, StepDecay


def plateau(**arguments):
    return PlateauDecay(factor=0.5, patience=1, **arguments)


def trained_and_logged(model, callback, epochs=3):
    x, measure = np.ones((1, 1), "float32"), Measure()
    history = model.fit(x, x, epochs=epochs, verbose=0, callbacks=[measure, callback]).history
    return measure.trained, history["learning_rate"]


def assert_trains_at(expected, model, callback, epochs=3):
    for rates in trained_and_logged(model, callback, epochs):
        np.testing.assert_allclose(rates, expected, rtol=1e-4)


def test_a_scale_that_is_set_takes_on_the_memory_of_the_optimizer():
    """Also one that was there before: the plateau has not changed the user's own."""
    model, one, other = measuring(), PlateauScale(0.4), PlateauScale(0.8)
    assert_trains_at([0.1, 0.1, 0.05], model, plateau())
    # The reduction at the end of each epoch, of three epochs before, and of six, and of nine.
    for number, (scale, base) in enumerate(((one, 0.4), (other, 0.8), (one, 0.4))):
        model.optimizer.learning_rate = scale
        begin = base * 0.5 ** (2 + 3 * number)
        assert_trains_at([begin, begin / 2, begin / 4], model, plateau())


def test_a_scale_that_is_set_is_bare_until_a_plateau_comes():
    """The step that was compiled for the one before is not the one that trains."""
    model = measuring(PlateauScale(0.1))
    assert_trains_at([0.1, 0.1, 0.05], model, plateau())
    model.optimizer.learning_rate = StepDecay(0.4, 0.5, 100, steps_per_epoch=1)
    assert_trains_at([0.4] * 3, model, LearningRateLogger())
    assert_trains_at([0.1, 0.05, 0.025], model, plateau())


def test_a_schedule_that_is_set_over_a_float_is_what_trains():
    """Keras allows it; the other way round is a `TypeError` of Keras's own."""
    model = measuring(0.1)
    assert_trains_at([0.1] * 3, model, LearningRateLogger())
    model.optimizer.learning_rate = StepDecay(0.4, 0.5, 100, steps_per_epoch=1)
    assert_trains_at([0.4, 0.4, 0.2], model, plateau())


@pytest.mark.skipif(BACKEND == "jax", reason="there such a one does not train in Keras either")
def test_a_rate_that_is_forwarded_is_what_trains():
    """Not that of the optimizer around it, which no step uses."""
    model = measuring(optimizer=Around(keras.optimizers.SGD(0.1)))
    assert_trains_at([0.1, 0.1, 0.05, 0.025], model, plateau(), epochs=4)
