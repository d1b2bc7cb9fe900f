"""What the runs are worth, each beside the best of its kind."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

CAP = 10.0
"""What a ratio counts as in a mean, at most: a loss of 1e30 is as dead as one of 30."""


@dataclass(frozen=True)
class Row:
    """One training run.

    Attributes:
        suggested: Whether the first rate is the range test's suggestion, and not of the grid.
        test: The test loss after the last epoch.
        best_test: The one after the epoch of the best validation loss.
        reductions: How many reductions there were.
        above_first: The highest training loss of an epoch, as a multiple of the first batch's.
        above_best: The highest loss of an epoch, validation or training, as a multiple of the
            lowest before it.
        continued: The training loss of the last epoch, as a multiple of its first batch's: what
            `above_first` begins with in a run that goes on from trained weights.
    """

    task: str
    optimizer: str
    epochs: int
    seed: int
    method: str
    rate: float
    suggested: bool
    test: float
    best_test: float
    reductions: int
    above_first: float
    above_best: float
    continued: float


def write(file: Path, rows: list[Row]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def read(file: Path) -> list[Row]:
    """The rows of a file that `write` has written."""
    kinds: dict[str, Callable[[str], Any]] = {
        "str": str,
        "int": int,
        "float": float,
        "bool": "True".__eq__,
    }
    with file.open(newline="") as stream:
        return [
            Row(**{field.name: kinds[field.type](line[field.name]) for field in fields(Row)})
            for line in csv.DictReader(stream)
        ]


@dataclass(frozen=True)
class Ratio:
    """A run, and its test loss as a multiple of the best method's."""

    row: Row
    last: float
    best_epoch: float


def same_rate(row: Row) -> tuple[Any, ...]:
    return row.task, row.optimizer, row.epochs, row.seed, row.rate


def any_rate(row: Row) -> tuple[Any, ...]:
    return row.task, row.optimizer, row.epochs, row.seed


def ratios(rows: Iterable[Row], kind: Callable[[Row], Any] = same_rate) -> list[Ratio]:
    """Each run beside the best of its kind; of the best, only the rates of the grid count."""
    rows = list(rows)
    lowest: dict[Any, tuple[float, float]] = {}
    for row in rows:
        if not row.suggested:
            last, best = lowest.get(kind(row), (np.inf, np.inf))
            lowest[kind(row)] = np.fmin(last, row.test), np.fmin(best, row.best_test)
    return [
        Ratio(row, _ratio(row.test, last), _ratio(row.best_test, best))
        for row in rows
        for last, best in [lowest.get(kind(row), (np.nan, np.nan))]
    ]


def _ratio(loss: float, lowest: float) -> float:
    return float(loss / lowest) if np.isfinite(loss) else np.inf


@dataclass(frozen=True)
class Score:
    """Fractions, and a geometric mean, of ratios; `count` of them.

    Attributes:
        close: Within 5 % of the best.
        near: Within 20 % of it.
        dead: Over three times of it, or not finite.
        mean: The geometric mean, each ratio counted as at most `CAP`.
    """

    close: float
    near: float
    dead: float
    mean: float
    count: int


def score(values: Iterable[float]) -> Score:
    found = np.array(list(values))
    return Score(
        close=float((found <= 1.05).mean()),
        near=float((found <= 1.2).mean()),
        dead=float((found > 3).mean()),
        mean=float(np.exp(np.log(np.minimum(found, CAP)).mean())),
        count=len(found),
    )


def over_seeds(found: list[Ratio], value: Callable[[Ratio], float]) -> tuple[Score, list[Score]]:
    """The score of all runs, and that of each seed alone."""
    seeds = sorted({each.row.seed for each in found})
    return score(map(value, found)), [
        score(value(each) for each in found if each.row.seed == seed) for seed in seeds
    ]
