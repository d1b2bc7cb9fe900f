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


def optimizer_variables(model: Any) -> list[Any]:
    """The variables of all optimizers that a model holds."""
    held = _keras.held_optimizers(model)
    # Once each: a wrapper has the variables of the optimizer inside it.
    return list({id(each): each for one in held for each in one.variables}.values())


@contextlib.contextmanager
def preserve_values(variables: list[Any]) -> Iterator[None]:
    """Restores the values of variables after the block, to the bit."""
    values = VariableValues(variables)
    try:
        yield
    finally:
        values.restore()


@contextlib.contextmanager
def preserve_variables(model: Any) -> Iterator[None]:
    """Restores all variables that training may change after the block, to the bit.

    If an optimizer is built in the block, its variables get the values that it was built with.
    """
    variables = [*model.variables, *model.metrics_variables, *optimizer_variables(model)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(preserve_values(variables))
        # Metrics that were built in the block are not among the saved variables.
        stack.callback(model.reset_metrics)
        for optimizer in _keras.held_optimizers(model):
            if not optimizer.built:
                # Not through Keras's `__setattr__`, which would track it.
                vars(optimizer)["build"] = _build_and_save(optimizer, stack)
                stack.callback(vars(optimizer).pop, "build")
        yield


def _build_and_save(optimizer: Any, stack: contextlib.ExitStack) -> Callable[[Any], None]:
    build = optimizer.build

    def build_and_save(variables: Any) -> None:
        before = {id(each) for each in optimizer.variables}
        with _backend.outside_of_graph():
            build(variables)
            built = [each for each in optimizer.variables if id(each) not in before]
            stack.callback(VariableValues(built).restore)

    return build_and_save


@contextlib.contextmanager
def preserve_attributes(model: Any) -> Iterator[None]:
    """Restores the attributes that `fit` sets on a model, compiled steps included."""
    steps = ("train_function", "test_function", "steps_per_execution")
    names = (*steps, "stop_training", "stop_evaluating", "history")
    kept = {name: vars(model)[name] for name in names if name in vars(model)}
    try:
        model.train_function = None
        model.steps_per_execution = 1
        with preserve_modes(model), _keras.fresh_train_step(model):
            yield
    finally:
        for name in names:  # In old versions of Keras `del model.x` works for variables only.
            vars(model).pop(name, None)
        vars(model).update(kept)


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
    drawn = [] if generator is None else [generator.state]
    try:
        with preserve_torch_states(), preserve_values(drawn):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        _keras.set_global_seed_generator(generator)


def preserve_torch_states() -> Any:
    """Restores torch's random states, if torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return contextlib.nullcontext()
    # Each accelerator has its own generator, from which Dropout draws. Only if CUDA is in use: to
    # read its generator would initialize it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices, device_type="cuda")
