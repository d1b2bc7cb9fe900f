"""What is compared: networks, our schedules, and those of Keras for the same job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_decay
from tests.benchmarks._names import (
    AGAIN,
    CONSTANT,
    COSINE,
    EXPONENTIAL,
    INVERSE,
    KERAS_INVERSE,
    MILESTONES,
    PIECEWISE,
    PLATEAU_COSINE,
    PLATEAU_FLOAT,
    PLATEAU_STEP,
    STEP,
    WARMUP,
)

BACKEND = keras.backend.backend()
RATE = 0.01
# So many that no rate comes down to where the arithmetic itself gets slow.
STEPS_PER_EPOCH = 1000
schedules = keras.optimizers.schedules

OURS = (STEP, MILESTONES, INVERSE, WARMUP, PLATEAU_FLOAT, PLATEAU_STEP, PLATEAU_COSINE)
PEERS = {
    STEP: EXPONENTIAL,
    MILESTONES: PIECEWISE,
    INVERSE: KERAS_INVERSE,
    WARMUP: EXPONENTIAL,
    PLATEAU_STEP: EXPONENTIAL,
    PLATEAU_COSINE: COSINE,
}
"""Keras's schedule for the same job, or for the job of the schedule inside."""


def milestones(count: int) -> keras_decay.StepDecay:
    epochs = range(10, 10 * count + 10, 10)
    return keras_decay.StepDecay(RATE, 0.99, list(epochs), steps_per_epoch=STEPS_PER_EPOCH)


def piecewise(count: int) -> Any:
    boundaries = [10 * STEPS_PER_EPOCH * n for n in range(1, count + 1)]
    return schedules.PiecewiseConstantDecay(boundaries, [RATE * 0.99**n for n in range(count + 1)])


def step_decay() -> keras_decay.StepDecay:
    return keras_decay.StepDecay(RATE, 0.5, 10, steps_per_epoch=STEPS_PER_EPOCH)


def cosine() -> Any:
    return schedules.CosineDecay(RATE, 1000 * STEPS_PER_EPOCH)


RATES: dict[str, Callable[[], Any]] = {
    CONSTANT: lambda: RATE,
    AGAIN: lambda: RATE,
    STEP: step_decay,
    MILESTONES: lambda: milestones(5),
    INVERSE: lambda: keras_decay.InverseTimeDecay(RATE, 0.1, steps_per_epoch=STEPS_PER_EPOCH),
    WARMUP: lambda: keras_decay.LinearWarmup(step_decay(), 5, steps_per_epoch=STEPS_PER_EPOCH),
    PLATEAU_FLOAT: lambda: RATE,
    PLATEAU_STEP: step_decay,
    PLATEAU_COSINE: cosine,
    EXPONENTIAL: lambda: schedules.ExponentialDecay(
        RATE, 10 * STEPS_PER_EPOCH, 0.5, staircase=True
    ),
    PIECEWISE: lambda: piecewise(5),
    KERAS_INVERSE: lambda: schedules.InverseTimeDecay(RATE, STEPS_PER_EPOCH, 0.1),
    COSINE: cosine,
}

OPTIMIZERS = {"SGD": keras.optimizers.SGD, "AdamW": keras.optimizers.AdamW}

# Features, hidden layers, batch. A step of the medium one takes some 10 ms.
NETWORKS = {
    "small": (64, (32,), 32),
    "medium": (256, (384,) * 4, 128),
}


def network(size: str, optimizer: Any) -> Any:
    """A compiled classifier of ten classes."""
    features, hidden, _ = NETWORKS[size]
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(units, "relu") for units in hidden]
    model = keras.Sequential([keras.Input((features,)), *layers, keras.layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    return model


def batch(size: str) -> tuple[np.ndarray, np.ndarray]:
    features, _, examples = NETWORKS[size]
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(examples, features)).astype("float32")
    return x, numbers.integers(0, 10, size=examples).astype("int32")
