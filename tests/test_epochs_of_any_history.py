"""Random histories of optimizers, beside a model in plain Python of which epoch is trained.

That model knows what `fit` said (the index of its first epoch) and what has been trained; it has
nothing of the package's.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
from dataclasses import dataclass, replace

import keras
import numpy as np
import pytest
from rates import Kill, KilledError, assert_rates, inverse, train, waiting
from support import BACKEND, Prediction, measuring, number

from keras_decay import InverseTimeDecay, LearningRateLogger, LinearWarmup, ProductSchedule

# Actions that are tested one by one elsewhere.
pytestmark = pytest.mark.any_keras

SEQUENCES, ACTIONS = 8, 9
SIZES = [1, 2, 3, 4]

# All have the rates of `inverse`.
MAKERS = [
    lambda: InverseTimeDecay(0.5, 1.0),
    lambda: ProductSchedule([InverseTimeDecay(0.25, 1.0), 2.0]),
    lambda: LinearWarmup(InverseTimeDecay(0.5, 1.0), 0),
]


@dataclass(frozen=True)
class Known:
    """What should hold of an optimizer.

    Attributes:
        epochs: How many epochs it has trained.
        index: The index that `fit` gave the last one of them.
        since: The steps that it has trained since the last epoch that was counted ended.
        steps: How many steps that had; `None` before the first.
        from_file: Whether it was loaded and no epoch has begun since.
    """

    epochs: int = 0
    index: int = -1
    since: int = 0
    steps: int | None = None
    from_file: bool = False

    def first(self, epoch, *, resumed=False):
        """The epoch that a `fit` trains first, which calls it `epoch`."""
        missed = epoch - self.index - 1
        if resumed:  # The epoch that was interrupted begins again.
            return max(self.epochs + missed, epoch)
        # Trained by a `fit` that no callback of ours was in.
        unseen = self.since // self.steps if self.steps else 0
        missed = max(missed, 0) if self.from_file else 0
        return max(self.epochs + missed, self.epochs + unseen, epoch)


class History:
    """Two models that share a schedule object, one of which is used at a time."""

    def __init__(self, seed, folder):
        self.random, self.folder, self.files = random.Random(seed), folder, 0
        self.schedule = self.random.choice(MAKERS)()
        self.config = self.schedule.get_config()
        self.network, self.known = self.new(), Known()
        self.other = self.new(), Known()

    def new(self):
        network = measuring(self.schedule)
        # Mostly without compiling, which takes long, and which the epochs do not depend on.
        network.run_eagerly = self.random.random() < 0.75
        return network

    def callbacks(self):
        ours = [[waiting()], [LearningRateLogger()], [waiting(), LearningRateLogger()]]
        chosen = self.random.choice(ours)
        return chosen[::-1] if self.random.random() < 0.5 else chosen

    def path(self, suffix):
        self.files += 1
        return self.folder / f"{self.files}{suffix}"

    def fit(self, *others, epoch=0, epochs=None, steps=None, resumed=False, before=False):
        """Trains with callbacks of ours and compares each step."""
        epochs, steps = epochs or self.random.choice([1, 1, 2]), steps or self.random.choice(SIZES)
        callbacks = [*others, *self.callbacks()] if before else [*self.callbacks(), *others]
        if not resumed:  # So that the weight stays small and its differences exact.
            self.network.set_weights([np.zeros((1, 1))])
        trained, logged = train(
            self.network, *callbacks, steps=steps, initial_epoch=epoch, epochs=epoch + epochs
        )
        self.compare(trained, logged, self.known.first(epoch, resumed=resumed), steps)
        first = self.known.first(epoch, resumed=resumed)
        self.known = Known(first + epochs, epoch + epochs - 1, 0, steps)

    def compare(self, trained, logged, first, steps):
        expected = [inverse(first + each, steps) for each in range(len(trained))]
        assert_rates(trained, expected)
        np.testing.assert_allclose(logged, [each[-1] for each in expected], rtol=1e-5)

    # What is done, at random.

    def fit_with_ours(self):
        self.fit()

    def fit_on(self):
        """The epochs go on in `fit`'s words too."""
        self.fit(epoch=self.known.epochs)

    def fit_at_a_later_epoch(self):
        self.fit(epoch=self.known.epochs + 2)

    def fit_at_the_next_index(self):
        """Or the one after that: in a new process an epoch may have been lost with the old one."""
        self.fit(epoch=self.known.index + self.random.choice([1, 2]))

    def fit_without_ours(self):
        if self.known.steps is None:
            return  # Nobody has said what an epoch is.
        steps, epochs = self.random.choice(SIZES), self.random.choice([1, 2])
        train(self.network, steps=steps, epochs=epochs)
        self.known = replace(self.known, since=self.known.since + steps * epochs)

    def fit_stopped_inside(self):
        steps = self.random.choice([2, 3, 4])

        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                self.model.stop_training = True

        first = self.known.first(0)
        trained, _ = train(self.network, Stop(), *self.callbacks(), steps=steps, epochs=3)
        assert_rates(trained, [inverse(first, steps)[:1]])
        self.network.stop_training = False
        self.known = Known(first + 1, 0, 0, steps)

    def fit_killed_in_the_process(self):
        """An error of the user's, inside an epoch; the notebook goes on."""
        if BACKEND == "jax":  # There a model has lost its variables then.
            return
        steps, done = self.random.choice([2, 3, 4]), self.random.randrange(1, 5)
        first = self.known.first(0)
        with pytest.raises(KilledError):
            train(self.network, Kill(done), *self.callbacks(), steps=steps, epochs=4)
        # The step of the kill is not counted by a callback; those before it are over.
        ended = (done - 1) // steps
        self.known = Known(first + ended, ended - 1, done - ended * steps, steps)

    def fit_killed_and_resumed(self):
        """In a new process, from a backup, perhaps with another batch size."""
        steps, epochs = self.random.choice(SIZES), 3
        frequency = self.random.choice([1, 2, 3, 4, 5, 6, "epoch"])
        done = self.random.randrange(1, steps * epochs)
        backup, before = self.path(""), self.random.random() < 0.5
        saver = keras.callbacks.BackupAndRestore(backup, save_freq=frequency)
        kill, known = Kill(done), self.known
        first = known.first(0)
        ours = self.callbacks()
        both = [saver, *ours] if before else [*ours, saver]
        self.network.set_weights([np.zeros((1, 1))])
        with pytest.raises(KilledError):
            train(self.network, *both, kill, steps=steps, epochs=epochs)
        metadata = backup / "training_metadata.json"
        self.network = self.new()
        if not metadata.exists():
            # Nothing was saved: all begins anew.
            self.known = Known()
            self.fit()
            return
        epoch = json.loads(metadata.read_text())["epoch"]
        # What had ended when it was saved.
        if frequency == "epoch":
            ended = epoch - 1 if before else epoch
        else:
            ended = epoch
        index = ended - 1
        self.known = Known(first + ended, index, 0, steps)
        self.resume(backup, epoch, epochs)

    def resume(self, backup, epoch, epochs):
        steps, before = self.random.choice(SIZES), self.random.random() < 0.5
        saver = keras.callbacks.BackupAndRestore(backup)
        ours = self.callbacks()
        both = [saver, *ours] if before else [*ours, saver]
        trained, logged = train(self.network, *both, steps=steps, epochs=epochs)
        first = self.known.first(epoch, resumed=True)
        assert len(trained) == epochs - epoch
        self.compare(trained, logged, first, steps)
        # Keras keeps it for the next `fit`.
        self.network._initial_epoch = None
        self.known = Known(first + epochs - epoch, epochs - 1, 0, steps)
        shutil.rmtree(backup, ignore_errors=True)

    def save_and_load(self):
        path = self.path(".keras")
        self.network.save(path)
        self.network = keras.models.load_model(path)
        if self.known.steps is not None:
            self.known = replace(self.known, from_file=True)

    def save_and_load_weights(self):
        """Into a new model. In both the state has a place, which it has not after `load_model`."""
        if self.known.steps is None:
            return
        path, known = self.path(".weights.h5"), self.known
        waiting().attach(self.network)
        self.network.save_weights(path)
        self.network = self.new()
        waiting().attach(self.network)
        self.network.load_weights(path)
        self.known = replace(known, from_file=True)

    def compile_again(self):
        self.network.compile(self.network.optimizer, Prediction())

    def compile_a_clone(self):
        optimizer = keras.optimizers.SGD.from_config(self.network.optimizer.get_config())
        self.network = self.new()
        self.network.compile(optimizer, Prediction())
        self.known = Known()

    def copy_the_schedule(self):
        self.schedule = self.random.choice([copy.copy, copy.deepcopy])(self.schedule)

    def take_the_other_model(self):
        (self.network, self.known), self.other = self.other, (self.network, self.known)

    def the_rate_is(self):
        """Before any `fit`, also of a model that was just loaded."""
        known = self.known
        if known.steps is None:
            return
        now = 0.5 / (1.0 + known.epochs + known.since / known.steps)
        assert number(self.network.optimizer.learning_rate) == pytest.approx(now, rel=1e-5)


