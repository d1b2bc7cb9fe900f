"""`recover=True`: back to the last finite epoch, beside copies that the tests take themselves."""

from __future__ import annotations

import contextlib
import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from support import (
    BATCH_SIZE,
    STEPS_PER_EPOCH,
    Around,
    Metric,
    cases,
    data,
    fit,
    measuring,
    model,
    number,
    weight,
)

from keras_decay import EpochSchedule, LearningRateLogger, PlateauDecay, PlateauScale, StepDecay

NAN = math.nan
GO_ON = ("iteration", "learning_rate", "plateau_scale")
"""The variables of an optimizer that never go back."""


def step_decay():
    return StepDecay(0.1, 0.5, 2, steps_per_epoch=STEPS_PER_EPOCH)


def multi():
    one, two = keras.optimizers.SGD(0.1, 0.9, name="one"), keras.optimizers.Adam(0.1, name="two")
    optimizers = keras.optimizers.OptimizerMap(two, {".*kernel": one})
    return keras.optimizers.MultiOptimizer(optimizers)


OPTIMIZERS = {
    "float": lambda: keras.optimizers.SGD(0.1, 0.9),
    "schedule": lambda: keras.optimizers.SGD(step_decay(), 0.9),
    "constant": lambda: keras.optimizers.SGD(PlateauScale(0.1), 0.9),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "average": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5),
    "accumulation": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=3),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(step_decay(), 0.9), initial_scale=2.0, dynamic_growth_steps=3
    ),
}
if hasattr(keras.optimizers, "MultiOptimizer"):
    OPTIMIZERS["multi"] = multi


def optimizers(*names):
    """Those of them that this Keras has; the oldest versions take the first two."""
    return cases(
        "optimizer", {name: OPTIMIZERS[name] for name in names if name in OPTIMIZERS}, oldest=2
    )


def network(optimizer, seed=0):
    """With everything that training changes: weights, averages, seeds, slots."""
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((3,)),
        keras.layers.Dense(4),
        keras.layers.BatchNormalization(),
        # With a seed, since on torch it else draws from what is no variable.
        keras.layers.Dropout(0.5, seed=1),
        keras.layers.Dense(1),
    ]
    one = keras.Sequential(layers)
    one.compile(optimizer, "mse")
    one.optimizer.build(one.trainable_variables)
    return one


def state(one):
    """Copies of all that is to come back."""
    variables = [*one.variables, *one.optimizer.variables]
    return [
        np.array(keras.ops.convert_to_numpy(each)) for each in variables if each.name not in GO_ON
    ]


def assert_state(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, b)


