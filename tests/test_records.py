"""Records go where people look: into a pandas table, beside each other, onto one line."""

from __future__ import annotations

import keras
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from support import fit, has_multi_optimizer, model, two_optimizers

import keras_decay
from keras_decay import (
    LearningRateLogger,
    PlateauDecay,
    PlateauScale,
    RangeTest,
    StepDecay,
    plot,
    rehearse,
)

# Nothing is trained but for its logs.
pytestmark = pytest.mark.any_keras

LOSSES = [1.0, 0.5, 0.5, 0.5, float("nan"), 0.4]
RATES = 10.0 ** np.arange(-4, 0)


def rehearsal(values=LOSSES, patience=2):
    return rehearse(PlateauDecay(factor=0.5, patience=patience), values, 0.1)


def range_test(last=0.5):
    return RangeTest(RATES, np.array([3.0, 2.0, 1.0, last]), np.array([3.0, 2.0, 1.0, last]))


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        (rehearsal(), ["epoch", "learning_rate", "scale", "value"]),
        (range_test(), ["learning_rate", "loss", "smoothed"]),
    ],
    ids=["rehearsal", "range test"],
)
def test_a_record_is_a_table_in_one_call(record, columns):
    """One row an epoch, or a batch, with the arrays themselves."""
    table = pd.DataFrame(record.columns)
    assert list(table) == columns
    for name in columns:
        np.testing.assert_array_equal(table[name], getattr(record, name))


def test_two_records_are_equal_if_all_of_them_is():
    """`==` is a bool, though they are made of arrays, NaN among them."""
    assert (rehearsal() == rehearsal()) is True
    assert (rehearsal() != rehearsal(patience=3)) is True
    assert (rehearsal() == rehearsal(LOSSES[:-1])) is False
    assert (rehearsal() == "another thing") is False
    assert (range_test() == range_test()) is True
    assert (range_test() == range_test(0.25)) is False


def test_a_record_prints_on_one_line():
    """What a notebook shows."""
    reduced = rehearsal().reductions.tolist()
    assert repr(rehearsal()) == (
        f"Rehearsal(6 epochs of val_loss, reduced at the end of epochs {reduced})"
    )
    assert "\n" not in repr(range_test())


@pytest.mark.parametrize(
    "form",
    [np.array, pd.Series, lambda values: {"val_loss": values, "loss": values}, tuple],
    ids=["array", "series", "dict", "tuple"],
)
def test_values_may_come_from_wherever_they_are(form):
    """A pandas column and a history's dict are as good as a list."""
    assert rehearsal(form(LOSSES)) == rehearsal()


def test_a_history_and_its_dict_are_the_same():
    """For `rehearse` and for `plot`."""
    network = model(PlateauScale(0.1))
    history = keras.callbacks.History()
    fit(network, [PlateauDecay(patience=1), history], epochs=4, values=[1.0] * 4)
    assert rehearsal(history) == rehearsal(history.history)
    for each in (history, history.history):
        lines = plot(each).axes[0].get_lines()
        assert [line.get_label() for line in lines].count("reduction") == 1


@pytest.mark.parametrize(("row", "cells"), [("2,0.5,0.1", 3), ("2", 1)], ids=["longer", "shorter"])
def test_a_row_that_does_not_fit_its_header_is_an_error_that_names_it(row, cells, tmp_path):
    """Keras appends runs with other columns to one file: the number would be another column's."""
    path = tmp_path / "log.csv"
    path.write_text(f"epoch,val_loss\n0,1.0\n1,0.5\n{row}\n")
    match = rf"the row in line 4 has {cells} cells and the header 2: `CSVLogger\(append=True\)`"
    with pytest.raises(ValueError, match=match):
        rehearsal(path)


@has_multi_optimizer
def test_the_history_of_several_optimizers_shows_each_of_them():
    """A line for each rate, and the reductions, which are one decision."""
    network = model(optimizer=two_optimizers(StepDecay(0.1, 0.5, 99), 0.2))
    history = keras.callbacks.History()
    fit(network, [PlateauDecay(patience=1), history], epochs=4, values=[1.0] * 4)
    labels = [line.get_label() for line in plot(history).axes[0].get_lines()]
    assert {"learning_rate_kernel", "learning_rate_bias", "reduction"} <= set(labels)


@pytest.mark.parametrize("every", [None, 2])
def test_what_a_logger_saw_is_drawn_over_the_steps(every):
    """Once an epoch, or every n-th batch."""
    logger = LearningRateLogger(every=every)
    fit(model(StepDecay(0.1, 0.5, 1)), [logger], epochs=3)
    (line,) = plot(logger).axes[0].get_lines()
    steps, rates = np.transpose(logger.seen["learning_rate"])
    np.testing.assert_array_equal(line.get_xdata(), steps)
    np.testing.assert_array_equal(line.get_ydata(), rates)
    assert steps.tolist() == ([3, 7, 11] if every is None else [1, 3, 5, 7, 9, 11])
    np.testing.assert_allclose(rates, 0.1 * 0.5 ** (steps // 4), rtol=1e-6)
    with pytest.raises(ValueError, match="`what` must be a `LearningRateLogger` that was in a"):
        plot(LearningRateLogger())


def test_every_record_has_its_picture():
    """A `Figure`, for a notebook to show."""
    for record in (rehearsal(), range_test()):
        assert isinstance(keras_decay.plot(record), Figure)
