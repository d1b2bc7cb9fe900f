"""Everything private that we use of Keras, each with the reason.

`tests/test_keras.py` fails when Keras changes one of these names, and says which.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state

GLOBAL_SEED_GENERATOR = "global_seed_generator"  # Old versions of Keras have no constant for it.
CALLBACK_OUTSIDE_FIT = {"_model": None, "params": None}
"""The attributes that `fit` sets on a callback, as they are before. `model` has no setter."""


def wrappers(optimizer: Any) -> list[Any]:
    """The `LossScaleOptimizer`s around the user's optimizer, the outermost first.

    Under the policy `mixed_float16` Keras puts a new one around it at each `compile`.
    """
    around = []
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        around.append(optimizer)
        optimizer = optimizer.inner_optimizer
    return around


def unwrapped(optimizer: Any) -> Any:
    """The optimizer that the user made."""
    around = wrappers(optimizer)
    return around[-1].inner_optimizer if around else optimizer


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that have a rate: those inside `LossScaleOptimizer` and `MultiOptimizer`."""
    optimizer = unwrapped(optimizer)
    return list(getattr(optimizer, "optimizers", [optimizer]))


def optimizers_of(model: Any) -> dict[str, Any]:
    """The optimizers among the model's attributes, by attribute name.

    A custom `train_step` may use several.
    """
    found: dict[str, Any] = {}
    for name, each in {"optimizer": getattr(model, "optimizer", None), **vars(model)}.items():
        if isinstance(each, keras.optimizers.Optimizer) and each not in found.values():
            found[name] = each
    return found


def held_optimizers(model: Any) -> list[Any]:
    """All optimizers that a model holds, also in lists, dicts and inner models.

    A custom `train_step` may use any of them.
    """
    waiting, seen, found = [model], set(), []
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, keras.optimizers.Optimizer):
            found.append(each)
        if isinstance(each, (keras.optimizers.Optimizer, keras.layers.Layer)):
            waiting.extend(vars(each).values())
        elif isinstance(each, dict):
            waiting.extend(each.values())
        elif isinstance(each, (list, tuple, set)):
            waiting.extend(each)
    return found


