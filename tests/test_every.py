"""Observations inside an epoch: `PlateauDecay(every=n)`."""

from __future__ import annotations

import contextlib
import itertools
import math
import shutil
import sys
import warnings

import keras
import numpy as np
import pytest
from support import BACKEND, number

from keras_decay import InEpochs, LearningRateLogger, PlateauDecay, StepDecay, plot, rehearse

STEPS, EVERY, BATCH, RATE = 40, 10, 8, 0.01
random = np.random.default_rng(0)
X = random.normal(size=(STEPS * BATCH, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]], "float32")).astype("float32")
Y += random.normal(size=Y.shape).astype("float32")
X_VAL, Y_VAL = X[::7], -Y[::7]  # What is learnt makes the validation loss worse.


def network(rate, dropout=0.0, **arguments):
    """It trains with moving statistics and, if asked for, random masks, which an evaluation could
    disturb."""
    keras.utils.set_random_seed(1)
    layers = keras.layers
    made = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(8, "relu"),
            layers.BatchNormalization(),
            layers.Dropout(dropout),
            layers.Dense(1),
        ]
    )
    made.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", metrics=["mae"], **arguments)
    return made


def plateau(**arguments):
    return PlateauDecay(**{"factor": 0.5, "patience": 1, **arguments})


def train(made, callbacks, **arguments):
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    return made.fit(X, Y, callbacks=callbacks, **arguments).history


class AtStep(keras.callbacks.Callback):
    """Does something after a step of the training run."""

    def __init__(self, step):
        super().__init__()
        self.step, self.count = step, 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1
        if self.count == self.step:
            self.act()


class Poison(AtStep):
    """Makes a weight infinite."""

    def act(self):
        if BACKEND == "jax":
            self.model.jax_state_sync()
        kernel = self.model.trainable_variables[0]
        kernel.assign(kernel * np.inf)


def batches():
    for first in itertools.cycle(range(0, STEPS * BATCH, BATCH)):
        yield X[first : first + BATCH], Y[first : first + BATCH]


RATES = {
    "float": lambda: RATE,
    "schedule": lambda: StepDecay(RATE, 0.5, 13, steps_per_epoch=1),
}
PLATEAUS = {
    "plain": {},
    "cooldown": {"cooldown": 1},
    "restore": {"restore_best_weights": True},
    "recover": {"recover": True, "patience": 99},
    "smoothed": {"smoothing": 0.5},
}


@pytest.mark.any_keras
@pytest.mark.parametrize(
    ("rate", "kind"),
    [
        ("float", "plain"),
        ("schedule", "cooldown"),
        ("float", "restore"),
        ("schedule", "recover"),
        ("schedule", "smoothed"),
    ],
)
def test_one_long_epoch_decides_as_the_same_training_run_cut_into_short_ones(rate, kind):
    """The same reductions, rates and weights."""
    assert_decides_as_cut(RATES[rate], [13] if kind == "recover" else [], PLATEAUS[kind])


