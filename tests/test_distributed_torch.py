"""torch's `DistributedDataParallel` on two processes: the same rates on both."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from distributed import (
    MEAN,
    ONE_NAN,
    RATES,
    assert_same_decisions,
    assert_weights,
    killed_and_started_again,
    plateau,
    strict_plateau,
)
from support import BACKEND

if BACKEND != "torch":
    pytest.skip("needs torch", allow_module_level=True)

import torch
from distributed_torch_child import EPOCHS, fit, inside_epochs, loop, network

# A process computes with tensors on an accelerator, and with Python's numbers on a CPU.
LAST_BIT = 2e-7 if torch.cuda.is_available() else 0
CHILD = Path(__file__).with_name("distributed_torch_child.py")


def assert_same(record, expected):
    """The very rates of the run in one process, and its weights but for the order of sums."""
    np.testing.assert_allclose(record["rates"], expected["rates"], rtol=LAST_BIT)
    np.testing.assert_allclose(record["next"], expected["next"], rtol=LAST_BIT)
    assert_weights(record, expected)


@cache
def in_one_process(rate):
    return fit(network(RATES[rate]()), [plateau()])


@pytest.fixture(scope="module")
def started_again(tmp_path_factory):
    """Two processes, one of which was killed in its first start."""
    folder = tmp_path_factory.mktemp("two")
    return killed_and_started_again(CHILD, "several", folder, EPOCHS, error=["Connection"])


@pytest.fixture(scope="module")
def two_processes(started_again):
    """The records of two processes: by name, a pair."""
    return started_again.records


@pytest.mark.parametrize(
    ("run", "rate"), [("loop", "constant"), ("loop", "step"), ("fit", "float"), ("fit", "warmup")]
)
def test_two_processes_follow_the_rates_of_one(two_processes, run, rate):
    """Each trains and validates on its own half; the mean of what they observe is what one
    process would."""
    first, second = two_processes[f"{run} {rate}"]
    assert first["rates"] == second["rates"]
    assert first["weights"] == second["weights"]
    assert first["val_loss"] != second["val_loss"]
    expected = in_one_process(rate)
    assert_same(first, expected)
    mean = np.mean([first["val_loss"], second["val_loss"]], axis=0)
    np.testing.assert_allclose(mean, expected["val_loss"], rtol=1e-4)


def test_two_processes_decide_as_one_inside_epochs(two_processes):
    """By the mean of what they evaluate there and then."""
    first, second = two_processes["every"]
    assert first["weights"] == second["weights"]
    expected = inside_epochs()
    assert_same(first, expected)
    assert_same_decisions(first, second, expected)


def test_each_process_counts_the_epochs_of_its_own_fit(two_processes):
    """Which has as many steps, on its share of each batch."""
    first, second = two_processes["fit step by fit"]
    assert first["rates"] == second["rates"]
    assert_same(first, in_one_process("step"))


@pytest.mark.parametrize("run", ["loop", "fit"])
def test_processes_decide_by_the_mean_of_their_metrics(two_processes, run):
    """Where each alone would decide otherwise."""
    first, second = two_processes[f"{run} by the mean"]
    assert first["rates"] == second["rates"]
    assert first["weights"] == second["weights"]
    assert first["best"] == second["best"] == 2.0
    assert_same(first, loop(network(RATES["step"]()), strict_plateau(), MEAN))


def test_a_process_that_changes_its_rate_alone_is_an_error_on_all(two_processes):
    """Else the replicas would drift apart."""
    for record in two_processes["one alone"]:
        assert "would drift apart" in record["error"]


def test_a_process_that_falls_silent_is_an_error_in_the_time_of_the_group(two_processes):
    """`init_process_group(timeout=...)` bounds the wait for the metric of the others."""
    waiting, _ = two_processes["one is silent"]
    assert 3.5 < waiting["seconds"] < 7.5


def test_two_processes_that_were_killed_go_on_as_if_they_had_not_been(started_again):
    """From what the first one alone has written."""
    for end in started_again.ends:
        assert_same(end, in_one_process("step"))


def test_both_recover_together(two_processes):
    """Where the metric of one alone is not finite; as in one process."""
    expected = fit(network(RATES["step"]()), [plateau(recover=True)], ONE_NAN[1])
    for record in two_processes["recover"]:
        assert_same(record, expected)
