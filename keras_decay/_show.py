"""What `python -m keras_decay preview` shows: a schedule from its options, and its table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_decay._compose import LinearWarmup
from keras_decay._scale import PlateauScale
from keras_decay._schedules import InverseTimeDecay, StepDecay

ROWS = 40


def schedule(
    kind: str,
    initial_learning_rate: float,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    decay_epochs: list[int] | None = None,
    **options: Any,
) -> Any:
    """A schedule from the options of the command line.

    Raises:
        TypeError: an option that this kind of schedule does not have.
        ValueError: an option out of its range.
    """
    if kind == "step":
        if decay_epochs is not None:
            options["decay_epochs"] = decay_epochs if len(decay_epochs) > 1 else decay_epochs[0]
    elif decay_epochs is not None:
        options["decay_epochs"] = decay_epochs
    if kind == "inverse-time":
        options.setdefault("decay_rate", 1.0)
    if kind == "constant":
        made: Any = PlateauScale(initial_learning_rate, **options)
    else:
        made = {"step": StepDecay, "inverse-time": InverseTimeDecay}[kind](
            initial_learning_rate, steps_per_epoch=steps_per_epoch, **options
        )
    if warmup_epochs == 0:
        return made
    inner = initial_learning_rate if kind == "constant" else made
    return LinearWarmup(inner, warmup_epochs, steps_per_epoch=steps_per_epoch)


def print_changes(title: str, rates: NDArray[np.float32], steps_per_epoch: int) -> None:
    """A table of the rate at the beginning of the epochs where it is another than before."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    starts = rates[::steps_per_epoch]
    changes = np.flatnonzero(np.diff(starts, prepend=np.nan) != 0)
    # Of a rate that changes in every epoch, an even choice, and always the first and the last.
    shown = changes[
        np.unique(np.linspace(0, len(changes) - 1, min(len(changes), ROWS)).astype(int))
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("epoch", "step", "learning rate"):
        table.add_column(column, justify="right")
    for epoch in shown:
        table.add_row(str(epoch), str(epoch * steps_per_epoch), f"{starts[epoch]:.6g}")
    print(title)
    Console().print(table)
    if len(shown) < len(changes):
        print(f"({len(shown)} of {len(changes)} epochs in which it changes)")
