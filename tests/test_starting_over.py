"""With `restore_best_weights` and `recover`, a run that has learned nothing starts over."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from internals import PlateauState, attached_to, forget_start
from rates import Kill, KilledError
from support import BATCH_SIZE, data, fit, model

from keras_decay import PlateauDecay, StepDecay

NOTHING, LEARNS = 1e-6, 0.05
"""Rates at which the training loss stays where it is, and falls by far more than half."""


def plateau(monitor="val_loss", **arguments):
    arguments = {"factor": 0.5, "patience": 2, "mode": "min", "recover": True, **arguments}
    return PlateauDecay(monitor, restore_best_weights=True, **arguments)


class Weights(keras.callbacks.Callback):
    """Records the weights before training and after each epoch; listed after the plateau."""

    def on_train_begin(self, logs=None):
        self.seen = [self.model.get_weights()]

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(self.model.get_weights())


def gone_back_to(rate, values, **arguments):
    """Which weights a reduction after the last value goes back to: 0, those of the start, or the
    number of an epoch, from 1."""
    network, before, after = model(rate), Weights(), Weights()
    history = fit(network, [before, plateau(**arguments), after], epochs=len(values), values=values)
    for seen in (before.seen, after.seen):
        assert len(seen) == len(values) + 1
    same = [
        all(np.array_equal(one, other) for one, other in zip(weights, after.seen[-1], strict=True))
        for weights in before.seen[:-1]
    ]
    assert sum(same) == 1
    return same.index(True), history


@pytest.mark.parametrize(
    "rate", [NOTHING, lambda: StepDecay(NOTHING, 0.5, 99)], ids=["float", "schedule"]
)
def test_without_a_better_value_or_a_lower_loss_it_is_the_start(rate):
    """Where the first epoch was the best one too."""
    rate = rate() if callable(rate) else rate
    assert gone_back_to(rate, [1.0, 1.1, 1.1])[0] == 0


@pytest.mark.any_keras
def test_a_training_loss_of_half_that_of_the_first_batch_is_worth_keeping():
    """Whatever the values do."""
    index, history = gone_back_to(LEARNS, [1.0, 0.99, 1.1, 1.1])
    x, y = data()
    first = model().evaluate(x[:BATCH_SIZE], y[:BATCH_SIZE], verbose=0)
    assert history["loss"][1] < 0.5 * first < history["loss"][0]
    assert index == 2


@pytest.mark.any_keras
@pytest.mark.parametrize(
    ("values", "mode", "index"),
    [
        ([1.0, 0.94, 1.1, 1.1], "min", 2),
        ([1.0, 0.96, 1.1, 1.1], "min", 0),
        ([-1.0, -1.06, 1.1, 1.1], "min", 2),
        ([-1.0, -1.04, 1.1, 1.1], "min", 0),
        ([0.5, 0.53, 0.1, 0.1], "max", 2),
        ([0.5, 0.52, 0.1, 0.1], "max", 0),
        # From then on the best value is the one to go back to, as ever.
        ([1.0, 0.94, 0.935, 1.1, 1.1], "min", 3),
    ],
)
def test_a_value_five_percent_better_than_the_first_is_worth_keeping(values, mode, index):
    """In the direction of the metric, whatever its sign."""
    assert gone_back_to(NOTHING, values, mode=mode)[0] == index


@pytest.mark.any_keras
@pytest.mark.parametrize("recover", [True, False])
def test_only_with_recover(recover):
    """Without it, the best weights are those of the best value, whatever it is."""
    assert gone_back_to(NOTHING, [1.0, 1.1, 1.1], recover=recover)[0] == (0 if recover else 1)


def test_momentum_begins_from_zero_there_and_the_user_is_told(capsys):
    """The first step from the start is the gradient's alone."""
    network, ours = model(NOTHING), plateau(verbose=1)
    start = network.get_weights()
    fit(network, [ours], epochs=3, values=[1.0, 1.1, 1.1])
    assert "Nothing has been learned: training starts over." in capsys.readouterr().out
    x, y = data()
    network.train_on_batch(x, y)
    other = model()
    other.compile(keras.optimizers.SGD(NOTHING / 2), "mse")
    other.set_weights(start)
    other.train_on_batch(x, y)
    for mine, theirs in zip(network.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.any_keras
def test_a_state_from_which_training_diverges_again_is_left_for_the_best_weights():
    """The last finite epoch may be one that has exploded."""
    network, after = model(LEARNS), Weights()
    values = [1.0, 0.5, 0.6, np.nan, np.nan, 0.6, np.nan]
    fit(network, [plateau(patience=99), after], epochs=len(values), values=values)
    for now, then in ((4, 3), (5, 2), (7, 6)):
        for mine, theirs in zip(after.seen[now], after.seen[then], strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.any_keras
def test_a_loop_of_ones_own_has_no_loss_to_compare():
    """`update` goes back to the best value."""
    network, ours = model(NOTHING), plateau(patience=1)
    ours.attach(network)
    x, y = data()
    network.train_on_batch(x, y)
    best = network.get_weights()
    for value in (1.0, 1.1):
        ours.update(value)
        network.train_on_batch(x, y)
    ours.update(1.1)
    for mine, theirs in zip(network.get_weights(), best, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("steps", [3, 5])
def test_a_run_that_was_killed_goes_back_to_the_same_start(steps, tmp_path):
    """Killed before and after the first observation: the start is in the file."""
    network = model(NOTHING)
    with pytest.raises(KilledError):
        train_with_backup(network, tmp_path, Kill(steps))
    network = model(NOTHING, seed=1)
    train_with_backup(network, tmp_path)
    for mine, start in zip(network.get_weights(), model().get_weights(), strict=True):
        np.testing.assert_array_equal(mine, start)


def train_with_backup(network, folder, *callbacks):
    """Trains epochs that are no better than the first."""
    backup = keras.callbacks.BackupAndRestore(folder / "backup", save_freq=1)
    fit(network, [plateau(), backup, *callbacks], epochs=3, values=[1.0, 1.1, 1.1])


@pytest.mark.any_keras
def test_a_second_fit_knows_the_start_of_the_first():
    """It belongs to the optimizer, like all of the memory."""
    network, start = model(NOTHING), model().get_weights()
    for value in (1.0, 1.1, 1.1):
        fit(network, [plateau()], epochs=1, values=[value])
    for mine, theirs in zip(network.get_weights(), start, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.any_keras
def test_a_first_loss_that_is_not_finite_is_compared_with_nothing():
    """Then the best weights are those of the best value."""
    network, ours = model(NOTHING), plateau(patience=99)
    x, y = data()
    y[0] = np.nan

    class Nan(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["loss"], logs["val_loss"] = 1.0, 1.0

    network.fit(x, y, batch_size=BATCH_SIZE, shuffle=False, verbose=0, callbacks=[Nan(), ours])
    assert attached_to(network.optimizer).state.plateau.start_loss is None


@pytest.mark.parametrize("start", [2.0, -2.0])
@pytest.mark.parametrize("first", [1.0, -1.0, 0.0])
def test_the_rule_is_that_of_the_docstring(start, first):
    """The closed form, on a grid around both limits."""
    for value in (None, *(first - gain * abs(first) for gain in (0.0, 0.049, 0.051))):
        for loss in (None, np.nan, *(start - gain * abs(start) for gain in (-1.0, 0.49, 0.51))):
            state = PlateauState(
                best=first if value is None else value,
                start_loss=start,
                start_value=None if value is None else first,
            )
            learned = (
                loss is None
                or start - loss >= 0.5 * abs(start)
                or (value is not None and first - value > 0.05 * abs(first))
            )
            after = forget_start(state, loss)
            assert (after.start_loss is None) == learned
            assert after.start_value == (None if learned else first)


@pytest.mark.any_keras
def test_without_the_argument_no_weights_that_another_callback_kept_are_gone_back_to():
    """Where training diverges twice in a row: it is the last finite epoch both times."""
    network, after = model(LEARNS), Weights()
    fit(network, [plateau(patience=99)], epochs=2, values=[1.0, 0.5])
    ours = PlateauDecay(factor=0.5, patience=99, mode="min", recover=True)
    fit(network, [ours, after], epochs=3, values=[0.6, np.nan, np.nan])
    for now in (2, 3):
        for mine, theirs in zip(after.seen[now], after.seen[1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
