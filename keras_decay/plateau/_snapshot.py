"""Copies of a model's variables on the host, and how to go back to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_decay import _keras
from keras_decay._backend import rounded_to, to_numpy
from keras_decay.optimizer._attach import OFFSET, SCALE
from keras_decay.optimizer._rates import effective_rate, rate_used, schedule_of, steps_done
from keras_decay.optimizer._restore import VariableValues
from keras_decay.optimizer._state import PlateauState
from keras_decay.plateau._rule import Rule

Write = Callable[[], None]


def reduction(
    rule: Rule, state: PlateauState, optimizer: Any, min_learning_rate: float
) -> tuple[PlateauState | None, list[Write]]:
    """The state after a reduction, and functions that set the float rates.

    The state is `None` if no rate would change.
    """
    writes: list[Write] = []
    reduced, changed = rule.reduce(state), False
    if reduced is None:
        return None, writes
    for inner in _keras.inner_optimizers(optimizer):
        schedule = schedule_of(inner)
        if schedule is not None:
            step = steps_done(inner)
            changed |= schedule.at(step, reduced.scale) != rate_used(schedule, step)
        else:
            rate = effective_rate(inner)
            forwards = _keras.forwards_learning_rate(inner)
            dtype = "float32" if forwards else _keras.learning_rate(inner).dtype
            lower = rounded_to(dtype, rule.reduced(rate, min_learning_rate))
            if lower != rate:
                writes.append(functools.partial(setattr, inner, "learning_rate", lower))
    return reduced if changed or writes else None, writes


class Snapshot(VariableValues):
    """All that training changes in a model, except its optimizers' step counters and rates.

    It includes all optimizers of the model: a NaN left in one of them would spoil the weights
    again.
    """

    def __init__(self, model: Any, optimizer: Any):
        self._optimizers = _with_inner(model, optimizer)
        of_optimizers = _variables(self._optimizers)
        for each in self._optimizers:
            rate, scale = _keras.learning_rate(each), getattr(each, SCALE, None)
            for variable in (_keras.step_counter(each), rate, scale, getattr(each, OFFSET, None)):
                of_optimizers.pop(id(variable), None)
        learnt = [*model.trainable_variables, *of_optimizers.values()]
        super().__init__([*learnt, *model.non_trainable_variables])
        # Only these: a variable that is not learnt, such as a mask, may be infinite on purpose.
        self.finite = all(np.isfinite(value).all() for value in self._values[: len(learnt)])
        self._phases = list(map(_phase, self._optimizers))

    def restoring(self) -> Write:
        """A function that goes back to this state. It can be repeated.

        With `gradient_accumulation_steps` the copy may hold the gradients of some steps after the
        last update. So the counter moves ahead to where as many have been accumulated.
        """
        counters = []
        for optimizer, phase in zip(self._optimizers, self._phases, strict=True):
            count = getattr(optimizer, "gradient_accumulation_steps", None)
            if count:
                ahead = (phase - _phase(optimizer)) % count
                counters.append((_keras.step_counter(optimizer), steps_done(optimizer) + ahead))

        def write() -> None:
            self.restore()
            for counter, step in counters:
                counter.assign(step)

        return write


def _phase(optimizer: Any) -> int:
    """How many gradients have been accumulated since the last update."""
    count = getattr(optimizer, "gradient_accumulation_steps", None)
    return steps_done(optimizer) % count if count else 0


def restoring_weights(model: Any, optimizer: Any, weights: Sequence[NDArray[Any]]) -> Write:
    """A function that puts weights back into the model. It can be repeated.

    Momentum is set to zero, because the old momentum would lead back to the weights that were
    left. Optimizer variables that are not finite are set to zero too. Moving averages of the
    weights restart at these weights. Second moments and counters go on.
    """
    optimizers = _with_inner(model, optimizer)
    variables = _variables(optimizers)
    momenta = {id(variable) for each in optimizers for variable in _keras.momentum_variables(each)}
    averages = [pair for each in optimizers for pair in _keras.moving_averages(each)]

    def write() -> None:
        model.set_weights(weights)
        for key, variable in variables.items():
            value = to_numpy(variable)
            if key in momenta or not np.isfinite(value.astype("float64")).all():
                variable.assign(np.zeros(value.shape, "float32"))
        for average, variable in averages:
            average.assign(variable)

    return write


def _variables(optimizers: list[Any]) -> dict[int, Any]:
    return {id(each): each for one in optimizers for each in one.variables}


def _with_inner(model: Any, optimizer: Any) -> list[Any]:
    """All optimizers of a model, including those inside others."""
    outer = (optimizer, *_keras.held_optimizers(model))
    found = {id(each): each for one in outer for each in _keras.all_optimizers(one)}
    return list(found.values())