class Copies(keras.callbacks.Callback):
    """Copies of the state at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.states = []

    def on_epoch_end(self, epoch, logs=None):
        self.states.append(state(self.model))


def recovered(one, values, *, monitor="val_loss", epochs=None, callbacks=(), **arguments):
    """Trains on given values of a metric, or on its own loss.

    Returns the states before and after the plateau at the end of each epoch, the history and the
    plateau.
    """
    before, after = Copies(), Copies()
    arguments = {"factor": 0.5, "patience": 99, "recover": True, **arguments}
    plateau = PlateauDecay(monitor, **arguments)
    callbacks = [before, plateau, after, *callbacks]
    history = fit(one, callbacks, epochs=epochs or len(values), values=values)
    return before.states, after.states, history, plateau


def steps(one):
    leaf = getattr(one.optimizer, "inner_optimizer", one.optimizer)
    leaf = getattr(leaf, "optimizers", [leaf])[0]
    return int(number(leaf._iterations if hasattr(leaf, "_iterations") else leaf.iterations))


def user_warnings(caught):
    return [str(each.message) for each in caught if each.category is UserWarning]


@optimizers("float", "loss scale", "adam", "average", "accumulation", "multi")
def test_everything_but_the_clock_and_the_rate_comes_back(optimizer):
    """Weights, averages, seeds and every slot are those of the end of the epoch before."""
    one = network(optimizer())
    fit(one, epochs=3)
    trained = steps(one)  # One that scales the loss leaves out steps.
    one = network(optimizer())
    before, after, _, plateau = recovered(one, [1.0, 1.0, NAN])
    assert_state(after[2], before[1])
    changed = [not np.array_equal(a, b) for a, b in zip(before[2], before[1], strict=True)]
    assert sum(changed) > len(changed) / 2
    # Gradients that are accumulated belong to as many steps since the last update.
    accumulated = getattr(one.optimizer, "gradient_accumulation_steps", None) or 1
    ahead = (2 * STEPS_PER_EPOCH - trained) % accumulated
    assert steps(one) == trained + ahead > 2 * STEPS_PER_EPOCH
    assert plateau.state["reductions"] == 1
    assert plateau.state["scale"] == 0.5


@optimizers("float", "schedule", "constant", "multi")
def test_the_rate_is_reduced_at_once_and_never_goes_back(optimizer):
    """A second recovery reduces again, whatever patience and cooldown say."""
    values = [1.0, NAN, NAN, 1.0]
    _, _, history, plateau = recovered(network(optimizer()), values, cooldown=5)
    own = fit(network(optimizer()), [LearningRateLogger()], epochs=len(values))
    for name in own.keys() - {"loss"}:
        expected = own[name] * np.array([1.0, 1.0, 0.5, 0.25])
        np.testing.assert_allclose(history[name], expected, rtol=1e-6)
    assert plateau.state == {
        "best": 1.0,
        "wait": 0,
        "cooldown": 4,
        "scale": 0.25,
        "reductions": 2,
    }


@pytest.mark.parametrize("epoch", [pytest.param(0, marks=pytest.mark.any_keras), 1, 2])
def test_what_has_been_accumulated_goes_on_and_the_epochs_with_it(epoch):
    """Each update after a recovery is the size of its rate, which is that of its epoch."""

    class Updates(keras.callbacks.Callback):
        """The updates of the weight in each epoch, for the steps that make one."""

        def __init__(self):
            super().__init__()
            self.sizes = []

        def on_epoch_begin(self, epoch, logs=None):
            self.sizes.append([])
            self.before = weight(self.model)

        def on_train_batch_end(self, batch, logs=None):
            moved, self.before = self.before - weight(self.model), weight(self.model)
            if abs(moved) > 1e-7:
                self.sizes[-1].append(moved)

    table, x, updates = [0.1, 0.2, 0.3, 0.4, 0.5], np.ones((6, 1), "float32"), Updates()
    sgd = keras.optimizers.SGD(EpochSchedule(table), gradient_accumulation_steps=4)
    one = measuring(optimizer=sgd)
    one.optimizer.build(one.trainable_variables)
    values = Metric([NAN if each == epoch else 1.0 for each in range(5)])
    plateau = PlateauDecay(factor=0.5, patience=99, recover=True)
    expected = np.array(table) * np.where(np.arange(5) > epoch, 0.5, 1.0)
    started = "start of training" if epoch == 0 else None
    with pytest.warns(UserWarning, match=started) if started else contextlib.nullcontext():
        history = one.fit(
            x, x, batch_size=1, epochs=5, verbose=0, callbacks=[updates, values, plateau]
        ).history
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-6)
    for sizes, rate in zip(updates.sizes, expected, strict=True):
        assert sizes == pytest.approx([rate] * len(sizes), rel=1e-4)
        assert len(sizes) in (1, 2)


@pytest.mark.any_keras
def test_training_goes_on_as_from_the_copy():
    """The epoch after a recovery is that of a model which was given the copy and the rate."""
    one = network(OPTIMIZERS["float"]())
    before, _, _, _ = recovered(one, [1.0, 1.0, NAN, 1.0])
    other = network(OPTIMIZERS["float"]())
    variables = [
        each for each in [*other.variables, *other.optimizer.variables] if each.name not in GO_ON
    ]
    for variable, value in zip(variables, before[1], strict=True):
        variable.assign(value)
    other.optimizer.learning_rate = 0.05
    fit(other, epochs=1)
    for a, b in zip(state(other), before[3], strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.any_keras
@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_infinity_is_not_finite_either(bad):
    """In either direction, whichever is the better one."""
    before, after, _, _ = recovered(network(OPTIMIZERS["float"]()), [1.0, bad])
    assert_state(after[1], before[0])


@pytest.mark.any_keras
def test_without_it_nothing_goes_back():
    """NaN counts as a value that is not better."""
    one = network(OPTIMIZERS["float"]())
    before, after, _, plateau = recovered(one, [1.0, NAN], recover=False)
    assert_state(after[1], before[1])
    assert plateau.state["reductions"] == 0
    assert plateau.state["wait"] == 1


@pytest.mark.any_keras
@pytest.mark.parametrize("metric", [1.0, None], ids=["with the metric", "without"])
def test_a_training_loss_that_is_not_finite_recovers_too(metric):
    """Also in an epoch without the metric (`validation_freq=2`)."""
    one = network(OPTIMIZERS["float"]())
    losses = Metric([1.0, 1.0, NAN, 1.0], "loss")
    before, after = Copies(), Copies()
    plateau = PlateauDecay(factor=0.5, patience=99, recover=True)
    values = [1.0, None, metric, None]
    history = fit(one, [losses, before, plateau, after], epochs=4, values=values)
    assert_state(after.states[2], before.states[1])
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.1, 0.05], rtol=1e-6)
    assert plateau.state["best"] == 1.0


@pytest.mark.any_keras
def test_a_finite_epoch_without_the_metric_is_one_to_go_back_to():
    """It goes back to the end of that epoch, not to the start of training, without a warning."""
    one = network(OPTIMIZERS["float"]())
    before, after, _, _ = recovered(one, [None, NAN])
    assert_state(after[1], before[0])


def test_where_no_epoch_is_finite_it_goes_back_to_the_start_and_says_so_once():
    """With the slots as they were too, and the rate lower each time."""
    one = network(OPTIMIZERS["float"]())
    start = state(one)
    with pytest.warns(UserWarning, match="weights of the start of training, since no") as caught:
        _, after, history, _ = recovered(one, [NAN] * 3, callbacks=[LearningRateLogger()])
    assert len(user_warnings(caught)) == 1
    for each in after:
        assert_state(each, start)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.05, 0.025], rtol=1e-6)


@pytest.mark.any_keras
@pytest.mark.parametrize(
    ("limit", "stop"), [({"min_learning_rate": 0.1}, False), ({"max_reductions": 0}, True)]
)
def test_where_nothing_is_left_to_reduce_it_says_so_once(limit, stop):
    """The state comes back all the same; `stop_at_minimum` stops."""
    one = network(OPTIMIZERS["float"]())
    with pytest.warns(UserWarning, match=r"same will happen again.*stop_at_minimum") as caught:
        before, after, history, _ = recovered(
            one, [1.0, NAN, NAN, 1.0], stop_at_minimum=stop, **limit
        )
    assert len(user_warnings(caught)) == 1
    assert_state(after[1], before[0])
    assert len(history["learning_rate"]) == (2 if stop else 4)
    assert set(history["learning_rate"]) == {float(np.float32(0.1))}


@pytest.mark.any_keras
def test_before_the_start_it_recovers_without_observing():
    """`start_from_epoch` is about what counts, not about what is finite."""
    one = network(OPTIMIZERS["float"]())
    before, after, _, plateau = recovered(one, [1.0, NAN, 2.0], start_from_epoch=2)
    assert_state(after[1], before[0])
    assert plateau.state["best"] == 2.0
    assert plateau.state["reductions"] == 1


class Spoil(keras.callbacks.Callback):
    """Spoils a weight at the end of an epoch whose loss was finite, as its last step may."""

    def __init__(self, epoch, variable):
        super().__init__()
        self.epoch = epoch
        self.variable = variable

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.variable.assign(self.variable * NAN)


@pytest.mark.any_keras
@pytest.mark.parametrize("slot", [False, True], ids=["weight", "slot"])
def test_what_the_last_step_of_a_finite_epoch_has_spoilt_is_not_gone_back_to(slot):
    """The loss of an epoch is that before its last step."""
    one = network(OPTIMIZERS["float"]())
    variable = (one.optimizer.variables if slot else one.trainable_variables)[-1]
    spoil = Spoil(1, variable)
    before, after, history, plateau = recovered(
        one, None, epochs=4, callbacks=[spoil], monitor="loss"
    )
    assert math.isnan(history["loss"][2])
    assert_state(after[2], before[0])
    assert math.isfinite(history["loss"][3])
    assert plateau.state["reductions"] == 1


@pytest.mark.any_keras
def test_an_infinite_mask_is_no_divergence():
    """Variables that are not learnt may be infinite."""
    one = network(OPTIMIZERS["float"]())
    averages = one.layers[1].non_trainable_variables[0]
    averages.assign(averages - math.inf)
    before, after, _, _ = recovered(one, [1.0, NAN])
    assert_state(after[1], before[0])


def test_where_nothing_could_be_kept_it_says_so_once():
    """A model without weights when training begins."""
    plateau = PlateauDecay(factor=0.5, recover=True)
    plateau.attach(SimpleNamespace(optimizer=keras.optimizers.SGD(0.1)))
    with pytest.warns(UserWarning, match="nothing to go back to.*optimizer.build") as caught:
        reduced = [plateau.update(NAN) for _ in range(2)]
    assert reduced == [True, True]
    assert len(user_warnings(caught)) == 1


def test_a_restarted_run_recovers_to_what_the_backup_holds(tmp_path):
    """Not to the weights that the new process began with."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    one = network(OPTIMIZERS["schedule"]())
    with pytest.raises(KeyboardInterrupt):
        recovered(one, [1.0, 1.0, NAN], callbacks=[backup, Stop()])
    expected = state(one)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    another = network(OPTIMIZERS["schedule"](), seed=1)
    with pytest.warns(UserWarning, match="start of training"):
        _, after, history, plateau = recovered(another, [1.0, 1.0, NAN, 1.0], callbacks=[backup])
    for a, b in zip(after[0], expected, strict=True):
        if a.dtype == "float32":  # The new process has other seeds, which a backup holds not.
            np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(history["learning_rate"], [0.05, 0.025], rtol=1e-6)
    assert plateau.state["best"] == 1.0


