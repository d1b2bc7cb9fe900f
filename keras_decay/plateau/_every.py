"""Observations inside an epoch, every n steps, which leave the training run unchanged."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks, _keras
from keras_decay._backend import to_number
from keras_decay.optimizer._restore import preserve_modes, preserve_random_states, preserve_values


class InsideEpoch:
    """When `PlateauDecay(every=...)` observes, and what.

    Args:
        every: Int >= 1, the steps between two observations.
        monitor: The name of the metric.
        data: What it is evaluated on; `None` for the mean over the batches of the training run.
    """

    def __init__(self, every: int, monitor: str, data: Any):
        self.every, self._monitor, self._data = every, monitor, data
        self._mean = BatchMean(monitor)
        self.position = 0
        """The step that training has reached."""
        self._left_out = 0
        """The steps in `position` that no optimizer has counted: a `LossScaleOptimizer` skips
        steps whose gradients overflow."""

    def check(self) -> None:
        """Refuses a metric of data that is not there."""
        if self._data is None and self._monitor.startswith("val_"):
            must = (
                "what `evaluate` takes, since `every` observes a metric of it in the middle of an "
                f'epoch; for the loss of the training run pass monitor="loss" instead of '
                f"{self._monitor!r}"
            )
            _checks.fail("validation_data", self._data, must)

    def begin_epoch(self, counted: int, first: bool) -> bool:
        """Begins an epoch; returns whether the next mean lacks batches of the run before.

        Args:
            counted: The steps that the optimizer has counted.
            first: Whether it is the first epoch of a `fit`.
        """
        # The position never goes back when updates of this `fit` were skipped, so no step is
        # observed twice.
        self._left_out = 0 if first else max(self.position - counted, 0)
        self.position = counted + self._left_out
        return self._data is None and first and not self._mean.begin_fit(self.position)

    def advance(self, counted: int) -> bool:
        """Moves on to so many counted steps; returns whether an observation is due."""
        before, self.position = self.position, counted + self._left_out
        return self.position // self.every != before // self.every

    def value(self, model: Any) -> float:
        if self._data is None:
            return self._mean.value(model)
        return evaluate(model, self._data, self._monitor)

    def end_epoch(self, model: Any, counted: int) -> None:
        if self._data is None:
            self._mean.end_epoch(model, counted)

    def forget_batches(self) -> None:
        """Begins a new mean, after the model's metrics have been reset."""
        self._mean = BatchMean(self._monitor)


def evaluate(model: Any, data: Any, monitor: str) -> float:
    """A metric of the validation data, evaluated without any effect on the training run."""
    x, y, weights = data, None, None
    if isinstance(data, (tuple, list)):
        x, y, weights = keras.utils.unpack_x_y_sample_weight(tuple(data))
    kept = preserve_values(model.metrics_variables)
    with kept, preserve_random_states(), preserve_modes(model):
        metrics = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
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
        self._added = np.zeros(2)
        """What to add to Keras's present sum and count for those since the last call."""
        self._step: int | None = 0
        """The step at the end of the last epoch; `None` if `value` has been called since."""

    def begin_fit(self, step: int) -> bool:
        """Forgets batches of another training run; returns whether those up to `step` are known."""
        known = step == self._step
        if not known:
            self._added = np.zeros(2)
        return known

    def end_epoch(self, model: Any, step: int) -> None:
        self._added += self._sums(model)  # Keras begins the next epoch from 0.
        self._step = step

    def value(self, model: Any) -> float:
        now = self._sums(model)
        total, count = self._added + now
        self._added, self._step = -now, None
        return float(total / count) if count else float("nan")

    def _sums(self, model: Any) -> NDArray[np.float64]:
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
        return np.array([to_number(metric.total), to_number(metric.count)], "float64")


def checked_data(value: Any, every: int | None, monitor: str) -> Any:
    if value is None:
        return None
    kind = type(value).__name__
    if every is None:
        must = "left out without `every`; `fit` has its own, of which each epoch is an observation"
        _checks.fail("validation_data", kind, must)
    if not monitor.startswith("val_"):
        _checks.fail("monitor", monitor, 'a metric of `validation_data`, such as "val_loss"')
    if hasattr(value, "__next__"):
        must = "data that can be evaluated many times, not an iterator, which ends after the first"
        _checks.fail("validation_data", kind, must)
    arrays = keras.tree.flatten(value)
    if not arrays or (getattr(arrays[0], "shape", None) or [1])[0] == 0:
        _checks.fail("validation_data", kind, "data with at least one sample")
    return value
