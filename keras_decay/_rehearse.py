"""What a plateau would have done with the metrics of an earlier run."""

from __future__ import annotations

import csv
import numbers
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks, _keras
from keras_decay._plateau import PlateauDecay
from keras_decay._preview import any_schedule, length_of_epoch
from keras_decay._scale import PlateauScale


@dataclass(frozen=True)
class Rehearsal:
    """What `rehearse` found, one entry an epoch, up to where `stop_at_minimum` stops.

    Attributes:
        epoch: Ints, counted from 0.
        learning_rate: The rate of the epoch's last step, as the logs would show it.
        scale: The product of the reductions before that step.
        value: The metric; NaN in an epoch without it.
        reductions: The epochs at whose end the rate was reduced.
        monitor: The name of the metric.
    """

    epoch: NDArray[np.int64]
    learning_rate: NDArray[np.float64]
    scale: NDArray[np.float64]
    value: NDArray[np.float64]
    reductions: NDArray[np.int64]
    monitor: str


def rehearse(
    plateau: PlateauDecay,
    values: Any,
    learning_rate: Any,
    *,
    steps_per_epoch: int | None = None,
) -> Rehearsal:
    """What a `PlateauDecay` would have done with these values of its metric, without training.

    It decides with the callback's own code, in a copy: neither `plateau` nor `learning_rate` is
    changed. Use it to choose `patience`, `factor` and `cooldown` on the metrics of an earlier
    run. (The values stay what they are: how training would have gone on at another rate, only
    training shows.)

    Args:
        plateau: A `PlateauDecay`. Where its metric is not a loss, it needs a `mode` other than
            "auto", since there is no model here to ask.
        values: One value an epoch, from epoch 0 on: a list or array of numbers, with `None` for
            an epoch without the metric; or the `History` of an earlier `fit`; or the path of a
            file that `CSVLogger` wrote.
        learning_rate: The rate to start from: a float > 0 or any `LearningRateSchedule`. (Of a
            `PlateauScale`, what it is around: a rehearsal starts afresh.)
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` for the
            schedule's own, or that of a schedule in it. (For a float it does not matter.)

    Returns:
        A `Rehearsal`: the arrays `epoch`, `learning_rate`, `scale`, `value`, and `reductions`,
        the epochs at whose end the rate was reduced. `keras_decay.plot` draws it.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; a file or a column that is not there; no
            `steps_per_epoch` where the schedule has none; `mode="auto"` and no loss.

    Example:

    >>> plateau = keras_decay.PlateauDecay(factor=0.5, patience=2)
    >>> losses = [1.0, 0.8, 0.9, 0.8, 0.7, 0.7, 0.7]
    >>> rehearsal = keras_decay.rehearse(plateau, losses, 0.1)
    >>> rehearsal.reductions.tolist(), rehearsal.learning_rate.round(3).tolist()
    ([3, 6], [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    """
    if not isinstance(plateau, PlateauDecay):
        _checks.fail("plateau", plateau, "a `PlateauDecay`", TypeError)
    rate = any_schedule("learning_rate", learning_rate)
    if isinstance(rate, PlateauScale):
        rate = PlateauScale(rate.schedule)
    steps_per_epoch = length_of_epoch("learning_rate", rate, steps_per_epoch)
    observed = _metric_values(values, plateau.monitor)

    # The callback needs no more of a model than this.
    model = SimpleNamespace(
        optimizer=keras.optimizers.SGD(rate), metrics=[], built=False, stop_training=False
    )
    copy = plateau.from_config(
        {**plateau.get_config(), "restore_best_weights": False, "verbose": 0}
    )
    copy.attach(model)
    rates, scales, reductions = [], [], []
    for epoch, value in enumerate(observed):
        _keras.step_counter(model.optimizer).assign((epoch + 1) * steps_per_epoch)
        before = copy.state
        logs = {} if value is None else {plateau.monitor: value}
        copy.on_epoch_end(epoch, logs)
        rates.append(logs["learning_rate"])
        scales.append(before["scale"])
        if copy.state["reductions"] > before["reductions"]:
            reductions.append(epoch)
        if model.stop_training:
            break
    return Rehearsal(
        epoch=np.arange(len(rates)),
        learning_rate=np.asarray(rates, "float64"),
        scale=np.asarray(scales, "float64"),
        value=np.asarray(observed[: len(rates)], "float64"),
        reductions=np.asarray(reductions, "int64"),
        monitor=plateau.monitor,
    )


def _metric_values(values: Any, monitor: str) -> list[float | None]:
    """One value an epoch, from wherever they are."""
    must = "a list of numbers (or None), one an epoch, a `History`, or the path of a CSV file"
    if isinstance(values, keras.callbacks.History):
        return list(map(float, history_values("values", values, monitor)))
    if isinstance(values, (str, os.PathLike)):
        return _csv_values(Path(values), monitor)
    if not isinstance(values, (Sequence, np.ndarray)):
        _checks.fail("values", values, must, TypeError)
    if getattr(values, "ndim", 1) != 1 or len(values) == 0:
        _checks.fail("values", values, must)
    for value in values:
        if value is not None and not isinstance(value, numbers.Real):
            _checks.fail("values", values, must, TypeError)
    return [None if value is None else float(value) for value in values]


def history_values(name: str, history: Any, key: str) -> list[float]:
    if key not in history.history:
        _checks.fail(name, sorted(history.history), f"a `History` with `{key}` in it")
    values: list[float] = history.history[key]
    if len(values) != len(history.epoch):
        must = (
            f"a `History` with `{key}` in every epoch, since it does not say which epochs lack "
            f"it; here {len(values)} of {len(history.epoch)} have it"
        )
        _checks.fail(name, history, must)
    return values


def _csv_values(path: Path, monitor: str) -> list[float | None]:
    if not path.is_file():
        _checks.fail("values", str(path), "the path of a file that exists")
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or ())
        if monitor not in columns:
            must = f"a CSV file with a column `{monitor}`; its columns are {columns}"
            _checks.fail("values", str(path), must)
        cells = [row[monitor] for row in reader]
    values = [_csv_number(path, monitor, *each) for each in enumerate(cells, start=2)]
    if not values:
        _checks.fail("values", str(path), "a CSV file with at least one epoch")
    return values


def _csv_number(path: Path, monitor: str, line: int, cell: str | None) -> float | None:
    if cell in (None, "", "NA"):  # `CSVLogger` writes "NA" where an epoch lacks the metric.
        return None
    try:
        return float(cell)
    except ValueError:
        must = f"a CSV file with numbers in `{monitor}`; line {line} has {cell!r}"
        _checks.fail("values", str(path), must)
