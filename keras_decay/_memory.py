"""What a plateau remembers of an optimizer, where Keras saves it with the optimizer's weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks
from keras_decay._formula import counting, prepare
from keras_decay._rule import Memory

ATTRIBUTE = "plateau_memory"


@dataclass(frozen=True)
class Record:
    """All that a plateau knows: replaced as a whole, so that no interrupt finds half of it."""

    memory: Memory
    best_weights: Sequence[NDArray[Any]] | None = None
    writes: tuple[Callable[[], None], ...] = ()
    """What the memory says and the model's variables may not hold yet. Each can be repeated."""


class PlateauMemory(keras.layers.Layer):
    """The memory of one optimizer, set on it as an attribute: the only one that there is.

    A layer, since that is the public class whose `save_own_variables` Keras calls. Not a
    variable of the optimizer, since Keras skips all of an optimizer's state, momentum
    included, when a file holds another number of variables.
    """

    def __init__(self, memory: Memory):
        super().__init__(name=ATTRIBUTE)
        self.built = True
        self.record = Record(memory)
        self.scales: tuple[Any, ...] = ()
        """The `PlateauScale`s of the optimizer, which read the memory."""
        self.owner: int | None = None
        """The `id` of the callback that writes the memory."""
        self.loaded = False
        """Whether the memory comes from a file and no training has begun since."""

    @property
    def memory(self) -> Memory:
        return self.record.memory

    def commit(self, record: Record) -> None:
        """Takes a record, then has the model's variables follow it."""
        follows = record.memory.scale == self.memory.scale and not record.writes
        self.record = record
        if not follows:
            self.settle()

    def settle(self) -> None:
        """Has the model's variables hold what the memory says."""
        record = self.record
        for write in record.writes:
            write()
        for scale in self.scales:
            scale.write()
        if record.writes:
            self.record = Record(record.memory, record.best_weights)

    def _counting(self) -> list[Any]:
        return [each for scale in self.scales for each in counting(scale)]

    def save_own_variables(self, store: Any) -> None:
        for name, value in asdict(self.memory).items():
            store[name] = np.asarray(np.nan if value is None else value, "float64")
        for index, weights in enumerate(self.record.best_weights or ()):
            store[f"best_weights_{index}"] = weights
        # What a schedule has learnt from `fit`, a run that is resumed does not learn anew.
        steps = [each.steps_per_epoch or 0 for each in self._counting()]
        if steps:
            store["steps_per_epoch"] = np.asarray(steps, "int64")

    def load_own_variables(self, store: Any) -> None:
        saved = {name: np.asarray(store[name]) for name in store.keys()}
        if not saved:  # A file of a model that had no plateau says nothing about one.
            return
        own, steps = self._counting(), saved.pop("steps_per_epoch", ())
        for each, number in zip(own, steps, strict=True) if len(own) == len(steps) else ():
            if number and (each.told or each.steps_per_epoch is None):
                each.steps_per_epoch, each.told = int(number), True
        for scale in self.scales:
            prepare(scale)
        numbers = {
            name: _plain(value.item())
            for name, value in saved.items()
            if not name.startswith("best_weights_")
        }
        count = len(saved) - len(numbers)
        weights = [saved[f"best_weights_{index}"] for index in range(count)]
        self.loaded = True
        self.commit(Record(checked_memory(numbers), weights or None))


class FormerPlace(keras.layers.Layer):
    """Where files of version 0.1 have the memory of an optimizer in a `LossScaleOptimizer`."""

    def __init__(self, memory: PlateauMemory):
        super().__init__(name=ATTRIBUTE)
        self.built = True
        self._load = memory.load_own_variables

    def save_own_variables(self, store: Any) -> None:
        pass

    def load_own_variables(self, store: Any) -> None:
        self._load(store)


def checked_memory(numbers: dict[str, Any]) -> Memory:
    """A memory from a file, or an error that names what is wrong with it.

    What an older version did not save is as at the beginning.
    """
    known = [field.name for field in fields(Memory)]
    checked: dict[str, Any] = {}
    for name, number in numbers.items():
        if name not in known:
            raise TypeError(f"The memory of a plateau has no `{name}`; it has {known}.")
        if name in ("best", "epoch") and number is None:
            checked[name] = None
        elif name == "best":
            checked[name] = _checks.real(name, number, "a finite number or None")
        elif name == "average":
            checked[name] = _checks.real(name, number, "a finite number")
        elif name == "scale":
            must = "a number in (0, 1]"
            checked[name] = _checks.real(name, number, must, above=0.0, at_most=1.0)
        else:
            checked[name] = _checks.integer(name, number, 0)
    memory = Memory(**checked)
    if memory.epochs == 0 and memory.epoch is not None:
        memory = memory.after(memory.epoch)
    if (memory.scale == 1.0) != (memory.reductions == 0):
        must = (
            "1.0 before the first reduction and below it after one; "
            f"here `reductions` is {memory.reductions}"
        )
        _checks.fail("scale", memory.scale, must)
    return memory


def _plain(number: float) -> float | int | None:
    if np.isnan(number):
        return None
    return int(number) if number.is_integer() else number
