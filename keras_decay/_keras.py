"""What we need of Keras that has no public name, each with the reason.

`tests/test_keras.py` fails, by name, when Keras changes one of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras


def leaf_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that have a rate: those inside `LossScaleOptimizer` and `MultiOptimizer`."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return leaf_optimizers(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):
        return list(optimizer.optimizers)
    return [optimizer]


def learning_rate(optimizer: Any) -> Any:
    """The schedule, or the variable that holds a float rate.

    The public property `learning_rate` gives the value of a schedule, never the schedule.
    """
    return optimizer._learning_rate


def is_variable(rate: Any) -> bool:
    """Whether a rate is a float's variable. (Old Kerases have another class than the public.)"""
    return hasattr(rate, "assign")


def step_counter(optimizer: Any) -> Any:
    """The variable that schedules are called with.

    The public property `iterations` is divided by `gradient_accumulation_steps`. (In Kerases
    that have no `_iterations` it is the variable itself.)
    """
    return optimizer._iterations if hasattr(optimizer, "_iterations") else optimizer.iterations


def metric_directions(model: Any) -> dict[str, str | None]:
    """Which way each metric, by the name it is logged under, gets better: "min", "max", or
    `None` where it does not say.

    Keras's metrics declare it as `_direction`, "up" or "down", for its own callbacks.
    """
    ways = {"up": "max", "down": "min", None: None}
    return {name: ways[getattr(metric, "_direction", None)] for name, metric in _metrics(model)}


def _metrics(model: Any) -> Iterator[tuple[str, Any]]:
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
