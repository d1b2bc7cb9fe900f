"""The tables, for a terminal or as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from tests.benchmarks.decisions import scores
from tests.benchmarks.decisions.scores import Ratio, Row
from tests.benchmarks.decisions.tasks import RATES

Cells = list[list[str]]
SHOWN = (
    "constant",
    "ReduceLROnPlateau",
    "plateau 0.3/3",
    "plateau 0.1/10, restore + zero",
    "plateau 0.1/10, restore + zero + recover",
    "plateau 0.1/5, restore + zero + recover",
    "plateau 0.3/3, restore + zero + recover",
    "StepDecay .1 every third",
    "cosine to 0",
)
"""The methods that are shown task by task."""


def print_all(rows: list[Row], as_markdown: bool) -> None:
    grid = scores.ratios(row for row in rows if not row.suggested)
    lengths = sorted({row.epochs for row in rows})
    show = _markdown if as_markdown else _rich
    for length in lengths:
        of_length = [each for each in grid if each.row.epochs == length]
        show(f"After the last of {length} epochs", *methods_table(of_length, lambda r: r.last))
    for length in lengths:
        of_length = [each for each in grid if each.row.epochs == length]
        show(
            f"After the epoch of the best validation loss, of {length}",
            *methods_table(of_length, lambda r: r.best_epoch),
        )
    show("Within 20 % of the best, and dead, task by task", *tasks_table(grid))
    show("Within 20 % of the best, and dead, first rate by first rate", *rates_table(grid))
    show(
        "Beside the best of all methods and rates: geometric mean, and within 20 %",
        *chain_table(rows),
    )
    show("Losses above K times: what it would call an explosion", *alarms_table(grid))


def names_of(found: Iterable[Ratio]) -> list[str]:
    return list(dict.fromkeys(each.row.method for each in found))


def methods_table(found: list[Ratio], value: Callable[[Ratio], float]) -> tuple[list[str], Cells]:
    """One line for each method; in brackets, the lowest and the highest of the seeds."""
    cells = []
    for name in names_of(found):
        whole, seeds = scores.over_seeds([r for r in found if r.row.method == name], value)
        line = [name]
        for attribute in ("close", "near", "dead", "mean"):
            values = [getattr(each, attribute) for each in seeds]
            between = f" ({_two(min(values))} to {_two(max(values))})" if len(seeds) > 1 else ""
            line.append(f"{_two(getattr(whole, attribute))}{between}")
        cells.append([*line, str(whole.count)])
    return ["", "within 5 %", "within 20 %", "dead", "geometric mean", "runs"], cells


def tasks_table(found: list[Ratio]) -> tuple[list[str], Cells]:
    return _table_by(found, lambda row: (f"{row.task}, {row.optimizer}", row.epochs))


def rates_table(found: list[Ratio]) -> tuple[list[str], Cells]:
    return _table_by(
        found, lambda row: (f"rate {RATES[row.optimizer].index(row.rate) + 1} of 6", row.epochs)
    )


def _table_by(found: list[Ratio], key: Callable[[Row], tuple[str, int]]) -> tuple[list[str], Cells]:
    groups: dict[tuple[str, str, int], list[float]] = {}
    for each in found:
        groups.setdefault((each.row.method, *key(each.row)), []).append(each.last)
    names = [name for name in names_of(found) if name in SHOWN]
    cells = []
    for place in dict.fromkeys(group[1:] for group in sorted(groups, key=lambda g: g[2])):
        results = [scores.score(groups[(name, *place)]) for name in names]
        label, epochs = place
        cells.append(
            [f"{label}, {epochs}", *(f"{_two(each.near)}; {_two(each.dead)}" for each in results)]
        )
    return ["", *names], cells


def chain_table(rows: list[Row]) -> tuple[list[str], Cells]:
    """The range test's suggestion, and the rate of the grid that is best in the end."""
    found = scores.ratios(rows, scores.any_rate)
    cells = []
    for name in names_of(found):
        of_method = [each for each in found if each.row.method == name]
        best: dict[object, float] = {}
        for each in of_method:
            if not each.row.suggested:
                kind = scores.any_rate(each.row)
                best[kind] = min(best.get(kind, np.inf), each.last)
        suggested = [each.last for each in of_method if each.row.suggested]
        line = [name]
        for values in (suggested, list(best.values())):
            result = scores.score(values) if values else None
            line.append(f"{_two(result.mean)}; {_two(result.near)}" if result else "")
        cells.append(line)
    return ["", "the suggested rate", "its best rate, known in the end"], cells


ALARMS = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0)


def alarms_table(found: list[Ratio]) -> tuple[list[str], Cells]:
    """Of runs that nothing stops at an explosion: how many of the good, and of the dead."""
    plain = [each for each in found if "recover" not in each.row.method]
    good = [each for each in plain if each.last <= 1.2]
    dead = [each for each in plain if each.last > 3]
    cells = []
    for times in ALARMS:
        line = [f"{times:g}"]
        for attribute in ("above_first", "above_best", "continued"):
            for runs in (good, dead):
                above = sum(getattr(each.row, attribute) > times for each in runs)
                line.append(f"{above} of {len(runs)}")
        cells.append(line)
    return [
        "K",
        "training loss above the first batch's: of runs within 20 %",
        "of dead ones",
        "a loss above its lowest so far: of runs within 20 %",
        "of dead ones",
        "the next epoch above its first batch: of runs within 20 %",
        "of dead ones",
    ], cells


def _two(number: float) -> str:
    return f"{number:.2f}"


def _rich(title: str, columns: list[str], cells: Cells) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 200)
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in cells:
        table.add_row(*line)
    console.print(table)


def _markdown(title: str, columns: list[str], cells: Cells) -> None:
    lines = [columns, ["---"] * len(columns), *cells]
    print(f"\n{title}:\n", *(f"| {' | '.join(line)} |" for line in lines), sep="\n")