def all_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that have a rate, and all wrappers around them."""
    return [*wrappers(optimizer), unwrapped(optimizer), *inner_optimizers(optimizer)]


def learning_rate(optimizer: Any) -> Any:
    """The schedule, or the variable that holds a float rate.

    The public property `learning_rate` gives the value of a schedule, never the schedule.
    """
    return optimizer._learning_rate


def set_learning_rate(optimizer: Any, rate: Any) -> None:
    """Puts a schedule, or the variable that holds a float rate, into the optimizer.

    The setter of the public property removes a float's variable from `optimizer.variables` when it
    gets a schedule, and does not accept a variable. On TensorFlow it also reads the rate of the
    present schedule first, which fails if that still waits for `fit` to say how long an epoch is.
    """
    optimizer._learning_rate = rate


def forwards_learning_rate(optimizer: Any) -> bool:
    """Whether the optimizer's class defines its own `learning_rate`.

    A user's wrapper does so to forward it to the optimizer inside.
    """
    return type(optimizer).learning_rate is not keras.optimizers.Optimizer.learning_rate


def is_variable(rate: Any) -> bool:
    """Whether a rate is a float's variable.

    (In old versions of Keras its class is not the public `keras.Variable`.)
    """
    return hasattr(rate, "assign")


def step_counter(optimizer: Any) -> Any:
    """The variable that schedules are called with.

    The public property `iterations` is divided by `gradient_accumulation_steps`. (Versions of
    Keras without `_iterations` do not divide it.)
    """
    return optimizer._iterations if hasattr(optimizer, "_iterations") else optimizer.iterations


def momentum_variables(optimizer: Any) -> list[Any]:
    """The first moments that an optimizer carries from one update to the next.

    Keras gives them the same name in SGD, Adam, AdamW, Nadam, Adamax, RMSprop, Lion, Lamb and
    Muon; the second moments have other names.
    """
    return [each for each in optimizer.variables if each.name.endswith("momentum")]


def moving_averages(optimizer: Any) -> list[tuple[Any, Any]]:
    """With `use_ema=True`, the moving averages of the weights, each with its weight.

    Keras overwrites the weights with them, and has no public name for them.
    """
    averages = getattr(optimizer, "_model_variables_moving_average", None) or []
    return list(zip(averages, optimizer._trainable_variables, strict=True)) if averages else []


@contextlib.contextmanager
def without_variables(optimizers: list[Any], names: tuple[str, ...]) -> Iterator[None]:
    """Within the block, the optimizers' `variables` lack those with these attribute names.

    Keras appends a variable to `_variables` when it is set as an attribute. Each variable goes
    back to its old place in the list, because a compiled step finds variables by place.
    """
    taken = []
    for optimizer in optimizers:
        own = optimizer._variables
        for index in reversed(range(len(own))):
            if any(own[index] is getattr(optimizer, name, None) for name in names):
                variable = own.pop(index)
                taken.append((own, index, variable))
    try:
        yield
    finally:
        for own, index, variable in reversed(taken):
            own.insert(index, variable)


def record_shardings(model: Any) -> None:
    """Tells old versions of Keras on JAX about variables that were added after `fit` began.

    They record the sharding of each variable by its place in a list.
    """
    record = getattr(model, "_record_training_state_sharding_spec", None)
    if record is not None:
        record()


@contextlib.contextmanager
def fresh_train_step(model: Any) -> Iterator[None]:
    """Within the block, the model's `train_step` is a new function.

    To JAX's compilation cache a bound method of one model is always the same function. While
    anything still refers to the old compiled step (the traceback of an interrupt does), JAX would
    use that one again.
    """
    own = model.train_step
    mine = "train_step" in vars(model)

    def train_step(*arguments: Any) -> Any:
        return own(*arguments)

    model.train_step = train_step
    try:
        yield
    finally:
        if mine:
            model.train_step = own
        else:  # In old versions of Keras `del model.x` works for variables only.
            vars(model).pop("train_step", None)


def metric_directions(model: Any) -> dict[str, str | None]:
    """For each metric, by its name in the logs: "min", "max", or `None` if it does not say.

    Keras's metrics declare a `_direction`, "up" or "down", for Keras's own callbacks.
    """
    ways = {"up": "max", "down": "min", None: None}
    return {name: ways[getattr(metric, "_direction", None)] for name, metric in metrics_of(model)}


def metrics_of(model: Any) -> Iterator[tuple[str, Any]]:
    """All metrics of the model, each with its name in the logs."""
    for metric in getattr(model, "metrics", ()):
        # `_flat_metrics` has a group of metrics for each output. With several outputs, Keras puts
        # the output's name before the metric's.
        groups = [
            group
            for attribute in ("_flat_metrics", "_flat_weighted_metrics")
            for group in getattr(metric, attribute, [])
            if group is not None
        ]
        for group in groups:
            prefix = f"{group.output_name}_" if group.output_name else ""
            for item in group.metrics:
                yield prefix + item.name, item
        if not groups:
            yield metric.name, metric


def global_seed_generator() -> Any:
    """The generator of random numbers without a seed; `None` if none has been drawn.

    Keras makes it when the first such number is drawn, and has no public name for it. After
    `set_global_seed_generator(None)` the next draw makes a new one.
    """
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def set_global_seed_generator(generator: Any) -> None:
    """Puts back what `global_seed_generator` returned."""
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


def trains_as_keras_does(model: Any) -> bool:
    """Whether the model has Keras's own `train_step`."""
    return "train_step" not in vars(model) and type(model).train_step is keras.Model.train_step


def training_loss(model: Any, data: Any) -> Any:
    """The loss of a batch as Keras's own training step computes it, without training on it.

    `_call_has_training_arg` says whether the model's `call` takes `training`. `_compute_loss`
    passes `training` to a user's `compute_loss` only if that takes it. (Old versions of Keras have
    only `compute_loss`, which does not.)
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    prediction = model(x, training=True) if model._call_has_training_arg else model(x)
    arguments = {"x": x, "y": y, "y_pred": prediction, "sample_weight": sample_weight}
    if hasattr(model, "_compute_loss"):
        return model._compute_loss(**arguments, training=True)
    return model.compute_loss(**arguments)
