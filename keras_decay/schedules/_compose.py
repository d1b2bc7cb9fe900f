"""Schedules made of schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras_decay import _checks
from keras_decay._backend import LAST_STEP, floating, maximum, where
from keras_decay._config import register
from keras_decay.schedules._base import (
    Schedule,
    check_on_another_clock,
    check_schedule,
    counting_epochs,
    rate_of,
)


@register
class LinearWarmup(Schedule):
    """Raises the rate linearly to that of a schedule, then follows the schedule.

    ```
    W = round(warmup_epochs * steps_per_epoch)
    step < W:   peak * (start_factor + (1 - start_factor) * step / W)
    step >= W:  schedule(step - W)
    ```

    `peak` is `schedule(0)`. If `schedule` is a float, `peak` is that float, and the rate stays
    constant after the warmup. The schedule's own clock starts at 0 when the warmup ends. (For a
    warmup that does not delay the decay, use `ProductSchedule`.)

    With `start_factor=0` the rate of step 0 is 0, as in Keras's own `CosineDecay` and in optax. If
    an epoch has only one step, a whole epoch is trained at 0, and a warning says so. With
    `start_factor=1/W` the rate of step 0 is `peak / W` instead.

    Args:
        schedule: Any `LearningRateSchedule`, or a float > 0. (A `PlateauScale` goes around the
            warmup, not into it.)
        warmup_epochs: Int or float >= 0, the length of the warmup; 0 for none. (With
            `steps_per_epoch=1`, its length in steps.)
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` to count the
            epochs of `fit`, with `PlateauDecay` or `LearningRateLogger` in `callbacks`.
        start_factor: Float in [0, 1], the rate of step 0 as a fraction of `peak`.
        name: String.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; a call outside of an optimizer without
            `steps_per_epoch`.

    Example:

    >>> decay = keras_decay.StepDecay(0.1, 0.5, 10, steps_per_epoch=100)
    >>> schedule = keras_decay.LinearWarmup(decay, 5, steps_per_epoch=100)
    >>> [round(float(schedule(step)), 4) for step in (0, 250, 500, 1499, 1500)]
    [0.0, 0.05, 0.1, 0.1, 0.05]

    Source: Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2.
    """

    def __init__(
        self,
        schedule: Any,
        warmup_epochs: float,
        *,
        steps_per_epoch: int | None = None,
        start_factor: float = 0.0,
        name: str = "LinearWarmup",
    ):
        self.schedule = check_schedule("schedule", schedule)
        self.warmup_epochs = _checks.epochs("warmup_epochs", warmup_epochs)
        self.start_factor = _checks.real(
            "start_factor", start_factor, "a number in [0, 1]", at_least=0.0, at_most=1.0
        )
        check_on_another_clock("schedule", self.schedule)
        self._finish(name, steps_per_epoch)

    def _prepare(self) -> None:
        self._length = round(self.warmup_epochs * self.steps_per_epoch)
        if not counting_epochs(self.schedule):
            peak = rate_of(self.schedule, 0)
            self._start = peak * self.start_factor
            self._rise = (peak - self._start) / max(self._length, 1)

    def _rate(self, step: Any, counter: Any) -> Any:
        end = min(self._length, LAST_STEP)
        if end == 0:
            return rate_of(self.schedule, step, counter)
        rate = rate_of(self.schedule, maximum(step - end, 0))
        return where(step < end, self._start + self._rise * floating(step), rate)


@register
class JoinedSchedule(Schedule):
    """Several schedules, one after the other.

    ```
    start[i] = round(boundaries[i - 1] * steps_per_epoch),  start[0] = 0
    start[i] <= step < start[i + 1]:  schedules[i](step - start[i])
    ```

    Schedule i takes over at step `start[i]`, and its own clock starts at 0 there.

    Args:
        schedules: A non-empty list or tuple of schedules, each any `LearningRateSchedule`, or a
            float > 0 for a constant rate.
        boundaries: Strictly increasing ints or floats > 0, epochs counted from 0; one fewer than
            there are schedules. (With `steps_per_epoch=1`, steps.)
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` to count the
            epochs of `fit`, with `PlateauDecay` or `LearningRateLogger` in `callbacks`.
        name: String.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range, or a wrong number of boundaries; two boundaries
            on one step, as soon as that is known; a call outside of an optimizer without
            `steps_per_epoch`.

    Example:

    >>> decay = keras_decay.InverseTimeDecay(0.1, 1.0, steps_per_epoch=100)
    >>> schedule = keras_decay.JoinedSchedule([0.2, decay], [5], steps_per_epoch=100)
    >>> [round(float(schedule(step)), 4) for step in (0, 499, 500, 600)]
    [0.2, 0.2, 0.1, 0.05]

    Source: `optax.join_schedules`, `torch.optim.lr_scheduler.SequentialLR`.
    """

    def __init__(
        self,
        schedules: Sequence[Any],
        boundaries: Sequence[float],
        *,
        steps_per_epoch: int | None = None,
        name: str = "JoinedSchedule",
    ):
        self.schedules = _parts("schedules", schedules, "schedules")
        count = len(self.schedules) - 1
        must = f"{count} strictly increasing numbers > 0, one fewer than there are schedules"
        items = _checks.sequence("boundaries", boundaries, must)
        if not all(_checks.is_number(item) for item in items):
            _checks.fail("boundaries", boundaries, must, TypeError)
        if not (len(items) == count and _checks.increasing([0, *items, math.inf])):
            _checks.fail("boundaries", boundaries, must)
        self.boundaries = tuple(_checks.epochs("boundaries", item) for item in items)
        for index, schedule in enumerate(self.schedules[1:], start=1):
            check_on_another_clock(f"schedules[{index}]", schedule)
        self._finish(name, steps_per_epoch)

    def _prepare(self) -> None:
        self._starts = [round(epoch * self.steps_per_epoch) for epoch in self.boundaries]
        if not _checks.increasing([0, *self._starts]):
            must = (
                f"at least one step after the one before; with {self.steps_per_epoch} steps in an "
                f"epoch they are the steps {self._starts}"
            )
            _checks.fail("boundaries", list(self.boundaries), must)

    def _rate(self, step: Any, counter: Any) -> Any:
        rate = rate_of(self.schedules[0], step, counter)
        for schedule, start in zip(self.schedules[1:], self._starts, strict=True):
            if start <= LAST_STEP:
                own = rate_of(schedule, maximum(step - start, 0))
                rate = where(step >= start, own, rate)
        return rate


@register
class ProductSchedule(Schedule):
    """The product of schedules and numbers, all on the same clock.

    ```
    learning_rate = factors[0](step) * factors[1](step) * ...     (a number as it is)
    ```

    Use it for rates by layer, with a scaled copy of one schedule for each optimizer of a
    `MultiOptimizer`: `ProductSchedule([schedule, 0.1])`. Use it also for a warmup that does not
    delay the decay: `ProductSchedule([LinearWarmup(1.0, 5), StepDecay(0.1, 0.5, 10)])`.

    Args:
        factors: A list or tuple of schedules, each any `LearningRateSchedule`, and of numbers
            > 0; at least one schedule.
        name: String.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; no schedule; a call outside of an optimizer if a
            factor has no `steps_per_epoch`.

    Example:

    >>> decay = keras_decay.StepDecay(0.1, 0.5, 10, steps_per_epoch=100)
    >>> warmup = keras_decay.LinearWarmup(1.0, 5, steps_per_epoch=100)
    >>> schedule = keras_decay.ProductSchedule([warmup, decay])
    >>> [round(float(schedule(step)), 4) for step in (0, 250, 500, 999, 1000)]
    [0.0, 0.05, 0.1, 0.1, 0.05]

    Source: `torch.optim.lr_scheduler.ChainedScheduler`.
    """

    def __init__(self, factors: Sequence[Any], *, name: str = "ProductSchedule"):
        self.factors = _parts("factors", factors, "schedules and numbers")
        if all(isinstance(factor, float) for factor in self.factors):
            _checks.fail("factors", factors, "schedules and numbers, at least one schedule")
        self._number = math.prod(each for each in self.factors if isinstance(each, float))
        self.name = _checks.string("name", name)

    def _rate(self, step: Any, counter: Any) -> Any:
        first, *others = [each for each in self.factors if not isinstance(each, float)]
        product = rate_of(first, step, counter)
        for each in others:
            product = product * rate_of(each, step, counter)
        return product if self._number == 1.0 else product * self._number


def _parts(name: str, values: Any, what: str) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        _checks.fail(name, values, f"a list or tuple of {what}", TypeError)
    if not values:
        _checks.fail(name, values, f"a non-empty list or tuple of {what}")
    return [check_schedule(f"{name}[{index}]", value) for index, value in enumerate(values)]
