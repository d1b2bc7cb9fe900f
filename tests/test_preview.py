"""Rates without training: arrays, pictures, and rehearsals that agree with real training."""

from __future__ import annotations

import math
import sys

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from support import STEPS_PER_EPOCH, Metric, batches, data, fit, model, number

from keras_decay import (
    InverseTimeDecay,
    JoinedSchedule,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    Rehearsal,
    StepDecay,
    plot,
    preview,
    rehearse,
)

# Nothing is trained but for its logs.
pytestmark = pytest.mark.any_keras

keras_schedules = keras.optimizers.schedules


def trained(values, callbacks=(), learning_rate=0.1, **arguments):
    """The `History` of a real fit, with `values` as its `val_loss`."""
    callbacks = [Metric(values), *callbacks]
    return model(learning_rate).fit(
        **batches(), epochs=len(values), callbacks=callbacks, verbose=0, **arguments
    )


# preview


def test_preview_has_one_point_a_step_by_the_formula():
    """Epochs as fractions, rates as float32, both plain NumPy."""
    epoch, rate = preview(StepDecay(0.1, 0.5, 2, steps_per_epoch=3), 6)
    assert (type(epoch), epoch.dtype, type(rate), rate.dtype) == (
        np.ndarray,
        np.float64,
        np.ndarray,
        np.float32,
    )
    steps = np.arange(18)
    np.testing.assert_array_equal(epoch, steps / 3)
    np.testing.assert_allclose(rate, 0.1 * 0.5 ** (steps // 6), rtol=1e-6)


STEP = StepDecay(0.1, steps_per_epoch=7)
COSINE = keras_schedules.CosineDecay(0.1, 10)


@pytest.mark.parametrize(
    "schedule",
    [
        PlateauScale(STEP),
        PlateauScale(LinearWarmup(COSINE, 1, steps_per_epoch=7)),
        JoinedSchedule([0.1, COSINE], [1], steps_per_epoch=7),
    ],
    ids=["plateau", "plateau of warmup", "joined"],
)
def test_steps_per_epoch_is_found_in_nested_schedules(schedule):
    """The caller need not pass a number that the schedule has."""
    assert len(preview(schedule, 2)[0]) == 14


def test_a_given_steps_per_epoch_is_what_epochs_are_counted_in():
    """The schedule keeps its own clock; only the axis changes."""
    epoch, rate = preview(STEP, 2, steps_per_epoch=14)
    assert epoch[-1] == 27 / 14
    np.testing.assert_allclose(rate[[0, 6, 7, 27]], [0.1, 0.1, 0.01, 1e-4], rtol=1e-5)


@pytest.mark.parametrize("rate", [0.1, PlateauScale(0.1)], ids=["float", "plateau"])
def test_a_constant_rate_needs_no_steps_per_epoch(rate):
    """Every step is the same."""
    epoch, rates = preview(rate, 3)
    np.testing.assert_array_equal(epoch, [0, 1, 2])
    np.testing.assert_array_equal(rates, np.float32([0.1] * 3))


KERAS = {
    "array": keras_schedules.ExponentialDecay(0.1, 10, 0.5),
    "scalars only": keras_schedules.CosineDecay(0.0, 10, warmup_target=0.1, warmup_steps=5),
}


@pytest.mark.parametrize("schedule", KERAS.values(), ids=KERAS)
def test_preview_of_a_keras_schedule_is_what_the_schedule_gives(schedule):
    """Also of one that takes no array of steps."""
    _, rates = preview(schedule, 5, steps_per_epoch=4)
    expected = [number(schedule(step)) for step in range(20)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)


def test_preview_evaluates_chunk_after_chunk_without_a_seam():
    """More steps than are evaluated at once, exact at every one of them."""
    schedule = StepDecay(0.1, 0.5, 1, steps_per_epoch=50_000)
    _, rates = preview(schedule, 4)
    np.testing.assert_array_equal(rates, np.repeat(np.float32(0.1 * 0.5 ** np.arange(4.0)), 50_000))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((COSINE, 2), ValueError, r"`steps_per_epoch` must be given for schedule=.*has none of"),
        ((STEP, 0), ValueError, r"`epochs` must be an int >= 1. Received: epochs=0"),
        ((STEP, 1.5), TypeError, r"`epochs` must be an int >= 1. Received: epochs=1.5"),
        ((STEP, None), TypeError, r"`epochs` must be an int >= 1. Received: epochs=None"),
        (("0.1", 1), TypeError, r"`schedule` must be a float or a `LearningRateSchedule`"),
        ((-0.1, 1), ValueError, r"`schedule` must be a finite number > 0"),
    ],
)
def test_preview_refuses_bad_arguments(arguments, error, message):
    """In the constructor's words, with the argument's name and value."""
    with pytest.raises(error, match=message):
        preview(*arguments)


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (2.0, TypeError)])
def test_preview_refuses_a_bad_steps_per_epoch(value, error):
    """It is a count."""
    with pytest.raises(error, match=r"`steps_per_epoch` must be an int >= 1. Received: steps_per"):
        preview(STEP, 1, steps_per_epoch=value)


