"""The table of the guide's page on cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.benchmarks._names import (
    AGAIN,
    CONSTANT,
    COSINE,
    EXPONENTIAL,
    INVERSE,
    KERAS_INVERSE,
    KERAS_PLATEAU,
    MILESTONES,
    PIECEWISE,
    PLATEAU_COSINE,
    PLATEAU_STEP,
    STEP,
    milestones,
)
from tests.benchmarks._report import SCALES, Results

Records = dict[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True)
class Line:
    """A line of the table: a value, or a ratio, from each of the groups."""

    label: str
    name: str
    groups: tuple[str, ...]
    against: str | None = None


def _training(size: str) -> list[Line]:
    groups = tuple(f"Training step, {size} network, {optimizer}" for optimizer in ("SGD", "AdamW"))
    start = f"training step, {size} network, of a constant rate: "
    return [
        Line(f"{start}`StepDecay`", STEP, groups, CONSTANT),
        Line("the same, `PlateauDecay` over `StepDecay`", PLATEAU_STEP, groups, CONSTANT),
        Line("the same, over Keras's `CosineDecay`, of that alone", PLATEAU_COSINE, groups, COSINE),
        Line("the same, an equal constant rate", AGAIN, groups, CONSTANT),
    ]


CALL, EPOCH = ("One eager call, at the optimizer's own step",), ("PlateauDecay, each epoch",)
ARRAY = ("A call with a tensor of a million steps",)
MANY = ("One eager call, by the number of milestones",)
LINES = [
    *_training("medium"),
    *_training("small"),
    Line("one eager call of `StepDecay`, of Keras's `ExponentialDecay`", STEP, CALL, EXPONENTIAL),
    Line("one eager call of `InverseTimeDecay`, of Keras's", INVERSE, CALL, KERAS_INVERSE),
    Line("five milestones, of Keras's `PiecewiseConstantDecay`", MILESTONES, CALL, PIECEWISE),
    Line("1,000 milestones, of two", milestones(1000), MANY, milestones(2)),
    Line("a million steps in `StepDecay`, of Keras's `ExponentialDecay`", STEP, ARRAY, EXPONENTIAL),
    Line("a million steps in `InverseTimeDecay`, of Keras's", INVERSE, ARRAY, KERAS_INVERSE),
    Line("a plateau's decision, microseconds", "a decision, over StepDecay", EPOCH),
    Line("one that reduces, microseconds", "a decision to reduce, over StepDecay", EPOCH),
    Line("the end of an epoch of Keras's `ReduceLROnPlateau`, microseconds", KERAS_PLATEAU, EPOCH),
    Line("`import keras_decay`, milliseconds", "import keras_decay after it", ("Import",)),
]
GRAPHS = ("TensorFlow graph", "before XLA")


def markdown(results: Results, command: str) -> str:
    """The table of the guide's page on cost."""
    backends = {
        backend: {(record["group"], record["name"]): record for record in result["measurements"]}
        for backend, result in results["backends"].items()
    }
    rows = [["", *backends, "target"], ["---"] * (len(backends) + 2)]
    for line in LINES:
        cells = [_cell(line, records) for records in backends.values()]
        rows.append([line.label, *cells, _bound(line, next(iter(backends.values())))])
    for label, count in (
        ("operations that `StepDecay` adds to the step (Keras's `ExponentialDecay`)", _added),
        ("operations that the plateau's scale adds; copies to the host", _scale),
    ):
        rows.append([label, *(count(records) for records in backends.values()), ""])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    machine = results["machine"]
    versions = {}
    devices = {result["device"] for result in results["backends"].values()}
    for result in results["backends"].values():
        versions |= result["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    about = (
        "Ratios by their 95 % intervals, where there are two with SGD and with AdamW; times and "
        "counts by their medians. "
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {machine['python']}, {listed}, {' and '.join(sorted(devices))}, by `{command}`."
    )
    return "\n".join([*lines, "", about])


def _cell(line: Line, records: Records) -> str:
    found = [records[group, line.name] for group in line.groups]
    if line.against:
        intervals = [each["ratios"][line.against]["interval"] for each in found]
        digits = 3 if intervals[0][0] > 0.9 else 2
        return ", ".join(f"{low:.{digits}f} to {high:.{digits}f}" for low, high in intervals)
    return ", ".join(f"{each['median'] * SCALES[each['unit']]:,.0f}" for each in found)


def _bound(line: Line, records: Records) -> str:
    record = records[line.groups[0], line.name]
    if "target" not in record:
        return ""
    return f"{record['target']['at_most'] * (1 if line.against else SCALES[record['unit']]):g}"


def _graph(records: Records, name: str) -> dict[str, Any] | None:
    found = [record for (group, each), record in records.items() if each == name]
    return next((each for each in found if each["group"].endswith(GRAPHS)), None)


def _added(records: Records) -> str:
    ours = _graph(records, STEP)
    return f"{ours['median']} ({ours['median'] - ours['beside_keras']})" if ours else "eager"


def _scale(records: Records) -> str:
    bare, scaled = _graph(records, STEP), _graph(records, PLATEAU_STEP)
    if not bare or not scaled:
        return "eager"
    return f"{scaled['median'] - bare['median']}; {', '.join(scaled['to_host']) or 'none'}"
