"""Puts back everything that a `fit` changes in a model and around it, after a block."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_decay import _backend, _keras


class VariableValues:
    """The values that variables have now, on the host."""

    def __init__(self, variables: list[Any]):
        self._variables = variables
        # A copy, since on a CPU the array may be the variable's own memory.
        self._values = [_backend.to_numpy(each).copy() for each in variables]

    def restore(self) -> None:
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)


def variables_of(model: Any) -> list[Any]:
    """All variables that training the model may change."""
    found = [
        *model.variables,
        *model.metrics_variables,
        *(
            variable
            for optimizer in _keras.held_optimizers(model)
            for variable in optimizer.variables
        ),
    ]
    return list({id(each): each for each in found}.values())


@contextlib.contextmanager
def preserve_variables(model: Any) -> Iterator[None]:
    """All variables have the values that they had, to the bit. Those of an optimizer that is built
    in the block have the values that it was built with."""
    saved = [VariableValues(variables_of(model))]
    unbuilt = [each for each in _keras.held_optimizers(model) if not each.built]
    for optimizer in unbuilt:
        # Not by setting the attribute, which Keras would track.
        vars(optimizer)["build"] = _build_and_save(optimizer, saved)
    try:
        yield
    finally:
        for optimizer in unbuilt:
            vars(optimizer).pop("build")
        # Metrics that were not built before are not among the variables.
        model.reset_metrics()
        for values in saved:
            values.restore()


def _build_and_save(optimizer: Any, saved: list[VariableValues]) -> Callable[[Any], None]:
    build = optimizer.build

    def build_and_save(variables: Any) -> None:
        before = {id(each) for each in optimizer.variables}
        with _backend.outside_of_graph():
            build(variables)
            saved.append(
                VariableValues([each for each in optimizer.variables if id(each) not in before])
            )

    return build_and_save


@contextlib.contextmanager
def preserve_attributes(model: Any) -> Iterator[None]:
    """What `fit` sets on a model is what it was, its compiled steps among it."""
    names = (
        "train_function",
        "test_function",
        "steps_per_execution",
        "stop_training",
        "stop_evaluating",
        "history",
    )
    kept = {name: vars(model)[name] for name in names if name in vars(model)}
    try:
        model.train_function = None
        model.steps_per_execution = 1
        with preserve_modes(model), _keras.fresh_train_step(model):
            yield
    finally:
        for name in names:
            if name in kept:
                setattr(model, name, kept[name])
            else:  # In old versions of Keras `del` deletes variables only.
                vars(model).pop(name, None)


@contextlib.contextmanager
def preserve_modes(model: Any) -> Iterator[None]:
    """torch's own switch between training and inference, which Keras turns for all modules."""
    modes = [(part, part.training) for part in getattr(model, "modules", list)()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def preserve_random_states() -> Iterator[None]:
    """Python, NumPy, torch and Keras draw the random numbers that they would have drawn."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    generator = _keras.global_seed_generator()
    drawn = VariableValues([] if generator is None else [generator.state])
    try:
        with preserve_torch_states():
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        _keras.set_global_seed_generator(generator)
        drawn.restore()


def preserve_torch_states() -> Any:
    """torch draws the random numbers that it would have drawn, where it is used at all."""
    torch = sys.modules.get("torch")
    if torch is None:
        return contextlib.nullcontext()
    # Dropout on an accelerator draws from a generator of that one's; to ask one that nobody has
    # used yet would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices, device_type="cuda")