# rehearse

FALLING_THEN_FLAT = [1.0, 0.5, 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
JAGGED = [1.0, 0.7, 0.8, math.nan, 0.6, 0.9, None, 0.5, math.inf, 0.55, 0.6, 0.4]

RATES = {
    "float": lambda: 0.1,
    "step": lambda: StepDecay(0.1, 0.5, 3, steps_per_epoch=STEPS_PER_EPOCH),
    "keras": lambda: keras_schedules.ExponentialDecay(0.1, 10, 0.9),
    "constant": lambda: PlateauScale(0.1),
}
PLATEAUS = {
    "patience": {"patience": 2, "factor": 0.5},
    "cooldown": {"patience": 1, "factor": 0.5, "cooldown": 2},
    "floor": {"patience": 1, "factor": 0.1, "min_learning_rate": 0.004},
    "improvement": {"patience": 1, "factor": 0.5, "reduce_on": "improvement"},
    "late": {"patience": 1, "factor": 0.5, "start_from_epoch": 4, "relative": True},
    "max": {"patience": 2, "factor": 0.5, "mode": "max", "min_delta": 0.0},
    "stop": {"patience": 1, "factor": 0.1, "min_learning_rate": 0.05, "stop_at_minimum": True},
}


# In one of them the schedule comes down to the floor before the first reduction.
@pytest.mark.filterwarnings("ignore:A reduction is due:UserWarning")
@pytest.mark.parametrize("turn", range(2 * len(PLATEAUS)))
def test_rehearsal_is_what_a_real_fit_does(turn):
    """The logged rates, the scales, the reductions and the end are those of training."""
    values = [FALLING_THEN_FLAT, JAGGED][turn % 2]
    arguments = list(PLATEAUS.values())[turn // 2]
    # Over each kind of rate in turn, so that all of them meet both rows of values.
    learning_rate = list(RATES.values())[(turn + turn // 2) % len(RATES)]
    real = PlateauDecay(**arguments)
    history = fit(model(learning_rate()), [real], epochs=len(values), values=values)
    rehearsal = rehearse(
        PlateauDecay(**arguments), values, learning_rate(), steps_per_epoch=STEPS_PER_EPOCH
    )
    assert rehearsal.learning_rate.tolist() == history["learning_rate"]
    assert rehearsal.epoch.tolist() == list(range(len(history["learning_rate"])))
    if "learning_rate_scale" in history:
        assert rehearsal.scale.tolist() == history["learning_rate_scale"]
    assert len(rehearsal.reductions) == real.state["reductions"]
    drops = 1 + np.flatnonzero(np.diff(rehearsal.scale) < 0)
    assert [epoch + 1 for epoch in rehearsal.reductions if epoch + 1 < len(drops)] == [
        drop for drop in drops.tolist() if drop < len(drops)
    ]


def test_rehearsal_by_hand():
    """Patience 2, factor 1/2, cooldown 1, counted on paper."""
    values = [3, 2, 2, 2, 2, 1, None, 1, 1, 1]
    rehearsal = rehearse(PlateauDecay(factor=0.5, patience=2, cooldown=1), values, 0.8)
    # 2 and 3 are not better: reduced. 4 cools down, 5 is better, 7 and 8 are not: reduced.
    assert rehearsal.reductions.tolist() == [3, 8]
    np.testing.assert_allclose(rehearsal.learning_rate, [*[0.8] * 4, *[0.4] * 5, 0.2], rtol=1e-6)
    assert rehearsal.scale.tolist() == [*[1.0] * 4, *[0.5] * 5, 0.25]
    np.testing.assert_array_equal(rehearsal.value, [3, 2, 2, 2, 2, 1, math.nan, 1, 1, 1])
    assert rehearsal.monitor == "val_loss"


def test_rehearsing_changes_neither_the_plateau_nor_the_schedule(capsys):
    """Both can go into training afterwards; nothing is printed."""
    plateau = PlateauDecay(patience=1, verbose=1, restore_best_weights=True)
    schedule = PlateauScale(STEP, state={"scale": 0.5, "reductions": 1})
    config = schedule.get_config()
    rehearsal = rehearse(plateau, [1.0, 1.0, 1.0], schedule)
    assert rehearsal.scale.tolist() == [1.0, 1.0, 0.1]  # Afresh, whatever the schedule remembers.
    assert schedule.get_config() == config
    assert (plateau.verbose, plateau.restore_best_weights) == (1, True)
    with pytest.raises(RuntimeError, match="has no optimizer yet"):
        _ = plateau.state
    assert capsys.readouterr().out == ""


def test_values_come_from_a_history_or_a_csv_file_too(tmp_path):
    """An earlier run's record, as Keras left it, gives what its list of values gives."""
    path = tmp_path / "log.csv"
    history = trained(FALLING_THEN_FLAT, [keras.callbacks.CSVLogger(path)])
    plateau = PlateauDecay(patience=2)
    expected = rehearse(plateau, FALLING_THEN_FLAT, 0.1)
    assert len(expected.reductions) > 1
    for values in (history, path, str(path), np.array(FALLING_THEN_FLAT)):
        assert rehearse(plateau, values, 0.1).learning_rate.tolist() == (
            expected.learning_rate.tolist()
        )


def test_a_csv_file_of_a_run_that_did_not_validate_every_epoch(tmp_path):
    """`CSVLogger` writes NA there, which is no observation."""
    x, y = data()
    path = tmp_path / "log.csv"
    arguments = {"validation_data": (x, y), "validation_freq": 2}
    history = model().fit(
        x, y, epochs=4, callbacks=[keras.callbacks.CSVLogger(path)], verbose=0, **arguments
    )
    values = rehearse(PlateauDecay(), path, 0.1).value
    assert np.isnan(values).tolist() == [True, False, True, False]
    with pytest.raises(ValueError, match=r"`val_loss` in every epoch.*; here 2 of 4 have it"):
        rehearse(PlateauDecay(), history, 0.1)


def values_in(path, text, encoding="utf-8"):
    """What a rehearsal reads from a file of that text."""
    path.write_bytes(text.encode(encoding))
    return rehearse(PlateauDecay(), path, 0.1).value.tolist()


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("epoch,val_loss\n0,3\n1,2\n", "utf-8"),
        ("epoch;val_loss;loss\r\n0;3;1\r\n1;2;1\r\n", "utf-8"),
        ("epoch\tval_loss\n0\t3\n1\t2\n", "utf-8"),
        ("epoch|val_loss\n0|3\n1|2\n", "utf-8"),
        (" epoch  val_loss\n     0       3.0\n     1       2.0\n", "utf-8"),
        ("epoch, val_loss ,Mean; IoU\n0, 3 ,1\n1, 2 ,1\n", "utf-8"),
        ("val_loss,loss\n3,1\n2,1\n", "utf-8-sig"),
        ("epoch;val_loss\n0;3\n1;2\n", "utf-16"),
        ("val_loss\n3\n2\n", "utf-8"),
        (",epoch,val_loss\n0,0,3\n1,1,2\n", "utf-8"),
        ("\tepoch\tval_loss\n17\t0\t3\n18\t1\t2\n", "utf-8"),
        ("epoch,val_loss\n0.0,3\n1.0,2\n,\n", "utf-8"),
        ("epoch,val_loss\n1,3\n2,2\n", "utf-8"),
        ('\n"epoch","val_loss"\n"0","3"\n"1","2"\n', "utf-8"),
        ("epoch;val_loss;a,b,c\n0;3;1\n1;2;1\n", "utf-8"),
    ],
)
def test_a_csv_file_is_read_as_people_have_it(tmp_path, text, encoding):
    """Any one separator, a byte order mark, spaces, an index column, epochs from 0 or 1."""
    assert values_in(tmp_path / "log.csv", text, encoding) == [3, 2]


def test_an_epoch_that_a_csv_file_leaves_out_is_one_without_the_metric(tmp_path):
    """Also before the first row: such a run was resumed from another file's."""
    path = tmp_path / "log.csv"
    values = values_in(path, "epoch,val_loss\n0,5\n1,4\n4,3\n")
    np.testing.assert_array_equal(values, [5, 4, math.nan, math.nan, 3])
    values = values_in(path, "epoch,val_loss\n3,5\n4,\n5,4\n")
    np.testing.assert_array_equal(values, [math.nan] * 3 + [5, math.nan, 4])


@pytest.mark.parametrize("start", [0, 1])
def test_of_several_runs_in_a_csv_file_the_last_one_is_rehearsed(tmp_path, start):
    """As `CSVLogger(append=True)` leaves them; one warning says how many there are."""
    rows = [(0, 9), (1, 8), (2, 7), (0, 6), (0, 5), (1, 4)]
    text = "epoch,val_loss\n" + "".join(f"{start + epoch},{value}\n" for epoch, value in rows)
    with pytest.warns(UserWarning, match=r"`log.csv` holds 3 runs.*The last one is") as caught:
        assert values_in(tmp_path / "log.csv", text) == [5, 4]
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_of_a_resumed_run_in_a_csv_file_the_later_rows_count(tmp_path):
    """Rows of epochs that were trained again after the resume are replaced."""
    rows = [(0, 5), (1, 4), (2, 9), (3, 9), (4, 9), (2, 3), (3, 2), (1, 1), (3, 0)]
    text = "epoch,val_loss\n" + "".join(f"{epoch},{value}\n" for epoch, value in rows)
    assert values_in(tmp_path / "log.csv", text.rsplit("\n", 3)[0] + "\n") == [5, 4, 3, 2]
    np.testing.assert_array_equal(values_in(tmp_path / "log.csv", text), [5, 1, math.nan, 0])


def test_a_csv_file_that_a_resumed_fit_appended_to(tmp_path):
    """What Keras itself writes gives the values of the run as it went on."""
    path = tmp_path / "log.csv"
    for start, values in ((0, [5.0, 4.0, 9.0, 9.0]), (2, [0.0, 0.0, 3.0, 2.0, 1.0])):
        log = keras.callbacks.CSVLogger(path, append=True)
        fit(model(), [log], epochs=len(values), initial_epoch=start, values=values)
    assert rehearse(PlateauDecay(), path, 0.1).value.tolist() == [5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"`values` must be the path of a file that exists. Received: values='.*run.csv'"),
        ("epoch,loss\n0,1\n", r"with a column `val_loss`; its columns are \['epoch', 'loss'\]"),
        ("epoch;loss\n0;1\n", r"columns are \['epoch', 'loss'\] \(the separator seen is ';'\)"),
        ("", r"with a column `val_loss`; its columns are \[\]"),
        ("epoch,val_loss\n0,1\n1,high\n", r"numbers in `val_loss`; line 3 has 'high'"),
        ("epoch;val_loss\n0;0,5\n", r"line 2 has '0,5' \(the separator seen is ';'\)"),
        ("epoch\tval_loss\n0\t1\t2\n", r"line 2 has 3 cells .* seen is '\\t'\)"),
        ("epoch,val_loss,loss\n0,1,2\n\n1,2\n", r"the row in line 4 has 2 cells and the header 3"),
        ("epoch,val_loss\n", r"`values` must be a CSV file with at least one epoch"),
        ("epoch,val_loss\nfirst,1\n", r"`epoch` is an int from 0 to 999999; line 2 has 'first'"),
        ("epoch,val_loss\n0.5,1\n", r"`epoch` is an int from 0 to 999999; line 2 has '0.5'"),
        ("epoch,val_loss\n1795697277,1\n", r"`epoch` is an int from 0 to .* has '1795697277'"),
        ("epoch,val_loss\nnan,1\n", r"`epoch` is an int from 0 to 999999; line 2 has 'nan'"),
    ],
)
def test_rehearse_refuses_a_bad_file(tmp_path, text, message):
    """One line that names the file and what is wrong with it."""
    path = tmp_path / "run.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as raised:
        rehearse(PlateauDecay(), path, 0.1)
    assert "run.csv" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("plateau", "values", "learning_rate", "error", "message"),
    [
        ("plateau", [1.0], 0.1, TypeError, r"`plateau` must be a `PlateauDecay`. Received"),
        (PlateauDecay(), [], 0.1, ValueError, r"`values` must be a list of numbers .or None."),
        (PlateauDecay(), [[1.0], [1, 2]], 0.1, TypeError, r"`values` must be a list of numbers"),
        (PlateauDecay(), np.ones((1, 1)), 0.1, ValueError, r"`values` must be a list of numbers"),
        (PlateauDecay(), ["1"], 0.1, TypeError, r"`values` must be a list of numbers"),
        (PlateauDecay(), 1.0, 0.1, TypeError, r"`values` must be a list of numbers"),
        (PlateauDecay(), [1.0], 0, ValueError, r"`learning_rate` must be a finite number > 0"),
        (PlateauDecay(), [1.0], "0.1", TypeError, r"`learning_rate` must be a float or a"),
        (PlateauDecay(), [1.0], COSINE, ValueError, r"`steps_per_epoch` must be given for learni"),
        (PlateauDecay("val_f1"), [1.0], 0.1, ValueError, r'Pass mode="min" or mode="max"'),
    ],
)
def test_rehearse_refuses_bad_arguments(plateau, values, learning_rate, error, message):
    """Each with the argument's name; never a silent guess at the direction."""
    with pytest.raises(error, match=message):
        rehearse(plateau, values, learning_rate)


