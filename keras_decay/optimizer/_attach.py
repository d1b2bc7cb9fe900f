"""Attaches the state to an optimizer, and makes the learning rate follow that state.

This is the only file that adds lasting attributes to an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_decay import _checks, _keras
from keras_decay._backend import COUNTER, PURE_STEP, to_number, variable_scope
from keras_decay._config import LearningRateSchedule
from keras_decay.optimizer._rates import schedule_of, steps_done, warn
from keras_decay.optimizer._scale import Placement, PlateauScale, offset_of, scale_of
from keras_decay.optimizer._state import State, checked_state
from keras_decay.schedules._base import counting_epochs

LAYER = "learning_rate_state"
SCALE = "plateau_scale"
OFFSET = "epoch_offset"
TRAIN_FUNCTION = "train_function_of_keras_decay"


class Attached:
    """The state of one optimizer, and the rates that follow it.

    Attributes:
        state: All that is known about the optimizer; there is no other copy.
        owner: The `id` of the callback that observes.
        model: The model that the optimizer trains.
        inner: The inner optimizers.
    """

    def __init__(self, state: State):
        self.state = state
        self.owner: int | None = None
        self.model: Any = None
        self.inner: list[Any] = []

    @property
    def scales(self) -> bool:
        """Whether there is a schedule that a plateau scales."""
        return any(schedule_of(each) is not None for each in self.inner)

    @property
    def counts_epochs(self) -> bool:
        """Whether a schedule counts the epochs of `fit`."""
        return any(counting_epochs(schedule_of(each)) for each in self.inner)

    def counters(self) -> list[int]:
        """The steps that each inner optimizer has counted."""
        return [steps_done(each) for each in self.inner]

    def commit(
        self, state: State, write: Callable[[], None] | None = None, *, inside_epoch: bool = False
    ) -> None:
        """Replaces the state, after `write` has changed the model's variables to match it.

        If an interrupt comes in between, both are done again before it is raised, so `write` must
        be repeatable.
        """
        before = self.state
        moved = (before.plateau.scale, before.clock) != (state.plateau.scale, state.clock)

        def apply() -> None:
            if write is not None:
                write()
            self.state = state
            if moved:
                self.follow(inside_epoch=inside_epoch)

        try:
            apply()
        except ValueError:
            # The schedule refuses this number of steps: two boundaries on one step.
            self.state = before
            raise
        except BaseException:
            apply()
            raise

    def follow(self, floor: float | None = None, *, inside_epoch: bool = False) -> None:
        """Makes the rates of the inner optimizers follow the state.

        Args:
            floor: The floor of a plateau, which scales every schedule. `None`: only the rates that
                follow the state already, and those that count the epochs of `fit`, follow it.
            inside_epoch: Whether an epoch is running: on JAX no variable can be added then.
        """
        for index, each in enumerate(self.inner):
            root = self._root(index, each, floor, not (PURE_STEP and inside_epoch))
            scalars = () if root is None else (root.placement.scale, root.placement.offset)
            for scalar in filter(None, scalars):
                scalar.write(beside=_keras.step_counter(each))

    def _root(
        self, index: int, inner: Any, floor: float | None, new_variables: bool
    ) -> PlateauScale | None:
        """The rate that the inner optimizer has from now on; `None` if its rate stays."""
        rate = schedule_of(inner)
        ours = isinstance(rate, PlateauScale)
        follows = ours and rate.keeper is self
        schedule = rate.schedule if ours else rate
        counts = bool(counting_epochs(schedule))
        if rate is None or (floor is None and not follows and not counts):
            return None
        clock, scale, offset = self.state.clock, None, None
        if follows:
            scale, offset = rate.placement.scale, rate.placement.offset
        elif ours and rate.placement.scaled:
            # The scale of an earlier plateau does not apply to a schedule that was set later.
            scale = scale_of(self)
        if floor is not None and (scale is None or scale.variable is None):
            number = self.state.plateau.scale
            scale = scale_of(self, self._variable(inner, SCALE, number, "float32"))
        if counts and offset is None and clock.offset(index):
            offset = offset_of(self, index)
        if offset is not None and offset.variable is None and new_variables:
            offset = offset_of(self, index, self._variable(inner, OFFSET, 0, COUNTER))
        steps_per_epoch = clock.steps_per_epoch if counts else None
        placement = Placement(index, steps_per_epoch, scale, offset)
        if floor is None:
            floor = rate.min_learning_rate if ours else 0.0
        if follows and (rate.min_learning_rate, rate.placement) == (floor, placement):
            return rate  # type: ignore[no-any-return]
        # A new one: a compiled step keeps the schedule that it was compiled with, and the user's
        # own object is never changed.
        root = PlateauScale(schedule, min_learning_rate=floor)
        root.place(self, placement)
        _keras.set_learning_rate(inner, root)
        return root

    def _variable(self, inner: Any, name: str, number: float, dtype: str) -> Any:
        variable = getattr(inner, name, None)
        if variable is None:
            with variable_scope(self.model):
                variable = keras.Variable(
                    number, dtype=dtype, trainable=False, autocast=False, name=name
                )
            if PURE_STEP:
                # Else the compiled step on JAX takes its value for a constant.
                setattr(inner, name, variable)
                _keras.record_shardings(self.model)
        return variable


class StateLayer(keras.layers.Layer):
    """Saves the state of an optimizer, as an attribute of the optimizer.

    It is a layer because Keras calls `save_own_variables` of layers, which is public. The state is
    not a variable of the optimizer because Keras skips all of an optimizer's variables, momentum
    included, when a file has a different number of them.
    """

    def __init__(self, attached: Attached):
        super().__init__(name=LAYER)
        self.built = True
        self.attached = attached

    def save_own_variables(self, store: Any) -> None:
        state = self.attached.state
        # `epochs` is always written: an empty file means a model without our callbacks.
        for name, value in {"epochs": state.clock.epochs, **state.numbers()}.items():
            store[name] = np.asarray(value, "float64" if isinstance(value, float) else "int64")
        for index, weights in enumerate(state.best_weights or ()):
            store[f"best_weights_{index}"] = weights

    def load_own_variables(self, store: Any) -> None:
        saved = {name: np.asarray(store[name]) for name in store.keys()}
        if not saved:
            return
        count = sum(name.startswith("best_weights_") for name in saved)
        best = [saved.pop(f"best_weights_{index}") for index in range(count)]
        state = checked_state({name: value.tolist() for name, value in saved.items()})
        self.attached.commit(replace(state, best_weights=best or None, loaded=True))


def attached_to(optimizer: Any) -> Attached | None:
    """The state attached to an optimizer; it is kept on the optimizer that the user made."""
    layer = getattr(_keras.unwrapped(optimizer), LAYER, None)
    return None if layer is None else layer.attached


def attach(model: Any, optimizer: Any, floor: float | None = None) -> Attached | None:
    """Attaches the state to an optimizer, and makes its schedules follow it.

    With the floor of a plateau, all schedules follow; without a floor, those that count the epochs
    of `fit`. Returns `None` if there are none of these and no state is attached yet.
    """
    own = optimizer is getattr(model, "optimizer", None)
    if own and getattr(model, "built", False) and not optimizer.built:
        # A `MultiOptimizer` may have no inner optimizers before it is built. (An optimizer in
        # another attribute is not built here: only the training step knows which weights it has.)
        with variable_scope(model):
            optimizer.build(model.trainable_variables)
    inner = _keras.inner_optimizers(optimizer)
    if floor is not None:
        for each in inner:
            _check_rate(each)
    attached = attached_to(optimizer)
    if attached is None:
        if floor is None and not any(counting_epochs(schedule_of(each)) for each in inner):
            return None
        attached = Attached(_given_state(inner))
        setattr(_keras.unwrapped(optimizer), LAYER, StateLayer(attached))
    if PURE_STEP:
        for each in _keras.all_optimizers(optimizer):
            _keep_out_of_files(each)
    attached.model, attached.inner = model, inner
    attached.follow(floor)
    return attached


def _given_state(inner: list[Any]) -> State:
    """The first state of an optimizer: that of its `PlateauScale`, or a fresh one."""
    rates = [schedule_of(each) for each in inner]
    given = next((rate.state for rate in rates if isinstance(rate, PlateauScale)), State())
    if given == State():
        return given
    if not any(map(steps_done, inner)):
        if given.has_observed:
            warn(
                "The optimizer is at step 0 and its `PlateauScale` has the state of a plateau "
                "that has seen a training run: that of another optimizer, from whose config this "
                "one was made. The plateau starts afresh. To go on where the other one was, load "
                "its model or weights too."
            )
        return State()
    offsets = tuple(
        rate.state.clock.offset(rate.placement.index) if isinstance(rate, PlateauScale) else 0
        for rate in rates
    )
    return replace(given, clock=replace(given.clock, offsets=offsets), loaded=True)


def _check_rate(inner: Any) -> None:
    """Raises an error now for a rate that a plateau could not reduce later."""
    if _keras.forwards_learning_rate(inner):
        try:
            inner.learning_rate = float(to_number(inner.learning_rate))
        except (AttributeError, TypeError) as error:
            must = f"a float or a schedule that can be set on the `{type(inner).__name__}`"
            raise TypeError(f"`learning_rate` must be {must}: {error}") from error
        return
    rate = _keras.learning_rate(inner)
    if not _keras.is_variable(rate) and not isinstance(rate, LearningRateSchedule):
        _checks.fail("learning_rate", rate, "a float or a `LearningRateSchedule`", TypeError)


def _keep_out_of_files(optimizer: Any) -> None:
    """Makes the optimizer save and load its variables without ours.

    So files are the same with and without a callback.
    """
    for name in ("save_own_variables", "load_own_variables"):
        if name not in vars(optimizer):
            setattr(optimizer, name, partial(_call_without_ours, optimizer, name))


def _call_without_ours(optimizer: Any, name: str, store: Any) -> None:
    with _keras.without_variables(_keras.inner_optimizers(optimizer), (SCALE, OFFSET)):
        getattr(type(optimizer), name)(optimizer, store)


@dataclass(frozen=True)
class _Made:
    """The compiled training step of a model, and the learning rates it was compiled with."""

    step: Any
    rates: dict[int, list[Any]]


def remake_train_function(model: Any, optimizer: Any) -> None:
    """Compiles the model's training step anew if the optimizer has another schedule since.

    A compiled step keeps the schedule that it was compiled with.
    """
    step = getattr(model, "train_function", None)
    if step is None:
        return
    rates = [_keras.learning_rate(each) for each in _keras.inner_optimizers(optimizer)]
    made = vars(model).get(TRAIN_FUNCTION)
    known = made.rates if made is not None and made.step is step else {}
    key = id(_keras.unwrapped(optimizer))
    # For a step that Keras compiled, nothing is recorded. If all rates are float variables now,
    # they were then: nothing replaces a schedule with a variable.
    before = known.get(key, rates if all(map(_keras.is_variable, rates)) else [])
    if list(map(id, before)) != list(map(id, rates)):
        with _keras.fresh_train_step(model):
            model.make_train_function(force=True)
    # Not through Keras's `__setattr__`, which would track the contents.
    vars(model)[TRAIN_FUNCTION] = _Made(model.train_function, {**known, key: rates})
