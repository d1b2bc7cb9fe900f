"""What an optimizer holds in the place of its schedule: the schedule, by epochs, times a scale."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from keras_decay import _checks
from keras_decay._backend import LAST_STEP
from keras_decay._config import register
from keras_decay.optimizer._state import State, checked_state
from keras_decay.schedules._base import (
    Numbers,
    Scalar,
    Schedule,
    Tensors,
    check_schedule,
    rate_at,
    rate_of,
    with_steps_per_epoch,
)


@dataclass(frozen=True)
class _Keeps:
    """The state of a `PlateauScale` that is part of no optimizer."""

    state: State


@dataclass(frozen=True)
class Placement:
    """What of the state is in the compiled step.

    Attributes:
        index: Which of the inner optimizers this is the rate of.
        steps_per_epoch: The number for the schedules that have none.
        shifted: Whether the clock of those may differ from the optimizer's counter.
        scaled: Whether the scale of the state is that of this schedule too.
        scale: The variable that has it, `None` where no plateau is attached.
        offset: The variable that has the clock's offset, or `None`.
    """

    index: int
    steps_per_epoch: int | None
    shifted: bool
    scaled: bool = True
    scale: Any = None
    offset: Any = None

    def is_like(self, other: Placement) -> bool:
        """Whether a compiled step is the same with both."""
        # A variable may not be compared by value.
        return all(
            one is two if field.name in ("scale", "offset") else one == two
            for field in fields(self)
            for one, two in [(getattr(self, field.name), getattr(other, field.name))]
        )


@register
class PlateauScale(Schedule):
    """A schedule, or a constant rate, times the scale of a `PlateauDecay`.

    ```
    base = schedule(step)
    learning_rate = max(base * scale, min(base, min_learning_rate))
    ```

    What in the schedule counts the epochs of `fit` is called at the step that these make, whatever
    the optimizer has counted.

    The callbacks put it around the schedule of an optimizer, `LearningRateLogger` only where that
    counts the epochs of `fit`. Build it yourself only to give a constant rate a plateau whose state
    travels in a whole-model file, of which Keras saves nothing for a float:
    `learning_rate=PlateauScale(0.1)`.

    The scale is written by the host and read by the compiled training step, so a reduction
    takes effect at the next step, without compiling anything anew.

    Args:
        schedule: Any `LearningRateSchedule` but a `PlateauScale`, or a float > 0.
        min_learning_rate: Float >= 0, the floor; `PlateauDecay` sets it to its own.
        state: A dict of numbers, what was known of the optimizer when this was saved with its
            model: its epochs and its plateau. `None` for a fresh one; leave it alone otherwise.
        name: String.

    The object that you build is never changed: a callback puts one of its own in its place, which
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
    inner = ("schedule",)

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
        clock = own.clock
        self.place(_Keeps(own), Placement(0, clock.steps_per_epoch, clock.offset(0) != 0))

    def place(self, keeper: Any, placement: Placement) -> None:
        """Makes this follow the state that `keeper` has."""
        self.keeper, self.placement = keeper, placement
        self.scale = Scalar(
            lambda: self.state.plateau.scale if placement.scaled else 1.0, placement.scale
        )
        self.offset = Scalar(
            lambda: max(-LAST_STEP, min(self.state.clock.offset(placement.index), LAST_STEP)),
            placement.offset,
        )
        offset = self.offset if placement.shifted else None
        self.base = with_steps_per_epoch(self.schedule, placement.steps_per_epoch, offset)

    @property
    def state(self) -> State:
        """What is known of the optimizer that this is part of."""
        state: State = self.keeper.state
        return state

    def at(self, step: int, scale: float) -> float:
        """The rate at a step, as it would be with that scale."""
        base = rate_at(self.base, step)
        return float(np.float32(self._scaled(base, scale, Numbers(step, step))))

    def _rate(self, step: Any, xp: Numbers | Tensors) -> Any:
        base = rate_of(self.base, step, xp)
        if self.scale.variable is None and self.scale.number == 1.0:
            return base
        return self._scaled(base, xp.read(self.scale), xp)

    def _scaled(self, base: Any, scale: Any, xp: Numbers | Tensors) -> Any:
        if self.min_learning_rate == 0.0:
            return base * scale
        return xp.maximum(base * scale, xp.minimum(base, self.min_learning_rate))

    def _arguments(self) -> dict[str, Any]:
        state = self.state if self.placement.scaled else State(clock=self.state.clock)
        return {**super()._arguments(), "state": state.numbers(self.placement.index) or None}

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy is part of no optimizer.
        return _made, (type(self), self._arguments())


def _made(cls: type[PlateauScale], arguments: dict[str, Any]) -> PlateauScale:
    return cls(**arguments)
