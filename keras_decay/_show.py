"""What `python -m keras_decay preview` shows: a schedule from its options, and its table."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_decay._compose import LinearWarmup
from keras_decay._schedules import InverseTimeDecay, StepDecay

ROWS = 40


def schedule(
    kind: str,
    initial_learning_rate: float,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
    **options: Any,
) -> Any:
    """A schedule from the options of the command line.

    Raises:
        TypeError: an option that this kind of schedule does not have.
        ValueError: an option out of its range.
    """
    if len(options.get("decay_epochs", ())) == 1:
        (options["decay_epochs"],) = options["decay_epochs"]
    inner: Any = initial_learning_rate
    if kind == "step":
        inner = StepDecay(inner, steps_per_epoch=steps_per_epoch, **options)
    elif kind == "inverse-time":
        options = {"decay_rate": 1.0, **options}
        inner = InverseTimeDecay(inner, steps_per_epoch=steps_per_epoch, **options)
    elif options:
        raise TypeError(f"a constant rate has no {', '.join(f'`{name}`' for name in options)}")
    return LinearWarmup(inner, warmup_epochs, steps_per_epoch=steps_per_epoch)


def print_changes(title: str, rates: NDArray[np.float32], steps_per_epoch: int) -> None:
    """A table of the rate at the beginning of the epochs where it is another than before."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    starts = rates[::steps_per_epoch]
    changes = np.flatnonzero(np.diff(starts, prepend=np.nan) != 0)
    # Of a rate that changes in every epoch, an even choice, and always the first and the last.
    rows = min(len(changes), ROWS)
    shown = changes[np.linspace(0, len(changes) - 1, rows).astype(int)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("epoch", "step", "learning rate"):
        table.add_column(column, justify="right")
    for epoch in shown:
        table.add_row(str(epoch), str(epoch * steps_per_epoch), f"{starts[epoch]:.6g}")
    print(title)
    Console().print(table)
    if len(shown) < len(changes):
        print(f"({len(shown)} of {len(changes)} epochs in which it changes)")
