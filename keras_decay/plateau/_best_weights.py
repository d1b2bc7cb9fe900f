"""The weights that `restore_best_weights` goes back to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from keras_decay.optimizer._attach import Attached
from keras_decay.optimizer._state import PlateauState, State
from keras_decay.plateau._processes import all_reduce_mean

VALUE_GAIN, LOSS_GAIN = 0.05, 0.5
"""How much better than at the start, as fractions, tells that a training run has learned something.
Chosen by `python -m tests.benchmarks.decisions`."""


@dataclass(frozen=True)
class BestWeights:
    """Takes down the weights of the best value, which are part of the optimizer's state.

    Args:
        kept: Whether any are kept.
        from_start: Whether those of the start count as the best ones until training has learned
            something.
    """

    kept: bool
    from_start: bool

    def begin(self, attached: Attached, model: Any) -> None:
        """Takes down the weights of the start, before the first epoch of a `fit`."""
        fresh = not attached.state.has_observed and attached.state.best_weights is None
        if self.from_start and fresh:
            # (A model that is built by its first batch has no weights yet.)
            attached.commit(replace(attached.state, best_weights=model.get_weights() or None))

    def awaits_first_loss(self, state: State) -> bool:
        return (
            self.from_start
            and state.best_weights is not None
            and state.plateau.start_loss is None
            and not state.has_observed
        )

    def after_first_batch(self, state: State, loss: float, optimizer: Any) -> State:
        """The state with the loss of the first batch, to compare later losses with."""
        loss = all_reduce_mean(loss, optimizer, state)
        if not math.isfinite(loss):
            return replace(state, best_weights=None)
        return replace(state, plateau=replace(state.plateau, start_loss=loss))

    def after_better(self, state: State, loss: float | None, model: Any, optimizer: Any) -> State:
        """The state after a better value, beside which `loss` is the training loss."""
        if not self.kept:
            return replace(state, best_weights=None)
        if state.plateau.start_loss is not None and state.best_weights is not None:
            if loss is not None:
                loss = all_reduce_mean(loss, optimizer, state)
            state = replace(state, plateau=forget_start(state.plateau, loss))
            if state.plateau.start_loss is not None:
                return state
        return replace(state, best_weights=model.get_weights())


def forget_start(state: PlateauState, loss: float | None) -> PlateauState:
    """The state after a better value: without the start, once training has learned something.

    Args:
        state: With `start_loss`, and the better value as its `best`.
        loss: The training loss beside the value; `None` if there is none to compare.
    """
    start, best = state.start_loss, state.best
    assert start is not None
    assert best is not None
    first = best if state.start_value is None else state.start_value
    gained = abs(best - first) > VALUE_GAIN * abs(first)
    if gained or loss is None or loss <= start - LOSS_GAIN * abs(start):
        return replace(state, start_loss=None, start_value=None)
    return replace(state, start_value=first)
