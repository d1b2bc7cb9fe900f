"""A picture of the table: how much the first rate matters to each method."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.decisions import scores
from tests.benchmarks.decisions.scores import Row


def draw(rows: list[Row], names: tuple[str, ...] = ()) -> Any:
    """A Matplotlib figure: the mean ratio over the six first rates, a line for each method."""
    from matplotlib.figure import Figure

    found = scores.ratios((row for row in rows if not row.suggested), scores.any_rate)
    names = names or tuple(dict.fromkeys(each.row.method for each in found))
    optimizers = sorted({"sgd" if row.optimizer == "sgd" else "adam" for row in rows})
    figure = Figure(figsize=(5 * len(optimizers), 4), layout="constrained")
    for axes, optimizer in zip(
        figure.subplots(1, len(optimizers), sharey=True, squeeze=False)[0],
        reversed(optimizers),
        strict=True,
    ):
        of_optimizer = [each for each in found if each.row.optimizer.startswith(optimizer)]
        rates = sorted({each.row.rate for each in of_optimizer})
        for name in names:
            means = [
                scores.score(
                    each.last
                    for each in of_optimizer
                    if each.row.method == name and each.row.rate == rate
                ).mean
                for rate in rates
            ]
            axes.plot(rates, means, marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel="first learning rate")
        axes.set_title("SGD, momentum 0.9" if optimizer == "sgd" else "Adam, AdamW")
    figure.axes[0].set_ylabel("test loss, of the best of all (at most 10)")
    figure.axes[-1].legend(fontsize="small")
    return figure
