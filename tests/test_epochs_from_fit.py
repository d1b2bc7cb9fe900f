"""Schedules that nobody tells how many steps an epoch has: they learn it from `fit`."""

from __future__ import annotations

import copy
import functools
import pickle

import keras
import numpy as np
import pytest
from support import (
    BACKEND,
    BATCH_SIZE,
    STEPS_PER_EPOCH,
    data,
    fit,
    has_multi_optimizer,
    model,
    number,
    two_optimizers,
)

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
from keras_decay._formula import untaught
from keras_decay._keras import inner_optimizers
from keras_decay._rates import schedule_of

EPOCHS = 4
LAST_STEPS = np.arange(1, EPOCHS + 1) * STEPS_PER_EPOCH - 1
TOLD = {"steps_per_epoch": STEPS_PER_EPOCH}

teachers = pytest.mark.parametrize(
    "teacher", [lambda: PlateauDecay("loss"), LearningRateLogger], ids=["plateau", "logger"]
)


def decay(**steps):
    return StepDecay(0.1, 0.5, 2, **steps)


MAKERS = {
    "step": decay,
    "milestones": lambda **steps: StepDecay(0.1, 0.5, [1, 3], **steps),
    "inverse": lambda **steps: InverseTimeDecay(0.1, 1.0, **steps),
    "table": lambda **steps: EpochSchedule([0.1, 0.02, 0.05], **steps),
    "warmup": lambda **steps: LinearWarmup(decay(**steps), 1.5, **steps),
    "joined": lambda **steps: JoinedSchedule(
        [0.2, decay(**steps), EpochSchedule([0.1, 0.02], **steps)], [0.75, 2], **steps
    ),
    "product": lambda **steps: ProductSchedule([LinearWarmup(1.0, 2, **steps), decay(**steps)]),
    "scale": lambda **steps: PlateauScale(decay(**steps)),
    "all": lambda **steps: LinearWarmup(
        JoinedSchedule([ProductSchedule([decay(**steps), 0.5]), 0.01], [2], **steps), 0.5, **steps
    ),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def rates_and_weights(rate, callbacks, **arguments):
    network = model(rate)
    history = fit(network, callbacks, epochs=EPOCHS, **arguments)
    return history.get("learning_rate"), network.get_weights()


@functools.cache
def weights_of_told(make):
    return rates_and_weights(make(**TOLD), [])[1]


def expected_rates(schedule):
    return [number(schedule(int(step))) for step in LAST_STEPS]


@teachers
@makers
def test_an_untaught_schedule_trains_as_one_that_was_told(make, teacher):
    """The very rates and weights of a run with `steps_per_epoch=` and no callback of ours."""
    rates, weights = rates_and_weights(make(), [teacher()])
    assert rates == expected_rates(make(**TOLD))
    for own, other in zip(weights, weights_of_told(make), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6, atol=1e-7)


@teachers
@makers
def test_what_it_learned_is_its_own_from_then_on(make, teacher, tmp_path):
    """In its config, in a model file, in a clone, and in copies."""
    network = model(make())
    fit(network, [teacher()], epochs=1)
    schedule = schedule_of(network.optimizer)
    if isinstance(schedule, PlateauScale):
        schedule = schedule.schedule
    told = make(**TOLD)
    told = told.schedule if isinstance(told, PlateauScale) else told
    assert schedule.get_config() == told.get_config()
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    cloned = type(network.optimizer).from_config(network.optimizer.get_config())
    for again in (
        schedule_of(loaded),
        schedule_of(cloned),
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
    ):
        again = again.schedule if isinstance(again, PlateauScale) else again
        assert again.get_config() == told.get_config()
        assert number(again(7)) == number(told(7))


@makers
def test_nothing_but_a_rate_needs_the_number(make, tmp_path):
    """`compile`, `repr`, a config, copies and files before `fit`; what is loaded learns too."""
    network = model(make())
    before = schedule_of(network.optimizer)
    assert "steps_per_epoch=None" in repr(before)
    for again in (copy.deepcopy(before), pickle.loads(pickle.dumps(before))):
        assert again.get_config() == before.get_config()
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert schedule_of(loaded.optimizer).get_config() == before.get_config() == make().get_config()
    history = fit(loaded, [LearningRateLogger()], epochs=EPOCHS)
    assert history["learning_rate"] == expected_rates(make(**TOLD))
    # Each its own: what one learns, the other does not know.
    assert untaught(before)


def test_each_of_several_learns_for_itself():
    """One that was told keeps its number: a warmup of six steps over a decay by the epoch."""
    schedule = LinearWarmup(decay(), 6, steps_per_epoch=1)
    fit(model(schedule), [LearningRateLogger()], epochs=1)
    assert (schedule.steps_per_epoch, schedule.schedule.steps_per_epoch) == (1, STEPS_PER_EPOCH)
    assert number(schedule(3)) == pytest.approx(0.05)
    assert number(schedule(6 + 2 * STEPS_PER_EPOCH)) == pytest.approx(0.05)


@teachers
def test_a_second_fit_goes_on_with_what_was_learned(teacher):
    """The clock and the number stay."""
    network = model(decay())
    first = fit(network, [teacher()], epochs=1)["learning_rate"]
    rest = fit(network, [teacher()], epochs=EPOCHS, initial_epoch=1)["learning_rate"]
    assert first + rest == expected_rates(decay(**TOLD))


@teachers
def test_another_batch_size_in_a_second_fit_is_warned_of_not_learned(teacher):
    """The warning names both numbers."""
    network = model(schedule := decay())
    fit(network, [teacher()], epochs=1)
    x, y = data()
    with pytest.warns(UserWarning, match=r"epochs of 4 steps, but an epoch of this run has 8"):
        network.fit(x, y, batch_size=BATCH_SIZE // 2, epochs=1, verbose=0, callbacks=[teacher()])
    assert schedule.steps_per_epoch == STEPS_PER_EPOCH


@teachers
@pytest.mark.parametrize(
    "schedule",
    [StepDecay(0.1, 0.5, 9, steps_per_epoch=1), LinearWarmup(0.1, 9, steps_per_epoch=1)],
    ids=["step", "warmup"],
)
def test_counting_in_steps_is_never_warned_of(teacher, schedule):
    """`steps_per_epoch=1`; warnings are errors here."""
    history = fit(model(schedule), [teacher()], epochs=EPOCHS)
    assert history["learning_rate"] == expected_rates(schedule)


def test_weights_go_into_an_untaught_model_that_a_plateau_is_attached_to(tmp_path):
    """The clock comes from the file, the number from the `fit` that follows."""
    network = model(decay())
    fit(network, [PlateauDecay("loss")], epochs=2)
    network.save_weights(tmp_path / "model.weights.h5")
    again, plateau = model(decay(), seed=1), PlateauDecay("loss")
    plateau.attach(again)
    again.load_weights(tmp_path / "model.weights.h5")
    rates = fit(again, [plateau], epochs=EPOCHS, initial_epoch=2)["learning_rate"]
    assert rates == expected_rates(decay(**TOLD))[2:]


class Crash(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise RuntimeError("crash")


@teachers
def test_a_resumed_run_is_the_uninterrupted_one(teacher, tmp_path):
    """`BackupAndRestore`, in a process that starts with an untaught schedule again."""

    def run(seed, *others):
        network = model(decay(), seed=seed)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        history = fit(network, [teacher(), backup, *others], epochs=EPOCHS)
        return history["learning_rate"], network.get_weights()

    with pytest.raises(RuntimeError, match="crash"):
        run(0, Crash())
    rates, weights = run(1)
    assert rates == expected_rates(decay(**TOLD))[2:]
    for own, other in zip(weights, rates_and_weights(decay(**TOLD), [])[1], strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-7)


def taught_by(*arguments, optimizer=None, compile_arguments=None, **keywords):
    """What the schedule of a new model learns from a `fit` with these arguments."""
    schedule = decay()
    optimizer = optimizer(schedule) if optimizer else keras.optimizers.SGD(schedule)
    network = model(optimizer=optimizer, **(compile_arguments or {}))
    keywords = {"verbose": 0, "shuffle": False, "callbacks": [LearningRateLogger()], **keywords}
    network.fit(*arguments, **keywords)
    return schedule.steps_per_epoch


@pytest.mark.parametrize("resume", ["weights", "backup"])
def test_a_resumed_run_with_another_batch_size_keeps_the_clock_and_warns(resume, tmp_path):
    """What was learned is in the file, though the new `fit` says another number."""
    first, callback = model(decay()), PlateauDecay("loss")
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    fit(first, [callback, backup], epochs=2)
    first.save_weights(tmp_path / "model.weights.h5")
    second, callback = model(decay(), seed=1), PlateauDecay("loss")
    callbacks, arguments = [callback, backup], {}
    if resume == "weights":
        callback.attach(second)
        second.load_weights(tmp_path / "model.weights.h5")
        callbacks, arguments = [callback], {"initial_epoch": 2}
    with pytest.warns(UserWarning, match="counts epochs of 4 steps, but an epoch of this run has"):
        history = second.fit(
            *data(),
            batch_size=2 * BATCH_SIZE,
            epochs=4,
            verbose=0,
            callbacks=callbacks,
            **arguments,
        ).history
    steps = 2 * STEPS_PER_EPOCH + np.array([1, 3])
    expected = [number(decay(**TOLD)(int(step))) for step in steps]
    assert history["learning_rate"] == expected


def test_the_part_that_validates_is_no_part_of_the_epoch():
    """`validation_split`, and the steps of a validation."""
    assert taught_by(*data(), batch_size=BATCH_SIZE, validation_split=0.5) == STEPS_PER_EPOCH // 2
    assert taught_by(*data(), batch_size=BATCH_SIZE, validation_data=data()) == STEPS_PER_EPOCH


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it on torch")
def test_an_execution_of_several_steps_is_several_steps():
    """`steps_per_execution`."""
    arguments = {"steps_per_execution": 2}
    assert taught_by(*data(), batch_size=8, compile_arguments=arguments) == STEPS_PER_EPOCH


def test_micro_batches_are_steps():
    """`gradient_accumulation_steps`: the schedule is called with their count."""

    def optimizer(schedule):
        return keras.optimizers.SGD(schedule, gradient_accumulation_steps=2)

    assert taught_by(*data(), batch_size=BATCH_SIZE, optimizer=optimizer) == STEPS_PER_EPOCH


def batches():
    x, y = data()
    while True:
        yield x[:BATCH_SIZE], y[:BATCH_SIZE]


FIXES = r"`StepDecay` is to learn from `fit`.*`steps_per_epoch=` to `fit` or to the schedule.*"
FIXES += r"assert_cardinality"


ran_out = pytest.mark.filterwarnings("ignore:Your input ran out of data")


@ran_out
@teachers
def test_a_generator_needs_the_number_in_fit_or_in_the_schedule(teacher):
    """Where nobody knows it, an error before the first step names both fixes."""
    assert taught_by(batches(), steps_per_epoch=5, callbacks=[teacher()]) == 5
    network = model(schedule := decay())
    finite = (batch for batch, _ in zip(batches(), range(6), strict=False))
    with pytest.raises(ValueError, match=FIXES):
        network.fit(finite, verbose=0, shuffle=False, callbacks=[teacher()])
    assert int(keras.ops.convert_to_numpy(network.optimizer.iterations)) == 0
    assert schedule.steps_per_epoch is None
    # The same model, with the number this time.
    endless = {"steps_per_epoch": 3, "shuffle": False, "verbose": 0}
    network.fit(batches(), **endless, callbacks=[teacher()])
    assert schedule.steps_per_epoch == 3


@pytest.mark.skipif(BACKEND != "tensorflow", reason="`tf.data` comes with TensorFlow")
def test_a_dataset_of_unknown_size_is_told_it():
    """The fix that the error names is the one that works."""
    import tensorflow as tf

    unknown = tf.data.Dataset.from_tensor_slices(data()).batch(8).filter(lambda x, y: True)
    with pytest.raises(ValueError, match=FIXES):
        taught_by(unknown)
    assert taught_by(unknown.apply(tf.data.experimental.assert_cardinality(4))) == 4
    assert taught_by(unknown.repeat(), steps_per_epoch=7) == 7


class Batches(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return 7

    def __getitem__(self, index):
        return next(batches())


def test_a_py_dataset_says_how_many_batches_it_has():
    """And `fit` passes it on."""
    assert taught_by(Batches()) == 7


@pytest.mark.skipif(BACKEND != "torch", reason="the `DataLoader` is torch's")
def test_a_data_loader_says_how_many_batches_it_has():
    """And `fit` passes it on."""
    import torch

    dataset = torch.utils.data.TensorDataset(*map(torch.as_tensor, data()))
    assert taught_by(torch.utils.data.DataLoader(dataset, batch_size=5)) == 7


@teachers
def test_a_callback_listed_before_ours_can_read_the_rate(teacher):
    """As soon as training begins."""

    class Reader(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.rate = number(self.model.optimizer.learning_rate)

    reader = Reader()
    fit(model(decay()), [reader, teacher()], epochs=1)
    assert reader.rate == pytest.approx(0.1)


@ran_out
@teachers
def test_evaluate_and_predict_teach_nothing(teacher):
    """They have steps of their own, and Keras tells callbacks of them as `fit` does."""
    network = model(schedule := decay())
    x, y = data()
    network.evaluate(x, y, batch_size=2, verbose=0, callbacks=[teacher()])
    network.predict(x, batch_size=2, verbose=0, callbacks=[teacher()])
    network.evaluate(((x, y) for _ in range(2)), verbose=0, callbacks=[teacher()])
    assert schedule.steps_per_epoch is None
    history = fit(network, [teacher()], epochs=EPOCHS, validation_data=(x, y))
    assert history["learning_rate"] == expected_rates(decay(**TOLD))


@has_multi_optimizer
@teachers
def test_the_schedules_of_several_optimizers_all_learn(teacher):
    """Those of a `MultiOptimizer`, also where the two share one."""
    shared = decay()
    network = model(optimizer=two_optimizers(shared, ProductSchedule([shared, 0.5])))
    history = fit(network, [teacher()], epochs=EPOCHS)
    expected = np.array(expected_rates(decay(**TOLD)))
    np.testing.assert_allclose(history["learning_rate_kernel"], expected, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate_bias"], expected / 2, rtol=1e-6)


@has_multi_optimizer
def test_optimizers_that_a_function_chooses_learn_too():
    """A `MultiOptimizer` made with a function has its optimizers only once it is built."""
    inner = keras.optimizers.SGD(decay())
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    network.compile(keras.optimizers.MultiOptimizer(lambda variable: inner), "mse")
    fit(network, [PlateauDecay("loss")], epochs=2)
    assert number(inner.learning_rate) == pytest.approx(0.05)


@teachers
def test_the_schedule_inside_a_loss_scale_optimizer_learns(teacher):
    """The user's own, and the one that the policy `mixed_float16` makes."""

    def optimizer(schedule):
        inner = keras.optimizers.SGD(schedule)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)

    callbacks = {"callbacks": [teacher()]}
    assert taught_by(*data(), batch_size=BATCH_SIZE, optimizer=optimizer, **callbacks) == 4
    policy = keras.mixed_precision.dtype_policy()
    try:
        keras.mixed_precision.set_dtype_policy("mixed_float16")
        assert taught_by(*data(), batch_size=BATCH_SIZE, callbacks=[teacher()]) == 4
    finally:
        keras.mixed_precision.set_dtype_policy(policy)


UNKNOWN = r"does not know yet.*`steps_per_epoch=`.*PlateauDecay` or `keras_decay.LearningRateLogger"


@makers
def test_a_rate_before_the_number_is_known_is_an_error_with_both_ways_out(make):
    """Called by hand, read from an optimizer, and in a `fit` without a callback of ours."""
    with pytest.raises(ValueError, match=UNKNOWN):
        make()(0)
    with pytest.raises(ValueError, match=UNKNOWN):
        make()(np.arange(3))
    network = model(make())
    assert inner_optimizers(network.optimizer) == [network.optimizer]
    with pytest.raises(ValueError, match=UNKNOWN):
        network.optimizer.learning_rate  # noqa: B018
    with pytest.raises(ValueError, match=UNKNOWN):
        fit(network, epochs=1)


@teachers
def test_two_boundaries_on_one_step_are_an_error_whenever_fit_tells(teacher):
    """Nothing is learned from such a `fit`; one of longer epochs may follow."""
    schedule = JoinedSchedule([0.1, decay(), 0.2], [0.3, 0.35])
    network = model(schedule)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"with 4 steps in an epoch they are the steps \[1, 1"):
            fit(network, [teacher()], epochs=1)
        assert untaught(schedule) == [schedule, schedule.schedules[1]]
    x, y = data()
    network.fit(x, y, batch_size=1, verbose=0, callbacks=[teacher()])
    assert schedule.steps_per_epoch == schedule.schedules[1].steps_per_epoch == len(x)
