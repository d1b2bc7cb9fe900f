"""The measurements as tables: all of them for a terminal, the main ones for the README."""

from __future__ import annotations

from typing import Any

SCALES = {"us": 1e6, "ms": 1e3, "s": 1, "": 1}
# As in `_subjects`, which cannot be imported here: it imports Keras.
CONSTANT, AGAIN = "constant rate", "constant rate, again"
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
        for column in ("backend", "", "median", "quartiles", "ratio (quartiles)", "target"):
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
        _range(record, scale) if "quartiles" in record else "",
        "\n".join(ratios),
        _target(record),
    ]


def _target(record: dict[str, Any]) -> str:
    if "target" not in record:
        return ""
    target = record["target"]
    met = "met" if target["met"] else "MISSED"
    if target["against"]:
        return f"at most {target['at_most']}: {met}"
    scale = SCALES[record["unit"]]
    return f"at most {target['at_most'] * scale:g} {record['unit']}: {met}"


def _range(record: dict[str, Any], scale: float = 1) -> str:
    return " to ".join(_number(value * scale) for value in record["quartiles"])


def _number(value: float) -> str:
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    if value < 0.01:
        return f"{value:.2g}"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def markdown(results: Results, command: str) -> str:
    """The table of the README: for each target, the worst ratio or time on each backend."""
    backends = results["backends"]
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for backend, result in backends.items():
        for record in result["measurements"]:
            for label, target, value in _headlines(record):
                row = cells.setdefault((label, target), {})
                row[backend] = max(value, row.get(backend, value))
    lines = [
        "| | " + " | ".join(backends) + " | target |",
        "| --- |" + " --- |" * (len(backends) + 1),
    ]
    for (label, target), row in cells.items():
        values = [_number(row[backend]) if backend in row else "" for backend in backends]
        lines.append(f"| {label} | {' | '.join(values)} | {target} |")
    machine = results["machine"]
    versions = {key: value for each in backends.values() for key, value in each["versions"].items()}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    about = (
        f"Medians, the worst of the networks and optimizers measured: {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['system']}, Python {machine['python']}, {listed}. "
        f"`{command}`"
    )
    return "\n".join([*lines, "", about])


def _headlines(record: dict[str, Any]) -> list[tuple[str, str, float]]:
    """The rows of the README that a measurement has a part in: label, target, value."""
    group, name, ratios = record["group"], record["name"], record["ratios"]
    target = record.get("target")
    if name == AGAIN and group.startswith("Training step"):
        return [(f"training step: {name} / {CONSTANT}", "", ratios[CONSTANT]["median"])]
    if target is None:
        return []
    if target["against"]:
        label = f"{group.split(',')[0].lower()}: {name} / {target['against']}"
        return [(label, f"{target['at_most']}", ratios[target["against"]]["median"])]
    scale, unit = SCALES[record["unit"]], record["unit"]
    label = f"{name.split(', over')[0]}, {unit}"
    return [(label, f"{target['at_most'] * scale:g}", record["median"] * scale)]
