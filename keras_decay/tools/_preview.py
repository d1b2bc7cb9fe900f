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
from keras_decay.optimizer._state import Clock, PlateauState, State
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
    steps = np.arange(epochs * source.steps_per_epoch)
    return source.epoch + steps / source.steps_per_epoch, source.rates(steps)


@dataclass(frozen=True)
class Source:
    """Where rates come from.

    Attributes:
        schedule: A float, or a schedule that knows how many steps an epoch has.
        steps_per_epoch: The number of steps in an epoch.
        step: The step at which the rates begin.
        epoch: The same point, in epochs.
        plateau: The plateau's state there, if the rate is a float. (A schedule has its own.)
    """

    schedule: Any
    steps_per_epoch: int
    step: int
    epoch: float
    plateau: PlateauState

    @classmethod
    def of(cls, name: str, what: Any, steps_per_epoch: int | None) -> Source:
        """The source for a float or a schedule, from step 0 on, or for an optimizer or a model,
        from its present step on."""
        optimizer = what.optimizer if isinstance(what, keras.Model) else what
        state, step = State(), 0
        if isinstance(optimizer, keras.optimizers.Optimizer):
            inner = _keras.inner_optimizers(optimizer)
            if len(inner) != 1:
                must = "an optimizer with one learning rate, such as one of those inside it"
                _checks.fail(name, optimizer, must)
            rate, step = schedule_of(inner[0]), steps_done(inner[0])
            keeper = rate if isinstance(rate, PlateauScale) else attached_to(optimizer)
            state = state if keeper is None else keeper.state
            rate = effective_rate(inner[0]) if rate is None else rate
        elif isinstance(what, keras.Model):
            _checks.fail(name, what, "a compiled model")
        else:
            rate = what if isinstance(what, PlateauScale) else check_schedule(name, what)
        clock = state.clock
        if steps_per_epoch is None:
            steps_per_epoch = clock.steps_per_epoch
        length = resolve_steps_per_epoch(name, rate, steps_per_epoch)
        # With the same number, the optimizer may be in the middle of an epoch.
        if length != clock.steps_per_epoch:
            clock = replace(clock, updates=1)
            clock = clock.begin(0, length, [step], loaded=False, resumed=False)
        epoch = (step + clock.offset(0)) / length
        return cls(_on_clock(rate, clock), length, step, epoch, state.plateau)

    def rates(self, steps: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rates so many steps after the source's own step."""
        chunks = np.split(self.step + steps, range(CHUNK, len(steps), CHUNK))
        return np.concatenate([to_numpy(compute(self.schedule, chunk)) for chunk in chunks])


def _on_clock(rate: Any, clock: Clock) -> Any:
    """The rate as an optimizer with this clock has it, but without an optimizer."""
    if isinstance(rate, float):
        return rate
    plateau, floor = PlateauState(), 0.0
    if isinstance(rate, PlateauScale):
        if rate.placement.scaled:
            plateau, floor = rate.state.plateau, rate.min_learning_rate
        rate = rate.schedule
    if not clock.offset(0):
        rate = with_steps_per_epoch(rate, clock.steps_per_epoch)
    return PlateauScale(rate, min_learning_rate=floor, state=State(plateau, clock).numbers(0))


def resolve_steps_per_epoch(name: str, rate: Any, given: int | None) -> int:
    """The given number, or else the schedule's own."""
    if given is not None:
        return _checks.integer("steps_per_epoch", given, 1)
    schedules = list(iter_schedules(rate))
    if all(isinstance(each, PlateauScale) for each in schedules):
        return 1  # A constant rate.
    for each in schedules:
        own = getattr(each, "steps_per_epoch", None)
        if own is not None:
            return int(own)
    must = f"given for {name}={rate!r}, which has none of its own"
    return _checks.fail("steps_per_epoch", given, must)
