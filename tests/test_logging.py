"""The rate in the logs, and the two mistakes that schedules invite."""

from __future__ import annotations

import csv
import json
import struct
import warnings

import keras
import numpy as np
import pytest
from support import BACKEND, BATCH_SIZE, STEPS_PER_EPOCH, cases, data, fit, model, on_host

from keras_decay import (
    InverseTimeDecay,
    JoinedSchedule,
    LearningRateLogger,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    StepDecay,
    steps_per_epoch,
)

SCHEDULE = InverseTimeDecay(0.1, 1.0, steps_per_epoch=STEPS_PER_EPOCH)
LAST_RATES = on_host(SCHEDULE, [STEPS_PER_EPOCH - 1, 2 * STEPS_PER_EPOCH - 1])


@pytest.mark.parametrize("rate", [0.1, PlateauScale(0.1)], ids=["float", "schedule"])
def test_the_rate_is_logged_as_it_is_used(rate):
    """The float32 number, as a Python float."""
    history = fit(model(rate), [LearningRateLogger()], epochs=2)
    assert history["learning_rate"] == [float(np.float32(0.1))] * 2


def test_an_epoch_without_a_step_has_the_rate_of_the_first_step():
    """For example, if a loss scale is so high that every step is skipped."""
    logger, logs = LearningRateLogger(), {}
    logger.set_model(model(StepDecay(0.1, 0.5, steps_per_epoch=STEPS_PER_EPOCH)))
    logger.on_train_begin()
    logger.on_epoch_begin(0)
    logger.on_epoch_end(0, logs)
    assert logs == {"learning_rate": pytest.approx(0.1)}


@pytest.mark.parametrize("scaled", [False, True], ids=["bare", "loss-scale"])
def test_of_a_schedule_the_rate_of_the_epochs_last_step_is_logged(scaled):
    """Beside the loss that it produced, also inside a `LossScaleOptimizer`."""
    optimizer = keras.optimizers.SGD(SCHEDULE)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    history = fit(model(optimizer=optimizer), [LearningRateLogger()], epochs=2)
    np.testing.assert_allclose(history["learning_rate"], LAST_RATES, rtol=1e-6)
    assert all(type(rate) is float for rate in history["learning_rate"])


@pytest.mark.parametrize("rate", [lambda: 0.1, lambda: PlateauScale(0.1)], ids=["float", "scale"])
def test_a_reduction_shows_in_the_next_epoch_whoever_logs_after_it(rate):
    """The rate in the logs is that of the epoch, though the plateau has lowered it since."""
    callbacks = [PlateauDecay(factor=0.5, patience=1), LearningRateLogger()]
    history = fit(model(rate()), callbacks, epochs=4, values=[1.0] * 4)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.05, 0.025], rtol=1e-6)


@pytest.mark.parametrize("order", [1, -1])
def test_the_scale_is_logged_wherever_the_plateau_stands(order):
    """Beside a logger."""
    callbacks = [PlateauDecay(factor=0.5, patience=1), LearningRateLogger()][::order]
    history = fit(model(PlateauScale(0.1)), callbacks, epochs=3, values=[1.0] * 3)
    assert history["learning_rate_scale"] == [1.0, 1.0, 0.5]


def test_the_rate_that_kerass_plateau_has_logged_stays():
    """It logs the rate before it lowers it."""
    keras_plateau = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1)
    history = fit(model(0.1), [keras_plateau, LearningRateLogger()], epochs=4, values=[1.0] * 4)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.05, 0.025], rtol=1e-6)


