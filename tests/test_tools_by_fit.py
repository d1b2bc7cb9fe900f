"""`preview`, `plot` and `rehearse` of schedules that count the epochs of `fit`."""

from __future__ import annotations

import numpy as np
import pytest
from internals import counting_epochs
from support import model

from keras_decay import (
    EpochSchedule,
    JoinedSchedule,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    ProductSchedule,
    StepDecay,
    plot,
    preview,
    rehearse,
)

# Nothing is trained.
pytestmark = pytest.mark.any_keras

GIVEN = {"steps_per_epoch": 10}
MAKERS = {
    "step": lambda **steps: StepDecay(0.1, 0.5, [2, 4], **steps),
    "table": lambda **steps: EpochSchedule([0.1, 0.02, 0.05], **steps),
    "warmup": lambda **steps: LinearWarmup(StepDecay(0.1, 0.5, 2, **steps), 1.5, **steps),
    "joined": lambda **steps: JoinedSchedule([0.2, StepDecay(0.1, **steps)], [1.25], **steps),
    "product": lambda **steps: ProductSchedule([StepDecay(0.1, 0.5, 2, **steps), 0.5]),
    "scale": lambda **steps: PlateauScale(StepDecay(0.1, 0.5, 2, **steps)),
    "partly given": lambda **steps: LinearWarmup(StepDecay(0.1, **steps), 5, steps_per_epoch=1),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@makers
def test_preview_takes_the_number_that_it_is_given(make):
    """The rates of a schedule that has it for its own; the schedule itself is not changed."""
    schedule = make()
    epoch, rate = preview(schedule, 5, steps_per_epoch=10)
    expected = preview(make(**GIVEN), 5, steps_per_epoch=10)
    assert np.array_equal(epoch, expected[0])
    assert np.array_equal(rate, expected[1])
    assert counting_epochs(schedule)


@makers
def test_rehearse_takes_the_number_that_it_is_given(make):
    """The rates of a schedule that has it for its own; the schedule itself is not changed."""
    schedule, plateau = make(), PlateauDecay(factor=0.5, patience=1)
    rehearsal = rehearse(plateau, [1.0] * 5, schedule, steps_per_epoch=10)
    expected = rehearse(plateau, [1.0] * 5, make(**GIVEN), steps_per_epoch=10)
    assert np.array_equal(rehearsal.learning_rate, expected.learning_rate)
    assert np.array_equal(rehearsal.reductions, expected.reductions)
    assert counting_epochs(schedule)


@makers
def test_plot_takes_the_number_that_it_is_given(make):
    """For all schedules of a picture, none of which is changed."""
    schedule = make()
    figure = plot({"by fit": schedule, "given": make(**GIVEN)}, 5, steps_per_epoch=10)
    one, two = figure.axes[0].lines
    assert np.array_equal(one.get_ydata(), two.get_ydata())
    assert counting_epochs(schedule)


@makers
def test_rehearse_of_a_model_that_was_never_trained_is_that_of_its_schedule(make):
    """Also where a plateau has been attached to the model."""
    plateau = PlateauDecay(factor=0.5, patience=1)
    expected = rehearse(plateau, [1.0] * 5, make(), steps_per_epoch=10)
    for attached in (False, True):
        network = model(make())
        if attached:
            PlateauDecay().attach(network)
        assert rehearse(plateau, [1.0] * 5, network, steps_per_epoch=10) == expected


def test_without_a_number_each_of_them_asks_for_it():
    """There is no other source for the number."""
    schedule = StepDecay(0.1)
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be given for schedule="):
        preview(schedule, 5)
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be given for learning_rate="):
        rehearse(PlateauDecay(), [1.0], schedule)
    with pytest.raises(ValueError, match=r"`steps_per_epoch` must be given for what="):
        plot(schedule, 5)


def test_rehearse_of_a_model_with_a_float_rate_goes_on_from_its_state():
    """What the model's plateau has seen counts towards the patience."""
    network, plateau = model(0.1), PlateauDecay(factor=0.5, patience=3, mode="min")
    plateau.attach(network)
    assert not any(plateau.update(value) for value in (1.0, 1.0))
    rehearsal = rehearse(plateau, [1.0, 1.0, 1.0], network)
    assert rehearsal.reductions.tolist() == [1]
    assert rehearsal.learning_rate.tolist() == pytest.approx([0.1, 0.1, 0.05])
    assert plateau.state["wait"] == 1
