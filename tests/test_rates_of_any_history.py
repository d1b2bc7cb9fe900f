"""Random histories of an optimizer beside a model of what should hold of its rate.

Whatever was done before, a step trains at the rate that the log says.
"""

from __future__ import annotations

import copy
import random
import warnings
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from internals import counting_epochs
from support import BACKEND, Measure, Prediction, measuring, number

from keras_decay import (
    EpochSchedule,
    InverseTimeDecay,
    LearningRateLogger,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    StepDecay,
)

# Actions that are tested one by one elsewhere.
pytestmark = pytest.mark.any_keras

BATCHES, EPOCHS, ACTIONS, SEQUENCES = 2, 2, 12, 8
FACTOR = 0.5
TABLE = [0.5, 0.3, 0.2, 0.1]

# A schedule that is constant within an epoch, and its closed form. Some count the epochs of
# `fit`.
SCHEDULES = [
    (lambda: StepDecay(0.5, 0.5, 3, steps_per_epoch=BATCHES), lambda e: 0.5 * 0.5 ** (e // 3)),
    (
        lambda: InverseTimeDecay(0.25, 1.0, steps_per_epoch=BATCHES, staircase=True),
        lambda e: 0.25 / (1.0 + e),
    ),
    (
        lambda: keras.optimizers.schedules.ExponentialDecay(0.4, BATCHES, 0.9, staircase=True),
        lambda e: 0.4 * 0.9**e,
    ),
    (lambda: EpochSchedule(TABLE), lambda e: TABLE[min(e, 3)]),
    (lambda: InverseTimeDecay(0.25, 0.5, staircase=True), lambda e: 0.25 / (1.0 + 0.5 * e)),
    (lambda: LinearWarmup(StepDecay(0.5, 0.5, 2), 0), lambda e: 0.5 * 0.5 ** (e // 2)),
    (lambda: PlateauScale(0.3), lambda e: 0.3),
    (
        lambda: PlateauScale(StepDecay(0.6, 0.5, 4, steps_per_epoch=BATCHES)),
        lambda e: 0.6 * 0.5 ** (e // 4),
    ),
]


@dataclass
class Known:
    """What should hold of an optimizer."""

    base: object  # A float, or a function of the epoch.
    floor: float = 0.0
    scaled: bool = False  # Whether a plateau scales the schedule that is there now.
    held: bool = False  # Whether the optimizer has the memory, and not only its schedule's config.
    epochs: int = 0
    seen: bool = False  # Whether a plateau has a best value.
    scale: float = 1.0
    reductions: int = 0
    by_fit: bool = False  # Whether the schedule counts the epochs of `fit`.
    has_rate: bool = True  # Such a one has none before a `fit` with a callback.
    compiled: bool = True  # Whether a compiled step, if there is one, has this schedule.

    @property
    def is_float(self):
        return not callable(self.base)

    def rate(self, scale=None):
        if self.is_float:
            return self.base
        base = self.base(self.epochs)
        if not self.scaled:
            return base
        scaled = base * (self.scale if scale is None else scale)
        return max(scaled, min(base, self.floor))

    def observe(self, floor):
        """A value that is not better than the one before."""
        if not self.seen:
            self.seen = True
            return
        self.reduce(floor)

    def reduce(self, floor):
        if self.is_float:
            lower = max(self.base * FACTOR, min(self.base, floor))
            changes = not np.isclose(lower, self.base, rtol=1e-6)
            self.base = lower
        else:
            changes = not np.isclose(self.rate(self.scale * FACTOR), self.rate(), rtol=1e-6)
        if changes:
            self.scale, self.reductions = self.scale * FACTOR, self.reductions + 1

    def forget(self):
        self.seen, self.scale, self.reductions = False, 1.0, 0


class History:
    """A model, a callback, and what should hold of the optimizer."""

    def __init__(self, seed, folder):
        self.random, self.folder = random.Random(seed), folder
        self.shared, self.shared_base = PlateauScale(0.35), lambda e: 0.35
        self.callback = self.new_callback()
        optimizer, self.known = self.new_optimizer()
        self.model = measuring(optimizer=optimizer)

    def new_callback(self):
        floor = self.random.choice([0.0, 0.0, 0.02, 0.1])
        return PlateauDecay(factor=FACTOR, patience=1, min_learning_rate=floor)

    def new_rate(self):
        kinds = [*SCHEDULES, (lambda: self.shared, self.shared_base)]
        make, base = self.random.choice(kinds)
        return make(), base

    def new_optimizer(self):
        if self.random.random() < 0.3:
            return keras.optimizers.SGD(0.2), Known(0.2)
        rate, base = self.new_rate()
        by_fit = bool(counting_epochs(rate))
        return keras.optimizers.SGD(rate), Known(base, by_fit=by_fit, has_rate=not by_fit)

    def hold(self):
        self.known.floor = self.callback.min_learning_rate
        self.known.scaled = self.known.held = True

    def fit(self, *callbacks, plateau=None):
        if callbacks:
            self.known.has_rate = self.known.compiled = True
        # So that the weight stays small and its differences exact.
        self.model.set_weights([np.zeros((1, 1))])
        x, measure = np.ones((BATCHES, 1), "float32"), Measure(BATCHES)
        history = self.model.fit(
            x, x, batch_size=1, epochs=EPOCHS, verbose=0, callbacks=[measure, *callbacks]
        ).history
        expected = []
        for _ in range(EPOCHS):
            expected.append(self.known.rate())
            self.known.epochs += 1
            if plateau is not None:
                self.known.observe(plateau.min_learning_rate)
        np.testing.assert_allclose(measure.trained, expected, rtol=1e-4, atol=1e-7)
        if callbacks:
            np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-5, atol=1e-9)
        if plateau is not None:
            self.check_memory(plateau)

    def check_memory(self, plateau):
        state = plateau.state
        assert state["scale"] == pytest.approx(self.known.scale)
        assert state["reductions"] == self.known.reductions
        assert (state["best"] is not None) == self.known.seen

    # What is done, at random.

    def fit_with_the_plateau(self):
        self.hold()
        self.fit(self.callback, plateau=self.callback)

    def fit_with_a_new_plateau(self):
        self.callback = self.new_callback()
        self.fit_with_the_plateau()

    def fit_with_a_logger(self):
        self.fit(LearningRateLogger())

    def fit_alone(self):
        if not self.known.compiled:
            return  # Keras goes on with the schedule that its step was compiled with.
        if self.known.held and not self.known.has_rate:
            return  # By the epochs of an earlier `fit`, it may have one.
        if self.known.has_rate:
            self.fit()
        elif BACKEND != "jax":  # There a model has lost its variables after an error in `fit`.
            with pytest.raises(ValueError, match="does not know yet"):
                self.fit()

    def compile_a_new_optimizer(self):
        optimizer, self.known = self.new_optimizer()
        self.model.compile(optimizer, Prediction())

    def compile_the_same_optimizer(self):
        self.model.compile(self.model.optimizer, Prediction())

    def load(self):
        path = self.folder / "model.keras"
        self.model.save(path)
        # Of an optimizer Keras saves the config and the variables, of which the scaled schedule
        # alone holds the memory.
        if self.known.is_float or not self.known.scaled:
            self.known.forget()
        self.known.held = False
        return keras.models.load_model(path)

    def save_and_load(self):
        self.model = self.load()

    def save_and_load_weights(self):
        self.attach()
        path = self.folder / "model.weights.h5"
        self.model.save_weights(path)
        self.model.load_weights(path)
        self.check_memory(self.callback)

    def compile_a_loaded_optimizer(self):
        # With its model, whose variables it was built for.
        self.model = self.load()
        self.compile_the_same_optimizer()

    def compile_a_clone(self):
        with_memory = not self.known.is_float and self.known.scaled and self.known.seen
        optimizer = keras.optimizers.SGD.from_config(self.model.optimizer.get_config())
        by_fit = self.known.by_fit
        self.known = Known(self.known.base, by_fit=by_fit, has_rate=not by_fit)
        self.model.compile(optimizer, Prediction())
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            self.callback.attach(self.model)
        self.hold()
        assert len(said) == with_memory, [str(each.message) for each in said]
        self.check_memory(self.callback)

    def attach(self):
        self.callback.attach(self.model)
        self.hold()
        self.check_memory(self.callback)

    def update(self):
        # What a memory without an epoch is to a clone, the contract does not say.
        if self.known.epochs == 0 or not self.known.has_rate:
            return
        self.attach()
        before = self.known.reductions
        reduced = self.callback.update(1.0)
        self.known.observe(self.callback.min_learning_rate)
        assert reduced == (self.known.reductions > before)
        self.check_memory(self.callback)

    def reduce(self):
        if not (self.known.seen and self.known.has_rate):
            return
        self.attach()
        before = self.known.reductions
        reduced = self.callback.reduce()
        self.known.reduce(self.callback.min_learning_rate)
        assert reduced == (self.known.reductions > before)
        self.check_memory(self.callback)

    def reset(self):
        self.attach()
        self.callback.reset()
        self.known.forget()
        self.check_memory(self.callback)

    def copy_the_callback(self):
        self.callback = self.random.choice([copy.copy, copy.deepcopy])(self.callback)

    def set_a_schedule(self):
        # Over a float too, which Keras allows.
        if BACKEND == "tensorflow" and not self.known.has_rate:
            return  # Keras first asks the one that is there for its rate.
        rate, base = self.new_rate()
        self.model.optimizer.learning_rate = rate
        self.known.base, self.known.scaled = base, False
        self.known.by_fit = bool(counting_epochs(rate))
        self.known.has_rate, self.known.compiled = not self.known.by_fit, False
        if not self.known.held:  # The memory of a loaded one goes with its schedule.
            self.known.forget()

    def set_a_float(self):
        if self.known.is_float:  # Over a schedule it is a `TypeError` of Keras's own.
            self.model.optimizer.learning_rate = self.known.base = 0.15

    def train_a_second_model_with_the_same_scale(self):
        mine = self.model, self.known, self.callback
        self.model = measuring(self.shared)
        self.known, self.callback = Known(self.shared_base), self.new_callback()
        self.fit_with_the_plateau()
        self.model, self.known, self.callback = mine

    def the_rate_is(self):
        if not self.known.has_rate:
            return
        assert number(self.model.optimizer.learning_rate) == pytest.approx(
            self.known.rate(), rel=1e-5
        )


NOT_ACTIONS = {"new_callback", "new_rate", "new_optimizer", "hold", "fit", "check_memory", "load"}
NAMES = sorted(
    name for name in vars(History) if not name.startswith("_") and name not in NOT_ACTIONS
)


# That a schedule has come down to the floor; `test_never_silent` has it.
@pytest.mark.filterwarnings("ignore:A reduction is due:UserWarning")
@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_whatever_was_done_a_step_trains_at_base_times_scale_and_the_log_says_so(seed, tmp_path):
    """What people do between two fits, in any order; a new optimizer starts afresh, any other goes
    on."""
    history, done = History(seed, tmp_path), []
    for _ in range(ACTIONS):
        # Each second one trains, for what was done to show.
        fits = len(done) % 2 == 1
        done.append(history.random.choice([n for n in NAMES if n.startswith("fit") == fits]))
        try:
            getattr(history, done[-1])()
        except Exception as error:
            raise AssertionError(f"after {done}") from error
    history.fit_with_the_plateau()
