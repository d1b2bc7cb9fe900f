"""When a plateau is due to reduce the rate: pure Python, no Keras."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace

from keras_decay.optimizer._state import PlateauState

VALUE_GAIN, LOSS_GAIN = 0.02, 0.1
"""How much better than at the start, as fractions, tells that a training run has learned something.
Chosen by `python -m tests.benchmarks.decisions`."""


def forget_start(state: PlateauState, loss: float | None) -> PlateauState:
    """The state after a better value: without the start, once training has learned something.

    Args:
        state: With `start_loss`, and the better value as its `best`.
        loss: The training loss beside the value; `None` where there is none to compare.
    """
    start, best = state.start_loss, state.best
    assert start is not None
    assert best is not None
    first = best if state.start_value is None else state.start_value
    gained = abs(best - first) > VALUE_GAIN * abs(first)
    if gained or loss is None or loss <= start - LOSS_GAIN * abs(start):
        return replace(state, start_loss=None, start_value=None)
    return replace(state, start_value=first)


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

    def observe(self, state: PlateauState, observed: float, mode: str) -> tuple[PlateauState, bool]:
        """The state after one observation, and whether a reduction is due."""
        state, value = self._smoothed(state, observed)
        best, wait = state.best, state.wait
        better = self._better(value, best, mode)
        if better:
            best = value
            wait = wait if self.on_improvement else 0
        if state.cooldown > 0:
            return replace(state, best=best, wait=wait, cooldown=state.cooldown - 1), False
        if self.on_improvement:
            counts = better and state.best is not None
        else:
            counts = not better
        wait += counts
        # `wait` is above the patience where an earlier run was more patient.
        patience = self.patience[min(state.reductions, len(self.patience) - 1)]
        due = counts and wait >= patience
        return replace(state, best=best, wait=0 if due else wait), due

    def reduce(self, state: PlateauState) -> PlateauState | None:
        """The state after a reduction, `None` where there have been as many as there may be."""
        if self.max_reductions is not None and state.reductions >= self.max_reductions:
            return None
        return replace(
            state,
            wait=0,
            # Never 0: a float rate may be set back any number of times.
            scale=max(state.scale * self.factor, sys.float_info.min),
            cooldown=self.cooldown,
            reductions=state.reductions + 1,
        )

    def reduced(self, rate: float, floor: float) -> float:
        """A rate after a reduction: multiplied, but for the floor, which raises none."""
        return max(rate * self.factor, min(rate, floor))

    def _smoothed(self, state: PlateauState, observed: float) -> tuple[PlateauState, float]:
        if not math.isfinite(observed) or self.smoothing == 0.0:
            return state, observed
        average = self.smoothing * state.average + (1.0 - self.smoothing) * observed
        count = state.observations + 1
        # Early on the average still holds some of the 0 that it began with.
        value = average / (1.0 - self.smoothing**count)
        return replace(state, average=average, observations=count), value

    def _better(self, value: float, best: float | None, mode: str) -> bool:
        if not math.isfinite(value):
            return False
        if best is None:
            return True
        delta = self.min_delta * abs(best) if self.relative else self.min_delta
        return value < best - delta if mode == "min" else value > best + delta
