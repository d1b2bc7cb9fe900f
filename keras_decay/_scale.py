"""A schedule times the scale of a plateau, with the memory that made it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from keras_decay import _checks
from keras_decay._backend import HostScalar
from keras_decay._compose import (
    check_schedule,
    rate_of,
    schedule_config,
    schedule_from_config,
)
from keras_decay._rule import Memory
from keras_decay._schedules import HostSchedule, Operations, register


@register
class PlateauScale(HostSchedule):
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
        name: String.

    `best` to `epoch` are the memory of the plateau, here to be saved and loaded with the
    model; leave them alone otherwise. One that serves several optimizers has a scale and a
    memory for each.

    Calling it with `step`, an int or an array of ints (NumPy, tensor or `keras.Variable`),
    returns a float32 tensor of the same shape, whatever `keras.config.floatx()` is.

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
        name: str = "PlateauScale",
    ):
        self.schedule = check_schedule("schedule", schedule)
        self.min_learning_rate = _checks.min_learning_rate(min_learning_rate)
        self.name = _checks.string("name", name)
        self.memory = checked_memory(
            best=best,
            wait=wait,
            cooldown=cooldown,
            scale=scale,
            reductions=reductions,
            epoch=epoch,
        )
        self.scalar = HostScalar(self.memory.scale)
        self.followed: Any = None
        """The `PlateauMemory` of the optimizer that this has become part of."""

    def follow(self, memory: Memory) -> None:
        """Takes on `memory`, also for the steps that are compiled already."""
        self.memory = memory
        if memory.scale != self.scalar.value:
            self.scalar.assign(memory.scale)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is part of no optimizer yet.
        return {**vars(self), "followed": None}

    def _rate(self, step: Any, xp: Operations) -> Any:
        base = rate_of(self.schedule, step, xp)
        rate = base * xp.read(self.scalar)
        if self.min_learning_rate == 0.0:
            return rate
        return xp.maximum(rate, xp.minimum(base, self.min_learning_rate))

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": schedule_config(self.schedule),
            "min_learning_rate": self.min_learning_rate,
            **asdict(self.memory),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PlateauScale:
        return cls(**{**config, "schedule": schedule_from_config(config["schedule"])})


def checked_memory(
    *, best: Any, wait: Any, cooldown: Any, scale: Any, reductions: Any, epoch: Any
) -> Memory:
    """A memory from a file, or an error that names what is wrong with it."""
    memory = Memory(
        best=None if best is None else _checks.real("best", best, "a finite number or None"),
        wait=_checks.integer("wait", wait, 0),
        cooldown=_checks.integer("cooldown", cooldown, 0),
        scale=_checks.real("scale", scale, "a number in (0, 1]", above=0.0, at_most=1.0),
        reductions=_checks.integer("reductions", reductions, 0),
        epoch=None if epoch is None else _checks.integer("epoch", epoch, 0),
    )
    if (memory.scale == 1.0) != (memory.reductions == 0):
        _checks.fail(
            "scale",
            scale,
            f"1.0 before the first reduction and below it after one; "
            f"here `reductions` is {reductions}",
        )
    return memory
