"""What a plateau observes inside an epoch, each n steps, and how training is left as it was."""

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
    """A metric of the validation data, in the middle of a training run, which goes on as if nothing
    had happened."""
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
    """The mean of a training metric over the batches since it was last asked for.

    Keras's own number is the mean since the epoch began. The mean of some of its batches is the
    difference of two of its sums over that of its counts, in float64. (The sums themselves are
    float32: after `b` batches one that is added to them is known to about b * 6e-8 of its size.)
    """

    def __init__(self, monitor: str):
        self._monitor = monitor
        self._total = self._count = 0.0
        """Of the epochs before, since it was last asked for."""
        self._before = 0.0, 0.0
        """Of this epoch, when it was last asked for."""
        self._step = 0
        """The step of the training run at the end of the last epoch."""

    def begin_fit(self, step: int) -> bool:
        """Forgets batches of another training run; whether those up to this step are known."""
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
    """The metrics of the model are what they were, to the bit."""
    values = VariableValues(model.metrics_variables)
    try:
        yield
    finally:
        values.restore()
