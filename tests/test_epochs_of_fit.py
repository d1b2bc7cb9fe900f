"""A schedule without `steps_per_epoch` counts the epochs that `fit` counts, whatever changes.

The oracle is the closed form; what a step trained at is measured from the weights.
"""

from __future__ import annotations

import json
import shutil

import keras
import numpy as np
import pytest
from internals import attached_to, schedule_of
from rates import (
    Kill,
    KilledError,
    Rates,
    assert_rates,
    each_callback,
    inverse,
    ones,
    train,
    waiting,
)
from support import BACKEND, Prediction, cases, has_multi_optimizer, measuring, number, weight

from keras_decay import (
    EpochSchedule,
    InEpochs,
    InverseTimeDecay,
    LearningRateLogger,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    ProductSchedule,
    StepDecay,
    plot,
    preview,
    rehearse,
)

TABLE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def table():
    return EpochSchedule(TABLE)


def continuous():
    return InverseTimeDecay(0.5, 1.0)


# What a plateau says of the values that it has missed is tested elsewhere.
missed = pytest.mark.filterwarnings(
    "ignore:Training goes on at epoch",
    "ignore:`PlateauDecay` goes on at epoch . without",
    "ignore:Epoch . is trained a second time",
)


# What a user changes between two calls of `fit`.


@each_callback
def test_a_smoke_test_of_one_batch_is_one_epoch(callback):
    """In the real training run that follows, the first drop comes one epoch earlier."""
    network = measuring(StepDecay(0.1, 0.5, 3))
    train(network, callback(), steps=1, epochs=1)
    trained, logged = train(network, callback(), steps=5, epochs=4)
    assert_rates(trained, [0.1, 0.1, 0.05, 0.05])
    np.testing.assert_allclose(logged, [0.1, 0.1, 0.05, 0.05], rtol=1e-6)


@each_callback
@pytest.mark.parametrize("how", [{"epochs": 2}, {"initial_epoch": 2, "epochs": 4}])
def test_another_batch_size_goes_on_in_the_epoch_where_it_stood(callback, how):
    """Counted from 0 again or not; nothing is wrong, so nothing is said (warnings are errors)."""
    network = measuring(continuous())
    assert_rates(train(network, callback(), steps=4, epochs=2)[0], [inverse(0, 4), inverse(1, 4)])
    for steps in (2, 3):
        network.set_weights([np.zeros((1, 1))])
        epochs = [2, 3] if steps == 2 else [4, 5]
        again = (
            how if steps == 2 or "initial_epoch" not in how else {"initial_epoch": 4, "epochs": 6}
        )
        trained, logged = train(network, callback(), steps=steps, **again)
        assert_rates(trained, [inverse(epoch, steps) for epoch in epochs])
        np.testing.assert_allclose(logged, [inverse(e, steps)[-1] for e in epochs], rtol=1e-5)


def test_files_of_other_sizes_are_an_epoch_each():
    """A loop of `fit(epochs=1)` over them, as people train on data that does not fit in memory."""
    network = measuring(table())
    trained, logged = [], []
    for steps in (3, 1, 4, 1, 2, 3):
        rates, rate = train(network, LearningRateLogger(), steps=steps, epochs=1)
        trained += rates
        logged += rate
    assert_rates(trained, TABLE)
    np.testing.assert_allclose(logged, TABLE, rtol=1e-6)


def test_a_fresh_optimizer_at_a_later_epoch_is_in_that_epoch():
    """`initial_epoch=2`."""
    network = measuring(continuous())
    trained, _ = train(network, waiting(), steps=2, initial_epoch=2, epochs=4)
    assert_rates(trained, [inverse(2, 2), inverse(3, 2)])


def test_two_callbacks_count_an_epoch_once():
    """In both orders."""
    network = measuring(table())
    assert_rates(train(network, LearningRateLogger(), waiting(), steps=2, epochs=2)[0], TABLE[:2])
    assert_rates(train(network, waiting(), LearningRateLogger(), steps=3, epochs=2)[0], TABLE[2:4])
    assert_rates(
        train(network, LearningRateLogger(), LearningRateLogger(), steps=1, epochs=1)[0], TABLE[4:5]
    )