def epoch_by_hand(one):
    x, y = data()
    for start in range(0, len(x), BATCH_SIZE):
        one.train_on_batch(x[start : start + BATCH_SIZE], y[start : start + BATCH_SIZE])
    one.reset_metrics()


@optimizers("float", "accumulation", "loss scale")
def test_a_loop_of_ones_own_goes_back_too(optimizer):
    """To the start, where the first value is not finite; to the last finite update later."""
    one = network(optimizer())
    plateau = PlateauDecay(factor=0.5, patience=99, recover=True)
    plateau.attach(one)
    start = state(one)
    epoch_by_hand(one)
    with pytest.warns(UserWarning, match="start of training"):
        assert plateau.update(NAN, 0)
    assert_state(state(one), start)
    epoch_by_hand(one)
    assert not plateau.update(1.0, 1)
    finite = state(one)
    epoch_by_hand(one)
    assert plateau.update(math.inf, 2)
    assert_state(state(one), finite)
    assert steps(one) > 2 * STEPS_PER_EPOCH
    assert plateau.state["reductions"] == 2


@pytest.mark.any_keras
def test_a_callback_for_another_model_has_nothing_of_the_first():
    """Each model goes back to its own weights."""
    first, second = (network(OPTIMIZERS["float"](), seed) for seed in (0, 1))
    plateau = PlateauDecay(factor=0.5, recover=True)
    plateau.attach(first)
    plateau.update(1.0)
    plateau.attach(second)
    expected, other = state(second), state(first)
    epoch_by_hand(first)
    epoch_by_hand(second)
    trained = state(first)
    with pytest.warns(UserWarning, match="start of training"):
        plateau.update(NAN)
    assert_state(state(second), expected)
    assert_state(state(first), trained)
    assert not np.array_equal(trained[0], other[0])


