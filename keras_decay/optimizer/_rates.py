"""The learning rates of an optimizer, computed on the host."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_decay import _keras
from keras_decay._backend import LAST_STEP, to_number
from keras_decay._config import LearningRateSchedule
from keras_decay.schedules._base import rate_at


def warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def steps_done(optimizer: Any) -> int:
    """The steps that an optimizer has counted; the largest number if the counter has wrapped."""
    steps = int(to_number(_keras.step_counter(optimizer)))
    return steps if steps >= 0 else LAST_STEP


def schedule_of(optimizer: Any) -> Any:
    """The schedule of an optimizer; `None` if its rate is a float."""
    rate = _keras.learning_rate(optimizer)
    forwards = _keras.forwards_learning_rate(optimizer)
    return rate if isinstance(rate, LearningRateSchedule) and not forwards else None


def rate_used(rate: Any, step: int) -> float:
    """The rate, of a float or of a schedule at a step, rounded to float32 as in the optimizer."""
    return float(np.float32(rate_at(rate, step)))


def effective_rate(optimizer: Any, back: int = 0) -> float:
    """The rate of an optimizer at its next step, or `back` steps before that."""
    schedule = schedule_of(optimizer)
    if schedule is None:
        return float(to_number(optimizer.learning_rate))
    return rate_used(schedule, max(steps_done(optimizer) - back, 0))


def named_optimizers(optimizer: Any, suffix: str = "") -> Iterator[tuple[str, Any]]:
    """The optimizers that have a rate, each with the suffix that `learning_rate` gets in the logs.

    A single optimizer has only `suffix`. Those in a `MultiOptimizer` have their own names, as in
    Keras's own callbacks; equal names get a number.
    """
    several = hasattr(_keras.unwrapped(optimizer), "optimizers")
    taken = set()
    for inner in _keras.inner_optimizers(optimizer):
        name, count = suffix, 0
        while several and (name == suffix or name in taken):
            name = f"{suffix}_{inner.name}" + (f"_{count}" if count else "")
            count += 1
        taken.add(name)
        yield name, inner


def learning_rates(optimizer: Any, suffix: str = "", back: int = 0) -> dict[str, float]:
    """The effective rates, by their names in the logs."""
    return {
        f"learning_rate{name}": effective_rate(inner, back)
        for name, inner in named_optimizers(optimizer, suffix)
    }
