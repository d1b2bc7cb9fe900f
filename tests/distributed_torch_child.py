"""Trains with torch's `DistributedDataParallel`; run by `test_distributed_torch`."""

from __future__ import annotations

import os
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import keras
import torch
from distributed import (
    ONE_NAN,
    RATES,
    ROWS,
    Record,
    disputed_data,
    plateau,
    result,
    step_by_fit,
    strict_plateau,
)
from processes import emit, warnings_are_errors
from support import BATCH_SIZE, Metric, data
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

RANK = int(os.environ.get("RANK", "0"))
COUNT = int(os.environ.get("WORLD_SIZE", "1"))
EPOCHS = 6


class Network(keras.Sequential):
    """A linear model whose `fit` trains it on all processes together."""

    def train_step(self, data):
        x, y = data
        self.zero_grad()
        y_pred = self.forward_on_all(x)
        loss = self.compute_loss(x, y, y_pred)
        self.apply_gradients_of(loss)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}

    def apply_gradients_of(self, loss):
        loss.backward()
        with torch.no_grad():
            gradients = [variable.value.grad for variable in self.trainable_weights]
            self.optimizer.apply(gradients, self.trainable_weights)


def network(rate, seed=0):
    """The same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    model = Network([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), keras.losses.MeanSquaredError())
    model.optimizer.build(model.trainable_variables)
    # A method, since a module that held itself would never end.
    model.forward_on_all = (DistributedDataParallel(model) if COUNT > 1 else model).__call__
    return model


def share(array):
    """The rows of each batch that this process trains on."""
    batches = array.reshape(-1, COUNT, BATCH_SIZE // COUNT, *array.shape[1:])
    return batches[:, RANK].reshape(-1, *array.shape[1:])


def fit(model, callbacks, values=None):
    """Trains and validates on this process's share; returns the result."""
    x, y = map(share, data(0))
    injected = [] if values is None else [Metric(values)]
    history = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE // COUNT,
        epochs=EPOCHS,
        validation_data=tuple(map(share, data(1))),
        callbacks=[*injected, *callbacks],
        verbose=0,
        shuffle=False,
    ).history
    values = history["val_loss"]
    return {"rates": history["learning_rate"], "val_loss": values, **result(model)}


def inside_epochs():
    """What is observed each three steps, on this process's share."""
    callback = strict_plateau(every=3, validation_data=tuple(map(share, disputed_data())))
    record = fit(network(RATES["step"]()), [callback])
    return {"observations": callback.observations, **record}


def loop(model, callback, values=None):
    """The training loop of Keras's guide for torch, on all processes together."""
    callback.attach(model)
    x, y = (torch.from_numpy(share(array)) for array in data(0))
    x_val, y_val = map(share, data(1))
    size = BATCH_SIZE // COUNT
    rates, observed = [], []
    for epoch in range(EPOCHS):
        for start in range(0, len(x), size):
            rate = float(model.optimizer.learning_rate)
            model.zero_grad()
            prediction = model.forward_on_all(x[start : start + size])
            model.apply_gradients_of(model.loss(y[start : start + size], prediction))
        rates.append(rate)  # As in the logs: of the epoch's last step.
        own = model.evaluate(x_val, y_val, verbose=0) if values is None else values[epoch]
        callback.update(own, epoch)
        observed.append(own)
    return {"rates": rates, "val_loss": observed, **result(model)}


class Alone(keras.callbacks.Callback):
    """Something that one process alone does to the rate."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 4 and RANK == 1:
            self.model.optimizer.learning_rate = 0.01


def several(folder):
    own = ROWS[RANK]
    for name in ("constant", "step"):
        emit({"name": f"loop {name}", **loop(network(RATES[name]()), plateau())})
    for name in ("float", "warmup"):
        emit({"name": f"fit {name}", **fit(network(RATES[name]()), [plateau()])})
    emit({"name": "fit step by fit", **fit(network(step_by_fit()), [plateau()])})
    emit({"name": "every", **inside_epochs()})
    for name, run in (
        ("loop", loop),
        ("fit", lambda model, one, values: fit(model, [one], values)),
    ):
        callback = strict_plateau()
        record = run(network(RATES["step"]()), callback, own)
        emit({"name": f"{name} by the mean", "best": callback.state["best"], **record})
    values = ONE_NAN[RANK]  # The metric of the second process alone is not finite in one epoch.
    emit({"name": "recover", **fit(network(RATES["step"]()), [plateau(recover=True)], values)})
    with warnings.catch_warnings():
        # One process alone is told that the rate stands below where the plateau left it.
        warnings.filterwarnings("ignore", "The learning rate stands below")
        try:
            fit(network(0.05), [Alone(), plateau()])
        except RuntimeError as error:
            emit({"name": "one alone", "error": str(error)})

    model, callback = network(0.05), plateau()
    callback.attach(model)
    # Another group, since starting the processes takes longer than its time.
    distributed.destroy_process_group()
    meeting = {"init_method": f"file://{folder}/meeting", "rank": RANK, "world_size": COUNT}
    distributed.init_process_group("gloo", timeout=timedelta(seconds=4), **meeting)
    start = time.monotonic()
    if RANK == 1:
        time.sleep(8)
        os._exit(0)
    try:
        callback.update(1.0)
    except RuntimeError:
        emit({"name": "one is silent", "seconds": time.monotonic() - start})
    os._exit(0)


def backup(folder):
    """A run that is to be killed, and then started again. The first process alone writes the
    backup; all restore it."""
    folder = folder / "backup"
    started_before = any(folder.iterdir())
    restore = keras.callbacks.BackupAndRestore(
        folder, save_freq="epoch" if RANK == 0 else sys.maxsize, delete_checkpoint=False
    )
    fit(network(RATES["step"](), seed=started_before), [plateau(), Record(), restore])


if __name__ == "__main__":
    warnings_are_errors()
    distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    for name in sys.argv[1].split():
        {"several": several, "backup": backup}[name](Path(sys.argv[2]))
    distributed.destroy_process_group()
