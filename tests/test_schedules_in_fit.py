"""Schedules without a `steps_per_epoch`: the epoch is `fit`'s epoch, whatever changes."""

from __future__ import annotations

import copy
import pickle

import keras
import numpy as np
import pytest
from internals import attached_to, counting_epochs, inner_optimizers, schedule_of
from support import (
    BACKEND,
    BATCH_SIZE,
    STEPS_PER_EPOCH,
    Measure,
    cases,
    data,
    fit,
    has_multi_optimizer,
    measuring,
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

EPOCHS = 4
LAST_STEPS = np.arange(1, EPOCHS + 1) * STEPS_PER_EPOCH - 1
GIVEN = {"steps_per_epoch": STEPS_PER_EPOCH}
TABLE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]

CALLBACKS = {"plateau": lambda: PlateauDecay("loss", patience=99), "logger": LearningRateLogger}
callbacks = cases("callback", CALLBACKS)


def decay(**steps):
    return StepDecay(0.1, 0.5, 2, **steps)


MAKERS = {
    "all": lambda **steps: LinearWarmup(
        JoinedSchedule([ProductSchedule([decay(**steps), 0.5]), 0.01], [2], **steps), 0.5, **steps
    ),
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
}
makers = cases("make", MAKERS)
# Each with one of the callbacks, in turn: what a callback does is the same for all schedules.
makers_and_callbacks = cases(
    "make, callback",
    {
        f"{name}-{list(CALLBACKS)[index % 2]}": (make, list(CALLBACKS.values())[index % 2])
        for index, (name, make) in enumerate(MAKERS.items())
    },
)


def rates_and_weights(rate, callbacks, **arguments):
    network = model(rate)
    history = fit(network, callbacks, epochs=EPOCHS, **arguments)
    return history.get("learning_rate"), network.get_weights()


def expected_rates(schedule):
    return [number(schedule(int(step))) for step in LAST_STEPS]


def trained(network, callback, *others, steps=2, **arguments):
    """The mean rate of the steps of each epoch that a `measuring` model trains, which the log has
    too where it is constant within an epoch."""
    # So that the weight stays small and its differences exact.
    network.set_weights([np.zeros((1, 1))])
    x, measure = np.ones((steps, 1), "float32"), Measure(steps)
    history = network.fit(
        x, x, batch_size=1, verbose=0, callbacks=[measure, callback, *others], **arguments
    ).history
    np.testing.assert_allclose(measure.trained, history["learning_rate"], rtol=1e-4)
    return history["learning_rate"]


@makers_and_callbacks
def test_it_trains_as_with_the_number_and_what_holds_the_optimizer_knows_its_epochs(
    make, callback, tmp_path
):
    """The very rates and weights of a run with `steps_per_epoch=` and no callback of ours. No `fit`
    changes the user's own object; the optimizer's config, a model file, a clone and copies have
    the right rate before any other `fit`."""
    schedule, given = make(), make(**GIVEN)
    before, whole = schedule.get_config(), copy.deepcopy(vars(schedule))
    network = model(schedule)
    rates = fit(network, [callback()], epochs=EPOCHS)["learning_rate"]
    assert rates == expected_rates(given)
    _, weights = rates_and_weights(make(**GIVEN), [])
    for own, other in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6, atol=1e-7)

    assert schedule.get_config() == before
    assert vars(schedule).keys() == whole.keys()
    assert counting_epochs(schedule)
    root = schedule_of(network.optimizer)
    assert root.schedule is (schedule.schedule if isinstance(schedule, PlateauScale) else schedule)

    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert number(loaded.learning_rate) == number(given(EPOCHS * STEPS_PER_EPOCH))
    cloned = type(network.optimizer).from_config(network.optimizer.get_config())
    for again in (
        schedule_of(loaded),
        schedule_of(cloned),
        copy.deepcopy(root),
        pickle.loads(pickle.dumps(root)),
    ):
        assert again.get_config() == root.get_config()
        assert number(again(7)) == number(given(7))


@pytest.mark.any_keras
@makers
def test_nothing_but_a_rate_needs_the_number(make, tmp_path):
    """`compile`, `repr`, a config, copies and files before `fit`; what is loaded counts too."""
    network = model(make())
    before = schedule_of(network.optimizer)
    assert "steps_per_epoch=None" in repr(before)
    for again in (copy.deepcopy(before), pickle.loads(pickle.dumps(before))):
        assert again.get_config() == before.get_config()
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert schedule_of(loaded.optimizer).get_config() == before.get_config() == make().get_config()
    history = fit(loaded, [LearningRateLogger()], epochs=EPOCHS)
    assert history["learning_rate"] == expected_rates(make(**GIVEN))
    with pytest.raises(ValueError, match="does not know yet"):
        before(0)


