"""Learning rates that follow the epoch: step decay, inverse-time decay, any table."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_decay import _checks
from keras_decay._backend import (
    COUNTER,
    LAST_STEP,
    Table,
    floating,
    floor_divide,
    maximum,
    minimum,
    to_number,
)
from keras_decay._config import LearningRateSchedule, register
from keras_decay.schedules._base import Schedule, check_on_another_clock, rate_of


class _Decay(Schedule):
    """A schedule that comes down from an initial rate to a floor."""

    def _set_rates(self, initial_learning_rate: Any, min_learning_rate: Any) -> None:
        first = _checks.learning_rate("initial_learning_rate", initial_learning_rate)
        must = f"a number >= 0 and <= the initial rate, {first}"
        self.initial_learning_rate = first
        self.min_learning_rate = _checks.real(
            "min_learning_rate", min_learning_rate, must, at_least=0.0, at_most=first
        )


@register
class StepDecay(_Decay):
    """Multiplies the learning rate by a constant every k epochs, or at milestones.

    ```
    e = step // steps_per_epoch
    n = e // decay_epochs                         (an int), or
        how many of decay_epochs are <= e         (a sequence: milestones)
    learning_rate = max(initial_learning_rate * decay_rate ** n, min_learning_rate)
    ```

    When the rate decays at epoch k, the first step of that epoch, step `k * steps_per_epoch`, is
    the first one with the lower rate. `n` is computed in integers, so this is exact for every step
    that the optimizer's counter can hold.

    Args:
        initial_learning_rate: Float > 0, the rate of epoch 0.
        decay_rate: Float in (0, 1), by which the rate is multiplied at each decay.
        decay_epochs: Int >= 1, the number of epochs between two decays; or a strictly
            increasing sequence of such ints, the epochs (counted from 0) at which it decays.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` to count the
            epochs of `fit`, with `PlateauDecay` or `LearningRateLogger` in `callbacks`.
        min_learning_rate: Float in [0, initial_learning_rate], the floor.
        name: String.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; a call outside of an optimizer
            without `steps_per_epoch`.

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
        steps_per_epoch: int | None = None,
        min_learning_rate: float = 0.0,
        name: str = "StepDecay",
    ):
        self._set_rates(initial_learning_rate, min_learning_rate)
        self.decay_rate = _checks.real(
            "decay_rate", decay_rate, "a number in (0, 1)", above=0.0, below=1.0
        )
        self.decay_epochs: int | tuple[int, ...] = _decay_epochs(decay_epochs)
        self._powers, self._power_chunks = self._tables()
        self._finish(name, steps_per_epoch)

    def _prepare(self) -> None:
        if not isinstance(self.decay_epochs, int):
            steps = [epoch * self.steps_per_epoch for epoch in self.decay_epochs]
            # The counter never reaches a milestone that it cannot hold.
            self._milestones = Table([step for step in steps if step <= LAST_STEP], COUNTER)

    def _rate(self, step: Any, counter: Any) -> Any:
        if isinstance(self.decay_epochs, int):
            decays = floor_divide(step, self.steps_per_epoch * self.decay_epochs)
        else:
            decays = self._milestones.searchsorted(step)
        size, chunks = len(self._powers), len(self._power_chunks)
        decays = minimum(decays, size * chunks - 1)
        if chunks == 1:
            return self._powers.take(decays)
        rate = self._powers.take(decays % size) * self._power_chunks.take(decays // size)
        return maximum(rate, self.min_learning_rate)

    def _tables(self) -> tuple[Table, Table]:
        """All possible rates, as `powers[n % size] * power_chunks[n // size]`.

        A power computed in float32 has the rounding error of `decay_rate` n times; a table of
        powers computed in float64 has not. The second table is for values of `decay_rate` so close
        to 1 that a single table would be very long.
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


def _decay_epochs(value: Any) -> int | tuple[int, ...]:
    must = "an int >= 1 or a strictly increasing sequence of them"
    one = _checks.is_int(value)
    items = [value] if one else _checks.sequence("decay_epochs", value, must)
    if not all(_checks.is_int(item) for item in items):
        _checks.fail("decay_epochs", value, must, TypeError)
    if not items or not _checks.increasing([0, *items, _checks.LARGEST_INT + 1]):
        _checks.fail("decay_epochs", value, must)
    epochs = tuple(int(item) for item in items)
    return epochs[0] if one else epochs


@register
class InverseTimeDecay(_Decay):
    """Divides the learning rate by a number that grows linearly with the epochs.

    ```
    t = step / steps_per_epoch                    (or step // steps_per_epoch: staircase)
    learning_rate = max(initial_learning_rate / (1 + decay_rate * t), min_learning_rate)
    ```

    With `staircase=True` the first step of epoch k, step `k * steps_per_epoch`, is the first one
    with the rate of that epoch. The epoch is computed in integers, so this is exact for every step
    that the optimizer's counter can hold.

    Args:
        initial_learning_rate: Float > 0, the rate of step 0.
        decay_rate: Float >= 0, per epoch: after `1 / decay_rate` epochs the rate is halved.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` to count the
            epochs of `fit`, with `PlateauDecay` or `LearningRateLogger` in `callbacks`.
        staircase: Whether the rate changes once per epoch instead of at every step.
        min_learning_rate: Float in [0, initial_learning_rate], the floor.
        name: String.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; a call outside of an optimizer
            without `steps_per_epoch`.

    Example:

    >>> schedule = keras_decay.InverseTimeDecay(0.1, 1.0, steps_per_epoch=100)
    >>> [round(float(schedule(step)), 4) for step in (0, 50, 100, 300)]
    [0.1, 0.0667, 0.05, 0.025]
    >>> optimizer = keras.optimizers.SGD(learning_rate=schedule)

    Source: the third technique of the lecture notes, eta = eta0 / (1 + decay * epoch); for the
    theory of stochastic approximation, Robbins and Monro (1951).
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_rate: float,
        *,
        steps_per_epoch: int | None = None,
        staircase: bool = False,
        min_learning_rate: float = 0.0,
        name: str = "InverseTimeDecay",
    ):
        self._set_rates(initial_learning_rate, min_learning_rate)
        self.decay_rate = _checks.real(
            "decay_rate", decay_rate, "a finite number >= 0", at_least=0.0, at_most=_checks.LARGEST
        )
        self.staircase = _checks.boolean("staircase", staircase)
        self._finish(name, steps_per_epoch)

    def _rate(self, step: Any, counter: Any) -> Any:
        if self.staircase:
            epoch, decay_rate = floor_divide(step, self.steps_per_epoch), self.decay_rate
        else:
            epoch, decay_rate = step, self.decay_rate / self.steps_per_epoch
        rate = self.initial_learning_rate / (1.0 + decay_rate * floating(epoch))
        return maximum(rate, self.min_learning_rate) if self.min_learning_rate else rate


@register
class EpochSchedule(Schedule):
    """A learning rate for each epoch, from a table or from any function of the epoch.

    ```
    e = step // steps_per_epoch
    learning_rate = learning_rates[min(e, len(learning_rates) - 1)]
    ```

    The first step of epoch k, step `k * steps_per_epoch`, is the first one with the rate of that
    epoch. The last rate stays. It does what `keras.callbacks.LearningRateScheduler` does, but as a
    schedule, which a plateau can scale.

    Args:
        learning_rates: A non-empty sequence of finite floats >= 0, the rate of each epoch from
            epoch 0 on. (For a function of the epoch, use `EpochSchedule.from_function`.)
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` to count the
            epochs of `fit`, with `PlateauDecay` or `LearningRateLogger` in `callbacks`.
        name: String.

    Raises:
        TypeError: an argument of the wrong type; a function.
        ValueError: an argument out of its range; a call outside of an optimizer
            without `steps_per_epoch`.

    Example:

    >>> schedule = keras_decay.EpochSchedule([0.1, 0.05, 0.01], steps_per_epoch=100)
    >>> [round(float(schedule(step)), 4) for step in (0, 99, 100, 299, 1000)]
    [0.1, 0.1, 0.05, 0.01, 0.01]
    >>> halves = keras_decay.EpochSchedule.from_function(lambda epoch: 0.1 * 0.5**epoch, 3)
    >>> halves.learning_rates
    (0.1, 0.05, 0.025)

    Source: `keras.callbacks.LearningRateScheduler`; published tables of rates.
    """

    def __init__(
        self,
        learning_rates: Sequence[float],
        *,
        steps_per_epoch: int | None = None,
        name: str = "EpochSchedule",
    ):
        must = "a non-empty sequence of finite numbers >= 0, the rate of each epoch"
        if callable(learning_rates):
            must += "; of a function, `EpochSchedule.from_function(function, epochs)` makes one"
            _checks.fail("learning_rates", learning_rates, must, TypeError)
        rates = _checks.sequence("learning_rates", learning_rates, must)
        if not rates:
            _checks.fail("learning_rates", learning_rates, must)
        self.learning_rates = tuple(
            _rate(f"learning_rates[{epoch}]", rate) for epoch, rate in enumerate(rates)
        )
        self._table = Table(np.array(self.learning_rates, "float64"))
        self._finish(name, steps_per_epoch)

    @classmethod
    def from_function(
        cls,
        function: Callable[[int], float],
        epochs: int,
        *,
        steps_per_epoch: int | None = None,
        name: str = "EpochSchedule",
    ) -> EpochSchedule:
        """Makes a schedule of the rates that `function(epoch)` returns, one call per epoch.

        It keeps the rates, not the function, so a saved schedule is a list of floats.

        Args:
            function: Takes an int, the epoch from 0 on; returns a finite float >= 0.
            epochs: Int >= 1, the number of epochs; the rate of the last one stays.
            steps_per_epoch: As in the constructor.
            name: String.

        Raises:
            TypeError: an argument of the wrong type; a rate that is not a number.
            ValueError: an argument out of its range; a rate that is not finite or below 0.
        """
        if not callable(function):
            _checks.fail("function", function, "a function of the epoch, an int", TypeError)
        epochs = _checks.integer("epochs", epochs, 1)
        rates = [_rate(f"function({epoch})", function(epoch)) for epoch in range(epochs)]
        return cls(rates, steps_per_epoch=steps_per_epoch, name=name)

    def _rate(self, step: Any, counter: Any) -> Any:
        epoch = floor_divide(step, self.steps_per_epoch)
        return self._table.take(minimum(epoch, len(self._table) - 1))


@register
class InEpochs(Schedule):
    """Any Keras schedule, called with epochs instead of steps.

    ```
    learning_rate = schedule(step / steps_per_epoch)      (a float), or
                    schedule(step // steps_per_epoch)     (an int: staircase)
    ```

    `InEpochs(keras.optimizers.schedules.CosineDecay(0.1, decay_steps=50))` is a cosine over 50
    epochs, however many batches an epoch has.

    With `staircase=True` the epoch is computed in integers. So a schedule that changes at whole
    numbers (`PiecewiseConstantDecay`, or one with its own staircase) changes exactly at the first
    step of an epoch, for every step that the optimizer's counter can hold. Without it the epoch is
    a float32. It is exact at the first step of an epoch (up to epoch 2 ** 24); once
    `epoch * steps_per_epoch` is above 2 ** 24, the last steps of an epoch may be rounded up to the
    next epoch.

    Args:
        schedule: A `LearningRateSchedule` that is not from this package, whose own schedules count
            epochs already.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` to count the
            epochs of `fit`, with `PlateauDecay` or `LearningRateLogger` in `callbacks`.
        staircase: Whether the rate changes once per epoch instead of at every step.
        name: String.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; a schedule that does not accept a tensor as its
            step; a call outside of an optimizer without `steps_per_epoch`.

    Example:

    >>> cosine = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=50)
    >>> schedule = keras_decay.InEpochs(cosine, steps_per_epoch=100)
    >>> [round(float(schedule(step)), 4) for step in (0, 2500, 5000)]
    [0.1, 0.05, 0.0]
    """

    def __init__(
        self,
        schedule: Any,
        *,
        steps_per_epoch: int | None = None,
        staircase: bool = False,
        name: str = "InEpochs",
    ):
        must = "a `LearningRateSchedule` that is not of `keras_decay`, whose schedules count epochs"
        if not isinstance(schedule, LearningRateSchedule):
            _checks.fail("schedule", schedule, must, TypeError)
        if isinstance(schedule, Schedule):
            _checks.fail("schedule", schedule, must)
        self.schedule = schedule
        self.staircase = _checks.boolean("staircase", staircase)
        check_on_another_clock("schedule", schedule, COUNTER if self.staircase else "float32")
        self._finish(name, steps_per_epoch)

    def _rate(self, step: Any, counter: Any) -> Any:
        length = self.steps_per_epoch
        epoch = floor_divide(step, length)
        if self.staircase:
            return rate_of(self.schedule, epoch)
        part = floating(step - epoch * min(length, LAST_STEP)) / length
        return rate_of(self.schedule, floating(epoch) + part)


def _rate(name: str, value: Any) -> float:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "dtype"):  # A scalar tensor or array.
        value = to_number(value)
    return _checks.real(name, value, "a finite number >= 0", at_least=0.0, at_most=_checks.LARGEST)
