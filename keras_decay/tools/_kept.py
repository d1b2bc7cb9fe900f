"""Everything that a `fit` changes in a model and around it, kept for as long as a block runs."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_decay import _keras
from keras_decay._snapshot import VariableValues


def _optimizers(model: Any) -> list[Any]:
    """All that a model has as attributes: a training step of one's own may use several."""
    attributes = [model.optimizer, *vars(model).values()]
    found = {id(each): each for each in attributes if isinstance(each, keras.optimizers.Optimizer)}
    return list(found.values())


@contextlib.contextmanager
def variables_kept(model: Any) -> Iterator[None]:
    """All variables have the values that they had, to the bit."""
    variables = [
        *model.variables,
        *model.metrics_variables,
        *(variable for optimizer in _optimizers(model) for variable in optimizer.variables),
    ]
    values = VariableValues(variables)
    try:
        yield
    finally:
        # Metrics that were not built before are not among the variables.
        model.reset_metrics()
        values.restore()


@contextlib.contextmanager
def attributes_kept(model: Any) -> Iterator[None]:
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
    # torch's own switch between training and inference, which `fit` turns for all of them.
    modes = [(part, part.training) for part in getattr(model, "modules", list)()]
    try:
        model.train_function = None
        model.steps_per_execution = 1
        with _keras.fresh_train_step(model):
            yield
    finally:
        for part, mode in modes:
            part.training = mode
        for name in names:
            if name in kept:
                setattr(model, name, kept[name])
            else:  # In old Kerases `del` deletes variables only.
                vars(model).pop(name, None)


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Whatever shuffles the next epoch draws what it would have drawn."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch = sys.modules.get("torch")
    try:
        with contextlib.nullcontext() if torch is None else _torch_states_kept(torch):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _torch_states_kept(torch: Any) -> Any:
    # Dropout on an accelerator draws from a generator of that one's; to ask one that nobody has
    # used yet would start it.
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices, device_type="cuda")