@pytest.mark.any_keras
def test_a_given_number_stays_beside_those_that_count_epochs():
    """A warmup of six steps over a decay by the epoch."""
    schedule = LinearWarmup(decay(), 6, steps_per_epoch=1)
    network = model(schedule)
    fit(network, [PlateauDecay("loss", patience=99)], epochs=1)
    assert (schedule.steps_per_epoch, schedule.schedule.steps_per_epoch) == (1, None)
    held = schedule_of(network.optimizer)
    assert number(held(3)) == pytest.approx(0.05)
    assert number(held(6 + 2 * STEPS_PER_EPOCH)) == pytest.approx(0.05)


@pytest.mark.any_keras
@pytest.mark.parametrize(
    "schedule",
    [StepDecay(0.1, 0.5, 9, steps_per_epoch=1), LinearWarmup(0.1, 9, steps_per_epoch=1)],
    ids=["step", "warmup"],
)
def test_counting_in_steps_is_never_warned_of(schedule):
    """`steps_per_epoch=1`; warnings are errors here."""
    history = fit(model(schedule), [LearningRateLogger()], epochs=EPOCHS)
    assert history["learning_rate"] == expected_rates(schedule)


@pytest.mark.any_keras
@callbacks
def test_another_batch_size_is_warned_of_where_the_number_is_given(callback):
    """With both numbers; the schedule counts steps by its own."""
    network = measuring(EpochSchedule(TABLE, steps_per_epoch=2))
    rates = trained(network, callback(), steps=2, epochs=1)
    with pytest.warns(UserWarning, match=r"counts epochs of 2 steps, but an epoch of this run has"):
        rates += trained(network, callback(), steps=1, epochs=2)
    assert rates == pytest.approx([0.1, 0.2, 0.2])


@callbacks
def test_weights_bring_the_epochs(callback, tmp_path):
    """Into a model that a callback of ours has been attached to; the rate is right at once."""
    network, path = model(decay()), tmp_path / "model.weights.h5"
    fit(network, [callback()], epochs=2)
    network.save_weights(path)
    again, one = model(decay(), seed=1), callback()
    if isinstance(one, PlateauDecay):
        one.attach(again)
    else:
        one.set_model(again)
    again.load_weights(path)
    assert number(again.optimizer.learning_rate) == pytest.approx(0.05)
    rates = fit(again, [one], epochs=EPOCHS, initial_epoch=2)["learning_rate"]
    assert rates == expected_rates(decay(**GIVEN))[2:]


