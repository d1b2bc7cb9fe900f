"""An argument passed by mistake is an error that shows it, in the form of all other errors."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support import data, model

from keras_decay import PlateauDecay, StepDecay, rehearse

# Errors of our own.
pytestmark = pytest.mark.any_keras


@pytest.mark.parametrize("value", ["foo", None, [1.0, 2.0], 1j, True, {"loss": 1.0}])
def test_a_value_that_is_no_number(value):
    """Whatever it is, the error shows it."""
    callback = PlateauDecay(mode="min")
    callback.attach(model(0.1))
    must = r"^`value` must be a number, or a scalar.*Received: value="
    with pytest.raises(TypeError, match=must):
        callback.update(value)
    assert callback.state["best"] is None


@pytest.mark.parametrize(("epoch", "error"), [("a", TypeError), (-1, ValueError)])
def test_an_epoch_that_is_none(epoch, error):
    """An int from 0 on."""
    callback = PlateauDecay(mode="min")
    callback.attach(model(0.1))
    with pytest.raises(error, match=r"`epoch` must be an int >= 0. Received: epoch="):
        callback.update(1.0, epoch=epoch)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: PlateauDecay(np.array([1, 2])), "monitor"),
        (lambda: StepDecay(0.1, steps_per_epoch=10**400), "steps_per_epoch"),
        (lambda: StepDecay(0.1, 0.5, b"x", steps_per_epoch=1), "decay_epochs"),
        (lambda: StepDecay(0.1, 0.5, {3, 1}, steps_per_epoch=1), "decay_epochs"),
    ],
    ids=["array", "huge", "bytes", "set"],
)
def test_an_argument_that_python_itself_stumbles_over(make, name):
    """Python's own error would name neither the argument nor what it must be."""
    with pytest.raises((TypeError, ValueError), match=rf"^`{name}` must be .*Received: {name}="):
        make()


@pytest.mark.parametrize("step", [None, "1", [None]], ids=repr)
def test_a_step_that_is_none(step):
    """Calling a schedule with a value that is not a step is an error."""
    with pytest.raises((TypeError, ValueError), match="`step`"):
        StepDecay(0.1, 0.5, steps_per_epoch=1)(step)


def test_rows_of_two_runs_in_one_file(tmp_path):
    """`CSVLogger(append=True)` writes rows of other columns under the old header: the numbers
    would come from the wrong column."""
    (x, y), path = data(), tmp_path / "log.csv"

    def run(*callbacks, **arguments):
        logger = keras.callbacks.CSVLogger(path, append=True)
        arguments = {"validation_data": (x, y), "verbose": 0, **arguments}
        model(0.1).fit(x, y, callbacks=[*callbacks, logger], **arguments)

    run(epochs=2)
    assert len(rehearse(PlateauDecay(), path, 0.1).value) == 2
    run(PlateauDecay(), initial_epoch=0, epochs=2)
    with pytest.raises(ValueError, match=r"`values` must be .*(row|line) 4") as raised:
        rehearse(PlateauDecay(), path, 0.1)
    assert "log.csv" in str(raised.value)
