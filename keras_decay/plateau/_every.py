"""Observations inside an epoch, every n steps, which leave the training run unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_decay import _checks, _keras
from keras_decay._backend import to_number
from keras_decay.optimizer._restore import (
    VariableValues,
    preserve_modes,
    preserve_random_states,
)


def evaluate(model: Any, data: Any, monitor: str) -> float:
    """A metric of the validation data, evaluated without any effect on the training run."""
    with preserve_metrics(model), preserve_random_states(), preserve_modes(model):
        if isinstance(data, (tuple, list)):
            x, y, weights = keras.utils.unpack_x_y_sample_weight(tuple(data))
            metrics = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
        else:
            metrics = model.evaluate(data, verbose=0, return_dict=True)
    metrics = {f"val_{name}": value for name, value in metrics.items()}
    if not metrics:
        raise ValueError("`validation_data` must have at least one batch; it has none.")
    if monitor not in metrics:
        _checks.fail("monitor", monitor, f"one of the metrics of `evaluate`, {sorted(metrics)}")
    return float(to_number(metrics[monitor]))


class BatchMean:
    """The mean of a training metric over the batches since `value` was last called.

    Keras's own metric is the mean since the epoch began. The mean over the last batches is the
    difference of two of its sums, divided by the difference of their counts, in float64. (The sums
    are float32: after `b` batches, the next batch is added with an error of about b * 6e-8 of its
    size.)
    """

    def __init__(self, monitor: str):
        self._monitor = monitor
        self._total = self._count = 0.0
        """The sum and count since the last call, from earlier epochs."""
        self._before = 0.0, 0.0
        """Keras's sum and count at the last call in this epoch."""
        self._step = 0
        """The step of the training run at the end of the last epoch."""

    def begin_fit(self, step: int) -> bool:
        """Forgets batches of another training run; returns whether those up to `step` are known."""
        known = step == self._step
        if not known:
            self._total = self._count = 0.0
        return known

    def begin_epoch(self) -> None:
        self._before = 0.0, 0.0

    def end_epoch(self, model: Any, step: int) -> None:
        self._add(self._sums(model))
        self._step = step

    def value(self, model: Any) -> float:
        now = self._sums(model)
        self._add(now)
        total, count = self._total, self._count
        self._total = self._count = 0.0
        self._before = now
        return total / count if count else float("nan")

    def _add(self, now: tuple[float, float]) -> None:
        self._total += now[0] - self._before[0]
        self._count += now[1] - self._before[1]

    def _sums(self, model: Any) -> tuple[float, float]:
        metrics = dict(_keras.metrics_of(model))
        metric = metrics.get(self._monitor)
        if metric is None:
            must = f"one of the metrics of the training run, {sorted(metrics)}"
            _checks.fail("monitor", self._monitor, must)
        if not hasattr(metric, "total") or not hasattr(metric, "count"):
            must = (
                "the name of a metric that is a mean, such as the loss, where `every` is given "
                "without `validation_data`"
            )
            _checks.fail("monitor", self._monitor, must)
        return float(to_number(metric.total)), float(to_number(metric.count))


@contextlib.contextmanager
def preserve_metrics(model: Any) -> Iterator[None]:
    """Restores the metrics of the model after the block, to the bit."""
    values = VariableValues(model.metrics_variables)
    try:
        yield
    finally:
        values.restore()
