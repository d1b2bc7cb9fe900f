"""`repr` is the call that makes the object."""

from __future__ import annotations

import numpy as np
import pytest

import keras_decay
from keras_decay import (
    EpochSchedule,
    InverseTimeDecay,
    JoinedSchedule,
    LearningRateLogger,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    ProductSchedule,
    StepDecay,
)

pytestmark = pytest.mark.any_keras

GIVEN = {"steps_per_epoch": 10}
MADE = [
    StepDecay(0.1),
    StepDecay(0.1, 0.5, [2, 4], min_learning_rate=0.01, name="mine", **GIVEN),
    InverseTimeDecay(0.1, 1.0, staircase=True),
    InverseTimeDecay(0.1, 1.0, **GIVEN),
    EpochSchedule([0.1, 0.0, 0.3]),
    EpochSchedule([0.1], **GIVEN),
    LinearWarmup(StepDecay(0.1, 0.5, 10), 2.5, start_factor=0.1),
    JoinedSchedule([0.1, LinearWarmup(0.2, 1, **GIVEN)], [2.5]),
    JoinedSchedule([0.1], []),
    ProductSchedule([LinearWarmup(1.0, 5), StepDecay(0.1, 0.5, 10), 0.5]),
    PlateauScale(0.1),
    PlateauScale(StepDecay(0.1), state={"scale": 0.5, "reductions": 1, "best": 1e-7, "epochs": 4}),
    PlateauDecay(),
    PlateauDecay("accuracy", 0.5, [3, 2], mode="max", cooldown=1, recover=True, optimizer="g"),
    LearningRateLogger(),
    LearningRateLogger(False, every=3),
]


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_the_repr_makes_the_object_again(made):
    """Each schedule and callback, with and without a number of steps."""
    again = eval(repr(made), vars(keras_decay))
    assert type(again) is type(made)
    assert again.get_config() == made.get_config()
    assert "\n" not in repr(made)


def test_what_is_as_its_default_is_left_out_but_for_the_number_of_steps():
    """What a notebook shows is what one would write."""
    assert repr(PlateauDecay(patience=5)) == "PlateauDecay(patience=5)"
    warm = LinearWarmup(StepDecay(0.1, 0.5, 10), 5)
    assert repr(warm) == (
        "LinearWarmup(StepDecay(0.1, decay_rate=0.5, decay_epochs=10, steps_per_epoch=None), 5, "
        "steps_per_epoch=None)"
    )


def test_a_long_table_is_a_short_line():
    """Only some of 5,000 rates are shown."""
    text = repr(EpochSchedule(np.linspace(1, 0, 5000)))
    assert text.startswith("EpochSchedule((1.0, ")
    assert text.endswith("...), steps_per_epoch=None)")
    assert len(text) < 320
    assert "\n" not in text
