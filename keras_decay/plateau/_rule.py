"""When a reduction is due: pure Python, no Keras."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

from keras_decay.optimizer._state import PlateauState


@dataclass(frozen=True)
class Rule:
    """The decision rule of `PlateauDecay`.

    Its fields are arguments of `PlateauDecay`. `wait` counts the observations in a row that are not
    better or, with `reduce_on="improvement"`, all that are better. A reduction is due when `wait`
    reaches the patience: entry i of `patience` before reduction i, and the last entry before all
    later ones.
    """

    factor: float
    patience: int | tuple[int, ...]
    min_delta: float
    relative: bool
    smoothing: float
    cooldown: int
    max_reductions: int | None
    reduce_on: str

    def observe(self, state: PlateauState, observed: float, mode: str) -> tuple[PlateauState, bool]:
        """The state after one observation, and whether a reduction is due."""
        state, value = self._smoothed(state, observed)
        better = self._better(value, state.best, mode)
        best = value if better else state.best
        if self.reduce_on == "improvement":
            counts, wait = better and state.best is not None, state.wait
        else:
            counts, wait = not better, 0 if better else state.wait
        if state.cooldown > 0:
            return replace(state, best=best, wait=wait, cooldown=state.cooldown - 1), False
        wait += counts
        # `wait` can be above the patience if an earlier run had a larger one.
        due = counts and wait >= self._patience(state.reductions)
        return replace(state, best=best, wait=0 if due else wait), due

    def _patience(self, reductions: int) -> int:
        if isinstance(self.patience, int):
            return self.patience
        return self.patience[min(reductions, len(self.patience) - 1)]

    def reduce(self, state: PlateauState) -> PlateauState | None:
        """The state after a reduction; `None` if `max_reductions` have been made."""
        if self.max_reductions is not None and state.reductions >= self.max_reductions:
            return None
        return replace(
            state,
            wait=0,
            # Never 0: a user who keeps raising a float rate can have any number of reductions.
            scale=max(state.scale * self.factor, sys.float_info.min),
            cooldown=self.cooldown,
            reductions=state.reductions + 1,
        )

    def reduced(self, rate: float, floor: float) -> float:
        """A rate after a reduction: multiplied by the factor, but not below the floor.

        A rate that is already below the floor stays as it is.
        """
        return max(rate * self.factor, min(rate, floor))

    def _smoothed(self, state: PlateauState, observed: float) -> tuple[PlateauState, float]:
        if not math.isfinite(observed) or self.smoothing == 0.0:
            return state, observed
        average = self.smoothing * state.average + (1.0 - self.smoothing) * observed
        count = state.observations + 1
        # The average starts at 0; the division removes this bias.
        value = average / (1.0 - self.smoothing**count)
        return replace(state, average=average, observations=count), value

    def _better(self, value: float, best: float | None, mode: str) -> bool:
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        delta = self.min_delta * abs(best) if self.relative else self.min_delta
        return value < best - delta if mode == "min" else value > best + delta
