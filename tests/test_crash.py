"""Training that is killed at random moments, and started again until it ends."""

from __future__ import annotations

import inspect
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from crash_child import EPOCHS, RATES, train
from processes import environment
from support import BACKEND, fit, model

from keras_decay import PlateauDecay

CHILD = Path(__file__).with_name("crash_child.py")
TIMEOUT = 120

has_double_checkpoint = pytest.mark.skipif(
    "double_checkpoint" not in inspect.signature(keras.callbacks.BackupAndRestore).parameters,
    reason="this Keras keeps no second checkpoint",
)


def recover(backup):
    """What our warning and the README say to do when Keras's two files do not fit together."""
    previous = list(backup.glob("*.bkp"))
    for file in previous:
        shutil.copy(file, file.with_suffix(""))
    if not previous:  # The first backup was being written.
        shutil.rmtree(backup)


def run(arguments, lines, kill_at=None, delay=0.0):
    """Runs the child to its end, or until so many epochs have ended in it, and a moment more."""
    before = lines.read_text().count("\n") if lines.exists() else 0
    child = subprocess.Popen(
        [sys.executable, CHILD, *arguments], stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        end = time.monotonic() + TIMEOUT
        while child.poll() is None and time.monotonic() < end:
            ended = (lines.read_text().count("\n") if lines.exists() else 0) - before
            if kill_at is not None and ended >= kill_at:
                time.sleep(delay)
                break
            time.sleep(0.002)
    finally:
        child.send_signal(signal.SIGKILL)
        _, errors = child.communicate()
    return child.returncode, errors


@has_double_checkpoint
def test_a_killed_run_that_is_started_again_is_the_uninterrupted_run(tmp_path):
    """Rate, best, wait, scale and weights of every epoch, whatever the moment of the kill: one in
    the run at a float rate, one in that over a schedule.

    Keras writes the two files of a backup one after the other, in place. A kill inside that
    moment leaves files that do not fit together; then the next start stops with an error, and
    the previous pair, which `double_checkpoint=True` keeps, is put back.
    """
    expected = []
    for rate in RATES:
        train(rate, expected.append)
    backup, lines = tmp_path / "backup", tmp_path / "lines"
    arguments = [str(backup), str(lines)]
    # Each backend is killed at other moments.
    moments = random.Random(BACKEND)
    # In the first half of each run, for the kill to come before its end.
    due = [number * EPOCHS + moments.randint(1, EPOCHS // 2 - 1) for number in range(len(RATES))]
    status, errors, starts = None, "", 0
    while status != 0:
        starts += 1
        assert starts < 3 * len(RATES), errors
        ended = len(set(lines.read_text().splitlines())) if lines.exists() else 0
        kill_at = max(due[0] - ended, 1) if due else None
        status, errors = run(arguments, lines, kill_at, moments.uniform(0, 0.05))
        if status == -signal.SIGKILL:
            del due[0]
        if status > 0:  # Not killed: the files do not fit together.
            reading = "backup_and_restore.py"
            assert reading in errors or "is trained a second time" in errors, errors
            recover(max(backup.iterdir(), key=lambda folder: folder.stat().st_mtime))
    assert not due
    actual = {}
    for line in lines.read_text().splitlines():
        record = json.loads(line)
        # An epoch that was killed in its backup comes twice.
        actual[record.pop("run"), record["epoch"]] = record
    assert sorted(actual) == [(rate, epoch) for rate in sorted(RATES) for epoch in range(EPOCHS)]
    for record in expected:
        key = record.pop("run"), record["epoch"]
        for name, value in record.items():
            np.testing.assert_allclose(
                actual[key][name], value, rtol=1e-5, atol=1e-7, err_msg=f"{key} {name}"
            )
    assert expected[-1]["reductions"] >= 2


class Stop(Exception):
    pass


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Stop


VALUES = [3.0, 3.0, 2.0, 2.0, 2.0, 2.0]


def start(backup, stop=None, seed=0):
    plateau = PlateauDecay(factor=0.5, patience=2)
    callbacks = [plateau, keras.callbacks.BackupAndRestore(backup, double_checkpoint=True)]
    callbacks += [StopAt(stop)] if stop else []
    network = model(0.1, seed=seed)
    history = fit(network, callbacks, epochs=len(VALUES), values=VALUES)
    return history["learning_rate"], plateau.state, network.get_weights()


@has_double_checkpoint
@pytest.mark.parametrize("damage", ["half weights", "torn weights", "metadata", "between"])
def test_a_kill_in_the_moment_of_the_backup_is_survived(damage, tmp_path):
    """Half a weights file: Keras takes the second checkpoint. A weights file that opens and
    lacks its middle, half a metadata file, or one that is older than the weights: an error or
    our warning, and the second checkpoint by hand."""
    _, state, weights = start(tmp_path / "whole")
    backup = tmp_path / "backup"
    with pytest.raises(Stop):
        start(backup, stop=4)
    file = backup / "latest.weights.h5"
    metadata = backup / "training_metadata.json"
    if damage == "half weights":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "torn weights":
        content = bytearray(file.read_bytes())
        content[40:48] = (2048).to_bytes(8, "little")  # Where HDF5 takes the end of the file for.
        file.write_bytes(content)
        with pytest.raises((RuntimeError, ValueError), match="addr overflow"):
            start(backup, seed=1)
        recover(backup)
    elif damage == "metadata":
        metadata.write_text('{"epo')
        with pytest.raises(json.JSONDecodeError):
            start(backup, seed=1)
        recover(backup)
    else:
        shutil.copy(f"{metadata}.bkp", metadata)
        kept = tmp_path / "kept"
        shutil.copytree(backup, kept)
        with pytest.warns(UserWarning, match="Epoch 3 is trained a second time"):
            start(backup, seed=1)
        shutil.rmtree(backup, ignore_errors=True)
        shutil.copytree(kept, backup)
        recover(backup)
    _, again, weights_again = start(backup, seed=1)
    assert again == state
    for a, b in zip(weights_again, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