def assert_decides_as_cut(rate, poison, arguments):
    long = network(rate())
    one = plateau(every=EVERY, validation_data=(X_VAL, Y_VAL), **arguments)
    train(long, [*map(Poison, poison), one], epochs=1)
    short, many = network(rate()), plateau(**arguments)
    short.fit(
        batches(),
        steps_per_epoch=EVERY,
        validation_data=(X_VAL, Y_VAL),
        epochs=STEPS // EVERY,
        shuffle=False,
        verbose=0,
        callbacks=[*map(Poison, poison), many],
    )
    assert one.state == many.state
    assert math.isfinite(one.observations[-1].value)
    assert [each.step for each in one.observations] == [10, 20, 30, 40]
    assert sum(each.reduced for each in one.observations) == one.state["reductions"] > 0
    assert number(long.optimizer.learning_rate) == number(short.optimizer.learning_rate)
    for mine, other in zip(long.get_weights(), short.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def executions():
    return {} if BACKEND == "torch" else {"steps_per_execution": 5}


@pytest.mark.parametrize(
    ("shuffle", "compiled"),
    # Old versions of Keras say of an evaluation in one execution that its data has run out.
    [(True, dict), pytest.param(False, executions, marks=pytest.mark.any_keras)],
    ids=["shuffled", "executions"],
)
def test_training_goes_on_as_if_nothing_had_been_evaluated(shuffle, compiled):
    """Logs and weights are those of a run without the callback, to the bit."""
    assert_undisturbed(shuffle, **compiled())


def assert_undisturbed(shuffle, **compiled):
    def run(*callbacks):
        made = network(RATE, 0.5, **compiled)
        arguments = {"epochs": 2, "shuffle": shuffle, "validation_data": (X_VAL, Y_VAL)}
        return train(made, callbacks, **arguments), made.get_weights()

    one = plateau(every=EVERY, validation_data=(X_VAL, Y_VAL), patience=99)
    logs, weights = run(one)
    expected, expected_weights = run()
    assert [each.step for each in one.observations] == list(range(10, 81, 10))
    for name, values in expected.items():
        assert logs[name] == values, name
        assert np.isfinite(values).all()
    for mine, other in zip(weights, expected_weights, strict=True):
        assert np.array_equal(mine, other)


@pytest.mark.any_keras
def test_mixed_precision_changes_nothing_of_that():
    """Nor does a `LossScaleOptimizer`, which skips steps whose gradients overflow."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        assert_undisturbed(False)
        assert_decides_as_cut(RATES["schedule"], [], {"cooldown": 1})
    finally:
        keras.config.set_dtype_policy(before)


class Losses(keras.callbacks.Callback):
    """The loss of each batch, from Keras's running mean."""

    def on_epoch_begin(self, epoch, logs=None):
        self.sum = 0.0
        self.losses = getattr(self, "losses", [])

    def on_train_batch_end(self, batch, logs=None):
        total = float(logs["loss"]) * (batch + 1)
        self.losses.append(total - self.sum)
        self.sum = total


def test_without_data_it_observes_the_mean_of_the_batches_since_the_last_time():
    """Over the end of an epoch too, and of any metric that is a mean."""
    losses, one = Losses(), plateau(monitor="loss", every=15, patience=99)
    train(network(RATE), [losses, one], epochs=2)
    observed = [each.value for each in one.observations]
    expected = np.array(losses.losses[:75]).reshape(5, 15).mean(axis=1)
    np.testing.assert_allclose(observed, expected, rtol=1e-4)
    error = plateau(monitor="mae", mode="min", every=15, patience=99)
    train(network(RATE), [error], epochs=1)
    assert len(error.observations) == 2


@pytest.mark.any_keras
def test_a_loss_that_stands_still_late_in_a_long_epoch_is_seen_to():
    """Keras's running mean would go on falling until the end of the epoch."""

    class Falling(keras.losses.Loss):
        def call(self, y, prediction):
            return y + 0.0 * prediction

    made = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    made.compile(keras.optimizers.SGD(0.1), Falling())
    y = np.maximum(100 - np.arange(400.0), 1.0).reshape(-1, 1).astype("float32")
    one = plateau(monitor="loss", every=10, patience=3)
    made.fit(0 * y, y, batch_size=1, shuffle=False, verbose=0, callbacks=[one])
    first = next(each.step for each in one.observations if each.reduced)
    assert first == 140  # The loss is 1 from step 100 on; the mean of steps 100 to 110 is the best.


@pytest.mark.any_keras
def test_the_logs_of_an_epoch_have_the_last_observation():
    """One number an epoch, under the name of the metric, for callbacks after it."""
    one = plateau(every=15, validation_data=(X_VAL, Y_VAL), patience=99)
    history = train(network(RATE), [one], epochs=2)
    steps = {each.step: each.value for each in one.observations}
    assert history["val_loss"] == [steps[30], steps[75]]


def test_a_run_that_stops_at_the_minimum_stops_inside_the_epoch():
    """At the observation that finds it."""
    one = plateau(
        every=EVERY, validation_data=(X_VAL, Y_VAL), max_reductions=0, stop_at_minimum=True
    )
    train(network(RATE), [one], epochs=3)
    assert one.observations[-1].step < STEPS


class Killed(Exception):
    pass


class Kill(AtStep):
    def act(self):
        raise Killed


class Told(keras.Sequential):
    """Its validation loss depends on the step alone."""

    told = (9, 5, 6, 4, 5, 5, 5, 3, 4, 4, 4, 4, 4)

    def evaluate(self, *data, **arguments):
        return {"loss": float(self.told[int(number(self.optimizer.iterations)) // EVERY])}


class Copies(keras.callbacks.Callback):
    """Copies a folder after each step of the training run: what a kill there would leave."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.copies = folder, []

    def on_train_batch_end(self, batch, logs=None):
        copy = self.folder.with_name(f"{self.folder.name} {len(self.copies)}")
        self.copies.append(shutil.copytree(self.folder, copy))


class States(keras.callbacks.Callback):
    """The state of a plateau after each of its observations."""

    def __init__(self, of):
        super().__init__()
        self.of, self.seen = of, {}

    def on_train_batch_end(self, batch, logs=None):
        if self.of.observations:
            self.seen[self.of.observations[-1].step] = self.of.state


class Stop(AtStep):
    def act(self):
        self.model.stop_training = True


@pytest.mark.any_keras
def test_killed_at_any_step_it_decides_as_the_run_that_was_never_killed(tmp_path):
    """From the file that was saved at that step: the same state after each observation."""
    made = Told([keras.Input((3,)), keras.layers.Dense(1)])
    schedule = InEpochs(keras.optimizers.schedules.CosineDecay(RATE, 9))
    made.compile(keras.optimizers.SGD(schedule, momentum=0.9), "mse")

    def run(folder, *others, **arguments):
        one = plateau(every=EVERY, validation_data=(X_VAL, Y_VAL), patience=2, cooldown=1)
        states = States(one)
        save_freq = arguments.pop("save_freq", sys.maxsize)
        backup = keras.callbacks.BackupAndRestore(folder, save_freq, delete_checkpoint=False)
        train(made, [one, states, backup, *others], **arguments)
        return states.seen

    copies = Copies(tmp_path / "backup")
    expected = run(copies.folder, copies, epochs=3, save_freq=1)
    assert [expected[step]["reductions"] for step in range(40, 121, 10)] == [
        0,
        1,
        1,
        1,
        1,
        2,
        2,
        2,
        3,
    ]
    # Each third step is at every distance from an observation and from the end of an epoch.
    for step, copy in list(enumerate(copies.copies[: 2 * STEPS], 1))[::3]:
        seen = run(copy, Stop(2 * EVERY), epochs=3)
        due = range(EVERY * (step // EVERY + 1), step + 2 * EVERY + 1, EVERY)
        assert seen == {each: expected[each] for each in due}, step


@pytest.mark.parametrize(("killed", "saved"), [(10, 8), (43, 40)])
def test_a_mean_that_lacks_batches_says_so(killed, saved, tmp_path):
    """After a kill, the batches since the last observation are lost; the mean is still observed."""

    def run(*others):
        one = plateau(monitor="loss", every=EVERY, patience=99)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=4)
        train(network(RATE), [one, *others, backup], epochs=2)
        return [each.step for each in one.observations]

    with contextlib.suppress(Killed):
        run(Kill(killed))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        steps = run()
    due = EVERY * (saved // EVERY + 1)
    assert steps == list(range(due, steps[-1] + 1, EVERY))
    ours = [str(each.message) for each in told if "goes on at step" in str(each.message)]
    assert len(ours) == (saved % EVERY > 0)
    for each in ours:
        assert f"the mean of `loss` at step {due} lacks {saved % EVERY} of 10 steps" in each


@pytest.mark.any_keras
def test_a_second_fit_goes_on_with_the_mean_and_another_model_begins_its_own():
    """With the same callback; another one lacks the batches and says so."""
    one, made = plateau(monitor="loss", every=25, patience=99), network(RATE)
    losses = Losses()
    train(made, [losses, one])
    train(made, [losses, one])
    expected = np.array(losses.losses[:75]).reshape(3, 25).mean(axis=1)
    np.testing.assert_allclose([each.value for each in one.observations], expected, rtol=1e-4)
    losses = Losses()
    train(network(RATE), [losses, one])
    np.testing.assert_allclose(one.observations[-1].value, np.mean(losses.losses[:25]), rtol=1e-4)
    with pytest.warns(UserWarning, match="at step 100 lacks 5 of 25 steps"):
        train(made, [plateau(monitor="loss", every=25, patience=99)])


@pytest.mark.any_keras
def test_the_rates_of_batches_show_a_reduction_at_its_step():
    """What `LearningRateLogger(every=1)` puts into the logs of the batches."""
    one = plateau(every=EVERY, validation_data=(X_VAL, Y_VAL))
    logger = LearningRateLogger(every=1)
    train(network(StepDecay(RATE, 0.5, 99)), [one, logger], epochs=1)
    rates = dict(logger.seen["learning_rate"])
    reduced = [each.step for each in one.observations if each.reduced]
    expected = [RATE * 0.5 ** sum(at <= step for at in reduced) for step in range(STEPS)]
    np.testing.assert_allclose([rates[step] for step in range(STEPS)], expected, rtol=1e-6)


@pytest.mark.any_keras
def test_plot_draws_the_observations_and_marks_the_reductions_at_their_steps():
    """A `History`, which has one rate an epoch, marks the epochs that they were in."""
    one = plateau(every=15, validation_data=(X_VAL, Y_VAL))
    with pytest.raises(ValueError, match="`what` must be a `PlateauDecay` with `every` that was"):
        plot(one)
    made = network(StepDecay(RATE, 0.5, 99))
    train(made, [one], epochs=3)
    steps, values, reduced = map(np.array, zip(*one.observations, strict=True))
    at = steps[reduced]
    assert len(at) > 1
    (axes,) = plot(one).axes
    drawn, *marks = axes.lines
    np.testing.assert_array_equal(drawn.get_xydata(), np.transpose([steps, values]))
    assert [mark.get_xdata()[0] for mark in marks] == at.tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "val_loss")
    of_epochs = [mark.get_xdata()[0] for mark in plot(made.history).axes[0].lines[1:]]
    assert of_epochs == sorted({int(step) // STEPS for step in at} - {0, 3})


@pytest.mark.any_keras
def test_a_rehearsal_takes_a_value_each_n_steps():
    """At the rates of those steps, where the picture has them too."""
    rehearsal = rehearse(
        plateau(every=5, patience=2),
        [1.0, 1.0, 1.0, 1.0],
        StepDecay(0.1, 0.5, 1, steps_per_epoch=10),
    )
    np.testing.assert_allclose(rehearsal.epoch, [0.5, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(rehearsal.learning_rate, [0.1, 0.1, 0.05, 0.025])
    assert rehearsal.reductions.tolist() == [1.5]
    rate, metric = plot(rehearsal).axes
    drawn, mark = rate.lines
    np.testing.assert_allclose(drawn.get_xdata(), [0.0, 0.5, 1.0, 1.5, 2.0])
    np.testing.assert_allclose(metric.lines[0].get_xdata(), [0.5, 1.0, 1.5, 2.0])
    assert mark.get_xdata()[0] == 1.5


@pytest.mark.any_keras
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every": 0}, ValueError, "`every` must be an int >= 1. Received: every=0"),
        ({"every": 2.5}, TypeError, "`every` must be an int >= 1"),
        ({"every": True}, TypeError, "`every` must be an int >= 1"),
        ({"validation_data": (X, Y)}, ValueError, "`validation_data` must be left out without"),
        (
            {"every": 5, "validation_data": (X, Y), "monitor": "loss"},
            ValueError,
            "`monitor` must be a metric of `validation_data`",
        ),
        (
            {"every": 5, "validation_data": (X[:0], Y[:0])},
            ValueError,
            "`validation_data` must be data with at least one sample",
        ),
        (
            {"every": 5, "validation_data": batches()},
            ValueError,
            "`validation_data` must be data that can be evaluated many times, not an iterator",
        ),
    ],
)
def test_wrong_arguments_are_errors_of_the_constructor(arguments, error, message):
    """They have the same form as all other errors."""
    with pytest.raises(error, match=message):
        PlateauDecay(**arguments)


class Empty(keras.utils.PyDataset):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError(index)


def empty_of_backend():
    """What the backend's own library makes of no samples."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        # Of a size that nothing knows before it is read.
        return tf.data.Dataset.from_tensor_slices((X, Y)).filter(lambda x, y: False).batch(BATCH)
    if BACKEND == "torch":
        from torch.utils.data import DataLoader, TensorDataset

        return DataLoader(TensorDataset(*map(keras.ops.convert_to_tensor, (X[:0], Y[:0]))))
    return Empty()


@pytest.mark.any_keras
@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize("data", [Empty, empty_of_backend])
def test_data_without_a_batch_are_an_error_at_the_first_observation(data):
    """On TensorFlow, Keras says so itself of a `PyDataset`."""
    message = "`validation_data` must have at least one batch|The PyDataset has length 0"
    with pytest.raises(ValueError, match=message):
        train(network(RATE), [plateau(every=5, validation_data=data())])


def test_a_metric_of_data_that_is_not_there_is_an_error_before_training():
    """A config has no data, so the constructor cannot say so."""
    made = network(RATE)
    with pytest.raises(ValueError, match=r'`validation_data` must be .* pass monitor="loss"'):
        train(made, [plateau(every=5)])
    copied = PlateauDecay.from_config(plateau(every=5, validation_data=(X, Y)).get_config())
    assert (copied.every, copied.validation_data) == (5, None)


@pytest.mark.any_keras
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"monitor": "val_auc", "validation_data": (X, Y), "mode": "min"},
            r"`monitor` must be one of the metrics of `evaluate`, \['val_loss', 'val_mae'\]",
        ),
        (
            {"monitor": "auc", "mode": "min"},
            r"`monitor` must be one of the metrics of the training",
        ),
    ],
)
def test_a_monitor_that_is_not_there_is_an_error_that_names_those_that_are(arguments, message):
    """At the first observation."""
    with pytest.raises(ValueError, match=message):
        train(network(RATE), [plateau(every=5, **arguments)])
