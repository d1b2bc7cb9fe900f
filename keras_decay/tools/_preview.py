"""The rates of a schedule as arrays, without training."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks
from keras_decay._backend import to_numpy
from keras_decay._formula import check_schedule, compute, rate_of, teach, untaught, within
from keras_decay._scale import PlateauScale

CHUNK = 2**16
"""How many steps are evaluated at once: few enough for the processor's cache."""


def preview(
    schedule: Any, epochs: int, *, steps_per_epoch: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The learning rate at every step of a training, as two NumPy arrays, without training.

    ```
    epoch[s] = s / steps_per_epoch
    rate[s]  = schedule(s)                        s = 0, ..., epochs * steps_per_epoch - 1
    ```

    Args:
        schedule: Any `LearningRateSchedule`, or a float > 0. A `PlateauScale` shows its present
            scale.
        epochs: Int >= 1, the number of epochs.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` for the
            schedule's own, or that of a schedule in it. (For a float it is 1.) A schedule that
            is to learn its own from `fit` takes this one here, and stays untaught.

    Returns:
        The epochs (float64) and the rates (float32), both of length `epochs * steps_per_epoch`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; no `steps_per_epoch` where the schedule has
            none, like those of Keras.

    Example:

    >>> schedule = keras_decay.StepDecay(0.1, 0.5, 10, steps_per_epoch=100)
    >>> epoch, rate = keras_decay.preview(schedule, 30)
    >>> len(rate), float(epoch[1050]), round(float(rate[1050]), 4)
    (3000, 10.5, 0.05)
    """
    schedule = any_schedule("schedule", schedule)
    epochs = _checks.integer("epochs", epochs, 1)
    steps_per_epoch = length_of_epoch("schedule", schedule, steps_per_epoch)
    schedule = taught(schedule, steps_per_epoch)
    steps = np.arange(epochs * steps_per_epoch)
    return steps / steps_per_epoch, rates_at(schedule, steps)


def any_schedule(name: str, value: Any) -> Any:
    return value if isinstance(value, PlateauScale) else check_schedule(name, value)


def _is_constant(schedule: Any) -> bool:
    if isinstance(schedule, PlateauScale):
        schedule = schedule.schedule
    return isinstance(schedule, float)


def length_of_epoch(name: str, schedule: Any, given: int | None) -> int:
    if given is not None:
        return _checks.integer("steps_per_epoch", given, 1)
    inner = (getattr(each, "steps_per_epoch", None) for each in within(schedule))
    own = 1 if _is_constant(schedule) else next((n for n in inner if n is not None), None)
    if own is None:
        _checks.fail(
            "steps_per_epoch", given, f"given for {name}={schedule!r}, which has none of its own"
        )
    return int(own)


def taught(schedule: Any, steps_per_epoch: int) -> Any:
    """The schedule; of one that is to learn its `steps_per_epoch` from `fit`, a copy that knows."""
    if untaught(schedule):
        schedule = copy.deepcopy(schedule)
        teach(schedule, steps_per_epoch)
    return schedule


def rates_at(schedule: Any, steps: NDArray[np.int64]) -> NDArray[np.float32]:
    rates = np.empty(len(steps), "float32")
    for start in range(0, len(steps), CHUNK):
        part = slice(start, start + CHUNK)
        rates[part] = to_numpy(compute(lambda step, xp: rate_of(schedule, step, xp), steps[part]))
    return rates
