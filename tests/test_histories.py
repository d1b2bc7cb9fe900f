"""Whatever was done to an optimizer before: a step trains at the rate that the log says."""

from __future__ import annotations

import copy
import random

import keras
import numpy as np
import pytest
from support import number

from keras_decay import (
    EpochSchedule,
    InverseTimeDecay,
    LearningRateLogger,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    StepDecay,
)

BATCHES = 3
ACTIONS = 12


def network(optimizer):
    """A model whose weight each step moves by the rate."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
    )
    model.compile(optimizer, Moves())
    return model


@keras.saving.register_keras_serializable(package="tests")
class Moves(keras.losses.Loss):
    def call(self, y, prediction):
        return prediction


def weight(model):
    return model.get_weights()[0].item()


class Weights(keras.callbacks.Callback):
    """The weight at the beginning and the end of each epoch, and a metric that stands still."""

    def __init__(self):
        super().__init__()
        self.moved = []

    def on_epoch_begin(self, epoch, logs=None):
        self.before = weight(self.model)

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = 1.0
        self.moved.append(self.before - weight(self.model))


def constant(rate):
    """Schedules that stay at a rate for the whole of an epoch, each of another kind."""
    steps = {"steps_per_epoch": BATCHES}
    return random.choice(
        [
            lambda: StepDecay(rate, 0.5, 10**6, **steps),
            lambda: EpochSchedule([rate, rate / 2, rate / 4]),
            lambda: InverseTimeDecay(rate, 1.0, staircase=True),
            lambda: keras.optimizers.schedules.ExponentialDecay(rate, BATCHES, 0.9, True),
            lambda: LinearWarmup(StepDecay(rate, 0.5, 2), 0, **steps),
            lambda: PlateauScale(StepDecay(rate, 0.5, 3, **steps)),
            lambda: PlateauScale(rate),
        ]
    )()


class History:
    """One model, and what is done to it."""

    def __init__(self, folder):
        self.folder = folder
        self.shared = PlateauScale(0.25)
        self.callback = PlateauDecay(factor=0.5, patience=1)
        self.model = network(self.optimizer())

    def optimizer(self):
        rate = random.choice([0.125, self.shared, constant(0.25), constant(0.5)])
        return keras.optimizers.SGD(rate)

    def fit(self, callback):
        x, weights = np.ones((BATCHES, 1), "float32"), Weights()
        logs = self.model.fit(
            x, x, batch_size=1, epochs=2, verbose=0, callbacks=[weights, callback]
        ).history
        np.testing.assert_allclose(
            np.array(weights.moved) / BATCHES, logs["learning_rate"], rtol=2e-4, atol=1e-6
        )

    def fit_with_the_plateau(self):
        self.fit(self.callback)

    def fit_with_another_plateau(self):
        floor = random.choice([0.0, 0.03, 0.1])
        self.callback = PlateauDecay(factor=0.5, patience=1, min_learning_rate=floor)
        self.fit(self.callback)

    def fit_with_a_logger(self):
        self.fit(LearningRateLogger())

    def fit_alone(self):
        x = np.ones((BATCHES, 1), "float32")
        try:
            self.model.fit(x, x, batch_size=1, verbose=0)
        except ValueError as error:
            assert "does not know yet" in str(error)  # noqa: PT017

    def compile_with_another_optimizer(self):
        self.model.compile(self.optimizer(), Moves())
        before = number(self.model.optimizer.iterations)
        self.callback.attach(self.model)
        assert before == 0
        if not isinstance(self.callback.state["best"], float):
            assert self.callback.state["scale"] == 1.0

    def compile_again(self):
        self.model.compile(self.model.optimizer, Moves())

    def compile_with_a_copy_from_the_config(self):
        config = self.model.optimizer.get_config()
        self.model.compile(keras.optimizers.SGD.from_config(config), Moves())

    def save_and_load(self):
        path = self.folder / "model.keras"
        self.model.save(path)
        self.model = keras.models.load_model(path)

    def save_and_load_weights(self):
        path = self.folder / "model.weights.h5"
        self.callback.attach(self.model)
        before = self.callback.state
        self.model.save_weights(path)
        self.model.load_weights(path)
        assert self.callback.state == before

    def set_another_rate(self):
        if not isinstance(self.model.optimizer._learning_rate, keras.Variable):
            self.model.optimizer.learning_rate = random.choice([self.shared, constant(0.25)])
        else:
            self.model.optimizer.learning_rate = random.choice([0.25, constant(0.5)])

    def copy_the_callback(self):
        self.callback = random.choice([copy.copy, copy.deepcopy])(self.callback)

    def attach(self):
        self.callback.attach(self.model)

    def update(self):
        self.callback.attach(self.model)
        self.callback.update(1.0)

    def reduce(self):
        self.callback.attach(self.model)
        before = self.callback.state["scale"]
        if self.callback.reduce():
            assert self.callback.state["scale"] == before / 2

    def reset(self):
        self.callback.attach(self.model)
        self.callback.reset()
        assert self.callback.state["scale"] == 1.0

    def train_another_model_with_the_same_scale(self):
        mine, self.model = self.model, network(keras.optimizers.SGD(self.shared))
        self.fit(PlateauDecay(factor=0.5, patience=1))
        self.model = mine


NAMES = sorted(
    name for name in vars(History) if not name.startswith("_") and name not in ("fit", "optimizer")
)


@pytest.mark.filterwarnings("ignore:.*PlateauScale. has the memory:UserWarning")
@pytest.mark.parametrize("seed", range(12))
def test_a_step_trains_at_the_rate_that_the_log_says_after_any_history(seed, tmp_path):
    """Random sequences of what people do between two fits, with and without our callbacks."""
    random.seed(seed)
    history, done = History(tmp_path), []
    for _ in range(ACTIONS):
        done.append(random.choice(NAMES))
        try:
            getattr(history, done[-1])()
        except Exception as error:
            raise AssertionError(f"after {done}") from error
    history.fit_with_the_plateau()
