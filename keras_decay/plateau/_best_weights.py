"""The weights that `restore_best_weights` goes back to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from keras_decay.optimizer._state import PlateauState, State
from keras_decay.plateau._processes import all_reduce_mean

VALUE_GAIN, LOSS_GAIN = 0.05, 0.5
"""How much better than at the start, as fractions, tells that a training run has learned something.
Chosen by `python -m tests.benchmarks.decisions`."""


def with_start(state: State, model: Any) -> State:
    """The state before the first epoch of a `fit`: a fresh one takes down the weights."""
    if state.has_observed or state.best_weights is not None:
        return state
    # (A model that is built by its first batch has no weights yet.)
    return replace(state, best_weights=model.get_weights() or None)


def with_first_loss(state: State, loss: float, optimizer: Any) -> State:
    """The state after the first batch, with whose loss later ones are compared."""
    known = state.has_observed or state.plateau.start_loss is not None
    if known or state.best_weights is None:
        return state
    loss = all_reduce_mean(loss, optimizer, state)
    if not math.isfinite(loss):
        return replace(state, best_weights=None)
    return replace(state, plateau=replace(state.plateau, start_loss=loss))


def after_better(state: State, loss: float | None, model: Any, optimizer: Any) -> State:
    """The state after a better value, beside which `loss` is the training loss."""
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
