"""What a plateau would have done with the metrics of an earlier run."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks, _keras
from keras_decay.optimizer._attach import attached_to
from keras_decay.optimizer._rates import effective_rate
from keras_decay.optimizer._scale import PlateauScale
from keras_decay.optimizer._state import State
from keras_decay.plateau._plateau import PlateauDecay
from keras_decay.tools._preview import Source
from keras_decay.tools._records import Columns

LAST_EPOCH = 999_999
"""A larger number in the `epoch` column of a file is not an epoch: a time, a damaged number."""

SEPARATORS = ",;\t| "


@dataclass(frozen=True, eq=False, repr=False)
class Rehearsal(Columns):
    """The result of `rehearse`, with one entry per epoch, up to where `stop_at_minimum` stops.

    `columns` is a dict of the arrays of the same length: `pandas.DataFrame(rehearsal.columns)` is
    a table of the epochs.

    Args:
        epoch: Ints, counted from 0. For a plateau with `every`, floats: how many epochs had passed
            at each observation.
        learning_rate: The rate of the epoch's last step, as the logs would show it.
        scale: The product of the reductions before that step.
        value: The metric; NaN in an epoch without it.
        reductions: The epochs that ended with a reduction.
        monitor: The name of the metric.

    Example:

    >>> plateau = keras_decay.PlateauDecay(factor=0.5, patience=1)
    >>> rehearsal = keras_decay.rehearse(plateau, [1.0, 0.8, 0.9], 0.1)
    >>> isinstance(rehearsal, keras_decay.Rehearsal), rehearsal.reductions.tolist()
    (True, [2])
    """

    epoch: NDArray[Any]
    learning_rate: NDArray[np.float64]
    scale: NDArray[np.float64]
    value: NDArray[np.float64]
    reductions: NDArray[Any]
    monitor: str

    COLUMNS = ("epoch", "learning_rate", "scale", "value")

    def __repr__(self) -> str:
        return (
            f"Rehearsal({len(self.epoch)} epochs of {self.monitor}, reduced at the end of epochs "
            f"{self.reductions.tolist()})"
        )


def rehearse(
    plateau: PlateauDecay,
    values: Any,
    learning_rate: Any,
    *,
    steps_per_epoch: int | None = None,
) -> Rehearsal:
    """What a `PlateauDecay` would have done with these values of its metric, without training.

    The decisions are made by the callback's own code, in a copy: neither `plateau` nor
    `learning_rate` is changed. Use it to choose `patience`, `factor` and `cooldown` on the metrics
    of an earlier run. (The values are fixed: only training can show which values another rate
    would have given.)

    Args:
        plateau: A `PlateauDecay`. If its metric is not a loss, it needs a `mode` other than
            "auto", because there is no model whose metrics declare a direction.
        values: One value per epoch (or, with `every`, per `every` steps), from epoch 0 on. A list,
            an array or a pandas `Series` of numbers, with `None` for an epoch without the metric;
            the `History` of an earlier `fit`, or its dict; or the path of a CSV file with one row
            per epoch, as `CSVLogger` writes it. The file may have any separator, a byte order mark
            or an index column. Its `epoch` column, if it has one, may count from 0 or from 1; a
            missing epoch is an epoch without the metric. If the column falls back to an earlier
            epoch, a run was resumed there, and the later rows count. If it starts again from the
            file's first epoch, another run begins; the last run is rehearsed, with a warning.
        learning_rate: The rate to start from: a float > 0 or any `LearningRateSchedule`. (From a
            `PlateauScale`, only the schedule inside is used: a rehearsal starts afresh.) Or an
            optimizer or a compiled model: then the rehearsal starts from its present epoch, scale
            and state.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` for the
            number of the schedule, or of a schedule inside it. (For a float it does not matter.)

    Returns:
        A `Rehearsal`: the arrays `epoch`, `learning_rate`, `scale` and `value`, and `reductions`,
        the epochs that ended with a reduction. `keras_decay.plot` draws it.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; a file or a column that does not exist; a row
            longer or shorter than the header; no `steps_per_epoch`, if the schedule has none
            either; `mode="auto"` with a metric that is not a loss.

    Example:

    >>> plateau = keras_decay.PlateauDecay(factor=0.5, patience=2)
    >>> losses = [1.0, 0.8, 0.9, 0.8, 0.7, 0.7, 0.7]
    >>> rehearsal = keras_decay.rehearse(plateau, losses, 0.1)
    >>> rehearsal.reductions.tolist(), rehearsal.learning_rate.round(3).tolist()
    ([3, 6], [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    """
    if not isinstance(plateau, PlateauDecay):
        _checks.fail("plateau", plateau, "a `PlateauDecay`", TypeError)
    if isinstance(learning_rate, PlateauScale):
        learning_rate = PlateauScale(learning_rate.schedule)
    source = Source.of("learning_rate", learning_rate, steps_per_epoch)
    observed = _metric_values(values, plateau.monitor)

    # These are all the attributes of a model that the callback needs here.
    optimizer = keras.optimizers.SGD(source.schedule)
    model = SimpleNamespace(optimizer=optimizer, metrics=[], built=False, stop_training=False)
    config = {**plateau.get_config(), "restore_best_weights": False, "recover": False}
    copy = plateau.from_config({**config, "optimizer": "optimizer", "verbose": 0})
    counter = _keras.step_counter(optimizer)
    counter.assign(source.step)
    copy.attach(model)
    attached = attached_to(optimizer)
    if attached is not None and isinstance(source.schedule, float):
        attached.commit(State(source.plateau))
    rows, reductions = [], []
    for index, value in enumerate(observed):
        # At the end of an epoch, or after each `every` steps.
        steps = (index + 1) * (plateau.every or source.steps_per_epoch)
        counter.assign(source.step + steps)
        epoch = source.epoch + steps / source.steps_per_epoch
        label = epoch if plateau.every else int(epoch) - 1
        rows.append((label, effective_rate(optimizer, back=1), copy.state["scale"]))
        if value is not None and copy.update(value, math.ceil(epoch) - 1):
            reductions.append(label)
        if model.stop_training:
            break
    epochs, rates, scales = map(np.array, zip(*rows, strict=True))
    seen = np.array(observed[: len(rows)], "float64")
    reduced = np.array(reductions, epochs.dtype)
    return Rehearsal(epochs, rates, scales, seen, reduced, plateau.monitor)


def _metric_values(values: Any, monitor: str) -> list[float | None]:
    """One value per epoch, from data of any accepted kind."""
    must = "a list of numbers (or None), one an epoch, a `History`, or the path of a CSV file"
    if isinstance(values, (keras.callbacks.History, dict)):
        return list(map(float, history_values("values", values, monitor)))
    if isinstance(values, (str, os.PathLike)):
        return _csv_values(Path(values), monitor)
    if hasattr(values, "to_numpy"):  # A pandas `Series`.
        values = values.to_numpy()
    items = _checks.sequence("values", values, must)
    if not items or not all(value is None or _checks.is_number(value) for value in items):
        _checks.fail("values", values, must, TypeError if items else ValueError)
    return [None if value is None else float(value) for value in items]


def history_values(name: str, history: Any, key: str) -> Sequence[float]:
    """The values of a metric in every epoch of a `History` or of its dict."""
    logs = history if isinstance(history, dict) else history.history
    if key not in logs:
        _checks.fail(name, sorted(logs), f"a `History` with `{key}` in it")
    values: Sequence[float] = logs[key]
    epochs = max(map(len, logs.values()))
    if len(values) != epochs:
        must = (
            f"a `History` with `{key}` in every epoch, since it does not say which epochs lack "
            f"it; here {len(values)} of {epochs} have it"
        )
        _checks.fail(name, history, must)
    return values


def _csv_values(path: Path, monitor: str) -> list[float | None]:
    """One value per epoch, from the last run in the file."""
    values: list[float | None] = []
    first = runs = 0
    for epoch, value in _csv_epochs(path, monitor):
        if not values or epoch <= first:
            values, first, runs = [], epoch, runs + 1
        # Keras counts from 0; other tools count from 1.
        index = epoch - 1 if first == 1 else epoch
        del values[index:]  # Of a run that was resumed, the later rows count.
        values += [None] * (index - len(values))
        values.append(value)
    if runs > 1:
        warnings.warn(
            f"`{path.name}` holds {runs} runs, since its `epoch` column starts again. The last "
            "one is rehearsed. (To rehearse another one, pass its values as a list.)",
            stacklevel=4,
        )
    return values


def _csv_epochs(path: Path, monitor: str) -> Iterator[tuple[int, float | None]]:
    """The epoch and value of each row; without an `epoch` column, rows are counted from 0."""
    if not path.is_file():
        _checks.fail("values", str(path), "the path of a file that exists")
    content = path.read_bytes()
    utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if utf_16 else "utf-8-sig", errors="replace")
    headers = {each: next(_csv_rows(text, each), (0, []))[1] for each in SEPARATORS}
    separator = next(
        (each for each, header in headers.items() if monitor in header),
        max(headers, key=lambda each: len(headers[each])),
    )

    def fail(must: str) -> NoReturn:
        must = f"a CSV file {must} (the separator seen is {separator!r})"
        _checks.fail("values", str(path), must)

    rows, header = _csv_rows(text, separator), headers[separator]
    if monitor not in header:
        fail(f"with a column `{monitor}`; its columns are {header}")
    next(rows)
    epoch = -1
    for line, cells in rows:
        if len(cells) != len(header):
            fail(
                f"whose rows fit its header; the row in line {line} has {len(cells)} cells and the "
                f"header {len(header)}: `CSVLogger(append=True)` writes a run with other columns "
                "under the old header"
            )
        row = dict(zip(header, cells, strict=True))
        label = row.get("epoch", str(epoch + 1))
        number = _number(label)  # pandas writes 3.0 for 3 if the column once had a gap.
        if number is None or not number.is_integer() or not 0 <= number <= LAST_EPOCH:
            fail(f"whose `epoch` is an int from 0 to {LAST_EPOCH}; line {line} has {label!r}")
        epoch, value = int(number), _number(row[monitor])
        # `CSVLogger` writes "NA" for an epoch without the metric.
        if value is None and row[monitor] not in ("", "NA"):
            fail(f"with numbers in `{monitor}`; line {line} has {row[monitor]!r}")
        yield epoch, value
    if epoch < 0:
        fail("with at least one epoch")


def _csv_rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line number and the cells of each row that is not empty."""
    file = io.StringIO(text, newline="")
    reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
    for row in reader:
        cells = [cell.strip() for cell in row]
        if any(cells):
            yield reader.line_num, cells


def _number(cell: str) -> float | None:
    with contextlib.suppress(ValueError):
        return float(cell)
    return None