FITS = sorted(name for name in vars(History) if name.startswith("fit_"))
OTHERS = [
    "save_and_load",
    "save_and_load_weights",
    "compile_again",
    "compile_a_clone",
    "copy_the_schedule",
    "take_the_other_model",
    "the_rate_is",
]


@pytest.mark.filterwarnings(
    # What a plateau says of the values that it has missed is tested elsewhere.
    "ignore:Training goes on at epoch",
    "ignore:`PlateauDecay` goes on at epoch",
    "ignore:Epoch .* is trained a second time",
    "ignore:The optimizer is at step 0 and its `PlateauScale` has the state",
)
@pytest.mark.parametrize("seed", range(SEQUENCES))
def test_whatever_was_done_the_epoch_that_is_trained_is_the_next_one(seed, tmp_path):
    """Each step at the rate of its part of the epoch; the logs say so; the object is unchanged."""
    history, done = History(seed, tmp_path), []
    for _ in range(ACTIONS):
        # Each second one trains, for what was done to show.
        names = FITS if len(done) % 2 else OTHERS
        done.append(history.random.choice(names))
        try:
            getattr(history, done[-1])()
            history.the_rate_is()
        except Exception as error:
            raise AssertionError(f"after {done}, {history.known}") from error
    history.fit()
    assert history.schedule.get_config() == history.config
