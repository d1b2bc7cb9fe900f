"""Schedules made of schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from keras_decay import _checks
from keras_decay._backend import LAST_STEP
from keras_decay._config import register
from keras_decay.schedules._base import (
    Numbers,
    Schedule,
    Tensors,
    Unshifted,
    check_on_another_clock,
    check_schedule,
    rate_at,
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

    inner = ("schedule",)

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
        self.steps_per_epoch = _checks.steps_per_epoch(steps_per_epoch)
        self.start_factor = _checks.real(
            "start_factor", start_factor, "a number in [0, 1]", at_least=0.0, at_most=1.0
        )
        self.name = _checks.string("name", name)
        check_on_another_clock("schedule", self.schedule)
        self._prepare_if_known()

    def _prepare(self) -> None:
        self._length = round(self.warmup_epochs * self._known())
        # The warmup must end at the schedule's first rate, so any offset of its clock is ignored.
        peak = rate_at(self.schedule, 0, Unshifted)
        self._start = peak * self.start_factor
        self._rise = (peak - self._start) / max(self._length, 1)

    def _rate(self, step: Any, xp: Numbers | Tensors) -> Any:
        self._check_prepared()
        end = min(self._length, LAST_STEP)
        rate = rate_of(self.schedule, _since(step, end, xp), xp)
        if end == 0:
            return rate
        return xp.where(step < end, self._start + self._rise * xp.floating(step), rate)


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

    inner = ("schedules",)

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
        self.steps_per_epoch = _checks.steps_per_epoch(steps_per_epoch)
        self.name = _checks.string("name", name)
        for index, schedule in enumerate(self.schedules[1:], start=1):
            check_on_another_clock(f"schedules[{index}]", schedule)
        self._prepare_if_known()

    def _prepare(self) -> None:
        self._starts = [0, *(round(epoch * self._known()) for epoch in self.boundaries)]
        if not _checks.increasing(self._starts):
            must = (
                f"at least one step after the one before; with {self._known()} steps in an epoch "
                f"they are the steps {self._starts[1:]}"
            )
            _checks.fail("boundaries", list(self.boundaries), must)

    def _rate(self, step: Any, xp: Numbers | Tensors) -> Any:
        self._check_prepared()
        rate = None
        for schedule, start in zip(self.schedules, self._starts, strict=True):
            if start > LAST_STEP:
                break
            own = rate_of(schedule, _since(step, start, xp), xp)
            rate = own if rate is None else xp.where(step >= start, own, rate)
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

    inner = ("factors",)

    def __init__(self, factors: Sequence[Any], *, name: str = "ProductSchedule"):
        self.factors = _parts("factors", factors, "schedules and numbers")
        if all(isinstance(factor, float) for factor in self.factors):
            _checks.fail("factors", factors, "schedules and numbers, at least one schedule")
        self.name = _checks.string("name", name)

    def _rate(self, step: Any, xp: Numbers | Tensors) -> Any:
        number = 1.0
        product: Any = None
        for factor in self.factors:
            if isinstance(factor, float):
                number *= factor
            else:
                rate = rate_of(factor, step, xp)
                product = rate if product is None else product * rate
        return product if number == 1.0 else product * number


def _parts(name: str, values: Any, what: str) -> list[Any]:
    if not isinstance(values, (list, tuple)):
        _checks.fail(name, values, f"a list or tuple of {what}", TypeError)
    if not values:
        _checks.fail(name, values, f"a non-empty list or tuple of {what}")
    return [check_schedule(f"{name}[{index}]", value) for index, value in enumerate(values)]


def _since(step: Any, start: int, xp: Numbers | Tensors) -> Any:
    """The steps since `start`; 0 before it."""
    return xp.maximum(step - start, 0) if start else step
