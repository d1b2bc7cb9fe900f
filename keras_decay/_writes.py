"""What a reduction, and going back to an earlier state, write into a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_decay import _keras
from keras_decay._backend import to_numpy
from keras_decay._hold import SCALE
from keras_decay._rates import effective_rate, rate_used, schedule_of, steps_done
from keras_decay._rule import Memory, Rule

Writes = tuple[Callable[[], None], ...]


def reduction(
    rule: Rule, memory: Memory, optimizer: Any, min_learning_rate: float
) -> tuple[Memory, Writes] | None:
    """The memory after a reduction and what sets the float rates to theirs; `None` where no rate
    would change."""
    reduced = rule.reduce(memory)
    if reduced is None:
        return None
    writes, changed = [], False
    for leaf in _keras.leaf_optimizers(optimizer):
        rate, schedule = effective_rate(leaf), schedule_of(leaf)
        if schedule is not None:
            changed |= schedule.at(steps_done(leaf), reduced.scale) != rate
            continue
        lower = rate_used(rule.reduced(rate, min_learning_rate), 0)
        if lower != rate:
            writes.append(functools.partial(setattr, leaf, "learning_rate", lower))
    return (reduced, tuple(writes)) if changed or writes else None


class Values:
    """The values that variables have now, on the host."""

    def __init__(self, variables: list[Any]):
        self._variables = variables
        # A copy, since on a CPU the array may be the variable's own memory.
        self._values = [to_numpy(each).copy() for each in variables]

    def restore(self) -> None:
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)


class Snapshot(Values):
    """All that training changes, but for the optimizer's step counters and rates."""

    def __init__(self, model: Any, optimizer: Any):
        kept = {
            id(variable)
            for each in _keras.all_optimizers(optimizer)
            for variable in (
                _keras.step_counter(each),
                _keras.learning_rate(each),
                getattr(each, SCALE, None),
            )
        }
        learnt = [
            *model.trainable_variables,
            *(each for each in optimizer.variables if id(each) not in kept),
        ]
        super().__init__([*learnt, *model.non_trainable_variables])
        # Of what is not learnt, a mask may well be infinite.
        self.finite = all(np.isfinite(value).all() for value in self._values[: len(learnt)])
