"""What we need of Keras that has no public name, each with the reason.

`tests/test_keras.py` fails, by name, when Keras changes one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend.common import global_state

GLOBAL_SEED_GENERATOR = "global_seed_generator"  # Old versions of Keras have no name for it.
CALLBACK_OUTSIDE_FIT = {"_model": None, "params": None}
"""What `fit` gives a callback, before it does. `model` is a property without a setter."""


def wrappers(optimizer: Any) -> list[Any]:
    """The `LossScaleOptimizer`s around the optimizer that a user made, the outermost first.

    Keras puts a new one around it at each `compile` under the policy `mixed_float16`.
    """
    around = []
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        around.append(optimizer)
        optimizer = optimizer.inner_optimizer
    return around


def unwrapped(optimizer: Any) -> Any:
    """The optimizer that a user made."""
    around = wrappers(optimizer)
    return around[-1].inner_optimizer if around else optimizer


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that have a rate: those inside `LossScaleOptimizer` and `MultiOptimizer`."""
    optimizer = unwrapped(optimizer)
    return list(getattr(optimizer, "optimizers", [optimizer]))


def optimizers_of(model: Any) -> dict[str, Any]:
    """The optimizers that the model holds, by the attribute: a training step of one's own may use
    several."""
    found: dict[str, Any] = {"optimizer": getattr(model, "optimizer", None)}
    for name, each in vars(model).items():
        if all(each is not other for other in found.values()):
            found[name] = each
    return {
        name: each for name, each in found.items() if isinstance(each, keras.optimizers.Optimizer)
    }


def held_optimizers(model: Any) -> list[Any]:
    """All optimizers that a model holds, in whatever it holds them: a training step of one's own
    may use several, in a list, or those of the models inside."""
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
    """Those that have a rate, and all that are around them."""
    return [*wrappers(optimizer), unwrapped(optimizer), *inner_optimizers(optimizer)]


def learning_rate(optimizer: Any) -> Any:
    """The schedule, or the variable that holds a float rate.

    The public property `learning_rate` gives the value of a schedule, never the schedule.
    """
    return optimizer._learning_rate


def set_learning_rate(optimizer: Any, rate: Any) -> None:
    """Puts a schedule, or the variable that holds a float rate, into the optimizer.

    The public property drops a float's variable from `optimizer.variables` when it takes a
    schedule, and takes no variable back. And on TensorFlow an assignment to it first asks the
    schedule that is there for its rate, which one has not yet that is to learn from `fit`.
    """
    optimizer._learning_rate = rate


def forwards_learning_rate(optimizer: Any) -> bool:
    """Whether the class of the optimizer has a `learning_rate` of its own, as a wrapper of a
    user's has that forwards it to the optimizer inside."""
    return type(optimizer).learning_rate is not keras.optimizers.Optimizer.learning_rate


def is_variable(rate: Any) -> bool:
    """Whether a rate is a float's variable. (In old versions of Keras it is of another class than
    the public one.)"""
    return hasattr(rate, "assign")


def step_counter(optimizer: Any) -> Any:
    """The variable that schedules are called with.

    The public property `iterations` is divided by `gradient_accumulation_steps`. (In versions of
    Keras that have no `_iterations` it is the variable itself.)
    """
    return optimizer._iterations if hasattr(optimizer, "_iterations") else optimizer.iterations


def momentum_variables(optimizer: Any) -> list[Any]:
    """The first moments that an optimizer carries from one update to the next.

    Keras names all of them alike, in SGD, Adam, AdamW, Nadam, Adamax, RMSprop, Lion, Lamb and Muon;
    the second moments have other names.
    """
    return [each for each in optimizer.variables if each.name.endswith("momentum")]


def moving_averages(optimizer: Any) -> list[tuple[Any, Any]]:
    """With `use_ema=True` the averages of the weights, each with its weight.

    Keras overwrites the weights by them, and has no public name for them.
    """
    averages = getattr(optimizer, "_model_variables_moving_average", None) or []
    return list(zip(averages, optimizer._trainable_variables, strict=True)) if averages else []


@contextlib.contextmanager
def without_variables(optimizers: list[Any], names: tuple[str, ...]) -> Iterator[None]:
    """Takes the variables that the optimizers have under these names out of their `variables`,
    for as long as the block runs.

    `_variables` is the list that Keras puts a variable into when it is set as an attribute; the
    place in it is that of the variable in a compiled step.
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
    """Has an old version of Keras on JAX know of variables that came when `fit` had begun.

    It looks up the sharding of each by its place, in what this took down.
    """
    record = getattr(model, "_record_training_state_sharding_spec", None)
    if record is not None:
        record()


@contextlib.contextmanager
def fresh_train_step(model: Any) -> Iterator[None]:
    """Makes the training step of the model another function, for as long as the block runs.

    JAX takes all methods of one name and one model for the same function: where somebody keeps
    the step that was compiled before, such as the traceback of an interrupt, it would go on with
    what it compiled then.
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
        else:  # In old versions of Keras `del` deletes variables only.
            vars(model).pop("train_step", None)


def metric_directions(model: Any) -> dict[str, str | None]:
    """Which way each metric, by the name it is logged under, gets better: "min", "max", or
    `None` where it does not say.

    Keras's metrics declare it as `_direction`, "up" or "down", for its own callbacks.
    """
    ways = {"up": "max", "down": "min", None: None}
    return {name: ways[getattr(metric, "_direction", None)] for name, metric in metrics_of(model)}


def metrics_of(model: Any) -> Iterator[tuple[str, Any]]:
    """All metrics of the model with the names that they are logged under."""
    for metric in getattr(model, "metrics", ()):
        # `_flat_metrics` holds a list of metrics for each output, with the output's name,
        # which Keras puts before the metric's when there are several.
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
    """What random numbers without a seed are drawn from, or `None` where nobody has drawn one.

    Keras makes it with the first such number, and has no public name for it. Where it was made
    in between, `set_global_seed_generator(None)` makes the next one the first again.
    """
    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)


def set_global_seed_generator(generator: Any) -> None:
    """Puts back what `global_seed_generator` gave."""
    global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, generator)


def trains_as_keras_does(model: Any) -> bool:
    """Whether the training step of the model is that of its base class."""
    return "train_step" not in vars(model) and type(model).train_step is keras.Model.train_step


def training_loss(model: Any, data: Any) -> Any:
    """The loss of a batch as Keras's own training step computes it, without training on it.

    `_call_has_training_arg` says whether the model takes `training`, and `_compute_loss` passes
    it on to a `compute_loss` of a user's only where that takes it. (Old versions of Keras have
    `compute_loss` alone, without it.)
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    prediction = model(x, training=True) if model._call_has_training_arg else model(x)
    arguments = {"x": x, "y": y, "y_pred": prediction, "sample_weight": sample_weight}
    if hasattr(model, "_compute_loss"):
        return model._compute_loss(**arguments, training=True)
    return model.compute_loss(**arguments)
