"""A schedule times the scale of a plateau."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from keras_decay import _checks
from keras_decay._backend import assign
from keras_decay._config import register
from keras_decay._formula import (
    FormulaSchedule,
    Numbers,
    Tensors,
    check_schedule,
    rate_at,
    rate_of,
)
from keras_decay._memory import PlateauMemory, Record, checked_memory
from keras_decay._rule import Memory


@register
class PlateauScale(FormulaSchedule):
    """A schedule, or a constant rate, times the scale of a `PlateauDecay`.

    ```
    base = schedule(step)
    learning_rate = max(base * scale, min(base, min_learning_rate))
    ```

    `PlateauDecay` puts it around the schedule of an optimizer. Build it yourself only to give
    a constant rate a plateau whose memory travels in a whole-model file, of which Keras saves
    nothing for a float: `learning_rate=PlateauScale(0.1)`.

    The scale is written by the host and read by the compiled training step, so a reduction
    takes effect at the next step, without compiling anything anew.

    Args:
        schedule: Any `LearningRateSchedule` but a `PlateauScale`, or a float > 0.
        min_learning_rate: Float >= 0, the floor; `PlateauDecay` sets it to its own.
        best: Float or `None`, the best value observed so far.
        wait: Int >= 0, the observations counted towards `patience`.
        cooldown: Int >= 0, how many of the next observations are not counted.
        scale: Float in (0, 1], the product of all reductions so far.
        reductions: Int >= 0, how many they were.
        epoch: Int >= 0 or `None`, the last epoch that the plateau saw the end of.
        epochs: Int >= 0, how many epochs it saw the end of.
        average: Float, the moving average of the observations.
        observations: Int >= 0, how many went into it.
        name: String.

    `best` to `observations` are the memory of the plateau, here to be saved and loaded with the
    model; leave them alone otherwise. The object that you build is never changed: a plateau puts
    one of its own in its place, which starts from this memory.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range, or a memory that contradicts itself.

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
        best: float | None = None,
        wait: int = 0,
        cooldown: int = 0,
        scale: float = 1.0,
        reductions: int = 0,
        epoch: int | None = None,
        epochs: int = 0,
        average: float = 0.0,
        observations: int = 0,
        name: str = "PlateauScale",
    ):
        self.schedule = check_schedule("schedule", schedule)
        self.min_learning_rate = _checks.min_learning_rate(min_learning_rate)
        self.name = _checks.string("name", name)
        memory = checked_memory(
            {
                "best": best,
                "wait": wait,
                "cooldown": cooldown,
                "scale": scale,
                "reductions": reductions,
                "epoch": epoch,
                "epochs": epochs,
                "average": average,
                "observations": observations,
            }
        )
        self.holder: Record | PlateauMemory = Record(memory)
        """What has the memory: a record of this one's own or, where this is part of an optimizer
        that a plateau holds, the memory of that optimizer."""
        self.variable: Any = None
        """The scale as the compiled step of that optimizer reads it."""
        self.clock: Any = None
        """The step counter of that optimizer."""

    @property
    def memory(self) -> Memory:
        return self.holder.memory

    def write(self) -> None:
        """Has the variable hold what the memory says."""
        assign(self.variable, self.memory.scale, beside=self.clock)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is part of no optimizer.
        return {**vars(self), "holder": Record(self.memory), "variable": None, "clock": None}

    def _rate(self, step: Any, xp: Numbers | Tensors) -> Any:
        return self._scaled(rate_of(self.schedule, step, xp), xp.read(self), xp)

    def _scaled(self, base: Any, scale: Any, xp: Numbers | Tensors) -> Any:
        if self.min_learning_rate == 0.0:
            return base * scale
        return xp.maximum(base * scale, xp.minimum(base, self.min_learning_rate))

    def at(self, step: int, scale: float) -> float:
        """The rate at a step, as it would be with that scale."""
        base = rate_at(self.schedule, step)
        return float(np.float32(self._scaled(base, scale, Numbers(step, step))))

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), **asdict(self.memory)}
