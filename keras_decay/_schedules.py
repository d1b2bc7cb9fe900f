"""Learning rates that follow the epoch: step decay and inverse-time decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_decay import _checks
from keras_decay._backend import COUNTER, LAST_STEP, Table
from keras_decay._operations import ARRAY, DEVICE, NUMBER, compute

register = keras.saving.register_keras_serializable(package="keras_decay")
Operations = type[NUMBER] | type[ARRAY] | type[DEVICE]


class HostSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose formula is written once, for host numbers and for tensors."""

    name: str
    outermost = False
    """Whether other schedules refuse to have this one inside them."""

    def __call__(self, step: Any) -> Any:
        return compute(self._rate, step)

    def _rate(self, step: Any, xp: Operations) -> Any:
        """The rate at an integer `step`, in the operations of `xp`."""
        raise NotImplementedError


@register
class StepDecay(HostSchedule):
    """Multiplies the learning rate by a constant every k epochs, or at milestones.

    ```
    e = step // steps_per_epoch
    n = e // decay_epochs                         (an int), or
        how many of decay_epochs are <= e         (a sequence: milestones)
    learning_rate = max(initial_learning_rate * decay_rate ** n, min_learning_rate)
    ```

    The first step of epoch k, which is step `k * steps_per_epoch`, is the first one with the
    lower rate. `n` is counted in integers, so this is exact for every step that the
    optimizer's counter can hold.

    Args:
        initial_learning_rate: Float > 0, the rate of epoch 0.
        decay_rate: Float in (0, 1), what the rate is multiplied by at each decay.
        decay_epochs: Int >= 1, the number of epochs between two decays; or a strictly
            increasing sequence of such ints, the epochs (counted from 0) that decay.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch of `fit`.
        min_learning_rate: Float in [0, initial_learning_rate], the floor.
        name: String.

    Calling it with `step`, an int or an array of ints (NumPy, tensor or `keras.Variable`),
    returns a float32 tensor of the same shape, whatever `keras.config.floatx()` is.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range.

    Example:

    >>> schedule = keras_decay.StepDecay(0.1, 0.5, 10, steps_per_epoch=100)
    >>> [round(float(schedule(step)), 4) for step in (0, 999, 1000, 2000)]
    [0.1, 0.1, 0.05, 0.025]
    >>> optimizer = keras.optimizers.SGD(learning_rate=schedule)

    Source: the first technique of the lecture notes; "multi-step" in PyTorch.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_rate: float = 0.1,
        decay_epochs: int | Sequence[int] = 1,
        *,
        steps_per_epoch: int,
        min_learning_rate: float = 0.0,
        name: str = "StepDecay",
    ):
        self.initial_learning_rate = _checks.learning_rate(
            "initial_learning_rate", initial_learning_rate
        )
        self.decay_rate = _checks.real(
            "decay_rate", decay_rate, "a number in (0, 1)", above=0.0, below=1.0
        )
        self.decay_epochs: int | tuple[int, ...] = _decay_epochs(decay_epochs)
        self.steps_per_epoch = _checks.integer("steps_per_epoch", steps_per_epoch, 1)
        self.min_learning_rate = _checks.min_learning_rate(
            min_learning_rate, self.initial_learning_rate
        )
        self.name = _checks.string("name", name)
        self._powers, self._power_chunks = self._tables()
        if not isinstance(self.decay_epochs, int):
            steps = [epoch * self.steps_per_epoch for epoch in self.decay_epochs]
            # A milestone that the counter cannot hold is one that it never reaches.
            self._milestones = Table([step for step in steps if step <= LAST_STEP], COUNTER)

    def _rate(self, step: Any, xp: Operations) -> Any:
        if isinstance(self.decay_epochs, int):
            decays = xp.floor_divide(step, self.steps_per_epoch * self.decay_epochs)
        else:
            decays = xp.count_reached(self._milestones, step)
        size, chunks = len(self._powers.values), len(self._power_chunks.values)
        decays = xp.minimum(decays, size * chunks - 1)
        if chunks == 1:
            return xp.lookup(self._powers, decays)
        rate = xp.lookup(self._powers, decays % size) * xp.lookup(
            self._power_chunks, decays // size
        )
        return xp.maximum(rate, self.min_learning_rate)

    def _tables(self) -> tuple[Table, Table]:
        """All rates that there are, as `powers[n % size] * power_chunks[n // size]`.

        A power taken in float32 is off by n roundings of `decay_rate`; a table of powers
        taken in float64 is not. The second table is there for rates so close to 1 that the
        first would be long.
        """
        lowest = max(self.min_learning_rate, _checks.SMALLEST / 4)
        last = math.ceil(math.log(lowest / self.initial_learning_rate) / math.log(self.decay_rate))
        if not isinstance(self.decay_epochs, int):
            last = min(last, len(self.decay_epochs))
        size = min(last + 1, 2**16)
        chunks = min(last // size + 1, 2**15)
        powers = self.initial_learning_rate * self.decay_rate ** np.arange(size, dtype="float64")
        if chunks == 1:
            powers = np.maximum(powers, self.min_learning_rate)
        chunk = self.decay_rate**size
        return Table(powers), Table(chunk ** np.arange(chunks, dtype="float64"))

    def get_config(self) -> dict[str, Any]:
        epochs = self.decay_epochs
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_rate": self.decay_rate,
            "decay_epochs": epochs if isinstance(epochs, int) else list(epochs),
            "steps_per_epoch": self.steps_per_epoch,
            "min_learning_rate": self.min_learning_rate,
            "name": self.name,
        }


def _decay_epochs(value: Any) -> int | tuple[int, ...]:
    must = "an int >= 1 or a strictly increasing sequence of them"
    if not _checks.is_int(value):
        return _checks.integers("decay_epochs", value, 1, must)
    if value < 1:
        _checks.fail("decay_epochs", value, must)
    return int(value)


@register
class InverseTimeDecay(HostSchedule):
    """Divides the learning rate by a number that grows linearly with the epochs.

    ```
    t = step / steps_per_epoch                    (or step // steps_per_epoch: staircase)
    learning_rate = max(initial_learning_rate / (1 + decay_rate * t), min_learning_rate)
    ```

    With `staircase=True` the first step of an epoch, step `k * steps_per_epoch`, is the first
    one with the rate of epoch k; the epoch is counted in integers, so this is exact for every
    step that the optimizer's counter can hold.

    Args:
        initial_learning_rate: Float > 0, the rate of step 0.
        decay_rate: Float >= 0, per epoch: after `1 / decay_rate` epochs the rate is halved.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch of `fit`.
        staircase: Whether the rate changes once an epoch instead of at every step.
        min_learning_rate: Float in [0, initial_learning_rate], the floor.
        name: String.

    Calling it with `step`, an int or an array of ints (NumPy, tensor or `keras.Variable`),
    returns a float32 tensor of the same shape, whatever `keras.config.floatx()` is.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range.

    Example:

    >>> schedule = keras_decay.InverseTimeDecay(0.1, 1.0, steps_per_epoch=100)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 300)]
    [0.1, 0.0667, 0.05, 0.025]
    >>> optimizer = keras.optimizers.SGD(learning_rate=schedule)

    Source: the third technique of the lecture notes, eta = eta0 / (1 + decay * epoch); for
    its place in the theory of stochastic approximation: Robbins and Monro (1951).
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_rate: float,
        *,
        steps_per_epoch: int,
        staircase: bool = False,
        min_learning_rate: float = 0.0,
        name: str = "InverseTimeDecay",
    ):
        self.initial_learning_rate = _checks.learning_rate(
            "initial_learning_rate", initial_learning_rate
        )
        self.decay_rate = _checks.real(
            "decay_rate", decay_rate, "a finite number >= 0", at_least=0.0, at_most=_checks.LARGEST
        )
        self.steps_per_epoch = _checks.integer("steps_per_epoch", steps_per_epoch, 1)
        self.staircase = _checks.boolean("staircase", staircase)
        self.min_learning_rate = _checks.min_learning_rate(
            min_learning_rate, self.initial_learning_rate
        )
        self.name = _checks.string("name", name)

    def _rate(self, step: Any, xp: Operations) -> Any:
        if self.staircase:
            epochs = xp.floating(xp.floor_divide(step, self.steps_per_epoch))
        else:
            epochs = xp.floating(step) / float(self.steps_per_epoch)
        rate = self.initial_learning_rate / (1.0 + self.decay_rate * epochs)
        return xp.maximum(rate, self.min_learning_rate)

    def get_config(self) -> dict[str, Any]:
        return {
            "initial_learning_rate": self.initial_learning_rate,
            "decay_rate": self.decay_rate,
            "steps_per_epoch": self.steps_per_epoch,
            "staircase": self.staircase,
            "min_learning_rate": self.min_learning_rate,
            "name": self.name,
        }
