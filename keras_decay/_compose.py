"""Schedules made of schedules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_decay import _checks
from keras_decay._backend import LAST_STEP
from keras_decay._operations import NUMBER
from keras_decay._schedules import HostSchedule, Operations, register

LearningRateSchedule = keras.optimizers.schedules.LearningRateSchedule


def rate_of(schedule: Any, step: Any, xp: Operations) -> Any:
    """The rate of a float or of any schedule at an integer `step`."""
    if isinstance(schedule, float):
        return xp.floating(0 * step) + schedule
    if isinstance(schedule, HostSchedule):
        return schedule._rate(step, xp)
    return xp.evaluate(schedule, step)


def within(schedule: Any) -> Iterator[Any]:
    """The schedule and all that are inside it."""
    if not isinstance(schedule, LearningRateSchedule):
        return
    yield schedule
    for inner in [getattr(schedule, "schedule", None), *getattr(schedule, "schedules", ())]:
        yield from within(inner)


def check_schedule(name: str, value: Any) -> Any:
    """`value` as a float rate, or a Keras schedule to put into another."""
    if getattr(value, "outermost", False):
        _checks.fail(name, value, "a schedule that is not a `PlateauScale`, which goes around all")
    if isinstance(value, LearningRateSchedule):
        return value
    if callable(value) or isinstance(value, (str, dict)):
        _checks.fail(name, value, "a float or a `LearningRateSchedule`", TypeError)
    return _checks.learning_rate(name, value)


def schedule_config(schedule: Any) -> Any:
    if isinstance(schedule, float):
        return schedule
    return keras.saving.serialize_keras_object(schedule)


def schedule_from_config(config: Any) -> Any:
    return keras.saving.deserialize_keras_object(config) if isinstance(config, dict) else config


@register
class LinearWarmup(HostSchedule):
    """Raises the rate linearly to that of a schedule, then follows the schedule.

    ```
    W = warmup_epochs * steps_per_epoch
    step < W:   peak * (start_factor + (1 - start_factor) * step / W)
    step >= W:  schedule(step - W)
    ```

    `peak` is `schedule(0)`, or `schedule` itself where it is a float, which then stays
    constant. The schedule's own clock starts at 0 when the warmup ends.

    Args:
        schedule: Any `LearningRateSchedule`, or a float > 0. (A `PlateauScale` goes around the
            warmup, not into it.)
        warmup_epochs: Int >= 0, the length of the warmup.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch of `fit`.
        start_factor: Float in [0, 1], the rate of step 0 as a fraction of `peak`.
        name: String.

    Calling it with `step`, an int or an array of ints (NumPy, tensor or `keras.Variable`),
    returns a float32 tensor of the same shape, whatever `keras.config.floatx()` is.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range.

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
        warmup_epochs: int,
        *,
        steps_per_epoch: int,
        start_factor: float = 0.0,
        name: str = "LinearWarmup",
    ):
        self.schedule = check_schedule("schedule", schedule)
        self.warmup_epochs = _checks.integer("warmup_epochs", warmup_epochs, 0)
        self.steps_per_epoch = _checks.integer("steps_per_epoch", steps_per_epoch, 1)
        self.start_factor = _checks.real(
            "start_factor", start_factor, "a number in [0, 1]", at_least=0.0, at_most=1.0
        )
        self.name = _checks.string("name", name)
        self._length = self.warmup_epochs * self.steps_per_epoch
        peak = float(rate_of(self.schedule, 0, NUMBER))
        self._start = peak * self.start_factor
        self._rise = (peak - self._start) / max(self._length, 1)

    def _rate(self, step: Any, xp: Operations) -> Any:
        if self._length == 0:
            return rate_of(self.schedule, step, xp)
        end = min(self._length, LAST_STEP)
        warmup = self._start + self._rise * xp.floating(step)
        return xp.where(step < end, warmup, rate_of(self.schedule, _since(step, end, xp), xp))

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": schedule_config(self.schedule),
            "warmup_epochs": self.warmup_epochs,
            "steps_per_epoch": self.steps_per_epoch,
            "start_factor": self.start_factor,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LinearWarmup:
        return cls(**{**config, "schedule": schedule_from_config(config["schedule"])})


@register
class JoinedSchedule(HostSchedule):
    """Several schedules, one after the other.

    ```
    boundaries[i - 1] <= epoch < boundaries[i]:
        schedules[i](step - boundaries[i - 1] * steps_per_epoch)
    ```

    Schedule i takes over at the first step of epoch `boundaries[i - 1]`, and its own clock
    starts at 0 there.

    Args:
        schedules: A non-empty list or tuple of schedules, each any `LearningRateSchedule`, or a
            float > 0 for a constant rate.
        boundaries: Strictly increasing ints >= 1, epochs counted from 0; one fewer than there
            are schedules.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch of `fit`.
        name: String.

    Calling it with `step`, an int or an array of ints (NumPy, tensor or `keras.Variable`),
    returns a float32 tensor of the same shape, whatever `keras.config.floatx()` is.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range, or a number of boundaries that does not fit.

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
        boundaries: Sequence[int],
        *,
        steps_per_epoch: int,
        name: str = "JoinedSchedule",
    ):
        if not isinstance(schedules, (list, tuple)):
            _checks.fail("schedules", schedules, "a list or tuple of schedules", TypeError)
        if not schedules:
            _checks.fail("schedules", schedules, "a non-empty list or tuple of schedules")
        self.schedules = [
            check_schedule(f"schedules[{index}]", schedule)
            for index, schedule in enumerate(schedules)
        ]
        count = len(self.schedules) - 1
        must = f"{count} strictly increasing ints >= 1, one fewer than there are schedules"
        self.boundaries = _checks.integers("boundaries", boundaries, 1, must, count)
        self.steps_per_epoch = _checks.integer("steps_per_epoch", steps_per_epoch, 1)
        self.name = _checks.string("name", name)

    def _rate(self, step: Any, xp: Operations) -> Any:
        starts = [0, *(epoch * self.steps_per_epoch for epoch in self.boundaries)]
        rate = None
        for schedule, start in zip(self.schedules, starts, strict=True):
            if start > LAST_STEP:
                break
            own = rate_of(schedule, _since(step, start, xp), xp)
            rate = own if rate is None else xp.where(step >= start, own, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        return {
            "schedules": [schedule_config(schedule) for schedule in self.schedules],
            "boundaries": list(self.boundaries),
            "steps_per_epoch": self.steps_per_epoch,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> JoinedSchedule:
        schedules = [schedule_from_config(schedule) for schedule in config["schedules"]]
        return cls(**{**config, "schedules": schedules})


def _since(step: Any, start: int, xp: Operations) -> Any:
    """The steps since `start`, 0 before it."""
    return xp.maximum(step - start, 0) if start else step
