"""Made the files beside this one, once, with version 0.1.0: a plateau that is waiting.

KERAS_BACKEND=tensorflow python tests/waiting_files/make.py
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

import keras_decay
from keras_decay import PlateauDecay, StepDecay

HERE = Path(__file__).parent
RATE, MOMENTUM = 0.125, 0.5
# The first is the best; the third in vain reduces, the fourth cools down, the fifth waits.
VALUES = [5.0] * 5
RATES = {"float": lambda: RATE, "schedule": lambda: StepDecay(RATE, 0.5, 100, steps_per_epoch=1)}


@keras.saving.register_keras_serializable(package="waiting")
class Mean(keras.losses.Loss):
    """Its gradient is 1 wherever the weight is, and so is known what a step does."""

    def call(self, y, prediction):
        return prediction


class Values(keras.callbacks.Callback):
    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = self.values[epoch]


def network(rate):
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    model.compile(keras.optimizers.SGD(rate, momentum=MOMENTUM), Mean())
    model.optimizer.build(model.trainable_variables)
    return model


def plateau():
    return PlateauDecay(factor=0.5, patience=2, cooldown=1, restore_best_weights=True)


def fit(model, *callbacks, values=VALUES, **arguments):
    x = np.ones((1, 1), "float32")
    return model.fit(
        x, x, epochs=len(values), verbose=0, callbacks=[Values(values), *callbacks], **arguments
    ).history


if __name__ == "__main__":
    assert keras_decay.__version__ == "0.1.0"
    for name, rate in RATES.items():
        model = network(rate())
        backup = keras.callbacks.BackupAndRestore(HERE / name, delete_checkpoint=False)
        fit(model, plateau(), backup)
        for file in (HERE / name).glob("*.bkp"):
            file.unlink()
        model.save_weights(HERE / f"{name}.weights.h5")
        model.save(HERE / f"{name}.keras")
