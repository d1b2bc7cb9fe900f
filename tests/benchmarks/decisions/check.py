"""A sample of the runs in Keras's own `fit`, beside the vmapped ones.

With `--check` the sample is trained on JAX and written to a file, and each installed backend then
trains it from there. One that is installed elsewhere compares itself with
`python -m tests.benchmarks.decisions.check FILE`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_decay
from tests.benchmarks.decisions import methods
from tests.benchmarks.decisions.tasks import TASKS, Data, Task, make_optimizer

BACKENDS = ("tensorflow", "jax", "torch")
EPOCHS = 30
TOLERANCE = 0.01
"""Of the validation losses: each backend adds up its floats in an order of its own."""


@dataclass(frozen=True)
class Cell:
    """One of the sample: where in `TASKS`, and how it is trained.

    Attributes:
        form: Factor and patience of a `PlateauDecay`.
        restore: What that goes back to: nothing, `methods.CHOSEN` or `methods.RECOVER`.
        keras: Whether it is `ReduceLROnPlateau`, at its defaults.
        steps_down: Whether it is `StepDecay`.
    """

    task: int
    optimizer: str
    rate: float
    form: methods.Form | None = None
    restore: str = ""
    keras: bool = False
    steps_down: bool = False

    @property
    def method(self) -> methods.Method:
        if self.form:
            return methods.plateau(self.form, self.restore)
        name = "ReduceLROnPlateau" if self.keras else "constant"
        name = "StepDecay .1 every third" if self.steps_down else name
        return next(method for method in methods.methods() if method.name == name)

    def in_fit(self) -> tuple[Any, list[Any]]:
        """The learning rate and the callbacks that `fit` is given."""
        logger = keras_decay.LearningRateLogger()
        if self.form:
            factor, patience = self.form
            return self.rate, [
                keras_decay.PlateauDecay(
                    factor=factor,
                    patience=patience,
                    restore_best_weights=self.restore != "",
                    recover=self.restore == methods.RECOVER,
                )
            ]
        if self.keras:
            return self.rate, [keras.callbacks.ReduceLROnPlateau(), logger]
        if self.steps_down:
            return keras_decay.StepDecay(self.rate, 0.1, EPOCHS // 3), [logger]
        return self.rate, [logger]


def sample(restores: bool) -> list[Cell]:
    """Rates at which there are reductions, and which do not make a chaos of the last digits."""
    cells = []
    for task, optimizer, rate in ((2, "sgd", 0.03), (2, "adam", 0.01), (3, "sgd", 0.01)):
        cells += [
            Cell(task, optimizer, rate),
            Cell(task, optimizer, rate, keras=True),
            Cell(task, optimizer, rate, form=(0.3, 3)),
            Cell(task, optimizer, rate, steps_down=True),
        ]
        if restores:
            forms = (methods.CHOSEN, methods.RECOVER)
            cells += [Cell(task, optimizer, rate, form=(0.3, 3), restore=each) for each in forms]
    if restores:
        # No value is ever finite, so only the second one has anything to go back to.
        cells += [Cell(3, "sgd", 1.0, form=(0.1, 5), restore=each) for each in forms]
    return cells


def main(file: Path, restores: bool = False) -> None:
    """Trains the sample on JAX, and then in `fit` on each backend."""
    from tests.benchmarks.decisions.training import Trainer

    arrays = {}
    cells = sample(restores)
    for i, cell in enumerate(cells):
        task = TASKS[cell.task]
        data = task.load(0)
        trainer = Trainer(task, cell.optimizer)
        runs = trainer.train(data, 0, [(cell.method, cell.rate)], (EPOCHS,))
        arrays |= {f"{i}.value": runs.value[:, 0], f"{i}.rate": runs.rate[:, 0]}
        for j, weight in enumerate(task.model(data, 0).get_weights()):
            arrays[f"{i}.weight.{j}"] = weight
    np.savez(file, restores=json.dumps(restores), **arrays)
    print(f"{len(cells)} runs are in {file}")
    failed = False
    for backend in BACKENDS:
        if importlib.util.find_spec(backend):
            environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": backend}
            command = [sys.executable, "-m", "tests.benchmarks.decisions.check", str(file)]
            failed |= subprocess.run(command, env=environment, check=False).returncode != 0
    if failed:
        sys.exit(1)


def compare(file: Path) -> bool:
    """Trains the sample of a file in `fit`, and says whether all of it agrees."""
    agrees = True
    with np.load(file) as arrays:
        for i, cell in enumerate(sample(json.loads(str(arrays["restores"])))):
            task = TASKS[cell.task]
            data = task.load(0)
            model = task.model(data, 0)
            count = len(model.get_weights())
            model.set_weights([arrays[f"{i}.weight.{j}"] for j in range(count)])
            value, rate = train_in_fit(cell, task, data, model)
            vmapped = arrays[f"{i}.value"]
            finite = np.isfinite(vmapped)
            off = np.max(np.abs(value[finite] / vmapped[finite] - 1), initial=0)
            same = np.allclose(rate, arrays[f"{i}.rate"], rtol=1e-5, atol=0)
            same &= np.array_equal(np.isfinite(value), finite)
            agrees &= bool(same and off <= TOLERANCE)
            print(
                f"{keras.backend.backend():10} {task.name}, {cell.optimizer} at {cell.rate:g}, "
                f"{cell.method.name}: losses within {off:.1e}, {finite.sum()} of {EPOCHS} finite, "
                f"{len(np.unique(rate)) - 1} reductions, {'equal' if same else 'DIFFERENT'}"
            )
    return agrees


def train_in_fit(cell: Cell, task: Task, data: Data, model: Any) -> tuple[np.ndarray, np.ndarray]:
    """The validation loss and the rate of each epoch."""
    learning_rate, callbacks = cell.in_fit()
    optimizer = make_optimizer(cell.optimizer, learning_rate)
    model.compile(optimizer, task.loss)
    # The rows of all epochs in a row, since `fit` draws orders of its own.
    orders = task.batches(data, 0, EPOCHS)
    rows = orders.reshape(-1)
    history = model.fit(
        data.x[rows],
        data.t[rows],
        batch_size=task.batch_size,
        steps_per_epoch=orders.shape[1],
        validation_data=(data.x_val, data.t_val),
        epochs=EPOCHS,
        shuffle=False,
        callbacks=callbacks,
        verbose=0,
    ).history
    return np.array(history["val_loss"]), np.array(history["learning_rate"])


if __name__ == "__main__":
    sys.exit(0 if compare(Path(sys.argv[1])) else 1)
