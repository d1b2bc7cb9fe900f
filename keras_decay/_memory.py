"""A plateau's hold on an optimizer: its schedules, scaled, and a memory saved with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks, _keras
from keras_decay._backend import pass_to_step, variable_scope
from keras_decay._compose import LearningRateSchedule
from keras_decay._rule import Memory
from keras_decay._scale import PlateauScale, checked_memory

ATTRIBUTE = "plateau_memory"


class PlateauMemory(keras.layers.Layer):
    """A `Memory` where Keras saves it with the weights: a layer set on the optimizer.

    A layer, since that is the public class whose `save_own_variables` Keras calls. Not a
    variable of the optimizer, since Keras skips all of an optimizer's state, momentum
    included, when a file holds another number of variables.
    """

    def __init__(self, memory: Memory):
        super().__init__(name=ATTRIBUTE)
        self.built = True
        self.memory = memory
        self.best_weights: list[NDArray[Any]] | None = None
        self.scales: Sequence[PlateauScale] = ()
        self.owner: int | None = None
        """The `id` of the callback that writes the memory."""
        self.loaded = False
        """Whether the memory comes from a file and no training has begun since."""

    def write(self, memory: Memory) -> None:
        """Changes the memory, here and in the schedules that it scales."""
        self.memory = memory
        for scale in self.scales:
            scale.follow(memory)

    def save_own_variables(self, store: Any) -> None:
        for name, value in asdict(self.memory).items():
            store[name] = np.asarray(np.nan if value is None else value, "float64")
        for index, weights in enumerate(self.best_weights or ()):
            store[f"best_weights_{index}"] = weights

    def load_own_variables(self, store: Any) -> None:
        saved = {name: np.asarray(store[name]) for name in store.keys()}
        if not saved:  # A file of a model that had no plateau says nothing about one.
            return
        numbers = {
            name: _plain(value.item())
            for name, value in saved.items()
            if not name.startswith("best_weights_")
        }
        self.write(checked_memory(**numbers))
        self.loaded = True
        count = len(saved) - len(numbers)
        self.best_weights = [saved[f"best_weights_{index}"] for index in range(count)] or None


def take_hold(model: Any, min_learning_rate: float) -> PlateauMemory:
    """The memory of the model's optimizer, each of whose schedules a plateau now scales, down
    to the floor."""
    optimizer = model.optimizer
    if getattr(model, "built", False) and not optimizer.built:
        # A `MultiOptimizer` may know its optimizers only then.
        with variable_scope(model):
            optimizer.build(model.trainable_variables)
    memory = _memory_of(optimizer)
    stale = _scale_schedules(model, memory, min_learning_rate)
    memory.scales = _scales_of(optimizer)
    memory.write(memory.memory)
    if memory.scales:
        stale |= pass_to_step(model, lambda: [each.scalar for each in _scales_of(model.optimizer)])
    # A step that was compiled before holds the schedule as it was.
    if stale and getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)
    return memory


def _memory_of(optimizer: Any) -> PlateauMemory:
    """The memory of the optimizer: its own, that of its loaded schedule, or a fresh one."""
    attached: PlateauMemory | None = getattr(optimizer, ATTRIBUTE, None)
    if attached is None:
        loaded = [scale.memory for scale in _scales_of(optimizer) if scale.followed is None]
        attached = PlateauMemory(loaded[0] if loaded else Memory())
        attached.loaded = bool(loaded)
        setattr(optimizer, ATTRIBUTE, attached)
    return attached


def _scales_of(optimizer: Any) -> list[PlateauScale]:
    """The schedules of the optimizer, or of those inside it, that a plateau scales."""
    rates = map(_keras.learning_rate, _keras.leaf_optimizers(optimizer))
    return [rate for rate in rates if isinstance(rate, PlateauScale)]


def _scale_schedules(model: Any, memory: PlateauMemory, min_learning_rate: float) -> bool:
    """Puts each schedule of the optimizer into a `PlateauScale` with the floor; returns whether
    that changed any."""
    changed = False
    for leaf in _keras.leaf_optimizers(model.optimizer):
        rate = _keras.learning_rate(leaf)
        if isinstance(rate, LearningRateSchedule):
            if isinstance(rate, PlateauScale) and rate.followed not in (None, memory):
                rate = rate.schedule  # That scale is another optimizer's.
            if not isinstance(rate, PlateauScale):
                changed = True
                with variable_scope(model):
                    rate = leaf.learning_rate = PlateauScale(rate)
            changed |= rate.min_learning_rate != min_learning_rate
            rate.min_learning_rate = min_learning_rate
            rate.followed = memory
            changed |= rate.scalar.place(_keras.step_counter(leaf))
        elif not _keras.is_variable(rate):
            must = "a float or a `LearningRateSchedule`"
            _checks.fail("learning_rate", rate, must, TypeError)
    return changed


def _plain(number: float) -> float | int | None:
    if np.isnan(number):
        return None
    return int(number) if number.is_integer() else number
