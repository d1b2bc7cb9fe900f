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
        epoch: The last epoch that ended, whether or not it brought an observation.
    """

    best: float | None = None
    wait: int = 0
    cooldown: int = 0
    scale: float = 1.0
    reductions: int = 0
    epoch: int | None = None


@dataclass(frozen=True)
class Rule:
    """The decision rule of `PlateauDecay`.

    `wait` counts the observations that the rule waits for: those that are not better, in a
    row; with `on_improvement`, those that are better, in total. A reduction is due when it
    reaches `patience`.
    """

    factor: float
    patience: int
    min_delta: float
    relative: bool
    cooldown: int
    on_improvement: bool

    def observe(self, memory: Memory, value: float, mode: str) -> tuple[Memory, bool]:
        """The memory after one observation, and whether a reduction is due."""
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
        # `wait` is above `patience` where an earlier run was more patient.
        due = counts and wait >= self.patience
        return replace(memory, best=best, wait=0 if due else wait), due

    def reduce(self, memory: Memory) -> Memory:
        """The memory after a reduction."""
        return replace(
            memory,
            # Never 0: a float rate may be set back any number of times.
            scale=max(memory.scale * self.factor, sys.float_info.min),
            cooldown=self.cooldown,
            reductions=memory.reductions + 1,
        )

    def _better(self, value: float, best: float | None, mode: str) -> bool:
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        delta = self.min_delta * abs(best) if self.relative else self.min_delta
        return value < best - delta if mode == "min" else value > best + delta
