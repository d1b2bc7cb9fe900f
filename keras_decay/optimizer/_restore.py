"""Context managers that put back, after a block, everything that a `fit` changes."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from keras_decay import _backend, _keras


class VariableValues:
    """A copy, on the host, of the values that variables have now."""

    def __init__(self, variables: list[Any]):
        self._variables = variables
        # On a CPU the array may share the variable's memory.
        self._values = [_backend.to_numpy(each).copy() for each in variables]

    def restore(self) -> None:
        for variable, value in zip(self._variables, self._values, strict=True):
            variable.assign(value)


def variables_of(model: Any) -> list[Any]:
    """All variables that training may change."""
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
    """Restores all variables after the block, to the bit.

    If an optimizer is built in the block, its variables get the values that it was built with.
    """
    saved = [VariableValues(variables_of(model))]
    unbuilt = [each for each in _keras.held_optimizers(model) if not each.built]
    for optimizer in unbuilt:
        # Not through Keras's `__setattr__`, which would track it.
        vars(optimizer)["build"] = _build_and_save(optimizer, saved)
    try:
        yield
    finally:
        for optimizer in unbuilt:
            vars(optimizer).pop("build")
        # Metrics that were built in the block are not among the saved variables.
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
    """Restores the attributes that `fit` sets on a model, compiled steps included."""
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
            else:  # In old versions of Keras `del model.x` works for variables only.
                vars(model).pop(name, None)


@contextlib.contextmanager
def preserve_modes(model: Any) -> Iterator[None]:
    """Restores torch's training and inference modes, which Keras sets for all modules."""
    modes = [(part, part.training) for part in getattr(model, "modules", list)()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def preserve_random_states() -> Iterator[None]:
    """Restores the random states of Python, NumPy, torch and Keras."""
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
    """Restores torch's random states, if torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return contextlib.nullcontext()
    # Each accelerator has its own generator, from which Dropout draws. Only if CUDA is in use: to
    # read its generator would initialize it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices, device_type="cuda")
