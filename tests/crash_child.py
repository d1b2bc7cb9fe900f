"""Trains under `BackupAndRestore` and writes a line per epoch; `test_crash` kills it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
from processes import warnings_are_errors
from support import STEPS_PER_EPOCH, data, fit, model

from keras_decay import PlateauDecay, StepDecay

RATES = {"float": 0.1, "schedule": StepDecay(0.1, 0.9, 3, steps_per_epoch=STEPS_PER_EPOCH)}
EPOCHS = 8


class Record(keras.callbacks.Callback):
    """What an epoch leaves behind, listed after the plateau and before the backup."""

    def __init__(self, run, plateau, emit):
        super().__init__()
        self.run = run
        self.plateau = plateau
        self.emit = emit

    def on_epoch_end(self, epoch, logs=None):
        weights = np.concatenate([w.ravel() for w in self.model.get_weights()])
        self.emit(
            {
                "run": self.run,
                "epoch": epoch,
                "rate": logs["learning_rate"],
                **self.plateau.state,
                "weights": weights.tolist(),
            }
        )


def train(rate, emit, backup=None):
    x, y = data(1)
    plateau = PlateauDecay(factor=0.5, patience=2, min_delta=0.05)
    callbacks = [plateau, Record(rate, plateau, emit)]
    if backup is not None:
        callbacks.append(
            keras.callbacks.BackupAndRestore(
                backup, double_checkpoint=True, delete_checkpoint=False
            )
        )
    fit(model(RATES[rate]), callbacks, epochs=EPOCHS, validation_data=(x, y))


if __name__ == "__main__":
    warnings_are_errors()
    keras.config.disable_traceback_filtering()  # To see whether it failed over its own backup.
    with Path(sys.argv[2]).open("a") as lines:

        def emit(record):
            lines.write(json.dumps(record) + "\n")
            lines.flush()

        for rate in RATES:
            train(rate, emit, backup=f"{sys.argv[1]}/{rate}")