def test_a_rate_given_by_a_function_is_logged():
    """Keras takes a function without arguments as a learning rate."""
    history = fit(model(lambda: 0.25), [LearningRateLogger()], epochs=1)
    assert history["learning_rate"] == [0.25]


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="this Keras has no MultiOptimizer"
)
def test_each_optimizer_of_a_multi_optimizer_has_an_entry_of_its_own():
    """Named as Keras's callbacks name them."""
    one, two = keras.optimizers.SGD(0.1, name="one"), keras.optimizers.SGD(SCHEDULE, name="two")
    optimizers = keras.optimizers.OptimizerMap(two, {".*kernel": one})
    optimizer = keras.optimizers.MultiOptimizer(optimizers)
    history = fit(model(optimizer=optimizer), [LearningRateLogger()], epochs=2)
    np.testing.assert_allclose(history["learning_rate_one"], [0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate_two"], LAST_RATES, rtol=1e-6)


def test_csv_logger_writes_the_rate(tmp_path):
    """Listed before it, as the docstring says."""
    path = tmp_path / "log.csv"
    fit(model(SCHEDULE), [LearningRateLogger(), keras.callbacks.CSVLogger(path)], epochs=2)
    with path.open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(rates, LAST_RATES, rtol=1e-6)


def records(path):
    """The payloads of a TFRecord file, whose framing is a length, a checksum, data, a checksum."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield content[at + 12 : at + 12 + length]
        at += 12 + length + 4


def written(folder, network, callbacks, **arguments):
    """What a `TensorBoard` after the callbacks writes in three epochs, by tag, with the steps."""
    import tensorflow as tf

    pytest.importorskip("tensorboard", reason="an optional peer, on TensorFlow in `tox`")
    board = keras.callbacks.TensorBoard(folder, **arguments)
    fit(network, [*callbacks, board], epochs=3, values=[1.0] * 3)
    (file,) = (folder / "train").glob("events*")
    values = {}
    for record in records(file):
        event = tf.compat.v1.Event.FromString(record)
        for value in event.summary.value:
            number = tf.make_ndarray(value.tensor).item()
            values.setdefault(value.tag, {})[event.step] = number
    return values


tensorboard = pytest.mark.skipif(
    BACKEND != "tensorflow", reason="Keras's TensorBoard needs TensorFlow"
)


@tensorboard
def test_tensorboard_writes_rate_and_scale(tmp_path):
    """Read back from the event file. Of a schedule it takes the next step's rate by itself."""

    def epochs(name, rate, callbacks):
        values = written(tmp_path / name, model(rate), callbacks)
        return {tag: list(steps.values()) for tag, steps in values.items()}

    rates = epochs("float", 0.1, [LearningRateLogger()])["epoch_learning_rate"]
    np.testing.assert_allclose(rates, [0.1] * 3, rtol=1e-6)
    values = epochs("schedule", SCHEDULE, [PlateauDecay(patience=1, factor=0.5)])
    assert values["epoch_learning_rate_scale"] == [1.0, 1.0, 0.5]
    next_rates = on_host(SCHEDULE, [STEPS_PER_EPOCH * epoch for epoch in (1, 2, 3)])
    scaled = next_rates * [1.0, 0.5, 0.25]
    np.testing.assert_allclose(values["epoch_learning_rate"], scaled, rtol=1e-6)


SCALES = np.repeat([1.0, 1.0, 0.5], STEPS_PER_EPOCH)
STEP_RATES = on_host(SCHEDULE, range(3 * STEPS_PER_EPOCH)) * SCALES


@pytest.mark.any_keras
@tensorboard
@pytest.mark.parametrize("update_freq", ["batch", 1])
def test_tensorboard_writes_the_rate_of_each_batch(tmp_path, update_freq):
    """That of the step that the batch was, over a schedule that a plateau scales."""
    callbacks = [PlateauDecay(patience=1, factor=0.5), LearningRateLogger(every=1)]
    values = written(tmp_path, model(SCHEDULE), callbacks, update_freq=update_freq)
    rates = list(values["batch_learning_rate"].values())
    np.testing.assert_allclose(rates, STEP_RATES, rtol=1e-6)


class BatchLogs(keras.callbacks.Callback):
    """The rates in the logs of the batches, as a callback after the logger reads them."""

    def __init__(self):
        super().__init__()
        self.rates = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if "learning_rate" in logs:
            self.rates[self.epoch * STEPS_PER_EPOCH + batch] = logs["learning_rate"]


class Unread(LearningRateLogger):
    """Fails if it reads a tensor at the end of a batch."""

    def on_train_batch_end(self, batch, logs=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(keras.ops, "convert_to_numpy", fail)
            for name in ("numpy", "item", "__array__", "__float__", "__int__", "cpu"):
                if hasattr(Tensor, name):
                    patch.setattr(Tensor, name, fail)
            super().on_train_batch_end(batch, logs)


Tensor = type(keras.ops.convert_to_tensor(0.5))


def fail(*_, **__):
    raise AssertionError("a tensor is read")


RATES_OF_STEPS = {
    "float": (0.1, 0.1 * SCALES),
    "constant": (PlateauScale(0.1), 0.1 * SCALES),
    "schedule": (SCHEDULE, STEP_RATES),
}


@cases(
    "name, every",
    {
        "schedule 1": ("schedule", 1),
        "schedule 3": ("schedule", 3),
        "float 2": ("float", 2),
        "constant 99": ("constant", 99),
    },
    oldest=2,
)
def test_every_nth_batch_of_the_run_has_the_rate_of_its_step(name, every):
    """Counted from 1, over the epochs; nothing is read for it, and the epoch's own rate is as
    ever."""
    rate, expected = RATES_OF_STEPS[name]
    logger, batches = Unread(every=every), BatchLogs()
    callbacks = [PlateauDecay(patience=1, factor=0.5), logger, batches]
    history = fit(model(rate), callbacks, epochs=3, values=[1.0] * 3)
    steps = list(range(len(expected)))[every - 1 :: every]
    assert list(batches.rates) == steps
    np.testing.assert_allclose(list(batches.rates.values()), expected[steps], rtol=1e-6)
    assert all(type(each) is float for each in batches.rates.values())
    assert logger.seen == ({"learning_rate": list(batches.rates.items())} if steps else {})
    last = expected[STEPS_PER_EPOCH - 1 :: STEPS_PER_EPOCH]
    np.testing.assert_allclose(history["learning_rate"], last, rtol=1e-6)


@pytest.mark.any_keras
@pytest.mark.skipif(BACKEND == "torch", reason="Keras on torch has no `steps_per_execution`")
def test_of_several_steps_in_one_execution_the_last_is_logged():
    """Keras calls the callback once per execution."""
    batches = BatchLogs()
    callbacks = [LearningRateLogger(every=1), batches]
    fit(model(SCHEDULE, steps_per_execution=2), callbacks, epochs=2)
    steps = [1, 3, 5, 7]
    assert list(batches.rates) == steps
    np.testing.assert_allclose(list(batches.rates.values()), on_host(SCHEDULE, steps), rtol=1e-6)


@pytest.mark.any_keras
def test_without_every_no_batch_is_logged_and_each_epoch_is_seen():
    """With its last step and the rate of that one."""
    logger, batches = LearningRateLogger(), BatchLogs()
    fit(model(SCHEDULE), [logger, batches], epochs=2)
    assert batches.rates == {}
    ((name, seen),) = logger.seen.items()
    assert name == "learning_rate"
    assert [step for step, _ in seen] == [STEPS_PER_EPOCH - 1, 2 * STEPS_PER_EPOCH - 1]
    np.testing.assert_allclose([rate for _, rate in seen], LAST_RATES, rtol=1e-6)


@pytest.mark.parametrize(
    ("every", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
def test_a_bad_every_is_a_clear_error(every, error):
    """In the constructor."""
    with pytest.raises(error, match=rf"`every` must be an int >= 1\. Received: every={every}"):
        LearningRateLogger(every=every)


def test_the_progress_bar_shows_the_rate(capsys):
    """With the other metrics of the epoch."""
    x, y = data()
    model(0.1).fit(x, y, epochs=1, verbose=2, callbacks=[LearningRateLogger()])
    assert "learning_rate: 0.1000" in capsys.readouterr().out


loggers = pytest.mark.parametrize("logger", [LearningRateLogger, PlateauDecay])


def user_warnings(caught):
    return [str(each.message) for each in caught if each.category is UserWarning]


@pytest.mark.any_keras
@loggers
@pytest.mark.parametrize(
    "schedule",
    [
        StepDecay(0.1, steps_per_epoch=100),
        LinearWarmup(StepDecay(0.1, steps_per_epoch=STEPS_PER_EPOCH), 1, steps_per_epoch=100),
        JoinedSchedule(
            [0.1, StepDecay(0.1, steps_per_epoch=100)], [1], steps_per_epoch=STEPS_PER_EPOCH
        ),
    ],
    ids=["bare", "outer", "inner"],
)
def test_epochs_of_another_length_than_the_runs_are_one_warning(logger, schedule):
    """With both numbers and the fix; also for a schedule inside another."""
    match = r"counts epochs of 100 steps, but an epoch of this run has 4\. Pass `steps_per_epoch=4`"
    with pytest.warns(UserWarning, match=match) as caught:
        fit(model(schedule), [logger("loss") if logger is PlateauDecay else logger()], epochs=2)
    assert len(user_warnings(caught)) == 1


@pytest.mark.any_keras
def test_a_schedule_whose_epochs_have_no_length_is_no_warning():
    """It is a user's own schedule, which need not have a length."""

    class Own(keras.optimizers.schedules.LearningRateSchedule):
        steps_per_epoch = None

        def __call__(self, step):
            return 0.1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(model(Own()), [LearningRateLogger()], epochs=1)


@pytest.mark.any_keras
def test_two_of_our_callbacks_warn_once():
    """They warn again in each `fit`."""
    network = model(StepDecay(0.1, steps_per_epoch=100))
    for _ in range(2):
        with pytest.warns(UserWarning, match="epochs of 100 steps") as caught:
            fit(network, [LearningRateLogger(), PlateauDecay("loss")], epochs=1)
        assert len(user_warnings(caught)) == 1


@pytest.mark.any_keras
def test_a_callback_that_does_not_warn_does_not_silence_another():
    """`warn=False` applies only to the callback that has it."""
    with pytest.warns(UserWarning, match="epochs of 100 steps") as caught:
        fit(
            model(StepDecay(0.1, steps_per_epoch=100)),
            [LearningRateLogger(warn=False), PlateauDecay("loss")],
            epochs=1,
        )
    assert len(user_warnings(caught)) == 1


@loggers
def test_a_schedule_that_starts_over_at_a_later_epoch_is_a_warning(logger):
    """`initial_epoch=3` with a new optimizer: the state was not loaded."""
    callback = logger("loss") if logger is PlateauDecay else logger()
    with pytest.warns(UserWarning, match=r"at epoch 3, but the optimizer is at step 0"):
        fit(model(SCHEDULE), [callback], epochs=4, initial_epoch=3)
    network = model(SCHEDULE)
    fit(network, [logger("loss") if logger is PlateauDecay else logger()], epochs=3)
    fit(network, [callback], epochs=4, initial_epoch=3)
    fit(model(0.1), [callback], epochs=4, initial_epoch=3)


@pytest.mark.any_keras
def test_a_resumed_backup_is_no_schedule_that_starts_over(tmp_path):
    """`BackupAndRestore` loads the state between the beginning of training and of the epoch."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(model(SCHEDULE), [LearningRateLogger(), backup, Stop()], epochs=3)
    history = fit(model(SCHEDULE), [LearningRateLogger(), backup], epochs=3)
    expected = on_host(SCHEDULE, [3 * STEPS_PER_EPOCH - 1])
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-6)


@pytest.mark.any_keras
def test_warnings_can_be_switched_off():
    """`warn=False` logs only."""
    network = model(StepDecay(0.1, steps_per_epoch=100))
    history = fit(network, [LearningRateLogger(warn=False)], epochs=4, initial_epoch=3)
    assert history["learning_rate"] == pytest.approx([0.1])


def test_the_logger_comes_back_from_its_config():
    """Registered, and JSON-safe."""
    logger = LearningRateLogger(warn=False)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(logger)))
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, LearningRateLogger)
    assert again.get_config() == {"warn": False, "every": None}
    with pytest.raises(TypeError, match=r"`warn` must be True or False\. Received: warn=1"):
        LearningRateLogger(1)


class Batches(keras.utils.PyDataset):
    """Seven batches of eight."""

    def __init__(self, count=7, **arguments):
        super().__init__(**arguments)
        self.count = count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        x, y = data()
        return x[:BATCH_SIZE], y[:BATCH_SIZE]


def steps_of_fit(*arguments, **keywords):
    """What `fit` itself reports to its callbacks."""
    reported = []

    class Report(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            reported.append(self.params["steps"])

    network = model(0.1)
    network.fit(*arguments, shuffle=False, verbose=0, callbacks=[Report()], **keywords)
    return reported[0]


@pytest.mark.any_keras
@pytest.mark.parametrize("batch_size", [None, 1, 5, 8, 32, 1000])
def test_steps_of_arrays_are_those_of_fit(batch_size):
    """A last batch that is not full counts; `fit` takes 32 samples unless told otherwise."""
    x, y = data()
    expected = steps_of_fit(x, y, batch_size=batch_size)
    for form in (x, (x, y), [x], {"x": x}, keras.ops.convert_to_tensor(x)):
        assert steps_per_epoch(form, batch_size) == expected


def test_steps_of_a_py_dataset_are_those_of_fit():
    """The number of batches that it declares."""
    assert steps_per_epoch(Batches()) == steps_of_fit(Batches()) == 7


@pytest.mark.skipif(BACKEND != "tensorflow", reason="`tf.data` comes with TensorFlow")
def test_steps_of_a_tf_dataset_are_those_of_fit():
    """Its cardinality; infinite and unknown are errors."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(data()).batch(5)
    assert steps_per_epoch(dataset) == steps_of_fit(dataset) == 7
    for unknown in (dataset.repeat(), dataset.filter(lambda x, y: True)):
        with pytest.raises(
            ValueError, match=r"must have a known number of batches.*pass `steps_per"
        ):
            steps_per_epoch(unknown)


@pytest.mark.skipif(BACKEND != "torch", reason="the `DataLoader` is torch's")
def test_steps_of_a_torch_data_loader_are_those_of_fit():
    """Its length; a stream without one is an error."""
    import torch

    x, y = map(torch.as_tensor, data())
    dataset = torch.utils.data.TensorDataset(x, y)
    for drop_last in (False, True):
        loader = torch.utils.data.DataLoader(dataset, batch_size=5, drop_last=drop_last)
        assert steps_per_epoch(loader) == steps_of_fit(loader) == 7 - drop_last

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([])

    with pytest.raises(ValueError, match="this `DataLoader` has none"):
        steps_per_epoch(torch.utils.data.DataLoader(Stream()))


def test_a_length_that_nobody_knows_is_an_error_with_the_fix():
    """Generators, endless data sets, data without a sample, and what is no data."""
    known = r"must have a known number of batches; this `{}` has {}: count them, or pass"
    with pytest.raises(ValueError, match=known.format("generator", "none")):
        steps_per_epoch(x for x in [1])
    with pytest.raises(ValueError, match=known.format("Batches", "none")):
        steps_per_epoch(Batches(None))
    with pytest.raises(ValueError, match=known.format("Batches", "0")):
        steps_per_epoch(Batches(0))
    with pytest.raises(ValueError, match="at least one sample"):
        steps_per_epoch(np.zeros((0, 3)))
    for nothing in (3, "data", [], None):
        with pytest.raises(TypeError, match=r"`data` must be arrays, a `tf\.data\.Dataset`"):
            steps_per_epoch(nothing)


@pytest.mark.parametrize(
    ("batch_size", "error"),
    [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)],
)
def test_a_bad_batch_size_is_an_error(batch_size, error):
    """So is any batch size for data that makes its own batches."""
    message = f"`batch_size` must be an int >= 1. Received: batch_size={batch_size}"
    with pytest.raises(error, match=message):
        steps_per_epoch(data()[0], batch_size)
    with pytest.raises(ValueError, match=r"must be None for a `Batches`, which makes its own"):
        steps_per_epoch(Batches(), 8)


@pytest.mark.any_keras
@pytest.mark.parametrize("order", [1, -1])
def test_each_silent_fault_is_one_warning_in_a_fit(order):
    """Whichever of the two callbacks stands first."""

    class Sets(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 0.1

    def callbacks(monitor="val_loss"):
        return [PlateauDecay(monitor, mode="min", patience=1), LearningRateLogger()][::order]

    with pytest.warns(UserWarning, match=r"stands above.*EpochSchedule") as caught:
        fit(model(0.1), [Sets(), *callbacks()], epochs=5, values=[1.0] * 5)
    assert len(user_warnings(caught)) == 1
    with pytest.warns(UserWarning, match=r"the rate that it changes itself.*'loss'") as caught:
        fit(model(0.1), callbacks("learning_rate"), epochs=4)
    assert len(user_warnings(caught)) == 1


@pytest.mark.any_keras
def test_an_epoch_whose_steps_all_overflow_is_no_idle_optimizer():
    """With a loss scale that is too high at first, every step is skipped."""
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(SCHEDULE), initial_scale=3e38
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(
            model(optimizer=optimizer),
            [PlateauDecay("loss"), LearningRateLogger()],
            epochs=2,
        )
