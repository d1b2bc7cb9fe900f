"""The learning rates of a schedule as arrays, without training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks, _keras
from keras_decay._backend import to_numpy
from keras_decay.optimizer._attach import attached_to
from keras_decay.optimizer._rates import effective_rate, schedule_of, steps_done
from keras_decay.optimizer._scale import PlateauScale
from keras_decay.optimizer._state import PlateauState, State
from keras_decay.schedules._base import (
    check_schedule,
    compute,
    iter_schedules,
    with_steps_per_epoch,
)

CHUNK = 2**16
"""How many steps are evaluated at once: few enough for the processor's cache."""


def preview(
    schedule: Any, epochs: int, *, steps_per_epoch: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """The learning rate at every step of a training run, as two NumPy arrays, without training.

    ```
    epoch[s] = s / steps_per_epoch
    rate[s]  = schedule(s)                        s = 0, ..., epochs * steps_per_epoch - 1
    ```

    Args:
        schedule: Any `LearningRateSchedule`, or a float > 0; a `PlateauScale` keeps its present
            scale. Or an optimizer or a compiled model: then the rates are those that come next,
            from its present epoch and scale.
        epochs: Int >= 1, the number of epochs.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` for the
            number of the schedule, or of a schedule inside it. (For a float, `None` is 1; for an
            optimizer that has trained, the number of its last `fit`.) A schedule that counts the
            epochs of `fit` is shown with this number, and is not changed.

    Returns:
        The epochs (float64) and the rates (float32), both of length `epochs * steps_per_epoch`.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; no `steps_per_epoch`, if the schedule has none
            either, like those of Keras.

    Example:

    >>> schedule = keras_decay.StepDecay(0.1, 0.5, 10, steps_per_epoch=100)
    >>> epoch, rate = keras_decay.preview(schedule, 30)
    >>> len(rate), float(epoch[1050]), round(float(rate[1050]), 4)
    (3000, 10.5, 0.05)
    """
    source = Source.of("schedule", schedule, steps_per_epoch)
    epochs = _checks.integer("epochs", epochs, 1)
    length = source.steps_per_epoch
    steps = np.arange(epochs * length)
    return source.epoch + steps / length, rates_at(source.schedule, source.step + steps)


@dataclass(frozen=True)
class Source:
    """Where rates come from.

    Attributes:
        schedule: A float, or a schedule that knows how many steps an epoch has.
        steps_per_epoch: The number of steps in an epoch.
        step: The step at which the rates begin.
        epoch: The same point, in epochs.
    """

    schedule: Any
    steps_per_epoch: int
    step: int = 0
    epoch: float = 0.0

    @classmethod
    def of(cls, name: str, what: Any, steps_per_epoch: int | None) -> Source:
        """The source for a float or a schedule, from step 0 on, or for an optimizer or a model,
        from its present step on."""
        optimizer = what.optimizer if isinstance(what, keras.Model) else what
        if isinstance(optimizer, keras.optimizers.Optimizer):
            return cls._from_here(name, optimizer, steps_per_epoch)
        if isinstance(what, keras.Model):
            _checks.fail(name, what, "a compiled model")
        schedule = what if isinstance(what, PlateauScale) else check_schedule(name, what)
        length = resolve_steps_per_epoch(name, schedule, steps_per_epoch)
        if isinstance(schedule, PlateauScale):
            scale = State(schedule.state.plateau if schedule.placement.scaled else PlateauState())
            return cls(_in_state(schedule, scale, length, 0), length)
        return cls(with_steps_per_epoch(schedule, length), length)

    @classmethod
    def _from_here(cls, name: str, optimizer: Any, steps_per_epoch: int | None) -> Source:
        inner = _keras.inner_optimizers(optimizer)
        if len(inner) != 1:
            must = "an optimizer with one learning rate, such as one of those inside it"
            _checks.fail(name, optimizer, must)
        schedule, step = schedule_of(inner[0]), steps_done(inner[0])
        attached = attached_to(optimizer)
        state = State() if attached is None else attached.state
        if isinstance(schedule, PlateauScale):
            state = schedule.state
        if steps_per_epoch is None:
            steps_per_epoch = state.clock.steps_per_epoch
        schedule = effective_rate(inner[0]) if schedule is None else schedule
        length = resolve_steps_per_epoch(name, schedule, steps_per_epoch)
        clock = state.clock.begin(0, length, [step], loaded=False, resumed=False)
        if clock.steps_per_epoch == state.clock.steps_per_epoch:
            clock = state.clock  # It may be in the middle of an epoch.
        at = replace(state, clock=clock)
        epoch = (step + clock.offset(0)) / length
        if isinstance(schedule, float):
            return cls(schedule, length, step, epoch)
        return cls(_in_state(schedule, at, length, step), length, step, epoch)


def _in_state(schedule: Any, state: State, length: int, step: int) -> PlateauScale:
    """The schedule as an optimizer in this state has it, but without an optimizer."""
    floor, scaled = 0.0, False
    if isinstance(schedule, PlateauScale):
        floor, scaled = schedule.min_learning_rate, schedule.placement.scaled
        schedule = schedule.schedule
    clock = replace(state.clock, steps_per_epoch=length)
    state = State(state.plateau if scaled else PlateauState(), clock)
    return PlateauScale(schedule, min_learning_rate=floor, state=state.numbers(0))


def _is_constant(schedule: Any) -> bool:
    if isinstance(schedule, PlateauScale):
        schedule = schedule.schedule
    return isinstance(schedule, float)


def resolve_steps_per_epoch(name: str, schedule: Any, given: int | None) -> int:
    """The given number, or else the schedule's own."""
    if given is not None:
        return _checks.integer("steps_per_epoch", given, 1)
    inner = (getattr(each, "steps_per_epoch", None) for each in iter_schedules(schedule))
    own = 1 if _is_constant(schedule) else next((n for n in inner if n is not None), None)
    if own is None:
        _checks.fail(
            "steps_per_epoch", given, f"given for {name}={schedule!r}, which has none of its own"
        )
    return int(own)


def rates_at(schedule: Any, steps: NDArray[np.int64]) -> NDArray[np.float32]:
    rates = np.empty(len(steps), "float32")
    for start in range(0, len(steps), CHUNK):
        part = slice(start, start + CHUNK)
        rates[part] = to_numpy(compute(schedule, steps[part]))
    return rates