@pytest.mark.any_keras
@pytest.mark.parametrize("steps", [2, 5])
def test_whole_epochs_trained_without_a_callback_count_by_their_steps(steps):
    """Of as many steps as the last epoch that was counted had: two, here."""
    network = measuring(table())
    train(network, LearningRateLogger(), steps=2, epochs=1)
    train(network, steps=steps, epochs=1)
    trained, _ = train(network, LearningRateLogger(), steps=3, epochs=1)
    assert_rates(trained, [TABLE[1 + steps // 2]])


def test_whole_epochs_before_the_schedule_was_set_count_by_their_steps():
    """As many steps as the epochs of the first `fit` that counts have."""
    network = measuring(0.3)
    train(network, steps=2, epochs=2)
    network.optimizer.learning_rate = table()
    assert_rates(train(network, waiting(), steps=2, epochs=2)[0], TABLE[2:4])


@each_callback
def test_a_schedule_that_is_set_between_two_epochs_is_in_the_epoch_of_the_run(callback):
    """Although nothing counted the epochs before."""

    class Sets(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.optimizer.learning_rate = table()

    trained, _ = train(measuring(0.3), Sets(), callback(), steps=2, epochs=4)
    assert_rates(trained, [0.3, 0.3, *TABLE[2:4]])


@each_callback
def test_an_epoch_that_is_stopped_inside_is_over(callback):
    """`stop_training` after two of four steps: the next epoch is the next one."""

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    network = measuring(continuous())
    trained, _ = train(network, callback(), Stop(), steps=4, epochs=3)
    assert_rates(trained, [inverse(0, 4)[:2]])
    network.stop_training = False
    assert_rates(train(network, callback(), steps=4, epochs=2)[0], [inverse(1, 4), inverse(2, 4)])


@pytest.mark.any_keras
@pytest.mark.filterwarnings("ignore:`InverseTimeDecay` counts epochs of 3 steps")
def test_given_numbers_and_other_schedules_stay_on_the_counter():
    """In a product and under a warmup in steps: only what counts the epochs of `fit` moves."""

    def make():
        cosine = keras.optimizers.schedules.CosineDecay(1.0, decay_steps=20)
        given = InverseTimeDecay(1.0, 0.5, steps_per_epoch=3)
        return LinearWarmup(ProductSchedule([cosine, given, table()]), 3, steps_per_epoch=1)

    def rate(step, epoch):
        if step < 3:
            return TABLE[0] * step / 3
        since = step - 3
        given = 1.0 / (1.0 + 0.5 * since / 3)
        return 0.5 * (1 + np.cos(np.pi * since / 20)) * given * TABLE[epoch]

    network, step, expected, trained = measuring(make()), 0, [], []
    for epoch, steps in enumerate((5, 2, 4, 1)):
        trained += train(network, LearningRateLogger(), steps=steps, epochs=1)[0]
        # Under the warmup every clock is three steps behind, that of the epochs too.
        behind = [max(epoch * steps + each - 3, 0) // steps for each in range(steps)]
        expected.append([rate(step + each, behind[each]) for each in range(steps)])
        step += steps
    assert_rates(trained, expected)


@pytest.mark.any_keras
def test_a_warmup_in_steps_does_not_begin_again():
    """Its `steps_per_epoch` is given; the table under it goes on in its epoch."""
    network = measuring(ProductSchedule([LinearWarmup(1.0, 6, steps_per_epoch=1), table()]))
    trained = train(network, waiting(), steps=4, epochs=1)[0]
    trained += train(network, waiting(), steps=2, epochs=3)[0]
    factor = [min(step / 6, 1.0) for step in range(10)]
    parts = [factor[:4], factor[4:6], factor[6:8], factor[8:]]
    assert_rates(
        trained, [np.multiply(rate, part) for rate, part in zip(TABLE, parts, strict=False)]
    )


@pytest.mark.any_keras
@pytest.mark.parametrize("inside", ["alone", "in a product"])
def test_a_warmup_leads_to_where_its_schedule_begins(inside):
    """Also if the schedule is two epochs further on before the warmup has ended."""
    schedule = table() if inside == "alone" else ProductSchedule([table(), 1.0])
    network = measuring(LinearWarmup(schedule, 6, steps_per_epoch=1, start_factor=0.5))
    trained = []
    for steps in (1, 1, 6):
        trained += train(network, LearningRateLogger(), steps=steps, epochs=1)[0]
    # Six steps behind, the third epoch begins where the second one does.
    expected = [[0.05 + 0.05 * step / 6 for step in steps] for steps in ([0], [1], [2, 3, 4, 5])]
    assert_rates(trained, [*expected[:2], [*expected[2], 0.2, 0.2]])


# Whose the number is.


@pytest.mark.any_keras
def test_one_schedule_in_several_optimizers_and_trees_is_never_changed():
    """Each optimizer has epochs of its own; the user's object has the config that it had."""
    schedule = StepDecay(0.1, 0.5, 1)
    tree = ProductSchedule([schedule, schedule, 10.0])
    before = schedule.get_config(), tree.get_config(), repr(tree)
    one, two, three = measuring(schedule), measuring(schedule), measuring(tree)
    assert_rates(train(one, LearningRateLogger(), steps=2, epochs=2)[0], [0.1, 0.05])
    assert_rates(train(two, waiting(), steps=4, epochs=2)[0], [0.1, 0.05])
    assert_rates(train(three, waiting(), steps=3, epochs=2)[0], [0.1, 0.025])
    assert_rates(train(one, waiting(), steps=2, epochs=1)[0], [0.025])
    assert_rates(train(two, LearningRateLogger(), steps=1, epochs=1)[0], [0.025])
    assert (schedule.get_config(), tree.get_config(), repr(tree)) == before
    assert schedule.steps_per_epoch is None
    with pytest.raises(ValueError, match="does not know yet how many steps"):
        schedule(0)


@pytest.mark.any_keras
def test_a_schedule_inside_another_learns_nothing_for_it():
    """One trained alone, then inside a warmup with a number of its own."""
    inner = StepDecay(0.1, 0.5, 1)
    outer = LinearWarmup(inner, 2, steps_per_epoch=3, start_factor=0.5)
    train(measuring(inner), LearningRateLogger(), steps=3, epochs=1)
    with pytest.raises(ValueError, match="does not know yet how many steps"):
        outer(0)
    trained, _ = train(measuring(outer), waiting(), steps=3, epochs=4)
    warmup = [0.05 + 0.05 * step / 6 for step in range(6)]
    assert_rates(trained, [warmup[:3], warmup[3:], 0.1, 0.05])


class Refuses(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        raise KilledError


@each_callback
def test_nothing_of_a_fit_that_was_refused_outlives_it(callback):
    """Neither its number nor an epoch."""
    network, first = measuring(StepDecay(0.1, 0.5, 1)), callback()
    with pytest.raises(KilledError):
        train(network, Refuses(), first, steps=2, epochs=1)
    assert_rates(train(network, callback(), steps=3, epochs=2)[0], [0.1, 0.05])
    network.evaluate(ones(1), ones(1), verbose=0, callbacks=[first])
    assert_rates(train(network, callback(), steps=3, epochs=1)[0], [0.025])


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@each_callback
def test_evaluating_and_predicting_say_nothing_of_epochs(callback):
    """With steps of their own, before and between."""
    network, ours = measuring(continuous()), callback()
    network.evaluate(ones(5), ones(5), batch_size=1, verbose=0, callbacks=[ours])
    network.predict(ones(7), batch_size=1, verbose=0, callbacks=[ours])
    with pytest.raises(ValueError, match="does not know yet how many steps"):
        network.optimizer.learning_rate  # noqa: B018
    validated = {"validation_data": (ones(5), ones(5)), "validation_batch_size": 1}
    assert_rates(train(network, ours, steps=3, epochs=1, **validated)[0], [inverse(0, 3)])
    network.evaluate(((ones(1), ones(1)) for _ in range(2)), verbose=0, callbacks=[ours])
    assert_rates(train(network, ours, steps=2, epochs=1)[0], [inverse(1, 2)])


@has_multi_optimizer
def test_each_optimizer_of_several_is_in_the_same_epoch(tmp_path):
    """A `MultiOptimizer` with a kernel and a bias, each at a rate of its own; also from a file."""

    def make():
        kernel = keras.optimizers.SGD(continuous(), name="kernel")
        bias = keras.optimizers.SGD(table(), name="bias")
        rates = keras.optimizers.OptimizerMap(bias, {".*kernel": kernel})
        layers = [keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")]
        network = keras.Sequential(layers)
        network.compile(keras.optimizers.MultiOptimizer(rates), Prediction())
        return network

    network = make()
    for epoch, steps in enumerate((2, 3, 1, 4)):
        if epoch == 3:
            network.save_weights(tmp_path / "model.weights.h5")
            network = make()
            waiting().attach(network)
            network.load_weights(tmp_path / "model.weights.h5")
        before = network.get_weights()
        history = network.fit(
            ones(steps),
            ones(steps),
            batch_size=1,
            verbose=0,
            callbacks=[Rates(), LearningRateLogger()],
        ).history
        moved = [(a - b).item() for a, b in zip(before, network.get_weights(), strict=True)]
        expected = [sum(inverse(epoch, steps)), steps * TABLE[epoch]]
        np.testing.assert_allclose(moved, expected, rtol=1e-4)
        np.testing.assert_allclose(
            [*history["learning_rate_kernel"], *history["learning_rate_bias"]],
            [inverse(epoch, steps)[-1], TABLE[epoch]],
            rtol=1e-5,
        )


class Twice(keras.Model):
    """A model whose training step applies the gradients twice a batch."""

    def __init__(self):
        super().__init__()
        self.layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")

    def call(self, inputs):
        return self.layer(inputs)

    def train_step(self, *given):
        return {"tensorflow": self._tensorflow, "jax": self._jax, "torch": self._torch}[BACKEND](
            *given
        )

    def _tensorflow(self, data):
        import tensorflow as tf

        for _ in range(2):
            with tf.GradientTape() as tape:
                loss = keras.ops.mean(self(data[0]))
            own = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, own), own)
        return {"loss": loss}

    def _torch(self, data):
        own = self.trainable_variables
        for _ in range(2):
            for variable in own:
                variable.value.grad = None
            loss = keras.ops.mean(self(data[0]))
            loss.backward()
            self.optimizer.apply([variable.value.grad for variable in own], own)
        return {"loss": loss}

    def _jax(self, state, data):
        import jax

        trainable, others, optimizer, metrics = state

        def loss(trainable):
            return keras.ops.mean(self.stateless_call(trainable, others, data[0])[0])

        for _ in range(2):
            trainable, optimizer = self.optimizer.stateless_apply(
                optimizer, jax.grad(loss)(trainable), trainable
            )
        return {"loss": loss(trainable)}, (trainable, others, optimizer, metrics)


@each_callback
def test_a_training_step_of_several_updates_does_not_run_ahead(callback):
    """The epoch is `fit`'s; what is logged is the rate of the batch's last update."""
    network = Twice()
    network(ones(1))
    network.compile(keras.optimizers.SGD(StepDecay(0.1, 0.5, 1)))
    trained, logged = train(network, callback(), steps=5, epochs=3)
    assert_rates(trained, [0.2, 0.1, 0.05])
    np.testing.assert_allclose(logged, [0.1, 0.05, 0.025], rtol=1e-6)
    trained, logged = train(network, callback(), steps=2, epochs=1)
    assert_rates(trained, [0.025])
    np.testing.assert_allclose(logged, [0.0125], rtol=1e-6)


@pytest.mark.any_keras
def test_epochs_of_one_batch_tell_how_many_updates_it_makes():
    """When the first of them has ended."""
    network = Twice()
    network(ones(1))
    network.compile(keras.optimizers.SGD(StepDecay(0.1, 0.5, 1)))
    trained, _ = train(network, LearningRateLogger(), steps=1, epochs=3)
    assert_rates(trained[1:], [0.1, 0.05])


@pytest.mark.any_keras
def test_what_a_plateau_noted_before_the_first_step_outlives_the_count_of_updates():
    """The weights of the start, which it keeps until it has observed something."""
    network = Twice()
    network(ones(1))
    network.compile(keras.optimizers.SGD(StepDecay(0.1, 0.5, 1)))
    callback = PlateauDecay("absent", mode="min", restore_best_weights=True, recover=True)
    with pytest.warns(UserWarning, match="monitors `absent`"):
        train(network, callback, steps=5, epochs=1)
    (kept,) = attached_to(network.optimizer).state.best_weights
    assert kept == 0
    assert network.get_weights()[0] != 0


@pytest.mark.skipif(BACKEND == "jax", reason="there an optimizer of a name of its own is not built")
def test_a_logger_counts_for_every_optimizer_that_the_model_holds():
    """An optimizer in another attribute has a rate as soon as `fit` has begun."""
    network = measuring(0.1)
    network.d_optimizer = keras.optimizers.SGD(StepDecay(0.1, 0.5, 1))
    for _ in range(2):
        train(network, LearningRateLogger(), steps=1, epochs=2)
        # It has taken no step, so it has trained no epoch.
        assert number(network.d_optimizer.learning_rate) == pytest.approx(0.1)


# Files.


@each_callback
def test_weights_loaded_into_a_compiled_step_bring_their_epoch(callback, tmp_path):
    """And the number of the `fit` that follows, in the compiled step and in the logs."""
    one, two = measuring(continuous()), measuring(continuous())
    train(one, callback(), steps=5, epochs=2)
    one.save_weights(tmp_path / "model.weights.h5")
    train(two, callback(), steps=3, epochs=1)
    two.load_weights(tmp_path / "model.weights.h5")
    assert number(two.optimizer.learning_rate) == pytest.approx(inverse(2, 1)[0])
    trained, logged = train(two, callback(), steps=5, epochs=2)
    assert_rates(trained, [inverse(2, 5), inverse(3, 5)])
    np.testing.assert_allclose(logged, [inverse(2, 5)[-1], inverse(3, 5)[-1]], rtol=1e-5)


@pytest.mark.parametrize("steps", [3, 2])
def test_weights_loaded_before_there_is_a_callback_go_on(steps, tmp_path):
    """There is no place for the state yet: the counter tells, or `initial_epoch`."""
    one = measuring(continuous())
    train(one, LearningRateLogger(), steps=3, epochs=2)
    one.save_weights(tmp_path / "model.weights.h5")
    two = measuring(continuous())
    two.optimizer.build(two.trainable_variables)
    two.load_weights(tmp_path / "model.weights.h5")
    how = {"epochs": 1} if steps == 3 else {"initial_epoch": 2, "epochs": 3}
    assert_rates(train(two, LearningRateLogger(), steps=steps, **how)[0], [inverse(2, steps)])


@each_callback
@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_loaded_model_is_where_it_was_saved_before_any_fit(callback, part, tmp_path):
    """Also from a file of the middle of an epoch: `fit` begins that epoch again."""
    path = tmp_path / "model.keras"

    class Save(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.steps = 0

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            if self.steps == 3 + part:  # In the second epoch of this `fit`, the third one of all.
                if hasattr(self.model, "jax_state_sync"):
                    self.model.jax_state_sync()
                self.model.save(path)

    network = measuring(continuous())
    train(network, callback(), steps=2, epochs=1)
    if part == 0:
        network.save(path)
    else:
        train(network, callback(), Save(), steps=3, epochs=2)
    loaded, epoch = keras.models.load_model(path), 2 if part else 1
    now = 0.5 / (1.0 + epoch + part / 3)
    assert number(loaded.optimizer.learning_rate) == pytest.approx(now, rel=1e-5)
    assert_rates(train(loaded, callback(), steps=4, epochs=1)[0], [inverse(epoch, 4)])


@missed
def test_epochs_lost_between_the_last_file_and_the_kill_are_counted(tmp_path):
    """`fit` says so: it goes on two epochs after the last one that the file has seen."""
    network = measuring(continuous())
    for steps in (2, 3):
        train(network, LearningRateLogger(), steps=steps, epochs=2)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    trained, _ = train(loaded, LearningRateLogger(), steps=2, initial_epoch=3, epochs=4)
    assert_rates(trained, [inverse(5, 2)])


@pytest.mark.parametrize("lie", [-3, 2.5, float("nan"), 0], ids=str)
@pytest.mark.parametrize("where", ["weights", "config"])
def test_an_impossible_number_in_a_file_is_an_error_that_names_it(lie, where, tmp_path):
    """`steps_per_epoch`, of which an epoch is made."""
    import h5py

    network = measuring(table())
    train(network, LearningRateLogger(), steps=2, epochs=1)
    must = "`steps_per_epoch` must be an int >= 1"
    if where == "config":
        config = network.optimizer.get_config()
        config["learning_rate"]["config"]["state"]["steps_per_epoch"] = lie
        with pytest.raises((ValueError, TypeError), match=must):
            keras.optimizers.SGD.from_config(config)
        return
    path = tmp_path / "model.weights.h5"
    network.save_weights(path)
    with h5py.File(path, "r+") as file:
        found = []
        file.visit(lambda name: found.append(name) if name.endswith("/steps_per_epoch") else None)
        (name,) = found
        del file[name]
        file[name] = lie
    with pytest.raises((ValueError, TypeError), match=must):
        network.load_weights(path)


# Kills. What a resumed `fit` finds is the backup as it lay there in the moment of the kill, so one
# run with a copy of it after each step stands for a kill at every step.


class Copies(keras.callbacks.Callback):
    """Copies the backup after each step in which it has changed."""

    def __init__(self, backup, folder, first_epoch_only=False):
        super().__init__()
        self.backup, self.folder, self.folders = backup, folder, []
        self.first_epoch_only = first_epoch_only
        self.last = None
        self.epochs = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs += 1

    def on_train_batch_end(self, batch, logs=None):
        weights = self.backup / "latest.weights.h5"
        if not weights.exists() or (self.first_epoch_only and self.epochs > 1):
            return
        now = weights.stat().st_mtime_ns
        if now != self.last:
            self.last = now
            self.folders.append(self.folder / str(len(self.folders)))
            shutil.copytree(self.backup, self.folders[-1])

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_batch_end(0)


def eager(rate):
    """Runs without compiling, because each kill needs a new model and only epochs are tested."""
    network = measuring(rate)
    network.run_eagerly = True
    return network


def epoch_of(folder):
    """The epoch at which `fit` will begin, as Keras has saved it."""
    return json.loads((folder / "training_metadata.json").read_text())["epoch"]


def backed_up(callback, backup, frequency, backup_first, *others, **arguments):
    """A `fit` of a new process, with a backup."""
    callbacks = [callback(), keras.callbacks.BackupAndRestore(backup, save_freq=frequency)]
    callbacks = callbacks[::-1] if backup_first else callbacks
    return train(eager(continuous()), *callbacks, *others, **arguments)


@missed
@cases(
    "callback, frequency, backup_first",
    {
        "plateau each 2": (waiting, 2, False),
        "logger each step": (LearningRateLogger, 1, False),
        "plateau each 3": (waiting, 3, False),
        "logger each 4": (LearningRateLogger, 4, False),
        "plateau each epoch": (waiting, "epoch", False),
        "logger each epoch": (LearningRateLogger, "epoch", False),
        "logger after each 2": (LearningRateLogger, 2, True),
        "plateau after each epoch": (waiting, "epoch", True),
    },
)
def test_an_epoch_that_begins_again_after_a_kill_begins_again(
    callback, frequency, backup_first, tmp_path
):
    """Killed at every step of three epochs of two steps, resumed with epochs of two or three."""
    copies = Copies(tmp_path / "backup", tmp_path)
    backed_up(callback, tmp_path / "backup", frequency, backup_first, copies, steps=2, epochs=3)
    assert copies.folders
    for index, folder in enumerate(copies.folders):
        first, steps = epoch_of(folder), 2 + (index + (frequency == "epoch")) % 2
        if first == 3:
            continue
        trained, logged = backed_up(
            callback, folder, frequency, backup_first, steps=steps, epochs=3
        )
        right = [inverse(epoch, steps) for epoch in range(first, 3)]
        assert_rates(trained, right, f"resumed from copy {index} at epoch {first}")
        np.testing.assert_allclose(logged, [each[-1] for each in right], rtol=1e-5)


@pytest.mark.any_keras
@missed
@pytest.mark.parametrize("frequency", [1, 3])
def test_a_resumed_fit_that_is_killed_in_its_first_epoch_resumes_again(frequency, tmp_path):
    """It resumes at the epoch that Keras names, although its own count of epochs is fresh."""
    first = Copies(tmp_path / "backup", tmp_path / "first")
    backed_up(waiting, tmp_path / "backup", frequency, False, first, steps=3, epochs=3)
    for folder in first.folders[1::4]:
        second = Copies(folder, tmp_path / f"second {folder.name}", first_epoch_only=True)
        began = epoch_of(folder)
        backed_up(waiting, folder, frequency, False, second, steps=3, epochs=3)
        for again in second.folders:
            trained, _ = backed_up(
                waiting, again, frequency, False, steps=2, epochs=(epoch := epoch_of(again)) + 1
            )
            what = f"began at {began}, killed, began at {epoch}"
            assert_rates(trained, [inverse(epoch, 2)], what)


@pytest.mark.any_keras
def test_a_second_fit_that_is_killed_goes_on_from_all_epochs_before(tmp_path):
    """`fit` counts from 0 again: the epoch that begins again is the first one after two others."""
    network = eager(continuous())
    train(network, LearningRateLogger(), steps=2, epochs=2)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=1)
    copies = Copies(tmp_path / "backup", tmp_path)
    train(network, LearningRateLogger(), backup, copies, steps=3, epochs=2)
    for folder in copies.folders:
        epoch = epoch_of(folder)
        trained, _ = backed_up(LearningRateLogger, folder, 1, False, steps=2, epochs=2)
        expected = [inverse(2 + each, 2) for each in range(epoch, 2)]
        assert_rates(trained, expected, f"{folder.name} {epoch}")


def test_a_kill_in_a_compiled_run(tmp_path):
    """The next process is told another batch size."""

    def run(*more, steps):
        backup = keras.callbacks.BackupAndRestore(tmp_path, save_freq=3)
        return train(measuring(continuous()), waiting(), backup, *more, steps=steps, epochs=4)

    with pytest.raises(KilledError):
        run(Kill(9), steps=5)
    trained, logged = run(steps=4)
    assert_rates(trained, [inverse(1, 4), inverse(2, 4), inverse(3, 4)])
    np.testing.assert_allclose(logged, [inverse(e, 4)[-1] for e in (1, 2, 3)], rtol=1e-5)


# Data of unknown length.

FIXES = r"The learning-rate schedule counts the epochs of `fit`, but `fit` does not know.*"
FIXES += r"`steps_per_epoch=` to `fit` or to the schedule.*assert_cardinality"


@each_callback
def test_a_fit_of_unknown_length_is_an_error_before_the_first_step(callback):
    """It names the fixes; the same model trains with one of them."""
    network = measuring(continuous())

    def batches(count):
        for _ in range(count):
            yield ones(1), ones(1)

    with pytest.raises(ValueError, match=FIXES):
        network.fit(batches(3), shuffle=False, verbose=0, callbacks=[callback()])
    assert weight(network) == 0.0
    rates = Rates()
    network.fit(
        batches(9),
        steps_per_epoch=3,
        epochs=2,
        shuffle=False,
        verbose=0,
        callbacks=[rates, callback()],
    )
    assert_rates(rates.trained, [inverse(0, 3), inverse(1, 3)])


@pytest.mark.any_keras
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.skipif(BACKEND != "tensorflow", reason="`tf.data` comes with TensorFlow")
def test_the_extra_step_of_a_dataset_of_unknown_size_does_not_add_up():
    """After a `fit` that knew the number; with a float rate there is no warning."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((ones(3), ones(3))).filter(lambda x, y: True).batch(1)
    network, rates = measuring(continuous()), Rates()
    train(network, LearningRateLogger(), steps=3, epochs=1)
    network.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[rates, LearningRateLogger()])
    assert_rates(rates.trained, [inverse(epoch, 3) for epoch in (1, 2, 3)])
    plateau = waiting(monitor="loss")
    measuring(0.1).fit(data, epochs=2, shuffle=False, verbose=0, callbacks=[plateau])


# The tools, from where an optimizer stands.


@pytest.mark.any_keras
def test_preview_goes_on_from_where_a_model_stands():
    """With its epochs, whatever its counter says."""
    network = measuring(continuous())
    train(network, LearningRateLogger(), steps=5, epochs=1)
    train(network, LearningRateLogger(), steps=2, epochs=2)
    for what in (network, network.optimizer):
        epoch, rate = preview(what, 2)
        np.testing.assert_allclose(epoch, [3.0, 3.5, 4.0, 4.5])
        np.testing.assert_allclose(rate, [*inverse(3, 2), *inverse(4, 2)], rtol=1e-6)
        epoch, rate = preview(what, 1, steps_per_epoch=4)
        np.testing.assert_allclose(epoch, [3.0, 3.25, 3.5, 3.75])
        np.testing.assert_allclose(rate, inverse(3, 4), rtol=1e-6)
    assert_rates(train(network, LearningRateLogger(), steps=4, epochs=1)[0], [inverse(3, 4)])


@pytest.mark.any_keras
def test_preview_plot_and_rehearse_take_the_scale_of_a_model():
    """A rehearsal takes its state too: the next value that is not better reduces again."""
    network, plateau = measuring(continuous()), waiting(patience=2)
    train(network, plateau, steps=2, epochs=4)
    assert plateau.state["scale"] == 0.5
    assert plateau.state["wait"] == 1
    epoch, rate = preview(network, 1)
    np.testing.assert_allclose(epoch, [4.0, 4.5])
    np.testing.assert_allclose(rate, np.multiply(0.5, inverse(4, 2)), rtol=1e-6)
    (line,) = plot(network, 1).axes[0].lines
    np.testing.assert_allclose(line.get_xdata()[:2], epoch)
    np.testing.assert_allclose(line.get_ydata()[:2], rate, rtol=1e-6)
    rehearsal = rehearse(waiting(patience=2), [1.0, 1.0], network)
    assert rehearsal.epoch.tolist() == [4, 5]
    assert rehearsal.scale.tolist() == [0.5, 0.25]
    expected = [0.5 * inverse(4, 2)[-1], 0.25 * inverse(5, 2)[-1]]
    np.testing.assert_allclose(rehearsal.learning_rate, expected, rtol=1e-6)
    assert plateau.state["scale"] == 0.5
    assert not isinstance(schedule_of(measuring(table()).optimizer), PlateauScale)


@pytest.mark.any_keras
def test_epochs_of_keras_schedules_are_those_of_fit_too():
    """`InEpochs` over a cosine, with other batch sizes."""
    network = measuring(InEpochs(keras.optimizers.schedules.CosineDecay(0.5, decay_steps=4)))
    trained = train(network, LearningRateLogger(), steps=4, epochs=1)[0]
    trained += train(network, waiting(), steps=2, epochs=3)[0]
    expected = [
        [0.25 * (1 + np.cos(np.pi * (epoch + step / steps) / 4)) for step in range(steps)]
        for epoch, steps in enumerate((4, 2, 2, 2))
    ]
    assert_rates(trained, expected)