@pytest.mark.any_keras
def test_a_second_fit_goes_back_to_where_it_began():
    """Not to an epoch of the first one."""
    one = network(OPTIMIZERS["float"]())
    plateau = PlateauDecay(factor=0.5, recover=True)
    fit(one, [plateau], epochs=2, values=[1.0, 1.0])
    one.set_weights([weights * 2 for weights in one.get_weights()])
    began, after = state(one), Copies()
    with pytest.warns(UserWarning, match="start of training"):
        fit(one, [plateau, after], epochs=1, values=[NAN])
    assert_state(after.states[0], began)


@pytest.mark.any_keras
def test_recovery_goes_before_the_best_weights():
    """The state to go back to is whole; the best weights have no slots."""
    one = network(OPTIMIZERS["float"]())
    before, after, _, _ = recovered(one, [1.0, 2.0, NAN], restore_best_weights=True)
    assert_state(after[2], before[1])


@pytest.fixture(scope="module")
def digits():
    """Training and test data, whose targets are vectors."""
    bunch = load_digits()
    images, targets = (bunch.data / 16).astype("float32"), np.eye(10, dtype="float32")
    return train_test_split(images, targets[bunch.target], test_size=0.25, random_state=0)


def learn(digits, rate, **arguments):
    """Trains at a rate that is far too high; returns the history."""
    x, x_test, y, y_test = digits
    keras.utils.set_random_seed(0)
    one = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
    one.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", metrics=["accuracy"])
    plateau = PlateauDecay(factor=0.01, patience=99, **arguments)
    return one.fit(
        x,
        y,
        batch_size=32,
        epochs=12,
        validation_data=(x_test, y_test),
        callbacks=[plateau],
        verbose=0,
    ).history


@pytest.mark.any_keras
def test_a_real_divergence_ends_well(digits):
    """The same run without `recover` ends in NaN."""
    rate = EpochSchedule([0.1] * 4 + [10.0])
    assert math.isnan(learn(digits, rate)["loss"][-1])
    history = learn(digits, rate, recover=True)
    assert math.isfinite(history["loss"][-1])
    assert math.isfinite(history["val_loss"][-1])
    assert history["val_accuracy"][-1] > 0.9


class Showing(Around):
    """An optimizer that has its float rate among its variables."""

    @property
    def variables(self):
        return [*super().variables, *self.inner.variables]


def test_the_reduction_outlives_the_state_that_is_put_back():
    """Although the rate of that state is put back first."""
    network = model(optimizer=Showing(keras.optimizers.SGD(0.1)))
    plateau = PlateauDecay(factor=0.5, mode="min", recover=True)
    plateau.attach(network)
    plateau.update(1.0)
    assert plateau.update(NAN)
    assert number(network.optimizer.learning_rate) == pytest.approx(0.05)
