"""The measurements as tables for a terminal."""

from __future__ import annotations

from typing import Any

SCALES = {"us": 1e6, "ms": 1e3, "s": 1, "": 1}
Results = dict[str, Any]
"""What the JSON holds: `machine`, and `backends`, each with its versions and measurements."""


def print_tables(results: Results) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if Console().is_terminal else 170)
    groups: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for backend, result in results["backends"].items():
        for record in result["measurements"]:
            groups.setdefault(record["group"], []).append((backend, record))
    for group, rows in groups.items():
        table = Table(title=group, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
        for column in ("backend", "", "median", "95 % of it", "ratio (95 %)", "target"):
            table.add_column(column, overflow="fold")
        shown = None
        for backend, record in rows:
            if shown not in (None, backend):
                table.add_section()
            table.add_row("" if backend == shown else backend, *_row(record))
            shown = backend
        console.print(table)


def _row(record: dict[str, Any]) -> list[str]:
    unit, scale = record["unit"], SCALES[record["unit"]]
    ratios = [
        f"{_number(ratio['median'])} ({_range(ratio)}) of {other}"
        for other, ratio in record["ratios"].items()
    ]
    if record.get("note"):
        ratios.append(record["note"])
    if "beside_keras" in record:
        ratios.append(f"beside Keras's for the job: {record['beside_keras']:+}")
    if "to_host" in record:
        ratios.append(f"to the host: {', '.join(record['to_host']) or 'nothing'}")
    return [
        record["name"],
        f"{_number(record['median'] * scale)} {unit}",
        _range(record, scale) if "interval" in record else "",
        "\n".join(ratios),
        _target(record),
    ]


def _target(record: dict[str, Any]) -> str:
    if "target" not in record:
        return ""
    target = record["target"]
    met = {True: "met", False: "MISSED", None: "undecided"}[target["met"]]
    if target["against"]:
        return f"at most {target['at_most']}: {met}"
    scale = SCALES[record["unit"]]
    return f"at most {target['at_most'] * scale:g} {record['unit']}: {met}"


def _range(record: dict[str, Any], scale: float = 1) -> str:
    return " to ".join(_number(value * scale) for value in record["interval"])


def _number(value: float) -> str:
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    if value < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
