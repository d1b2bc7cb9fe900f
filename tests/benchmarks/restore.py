"""What `restore_best_weights` costs beside `EarlyStopping`'s: time, memory, and files."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

import keras_decay
from tests.benchmarks import _subjects as subjects
from tests.benchmarks._measure import count, interleaved, measurements, repeated
from tests.benchmarks.callback import VALUE, attached

WIDTHS = {3162: "10 million", 10_000: "100 million"}
MIB = 2**20
PROGRAM = """
import pathlib, re, sys
import keras, numpy as np
import keras_decay

def most():
    # Not `getrusage`, which begins with what the parent had.
    return int(re.search(r"VmHWM:\\s+(\\d+)", STATUS.read_text())[1]) // 1024

STATUS = pathlib.Path("/proc/self/status")

width, name = int(sys.argv[1]), sys.argv[2]
model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(width, use_bias=False)])
model.compile(keras.optimizers.SGD(1e-3), "mse")
arguments = {"monitor": "loss", "patience": 100, "restore_best_weights": True}
kinds = {
    "Keras EarlyStopping": keras.callbacks.EarlyStopping,
    "PlateauDecay": keras_decay.PlateauDecay,
}
callbacks = [kind(**arguments) for key, kind in kinds.items() if key == name]
x = np.random.default_rng(0).normal(size=(64, width)).astype("float32")
model.fit(x, 0 * x, epochs=2, verbose=0)
before = most()
model.fit(x, 0 * x, epochs=6, verbose=0, callbacks=callbacks)
print(most() - before)
"""
ARGUMENTS = {"mode": "min", "restore_best_weights": True}


def run(budget: float) -> Iterator[dict[str, Any]]:
    for width, weights in WIDTHS.items():
        yield from _times(width, f"restore_best_weights, {weights} weights", budget)
    yield from _memory(3162, "restore_best_weights, 10 million weights")
    for optimizer in (keras.optimizers.SGD, keras.optimizers.Adam):
        yield from _files(3162, optimizer, "restore_best_weights, 10 million weights")


def _model(width: int, optimizer: Any) -> Any:
    model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(width, use_bias=False)])
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    return model


def _plateau(model: Any, **arguments: Any) -> Any:
    # So close to 1 that the rate stays a rate, whatever the number of reductions.
    callback = keras_decay.PlateauDecay(factor=1 - 1e-6, patience=1, **arguments)
    return attached(callback, model)


def _times(width: int, group: str, budget: float) -> Iterator[dict[str, Any]]:
    keep, early = "PlateauDecay keeps better weights", "Keras EarlyStopping keeps better weights"
    restore, by_hand = "PlateauDecay restores them", "set_weights by hand"
    model = _model(width, keras.optimizers.SGD(subjects.RATE))
    # One plateau does both: two on one optimizer are an error.
    plateau = _plateau(model, **ARGUMENTS)
    stopping = attached(keras.callbacks.EarlyStopping(**ARGUMENTS), model)
    falling, epochs = itertools.count(0, -1), itertools.count()
    plateau.update(next(falling))
    best = model.get_weights()
    variants = {
        keep: repeated(lambda: plateau.update(next(falling))),
        early: repeated(lambda: stopping.on_epoch_end(next(epochs), {VALUE: next(falling)})),
        restore: repeated(lambda: (plateau.update(1.0), _values(model))),
        by_hand: repeated(lambda: (model.set_weights(best), _values(model))),
    }
    yield from measurements(
        group,
        interleaved(variants, seconds=4 * budget),
        unit="ms",
        against={keep: [early], restore: [by_hand]},
    )


def _values(model: Any) -> list[Any]:
    """What a restoration is done with: JAX copies the weights when it comes to it."""
    return [variable.value for variable in model.variables]


def _memory(width: int, group: str) -> Iterator[dict[str, Any]]:
    """In processes of their own, since what counts is the most that a process ever had."""
    if sys.platform != "linux":
        return
    for name in ("no callback", "Keras EarlyStopping", "PlateauDecay"):
        command = [sys.executable, "-c", PROGRAM, str(width), name]
        process = subprocess.run(command, capture_output=True, text=True, check=True)
        grown = int(process.stdout.split()[-1])
        yield count(group, f"{name}: a fit takes at most, MiB", grown)


def _files(width: int, optimizer: Any, group: str) -> Iterator[dict[str, Any]]:
    for restores in (False, True):
        model = _model(width, optimizer(subjects.RATE))
        _plateau(model, mode="min", restore_best_weights=restores).update(1.0)
        name = "with the best weights" if restores else "without"
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.weights.h5"
            model.save_weights(file)
            size = file.stat().st_size // MIB
        yield count(group, f".weights.h5, {optimizer.__name__}, {name}, MiB", size)
