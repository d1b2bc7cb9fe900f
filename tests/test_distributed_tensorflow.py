"""TensorFlow on several devices, in one process and in several: the same rates everywhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import keras
import pytest
from distributed import (
    MEAN,
    ONE_NAN,
    RATES,
    assert_same_decisions,
    assert_weights,
    killed_and_started_again,
    records_of,
)
from support import BACKEND

if BACKEND != "tensorflow":
    pytest.skip("needs TensorFlow", allow_module_level=True)

import tensorflow as tf
from distributed_tensorflow_child import (
    EPOCHS,
    HALF,
    inside_epochs,
    loop,
    loss_plateau,
    network,
    train,
)

# In Keras 3.3.3 the weights of the replicas drift apart, with any optimizer and no callback.
pytestmark = pytest.mark.any_keras

CHILD = Path(__file__).with_name("distributed_tensorflow_child.py")
ONE_DEVICE = tf.distribute.get_strategy()


def assert_same(record, expected):
    """The very rates of the run on one device, and its weights but for the order of sums."""
    for name in ("rates", "scales", "next"):
        assert record.get(name) == expected.get(name)
    assert_weights(record, expected)


def the_same(first, second):
    """What two processes have in common: all, to the last bit."""
    assert first == second
    return first


def rest(expected):
    """What is left of a run after `HALF` its epochs."""
    return {**expected, **{name: expected[name][HALF:] for name in ("rates", "scales")}}


@cache
def on_one_device(rate):
    """What the run gives in this process, which has one device."""
    return train(network(RATES[rate], ONE_DEVICE), ONE_DEVICE, [loss_plateau()])


@cache
def loop_on_one_device():
    model = network(RATES["step"], ONE_DEVICE)
    return loop(model, ONE_DEVICE, loss_plateau(min_delta=1e-4), MEAN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a model in it that was trained for `HALF` the epochs on one device."""
    path = tmp_path_factory.mktemp("files")
    model = network(RATES["step"], ONE_DEVICE)
    train(model, ONE_DEVICE, [loss_plateau()], epochs=HALF)
    model.save(path / "one.keras")
    return path


@pytest.fixture(scope="module")
def two_devices(folder):
    """The records of one process with two devices, by name."""
    return records_of(CHILD, "devices", folder, count=1)[0]


@pytest.mark.parametrize("rate", ["float", "step", "early constant"])
def test_two_devices_follow_the_rates_of_one(two_devices, rate):
    """In one `fit` or two, with a `PlateauScale` made in the scope of the strategy or before; a
    reduction traces nothing anew."""
    record = two_devices[rate]
    assert_same(record, on_one_device(rate.removeprefix("early ")))
    assert record["traces"] == [2] * EPOCHS  # Once for each device.


def test_reset_works_outside_of_the_scope(two_devices):
    """The schedule is back at its own rate, which is read there as well."""
    assert two_devices["step"]["reset"] == pytest.approx(0.05 * 0.5**2)


def test_a_file_from_one_device_goes_on_with_the_same_rates_on_two(two_devices):
    """When it is loaded in the scope of the strategy."""
    record, expected = two_devices["load"], on_one_device("step")
    assert_same(record, rest(expected))
    assert record["loaded"] == expected["rates"][HALF]


def test_a_file_from_two_devices_goes_on_with_the_same_rates_on_one(two_devices, folder):
    """It needs no strategy."""
    model = keras.models.load_model(folder / "two.keras")
    expected = on_one_device("step")
    assert float(model.optimizer.learning_rate) == expected["rates"][HALF]
    record = train(model, ONE_DEVICE, [loss_plateau()], initial_epoch=HALF)
    assert_same(record, rest(expected))


def test_a_backup_goes_on_with_the_same_rates_on_two_devices(two_devices):
    """`BackupAndRestore` into another model."""
    assert_same(two_devices["backup"], rest(on_one_device("step")))


def test_a_loop_over_two_devices_follows_the_rates_of_one(two_devices):
    """`attach` and `update` in a loop written by hand, outside of the scope."""
    assert_same(two_devices["loop"], loop_on_one_device())


@pytest.fixture(scope="module")
def started_again(tmp_path_factory):
    """Two processes, one of which was killed in its first start."""
    folder = tmp_path_factory.mktemp("two")
    error = ["Collective ops is aborted"]
    return killed_and_started_again(CHILD, "workers", folder, EPOCHS, error)


@pytest.fixture(scope="module")
def two_processes(started_again):
    """The records of two processes: by name, a pair."""
    return started_again.records


def test_two_processes_follow_the_rates_of_one_device(two_processes):
    """Rates and weights are the same on both; a reduction traces nothing anew."""
    record = the_same(*two_processes["warmup"])
    assert_same(record, on_one_device("warmup"))
    assert record["traces"] == [1] * EPOCHS


def test_processes_decide_by_the_mean_of_their_metrics(two_processes):
    """Where each alone would decide otherwise."""
    record = the_same(*two_processes["float"])
    assert record["best"] == 2.0
    model = network(RATES["float"], ONE_DEVICE)
    assert_same(record, train(model, ONE_DEVICE, [loss_plateau(min_delta=1e-4)], values=MEAN))


def test_a_loop_of_two_processes_follows_the_rates_of_one_device(two_processes):
    """Each with its own value of the metric; no call needs to be in the scope."""
    record = the_same(*two_processes["loop"])
    assert_same(record, loop_on_one_device())


@pytest.mark.parametrize("changed", ["rate", "scale"])
def test_a_process_that_changes_its_rate_alone_is_an_error_on_all(two_processes, changed):
    """By hand, or by a `reset`: else the replicas would drift apart, with equal logs."""
    for record in two_processes[f"{changed} alone"]:
        assert "would drift apart" in record["error"]


def test_two_processes_that_were_killed_go_on_as_if_they_had_not_been(started_again):
    """From what the first one alone has written."""
    expected = on_one_device("step")
    for end in started_again.ends:
        assert_same({**expected, **end}, expected)


def test_two_devices_recover_as_one_does(two_devices):
    """The state of the last finite epoch is put back on both."""
    model = network(RATES["step"], ONE_DEVICE)
    callback = loss_plateau(recover=True)
    expected = train(model, ONE_DEVICE, [callback], values=ONE_NAN[1])
    assert_same(two_devices["recover"], expected)


def test_all_decide_as_one_device_inside_epochs(two_devices, two_processes):
    """By what they evaluate there and then."""
    expected = inside_epochs(ONE_DEVICE)
    records = [two_devices["every"], the_same(*two_processes["every"])]
    for record in records:
        assert_same(record, expected)
    assert_same_decisions(expected, *records)
