"""What the tests on several devices and processes share, whatever the engine."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import keras
import numpy as np
from processes import emit, run_together
from support import BATCH_SIZE, STEPS_PER_EPOCH, data, number

from keras_decay import InverseTimeDecay, LinearWarmup, PlateauDecay, PlateauScale, StepDecay

STEPS = {"steps_per_epoch": STEPS_PER_EPOCH}
RATES = {
    "float": lambda: 0.05,
    "constant": lambda: PlateauScale(0.05),
    "step": lambda: StepDecay(0.05, 0.5, 2, **STEPS),
    "warmup": lambda: LinearWarmup(InverseTimeDecay(0.05, 0.1, **STEPS), 2, **STEPS),
}


def step_by_fit():
    """The rate `step`, which counts the epochs of `fit`."""
    return StepDecay(0.05, 0.5, 2)


# A metric of each process, for up to six epochs. Each row alone would lead to other reductions
# than their mean.
ROWS = [[4.0, 5.0, 1.5, 0.0, 4.0, 2.5], [4.0, 1.0, 5.5, 4.0, 0.0, 2.5]]
MEAN = [4.0, 3.0, 3.5, 2.0, 2.0, 2.5]

# In the third epoch the metric of one process is not finite.
ONE_NAN = [[4.0, 3.0, 2.0, 2.0, 2.0, 2.0], [4.0, 3.0, math.nan, 2.0, 2.0, 2.0]]

# Of `run_together`, in seconds: several times what it takes on a busy machine.
TIMEOUT = 240


def plateau(**arguments):
    """A plateau for which no loss is good enough: it reduces every other epoch."""
    return PlateauDecay(**{"factor": 0.5, "patience": 2, "min_delta": 100.0, **arguments})


def strict_plateau(**arguments):
    """A plateau that counts every improvement, and does not wait."""
    return plateau(**{"patience": 1, "min_delta": 1e-4, **arguments})


def result(model):
    """What a training run leaves behind: the next rate, and the weights."""
    return {
        "next": number(model.optimizer.learning_rate),
        "weights": [weights.tolist() for weights in model.get_weights()],
    }


def assert_weights(record, expected):
    """The weights are equal up to the rounding of sums in another order."""
    for a, b in zip(record["weights"], expected["weights"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def disputed_data():
    """On one half of each batch training makes the loss better, on the other one worse: each alone
    would lead to other reductions than their mean."""
    x, y = data(1)
    y = y.reshape(-1, BATCH_SIZE, 1).copy()
    y[:, BATCH_SIZE // 2 :] *= -0.3
    return x, y.reshape(-1, 1)


def assert_same_decisions(*records):
    """The same reductions at the same steps, and some of them."""
    decided = [
        [(step, reduced) for step, _, reduced in record["observations"]] for record in records
    ]
    assert all(each == decided[0] for each in decided)
    assert {reduced for _, reduced in decided[0]} == {True, False}


class Record(keras.callbacks.Callback):
    """What an epoch leaves behind, listed after the plateau and before the backup."""

    def on_epoch_end(self, epoch, logs=None):
        emit({"epoch": epoch, "rates": [logs["learning_rate"]], **result(self.model)})
        time.sleep(0.2)  # For the kill to find the run in its middle.


def records_of(script, scenario, folder, **arguments):
    """The records of each of the processes that ran a scenario to its end, by their names."""
    together = run_together(script, scenario, folder, timeout=TIMEOUT, **arguments)
    for process in together:
        assert process.status == 0, process.errors
    return [{record["name"]: record for record in process.records} for process in together]


class StartedAgain(NamedTuple):
    """What two processes did: of the run that one of them was killed in, the last record of each,
    with the rates of all epochs, whoever trained them; and the records of the scenario after it, by
    name, a pair."""

    ends: list
    records: dict


def killed_and_started_again(script, scenario, folder, epochs, error):
    """Two processes that run the scenario `backup`: one is killed, which ends the other by
    itself, with one of the words of `error`. Then both start again, from what the first one
    alone has written, and when they have ended it run another scenario."""
    (folder / "backup").mkdir()
    survivor, killed = run_together(script, "backup", folder, timeout=TIMEOUT, kill=(1, 2))
    assert killed.status == -9, killed.errors
    assert 1 < len(killed.records) < epochs
    assert survivor.status not in (0, -9)
    assert any(word in survivor.errors for word in error)
    ends, named = [], []
    for process in run_together(script, f"backup {scenario}", folder, timeout=TIMEOUT):
        assert process.status == 0, process.errors
        again = [record for record in process.records if "epoch" in record]
        assert min(record["epoch"] for record in again) > 0
        by_epoch = {record["epoch"]: record for record in [*killed.records, *again]}
        rates = [rate for epoch in range(epochs) for rate in by_epoch[epoch]["rates"]]
        ends.append({**by_epoch[epochs - 1], "rates": rates})
        named.append({each["name"]: each for each in process.records if "name" in each})
    first, second = named
    return StartedAgain(ends, {name: (first[name], second.get(name)) for name in first})
