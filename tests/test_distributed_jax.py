"""JAX on several devices, in one process and in several: the same rates everywhere."""

from __future__ import annotations

import inspect
import os
from functools import cache
from pathlib import Path

import pytest
from distributed import (
    MEAN,
    ONE_NAN,
    RATES,
    assert_same_decisions,
    assert_weights,
    killed_and_started_again,
    plateau,
    records_of,
    strict_plateau,
)
from support import BACKEND

if BACKEND != "jax":
    pytest.skip("needs JAX", allow_module_level=True)

import keras

if "auto_shard_dataset" not in inspect.signature(keras.distribution.DataParallel).parameters:
    pytest.skip("needs a Keras that can leave the data as they are", allow_module_level=True)

from distributed_jax_child import BEST_SECOND, EPOCHS, HALF, inside_epochs, loop, network, train

from keras_decay import LearningRateLogger

CHILD = Path(__file__).with_name("distributed_jax_child.py")


def devices(count):
    flags = os.environ.get("XLA_FLAGS", "")
    return {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}"}


def assert_same(record, expected):
    """The very rates of the run on one device, and its weights but for the order of sums."""
    assert record["rates"] == expected["rates"]
    assert record["next"] == record.get("called", record["next"]) == expected["next"]
    assert_weights(record, expected)


@cache
def on_one_device(rate, **arguments):
    """What the run gives in this process, which has one device."""
    return train(network(RATES[rate]()), [plateau()], **arguments)


def by_the_mean(rate):
    return train(network(RATES[rate]()), [strict_plateau()], values=MEAN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a model in it that was trained for `HALF` epochs on one device."""
    path = tmp_path_factory.mktemp("files")
    model = network(RATES["step"]())
    train(model, [plateau()], epochs=HALF)
    model.save(path / "one.keras")
    return path


@pytest.fixture(scope="module")
def four_devices(folder):
    """The records of one process with four devices, by name."""
    return records_of(CHILD, "devices", folder, count=1, **devices(4))[0]


@pytest.mark.parametrize(
    ("distribution", "rate"),
    [
        ("data_parallel", "float"),
        ("data_parallel", "warmup"),
        ("data_parallel", "early step"),
        ("model_parallel", "step"),
        ("model_parallel", "early float"),
    ],
)
def test_four_devices_follow_the_rates_of_one(four_devices, distribution, rate):
    """Also with a `PlateauScale` that was made before the distribution; and a reduction
    compiles nothing anew."""
    record = four_devices[f"{distribution} {rate}"]
    assert_same(record, on_one_device(rate.removeprefix("early ")))
    assert record["compilations"] == 1
    assert record["devices"] == 4
    assert record["shard"] == [3, 4 if distribution == "data_parallel" else 2]


def test_a_loop_on_four_devices_follows_the_rates_of_one(four_devices):
    """Also with a `PlateauScale` that a plateau scaled on one device before."""
    expected = loop(network(RATES["step"]()), strict_plateau(), MEAN)
    assert_same(four_devices["loop"], expected)


@pytest.mark.parametrize("file", ["one", "several"])
def test_a_file_goes_on_with_the_same_rates_on_four_devices(four_devices, file):
    """Whether it was saved on one device or on four."""
    record = four_devices[f"{file} on with PlateauDecay"]
    expected = on_one_device("step")
    assert_same(record, {**expected, "rates": expected["rates"][HALF:]})
    assert record["loaded"] == expected["rates"][HALF]


def test_a_file_from_four_devices_goes_on_with_the_same_rates_on_one(four_devices, folder):
    """The scale is where the loaded optimizer is."""
    model = keras.models.load_model(folder / "several.keras")
    record = train(model, [plateau()], initial_epoch=HALF)
    expected = on_one_device("step")
    assert_same(record, {**expected, "rates": expected["rates"][HALF:]})


def test_a_loaded_scale_alone_holds_on_four_devices(four_devices, folder):
    """Training on without a `PlateauDecay` keeps the scale that it had reached."""
    model = keras.models.load_model(folder / "one.keras")
    expected = train(model, [LearningRateLogger()], initial_epoch=HALF)
    assert_same(four_devices["several on with LearningRateLogger"], expected)


def test_a_backup_goes_on_with_the_same_rates_on_four_devices(four_devices):
    """`BackupAndRestore` into another model."""
    expected = on_one_device("step")
    assert_same(four_devices["backup"], {**expected, "rates": expected["rates"][HALF:]})


def test_the_best_weights_are_restored_on_four_devices(four_devices):
    """`restore_best_weights` puts them back where the variables are."""
    callback = plateau(restore_best_weights=True)
    expected = train(network(RATES["step"]()), [callback], values=BEST_SECOND)
    assert_same(four_devices["best weights"], expected)


@pytest.fixture(scope="module")
def started_again(tmp_path_factory):
    """Two processes with two devices each, one of which was killed in its first start."""
    folder, error = tmp_path_factory.mktemp("two"), ["Gloo", "heartbeat"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", devices(2)["XLA_FLAGS"])
        return killed_and_started_again(CHILD, "processes", folder, EPOCHS, error)


@pytest.fixture(scope="module")
def two_processes(started_again):
    """The records of two processes: by name, a pair."""
    return started_again.records


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("warmup", "warmup"),
        ("step by fit", "step"),
        ("two steps an execution", "step"),
    ],
)
def test_two_processes_follow_the_rates_of_one_device(two_processes, name, rate):
    """Each trains on its half of each batch; rates and weights are the same on both."""
    first, second = two_processes[name]
    assert first == second
    assert_same(first, on_one_device(rate))


@pytest.mark.parametrize("rate", ["float", "step"])
def test_processes_decide_by_the_mean_of_their_metrics(two_processes, rate):
    """Where each alone would decide otherwise."""
    first, second = two_processes[f"{rate} by the mean"]
    assert first == second
    assert first["best"] == 2.0
    assert_same(first, by_the_mean(rate))


def test_a_loop_of_two_processes_follows_the_rates_of_one_device(two_processes):
    """`attach` and `update` in a loop written by hand, each with its own value of the metric."""
    first, second = two_processes["loop"]
    assert first == second
    callback = strict_plateau()
    assert_same(first, loop(network(RATES["step"]()), callback, MEAN))


def test_a_process_that_changes_its_plateau_alone_is_an_error_on_all(two_processes):
    """Else the replicas would drift apart while their logs stay equal."""
    for record in two_processes["one alone"]:
        assert "would drift apart" in record["error"]


def test_all_decide_as_one_device_inside_epochs(four_devices, two_processes):
    """By what they evaluate there and then; processes by the mean of it."""
    expected, records = inside_epochs(), [four_devices["every"], *two_processes["every"]]
    for record in records:
        assert_same(record, expected)
    assert_same_decisions(expected, *records)


@pytest.mark.parametrize("processes", [1, 2])
def test_all_recover_together(request, processes):
    """Where the metric of one process alone is not finite; as on one device."""
    callback = plateau(recover=True)
    expected = train(network(RATES["step"]()), [callback], values=ONE_NAN[1])
    assert callback.state["reductions"] > 1
    if processes == 1:
        assert_same(request.getfixturevalue("four_devices")["recover"], expected)
    else:
        for record in request.getfixturevalue("two_processes")["recover"]:
            assert_same(record, expected)


def test_two_processes_that_were_killed_go_on_as_if_they_had_not_been(started_again):
    """From what the first one alone has written."""
    for end in started_again.ends:
        assert_same(end, on_one_device("step"))
