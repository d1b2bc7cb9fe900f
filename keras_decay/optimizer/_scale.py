"""The schedule that replaces an optimizer's own: that one, on its epochs, times a scale."""

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
    """Holds the state of a `PlateauScale` that does not belong to an optimizer."""

    state: State


@dataclass(frozen=True)
class Placement:
    """The part of the state that a compiled step uses.

    Attributes:
        index: The index of the inner optimizer whose rate this is.
        steps_per_epoch: The number for the schedules that have none.
        shifted: Whether the clock of these may differ from the optimizer's counter.
        scaled: Whether the scale in the state applies to this schedule.
        scale: The variable for the scale; `None` if no plateau is attached.
        offset: The variable for the clock's offset, or `None`.
    """

    index: int
    steps_per_epoch: int | None
    shifted: bool
    scaled: bool = True
    scale: Any = None
    offset: Any = None

    def is_like(self, other: Placement) -> bool:
        """Whether both give the same compiled step."""
        # Variables are compared by identity: `==` would compare their values.
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
        """Makes this follow the state of `keeper`."""
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
        """The state of the optimizer that this belongs to."""
        state: State = self.keeper.state
        return state

    def at(self, step: int, scale: float) -> float:
        """The rate at a step if the scale were `scale`."""
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
        # A copy does not belong to an optimizer.
        return _made, (type(self), self._arguments())


def _made(cls: type[PlateauScale], arguments: dict[str, Any]) -> PlateauScale:
    return cls(**arguments)
