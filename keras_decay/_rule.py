"""When a plateau is due to reduce the rate: pure Python, no Keras."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Memory:
    """What a plateau has counted so far. It belongs to the optimizer.

    Attributes:
        best: The best value observed, `None` before the first finite one.
        wait: The observations counted towards `patience`.
        cooldown: How many of the next observations are not counted.
        scale: The product of all reductions.
        reductions: How many they were.
        epoch: The last epoch that ended, as `fit` counts it, whether or not it brought an
            observation.
        epochs: How many epochs have ended, in however many calls of `fit`.
        average: The moving average of the finite observations, from 0 on.
        observations: How many went into it.
    """

    best: float | None = None
    wait: int = 0
    cooldown: int = 0
    scale: float = 1.0
    reductions: int = 0
    epoch: int | None = None
    epochs: int = 0
    average: float = 0.0
    observations: int = 0

    def after(self, epoch: int) -> Memory:
        """The memory after the end of an epoch."""
        return replace(self, epoch=epoch, epochs=max(epoch, self.epochs) + 1)


@dataclass(frozen=True)
class Rule:
    """The decision rule of `PlateauDecay`.

    `wait` counts the observations that the rule waits for: those that are not better, in a
    row; with `on_improvement`, those that are better, in total. A reduction is due when it
    reaches the patience: entry i of it before reduction i, the last entry from there on.
    """

    factor: float
    patience: tuple[int, ...]
    min_delta: float
    relative: bool
    smoothing: float
    cooldown: int
    max_reductions: int | None
    on_improvement: bool

    def observe(self, memory: Memory, observed: float, mode: str) -> tuple[Memory, bool]:
        """The memory after one observation, and whether a reduction is due."""
        memory, value = self._smoothed(memory, observed)
        best, wait = memory.best, memory.wait
        better = self._better(value, best, mode)
        if better:
            best = value
            wait = wait if self.on_improvement else 0
        if memory.cooldown > 0:
            return replace(memory, best=best, wait=wait, cooldown=memory.cooldown - 1), False
        if self.on_improvement:
            counts = better and memory.best is not None
        else:
            counts = not better
        wait += counts
        # `wait` is above the patience where an earlier run was more patient.
        patience = self.patience[min(memory.reductions, len(self.patience) - 1)]
        due = counts and wait >= patience
        return replace(memory, best=best, wait=0 if due else wait), due

    def reduce(self, memory: Memory) -> Memory | None:
        """The memory after a reduction, `None` where there have been as many as there may be."""
        if self.max_reductions is not None and memory.reductions >= self.max_reductions:
            return None
        return replace(
            memory,
            wait=0,
            # Never 0: a float rate may be set back any number of times.
            scale=max(memory.scale * self.factor, sys.float_info.min),
            cooldown=self.cooldown,
            reductions=memory.reductions + 1,
        )

    def reduced(self, rate: float, floor: float) -> float:
        """A rate after a reduction: multiplied, but for the floor, which raises none."""
        return max(rate * self.factor, min(rate, floor))

    def _smoothed(self, memory: Memory, observed: float) -> tuple[Memory, float]:
        if not math.isfinite(observed) or self.smoothing == 0.0:
            return memory, observed
        average = self.smoothing * memory.average + (1.0 - self.smoothing) * observed
        count = memory.observations + 1
        # Early on the average still holds some of the 0 that it began with.
        value = average / (1.0 - self.smoothing**count)
        return replace(memory, average=average, observations=count), value

    def _better(self, value: float, best: float | None, mode: str) -> bool:
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        delta = self.min_delta * abs(best) if self.relative else self.min_delta
        return value < best - delta if mode == "min" else value > best + delta