def test_rehearse_refuses_a_history_without_the_metric():
    """It lists the metrics that there are."""
    history = trained([1.0])
    with pytest.raises(ValueError, match=r"with `val_f1` in it. Received: values=\['loss', 'val_l"):
        rehearse(PlateauDecay("val_f1", mode="max"), history, 0.1)


# plot


def test_plot_draws_the_rate_of_every_step_until_the_end():
    """A staircase with its edges where the rate changes, over epochs."""
    schedule = StepDecay(0.1, 0.5, 2, steps_per_epoch=3)
    figure = plot(schedule, 4)
    assert isinstance(figure, Figure)
    (axes,) = figure.axes
    (line,) = axes.lines
    epoch, rate = preview(schedule, 4)
    np.testing.assert_array_equal(line.get_xdata(), [*epoch, 4.0])
    np.testing.assert_array_equal(line.get_ydata(), [*rate, rate[-1]])
    assert line.get_drawstyle() == "steps-post"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "learning rate")
    assert axes.get_yscale() == "linear"
    assert axes.get_legend() is None
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_plot_of_several_has_a_legend_and_tells_them_apart():
    """By name, and not by colour alone."""
    smooth = InverseTimeDecay(0.1, 0.1, steps_per_epoch=7)
    figure = plot({"step": STEP, "smooth": smooth, "constant": 0.05}, 3)
    (axes,) = figure.axes
    names = ["step", "smooth", "constant"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names
    assert len({line.get_linestyle() for line in axes.lines}) == 3
    assert axes.lines[2].get_ydata()[-1] == np.float32(0.05)


@pytest.mark.parametrize(
    ("schedule", "scale"),
    [
        (StepDecay(0.1, 0.1, 2, steps_per_epoch=5), "log"),
        (StepDecay(0.1, 0.5, 3, steps_per_epoch=5), "linear"),
        (LinearWarmup(0.1, 2, steps_per_epoch=5), "linear"),
        (LinearWarmup(STEP, 2, steps_per_epoch=7), "log"),
    ],
    ids=["decades", "halves", "warmup", "warmup of decades"],
)
def test_the_axis_is_logarithmic_where_the_rate_spans_decades(schedule, scale):
    """A warmup's first steps, at and near 0, do not count."""
    figure = plot(schedule, 6)
    (axes,) = figure.axes
    assert axes.get_yscale() == scale
    assert axes.get_ylim()[1] > 0.1 > axes.get_ylim()[0]
    figure.canvas.draw()
    labels = {label.get_text() for label in axes.get_yticklabels()}
    assert {"0.1", "0.10"} & labels


def test_a_long_schedule_is_drawn_with_few_points_and_exact_edges():
    """Ten million steps become some thousand, among them each first step of an epoch."""
    (line,) = plot(StepDecay(0.1, 0.5, [33, 57], steps_per_epoch=100_000), 100).axes[0].lines
    epoch, rate = line.get_xdata(), line.get_ydata()
    assert len(epoch) < 5000
    np.testing.assert_allclose(rate, 0.1 * 0.5 ** ((epoch >= 33) * 1.0 + (epoch >= 57)), rtol=1e-6)
    assert {33.0, 57.0, 100.0} <= set(epoch)
    (line,) = plot(InverseTimeDecay(0.1, 1.0, steps_per_epoch=10), 10**6).axes[0].lines
    assert len(line.get_xdata()) < 5000


def test_plot_of_a_history_marks_the_reductions_of_the_plateau_only():
    """The schedule's own decay is none of them."""
    schedule = StepDecay(0.1, 0.5, 2, steps_per_epoch=STEPS_PER_EPOCH)
    history = trained([3.0, 2.0, 2.0, 2.0, 2.0], [PlateauDecay(patience=2)], schedule)
    rate, metric = plot(history).axes
    drawn, *marks = rate.lines
    np.testing.assert_array_equal(drawn.get_xdata(), range(6))
    np.testing.assert_allclose(drawn.get_ydata(), [0.1, 0.1, 0.05, 0.05, 0.0025, 0.0025], rtol=1e-6)
    assert [mark.get_xdata()[0] for mark in marks] == [4]
    assert rate.get_legend().get_texts()[0].get_text() == "reduction"
    (values,) = metric.lines
    np.testing.assert_array_equal(values.get_xdata(), range(1, 6))
    np.testing.assert_array_equal(values.get_ydata(), [3.0, 2.0, 2.0, 2.0, 2.0])
    assert (rate.get_xlabel(), rate.get_ylabel()) == ("epoch", "learning rate")
    assert metric.get_ylabel() == "val_loss"
    assert (rate.get_yscale(), metric.get_yscale()) == ("log", "linear")


def test_plot_of_a_history_with_a_float_rate_marks_where_it_drops():
    """Without a scale in the logs, the rate itself tells; another metric can be drawn."""
    history = trained([1.0] * 4, [PlateauDecay(patience=2, factor=0.5)])
    rate, metric = plot(history, monitor="loss").axes
    assert [mark.get_xdata()[0] for mark in rate.lines[1:]] == [3]
    assert metric.get_ylabel() == "loss"


def test_plot_of_a_history_marks_nothing_where_only_a_schedule_lowered_the_rate():
    """A rate that is only logged may fall without a plateau."""

    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["learning_rate"] = 0.1 / (1 + epoch)

    schedule = InverseTimeDecay(0.1, 1.0, steps_per_epoch=STEPS_PER_EPOCH)
    rate, _ = plot(trained([1.0] * 3, [Log()], schedule)).axes
    assert len(rate.lines) == 1
    assert rate.get_legend() is None


def test_plot_of_a_rehearsal_shows_rate_metric_and_reductions():
    """The same picture as of a training run, with gaps where the metric was missing or infinite."""
    values = [100.0, 1.0, None, 1.0, math.inf, 1.0]
    rehearsal = rehearse(PlateauDecay(patience=2), values, 0.1)
    figure = plot(rehearsal)
    figure.canvas.draw()
    rate, metric = figure.axes
    assert [mark.get_xdata()[0] for mark in rate.lines[1:]] == [5]
    np.testing.assert_array_equal(metric.lines[0].get_ydata(), rehearsal.value)
    assert metric.get_yscale() == "log"


def test_plot_draws_into_given_axes():
    """And returns the figure that they are in."""
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot(STEP, 2, ax=right) is figure
    assert (len(left.lines), len(right.lines)) == (0, 1)


def test_plot_needs_no_display_and_opens_no_window(monkeypatch):
    """It does not so much as import pyplot, which chooses a window system."""
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    plot({"a": STEP}, 2).canvas.draw()


def test_plot_without_matplotlib_says_how_to_install_it(monkeypatch):
    """Matplotlib is an extra."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "keras-decay\[plot\]"'):
        plot(STEP, 2)


REHEARSAL = Rehearsal(
    np.arange(1), np.ones(1), np.ones(1), np.ones(1), np.arange(0), monitor="val_loss"
)


@pytest.mark.parametrize(
    ("what", "arguments", "error", "message"),
    [
        ([STEP], {"epochs": 1}, TypeError, r"`what` must be a schedule, .*a dict of them, a `Hist"),
        ({}, {"epochs": 1}, ValueError, r"`what` must be at least one schedule. Received: what=."),
        ({"a": "b"}, {"epochs": 1}, TypeError, r"`what\['a'\]` must be a float or a `Learning"),
        ({"a": COSINE}, {"epochs": 1}, ValueError, r"must be given for what\['a'\]=<"),
        (STEP, {}, TypeError, r"`epochs` must be an int >= 1. Received: epochs=None"),
        (COSINE, {"epochs": 1}, ValueError, r"`steps_per_epoch` must be given for what=<"),
        (STEP, {"epochs": 1, "ax": 1}, TypeError, r"`ax` must be a Matplotlib `Axes` or None"),
        (REHEARSAL, {"epochs": 1}, ValueError, r"`epochs` must be left out for a `Rehearsal`"),
        (REHEARSAL, {"steps_per_epoch": 1}, ValueError, r"`steps_per_epoch` must be left out for"),
    ],
)
def test_plot_refuses_bad_arguments(what, arguments, error, message):
    """Before it draws anything."""
    with pytest.raises(error, match=message):
        plot(what, **arguments)


def test_plot_refuses_a_history_without_what_it_draws():
    """It lists what the history holds."""
    history = trained([1.0])
    with pytest.raises(ValueError, match=r"with `learning_rate` in it. Received: what=\['loss'"):
        plot(history)
    history = trained([1.0], [PlateauDecay()])
    with pytest.raises(ValueError, match=r"`what` must be a `History` with `f1` in it"):
        plot(history, monitor="f1")
    with pytest.raises(TypeError, match="`monitor` must be a non-empty string"):
        plot(history, monitor=1)