class Crash(keras.callbacks.Callback):
    """Simulates a kill before a step of the run."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_batch_begin(self, batch, logs=None):
        self.at -= 1
        if self.at < 0:
            raise RuntimeError("crash")


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    """`BackupAndRestore`, in a process that starts with new objects."""

    def run(seed, *others):
        network = model(decay(), seed=seed)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        history = fit(network, [PlateauDecay("loss", patience=99), backup, *others], epochs=EPOCHS)
        return history["learning_rate"], network.get_weights()

    with pytest.raises(RuntimeError, match="crash"):
        run(0, Crash(2 * STEPS_PER_EPOCH))
    rates, weights = run(1)
    assert rates == expected_rates(decay(**GIVEN))[2:]
    for own, other in zip(weights, rates_and_weights(decay(**GIVEN), [])[1], strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-7)


def length_of_epoch(*arguments, optimizer=None, compile_arguments=None, **keywords):
    """How many steps an epoch has to the schedule of a new model, after a `fit` like this."""
    schedule = decay()
    optimizer = optimizer(schedule) if optimizer else keras.optimizers.SGD(schedule)
    network = model(optimizer=optimizer, **(compile_arguments or {}))
    keywords = {"verbose": 0, "shuffle": False, "callbacks": [LearningRateLogger()], **keywords}
    network.fit(*arguments, **keywords)
    assert schedule.steps_per_epoch is None
    return attached_to(network.optimizer).state.clock.steps_per_epoch


def test_the_part_that_validates_is_no_part_of_the_epoch():
    """`validation_split`, and the steps of a validation."""
    half = length_of_epoch(*data(), batch_size=BATCH_SIZE, validation_split=0.5)
    assert half == STEPS_PER_EPOCH // 2
    whole = length_of_epoch(*data(), batch_size=BATCH_SIZE, validation_data=data())
    assert whole == STEPS_PER_EPOCH


@pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it on torch")
def test_an_execution_of_several_steps_is_several_steps():
    """`steps_per_execution`."""
    arguments = {"steps_per_execution": 2}
    length = length_of_epoch(*data(), batch_size=8, compile_arguments=arguments)
    assert length == STEPS_PER_EPOCH


def test_micro_batches_are_steps():
    """`gradient_accumulation_steps`: the schedule is called with their count."""

    def optimizer(schedule):
        return keras.optimizers.SGD(schedule, gradient_accumulation_steps=2)

    length = length_of_epoch(*data(), batch_size=BATCH_SIZE, optimizer=optimizer)
    assert length == STEPS_PER_EPOCH


def batches():
    x, y = data()
    while True:
        yield x[:BATCH_SIZE], y[:BATCH_SIZE]


def finite(count):
    return (batch for batch, _ in zip(batches(), range(count), strict=False))


FIXES = r"The learning-rate schedule counts the epochs of `fit`, but `fit` does not know.*"
FIXES += r"`steps_per_epoch=` to `fit` or to the schedule.*assert_cardinality"


ran_out = pytest.mark.filterwarnings("ignore:Your input ran out of data")


@ran_out
def test_a_fit_of_unknown_length_after_a_known_one_goes_on():
    """With epochs as long as those before, until they have ended. On TensorFlow the optimizer
    counts one step too many in each of them, which does not add up."""
    network, rates = model(EpochSchedule(TABLE)), []
    arguments = {"shuffle": False, "verbose": 0, "callbacks": [LearningRateLogger()]}
    known = {"steps_per_epoch": 4, **arguments}
    rates += network.fit(batches(), **known).history["learning_rate"]
    for count in (4, 4, 4):
        rates += network.fit(finite(count), **arguments).history["learning_rate"]
    rates += network.fit(batches(), **known).history["learning_rate"]
    assert rates == pytest.approx(TABLE[:5])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="`tf.data` comes with TensorFlow")
def test_a_dataset_of_unknown_size_is_told_it():
    """The fix that the error names is the one that works."""
    import tensorflow as tf

    unknown = tf.data.Dataset.from_tensor_slices(data()).batch(8).filter(lambda x, y: True)
    with pytest.raises(ValueError, match=FIXES):
        length_of_epoch(unknown)
    assert length_of_epoch(unknown.apply(tf.data.experimental.assert_cardinality(4))) == 4
    assert length_of_epoch(unknown.repeat(), steps_per_epoch=7) == 7


class Batches(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return 7

    def __getitem__(self, index):
        return next(batches())


def test_a_py_dataset_says_how_many_batches_it_has():
    """And `fit` passes it on."""
    assert length_of_epoch(Batches()) == 7


@pytest.mark.skipif(BACKEND != "torch", reason="the `DataLoader` is torch's")
def test_a_data_loader_says_how_many_batches_it_has():
    """And `fit` passes it on."""
    import torch

    dataset = torch.utils.data.TensorDataset(*map(torch.as_tensor, data()))
    assert length_of_epoch(torch.utils.data.DataLoader(dataset, batch_size=5)) == 7


@callbacks
def test_a_callback_listed_before_ours_can_read_the_rate(callback):
    """As soon as training begins."""

    class Reader(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.rate = number(self.model.optimizer.learning_rate)

    reader = Reader()
    fit(model(decay()), [reader, callback()], epochs=1)
    assert reader.rate == pytest.approx(0.1)


@has_multi_optimizer
def test_the_schedules_of_several_optimizers_all_count():
    """Those of a `MultiOptimizer`, also where the two share one."""
    shared = decay()
    network = model(optimizer=two_optimizers(shared, ProductSchedule([shared, 0.5])))
    history = fit(network, [LearningRateLogger()], epochs=EPOCHS)
    expected = np.array(expected_rates(decay(**GIVEN)))
    np.testing.assert_allclose(history["learning_rate_kernel"], expected, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate_bias"], expected / 2, rtol=1e-6)


@has_multi_optimizer
def test_optimizers_that_a_function_chooses_count_too():
    """A `MultiOptimizer` made with a function has no optimizers until it is built."""
    inner = keras.optimizers.SGD(decay())
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    network.compile(keras.optimizers.MultiOptimizer(lambda variable: inner), "mse")
    fit(network, [PlateauDecay("loss")], epochs=2)
    assert number(inner.learning_rate) == pytest.approx(0.05)


def test_the_schedule_inside_a_loss_scale_optimizer_counts():
    """The user's own, and the one that the policy `mixed_float16` makes."""

    def optimizer(schedule):
        inner = keras.optimizers.SGD(schedule)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)

    arguments = {"batch_size": BATCH_SIZE, "callbacks": [PlateauDecay("loss", patience=99)]}
    assert length_of_epoch(*data(), optimizer=optimizer, **arguments) == STEPS_PER_EPOCH
    policy = keras.mixed_precision.dtype_policy()
    try:
        keras.mixed_precision.set_dtype_policy("mixed_float16")
        arguments["callbacks"] = [PlateauDecay("loss", patience=99)]
        assert length_of_epoch(*data(), **arguments) == STEPS_PER_EPOCH
    finally:
        keras.mixed_precision.set_dtype_policy(policy)


UNKNOWN = (
    r"does not know yet.*`steps_per_epoch=`.*PlateauDecay` or.*`keras_decay.LearningRateLogger"
)


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


@pytest.mark.any_keras
def test_two_boundaries_on_one_step_are_an_error_whenever_fit_knows():
    """Nothing is left of such a `fit`; one of longer epochs may follow."""
    schedule = JoinedSchedule([0.1, decay(), 0.2], [0.3, 0.35])
    network = model(schedule)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"with 4 steps in an epoch they are the steps \[1, 1"):
            fit(network, [LearningRateLogger()], epochs=1)
    x, y = data()
    network.fit(x, y, batch_size=1, verbose=0, callbacks=[LearningRateLogger()])
    assert attached_to(network.optimizer).state.clock.steps_per_epoch == len(x)
    assert counting_epochs(schedule) == [schedule, schedule.schedules[1]]
