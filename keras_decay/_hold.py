"""How a plateau takes hold of an optimizer: the one file that changes what one is made of."""

from __future__ import annotations

from typing import Any

import keras

from keras_decay import _checks, _keras
from keras_decay._backend import BACKEND, to_number, variable_scope
from keras_decay._config import LearningRateSchedule
from keras_decay._memory import ATTRIBUTE, FormerPlace, PlateauMemory
from keras_decay._rates import steps_done, warn
from keras_decay._rule import Memory
from keras_decay._scale import PlateauScale

SCALE = "plateau_scale"
COMPILED = "compiled_by_keras_decay"


def take_hold(model: Any, optimizer: Any, min_learning_rate: float) -> PlateauMemory:
    """The memory of the optimizer, each of whose schedules a plateau now scales, down to the
    floor. What it holds already stays as it is."""
    own = optimizer is getattr(model, "optimizer", None)
    if own and getattr(model, "built", False) and not optimizer.built:
        # A `MultiOptimizer` may know its optimizers only then. (Which weights another attribute's
        # optimizer trains, the training step alone knows.)
        with variable_scope(model):
            optimizer.build(model.trainable_variables)
    leaves = _keras.leaf_optimizers(optimizer)
    memory = _memory_of(optimizer, leaves)
    scales = tuple(
        _scaled(model, leaf, memory, min_learning_rate) for leaf in leaves if not _is_float(leaf)
    )
    if scales != memory.scales:  # To set an attribute costs Keras more than a decision does.
        memory.scales = scales
    if BACKEND == "jax" and memory.scales:
        for each in _keras.all_optimizers(optimizer):
            _keep_out_of_files(each, leaves)
    memory.settle()
    return memory


def _memory_of(optimizer: Any, leaves: list[Any]) -> PlateauMemory:
    """The memory of the optimizer that the user made: its own, that of the `PlateauScale` in it,
    or a fresh one."""
    own = _keras.unwrapped(optimizer)
    memory: PlateauMemory | None = getattr(own, ATTRIBUTE, None)
    if memory is None:
        rates = map(_keras.learning_rate, leaves)
        given = next((rate.memory for rate in rates if isinstance(rate, PlateauScale)), None)
        observed = given and (given.epoch is not None or given.best is not None)
        if observed and not any(map(steps_done, leaves)):
            warn(
                "The optimizer is at step 0 and its `PlateauScale` has the memory of a plateau "
                "that has seen a training: that of another optimizer, from whose config this one "
                "was made. The plateau starts afresh. To go on where the other one was, load its "
                "model or weights too."
            )
            given = None
        memory = PlateauMemory(given or Memory())
        memory.loaded = given is not None
        setattr(own, ATTRIBUTE, memory)
    for wrapper in _keras.wrappers(optimizer):
        setattr(wrapper, ATTRIBUTE, FormerPlace(memory))
    return memory


def _is_float(leaf: Any) -> bool:
    """Whether the rate is a float, which can be set."""
    if _keras.forwards_learning_rate(leaf):
        try:
            leaf.learning_rate = float(to_number(leaf.learning_rate))
        except (AttributeError, TypeError) as error:
            must = f"a float or a schedule that can be set on the `{type(leaf).__name__}`"
            raise TypeError(f"`learning_rate` must be {must}: {error}") from error
        return True
    rate = _keras.learning_rate(leaf)
    if not _keras.is_variable(rate) and not isinstance(rate, LearningRateSchedule):
        _checks.fail("learning_rate", rate, "a float or a `LearningRateSchedule`", TypeError)
    return _keras.is_variable(rate)


def _scaled(model: Any, leaf: Any, memory: PlateauMemory, floor: float) -> PlateauScale:
    """The `PlateauScale` that is now the optimizer's rate."""
    rate = _keras.learning_rate(leaf)
    held = isinstance(rate, PlateauScale) and rate.holder is memory
    variable = rate.variable if held else getattr(leaf, SCALE, None)
    if variable is None:
        with variable_scope(model):
            variable = keras.Variable(
                memory.memory.scale, dtype="float32", trainable=False, autocast=False, name=SCALE
            )
        if BACKEND == "jax":
            # JAX compiles in what is no variable of the optimizer.
            setattr(leaf, SCALE, variable)
    if not held or rate.min_learning_rate != floor:
        # A new one, since a step that is compiled already holds the one that it was compiled
        # with; and what the user made stays the user's.
        base = rate.schedule if isinstance(rate, PlateauScale) else rate
        rate = PlateauScale(base, min_learning_rate=floor)
        rate.holder, rate.variable, rate.clock = memory, variable, _keras.step_counter(leaf)
        _keras.set_learning_rate(leaf, rate)
    return rate  # type: ignore[no-any-return]


def _keep_out_of_files(optimizer: Any, leaves: list[Any]) -> None:
    """Has the optimizer save and load its variables without the scales, for files to be the same
    with and without a plateau."""
    files = _Files(optimizer, leaves)
    optimizer.save_own_variables = files.save_own_variables
    optimizer.load_own_variables = files.load_own_variables


class _Files:
    def __init__(self, optimizer: Any, leaves: list[Any]):
        self.optimizer = optimizer
        self.leaves = leaves

    def save_own_variables(self, store: Any) -> None:
        with _keras.without_variables(self.leaves, SCALE):
            type(self.optimizer).save_own_variables(self.optimizer, store)

    def load_own_variables(self, store: Any) -> None:
        with _keras.without_variables(self.leaves, SCALE):
            type(self.optimizer).load_own_variables(self.optimizer, store)


class _Compiled:
    """The training step that a model has, and the learning rates that it was made for."""

    def __init__(self, step: Any, rates: dict[int, list[Any]]):
        self.step, self.rates = step, rates


def renew_step(model: Any, optimizer: Any) -> None:
    """Has the model's training step compiled anew, where it was compiled for other learning rates
    than the optimizer has now: a compiled step holds the schedule that was there first."""
    step = getattr(model, "train_function", None)
    if step is None:
        return
    rates = [_keras.learning_rate(leaf) for leaf in _keras.leaf_optimizers(optimizer)]
    compiled = vars(model).get(COMPILED)
    known = compiled.rates if compiled is not None and compiled.step is step else {}
    key = id(_keras.unwrapped(optimizer))
    # Of a step that Keras made: a float's variable was there then too, for none ever replaces a
    # schedule.
    before = known.get(key, rates if all(map(_keras.is_variable, rates)) else [])
    if list(map(id, before)) != list(map(id, rates)):
        with _keras.another_step(model):
            model.make_train_function(force=True)
    # Past Keras's own `__setattr__`, which would track what is in it.
    vars(model)[COMPILED] = _Compiled(model.train_function, {**known, key: rates})
