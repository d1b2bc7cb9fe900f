"""The schedule that replaces an optimizer's own: that one, on its epochs, times a scale."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_decay import _checks
from keras_decay._backend import LAST_STEP, Scalar, maximum, minimum
from keras_decay._config import register
from keras_decay.optimizer._state import State, checked_state
from keras_decay.schedules._base import (
    Schedule,
    check_schedule,
    rate_at,
    rate_of,
    set_offset,
    with_steps_per_epoch,
)


@dataclass(frozen=True)
class Placement:
    """The part of the state that a compiled step uses.

    Attributes:
        index: The index of the inner optimizer whose rate this is.
        steps_per_epoch: The number for the schedules that have none.
        scale: The scale in the state; `None` if it does not apply to this schedule.
        offset: How far the clock of these schedules is ahead of the optimizer's counter; `None`
            if it never is.
    """

    index: int
    steps_per_epoch: int | None
    scale: Scalar | None
    offset: Scalar | None

    @property
    def scaled(self) -> bool:
        return self.scale is not None


def scale_of(keeper: Any, variable: Any = None) -> Scalar:
    """The scale in the state of `keeper`."""
    return Scalar(lambda: keeper.state.plateau.scale, variable)


def offset_of(keeper: Any, index: int, variable: Any = None) -> Scalar:
    """The offset of an inner optimizer's clock in the state of `keeper`."""
    return Scalar(
        lambda: max(-LAST_STEP, min(keeper.state.clock.offset(index), LAST_STEP)), variable
    )


@register
class PlateauScale(Schedule):
    """A schedule, or a constant rate, times the scale of a `PlateauDecay`.

    ```
    base = schedule(step)
    learning_rate = max(base * scale, min(base, min_learning_rate))
    ```

    A schedule in it that counts the epochs of `fit` is called at the step that corresponds to the
    epochs trained, whatever step the optimizer has counted.

    The callbacks put it around the schedule of an optimizer; `LearningRateLogger` does so only if
    that schedule counts the epochs of `fit`. Build it yourself for one purpose only: to give a
    constant rate a plateau whose state is saved in a whole-model file. (Keras saves nothing but
    the rate for a float.) Pass `learning_rate=PlateauScale(0.1)`.

    The host writes the scale and the compiled training step reads it, so a reduction takes effect
    at the next step, without recompiling.

    Args:
        schedule: Any `LearningRateSchedule` except a `PlateauScale`, or a float > 0.
        min_learning_rate: Float >= 0, the floor; `PlateauDecay` replaces it with its own.
        state: A dict of numbers: the epochs and the plateau's state of the optimizer, as they were
            when its model was saved. Leave it `None`, which is a fresh state; only files set it.
        name: String.

    The object that you build is never changed: a callback replaces it with its own copy, which
    starts from this state.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range, or a state that contradicts itself.

    Example:

    >>> optimizer = keras.optimizers.SGD(learning_rate=keras_decay.PlateauScale(0.1))
    >>> round(float(optimizer.learning_rate), 4)
    0.1
    """

    outermost = True

    def __init__(
        self,
        schedule: Any,
        *,
        min_learning_rate: float = 0.0,
        state: dict[str, Any] | None = None,
        name: str = "PlateauScale",
    ):
        self.schedule = check_schedule("schedule", schedule)
        self.min_learning_rate = _checks.min_learning_rate(min_learning_rate)
        self.name = _checks.string("name", name)
        own = State() if state is None else checked_state(state)
        keeper, clock = SimpleNamespace(state=own), own.clock
        offset = offset_of(keeper, 0) if clock.offset(0) else None
        self.place(keeper, Placement(0, clock.steps_per_epoch, scale_of(keeper), offset))

    def place(self, keeper: Any, placement: Placement) -> None:
        """Makes this follow the state of `keeper`."""
        self.keeper, self.placement = keeper, placement
        self.base = with_steps_per_epoch(self.schedule, placement.steps_per_epoch)
        if placement.offset is not None:
            set_offset(self.base, self.schedule, placement.offset)

    @property
    def state(self) -> State:
        """The state of the optimizer that this belongs to."""
        state: State = self.keeper.state
        return state

    def at(self, step: int, scale: float) -> float:
        """The rate at a step if the scale were `scale`."""
        return float(np.float32(self._scaled(rate_at(self.base, step), scale)))

    def _rate(self, step: Any, counter: Any) -> Any:
        base, scale = rate_of(self.base, step, counter), self.placement.scale
        if scale is None or (scale.variable is None and scale.read() == 1.0):
            return base
        return self._scaled(base, scale.at(step))

    def _scaled(self, base: Any, scale: Any) -> Any:
        if self.min_learning_rate == 0.0:
            return base * scale
        return maximum(base * scale, minimum(base, self.min_learning_rate))

    def _arguments(self) -> dict[str, Any]:
        state = self.state if self.placement.scaled else State(clock=self.state.clock)
        return {**super()._arguments(), "state": state.numbers(self.placement.index) or None}

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy does not belong to an optimizer. (A deep copy copies these arguments.)
        return type(self).from_config, (self._arguments(),)
