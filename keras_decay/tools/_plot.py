"""Figures of schedules, training runs, rehearsals and range tests."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import TYPE_CHECKING, Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks
from keras_decay._config import LearningRateSchedule
from keras_decay.callbacks._logger import LearningRateLogger
from keras_decay.optimizer._rates import named_optimizers, schedule_of
from keras_decay.plateau._plateau import PlateauDecay
from keras_decay.tools._preview import Source
from keras_decay.tools._range_test import RangeTest
from keras_decay.tools._rehearse import Rehearsal, history_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MUST = (
    "a schedule, an optimizer, a compiled model, a dict of them, a `History`, what `rehearse` or "
    "`find_learning_rate` returned, a `LearningRateLogger` or a `PlateauDecay` with `every`"
)
DRAWN = 2000
"""About how many points a curve has: more than a figure has pixels."""
METRIC: dict[str, Any] = {"marker": "o", "color": "0.6", "markersize": 3, "linewidth": 1.2}


def plot(
    what: Any,
    epochs: int | None = None,
    *,
    steps_per_epoch: int | None = None,
    monitor: str = "val_loss",
    ax: Axes | None = None,
) -> Figure:
    """Draws schedules, a training run, a rehearsal, or a range test.

    The horizontal axis counts epochs. Epoch k lies between k and k + 1, so a metric of epoch k, and
    a reduction at its end, are drawn at k + 1. A rate that spans decades gets a logarithmic axis.
    (For a `LearningRateLogger`, and for a `PlateauDecay` with `every`, the horizontal axis counts
    steps; for a range test it is the rate.) The `History` of a run with `every` has only one rate
    per epoch, so a reduction inside an epoch is drawn where that epoch begins; one in the first
    epoch is not drawn.

    Args:
        what: One of these: any `LearningRateSchedule` or a float > 0; an optimizer or a compiled
            model, from its present step on; a dict from names to these; the `History` of a `fit`
            that logged `learning_rate`, or its dict; the result of `rehearse`; the result of
            `find_learning_rate` (the loss over the rate, with the suggestion marked); a
            `LearningRateLogger` after a `fit`; a `PlateauDecay(every=...)` after a `fit` (its
            observations, with the reductions marked).
        epochs: Int >= 1, the number of epochs to draw; for schedules only.
        steps_per_epoch: Int >= 1, the number of steps (batches) in an epoch; `None` for the
            number of each schedule, or of a schedule inside it; for schedules only. (For an
            optimizer that has trained, `None` is the number of its last `fit`.) A schedule that
            counts the epochs of `fit` is drawn with this number.
        monitor: String, the metric to draw with the rate; for a `History` only.
        ax: Matplotlib `Axes` to draw into; `None` for a new figure.

    Returns:
        The Matplotlib `Figure`. A notebook shows it after `%matplotlib inline`;
        `figure.savefig("rate.png")` saves it.

    Raises:
        ImportError: Matplotlib is not installed.
        TypeError: an argument of the wrong type.
        ValueError: an argument out of its range; no `steps_per_epoch`, if a schedule has none
            either; a `History` without `learning_rate` or `monitor`.

    Example:

    >>> step = keras_decay.StepDecay(0.1, 0.5, 10, steps_per_epoch=100)
    >>> smooth = keras_decay.InverseTimeDecay(0.1, 0.5, steps_per_epoch=100)
    >>> figure = keras_decay.plot({"step": step, "smooth": smooth}, epochs=60)
    >>> figure.axes[0].get_xlabel()
    'epoch'
    """
    try:
        from matplotlib.axes import Axes
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            '`plot` needs Matplotlib. Install it with: pip install "keras-decay[plot]"'
        ) from error
    if ax is None:
        ax = Figure(figsize=(8, 4.5), dpi=120, layout="constrained").subplots()
    elif not isinstance(ax, Axes):
        _checks.fail("ax", ax, "a Matplotlib `Axes` or None", TypeError)
    if _is_schedules(what):
        _draw_schedules(ax, what, epochs, steps_per_epoch)
    else:
        draw = next((draw for kind, draw in DRAWINGS.items() if isinstance(what, kind)), None)
        if draw is None:
            _checks.fail("what", what, MUST, TypeError)
        for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
            if value is not None:
                _checks.fail(name, value, f"left out for a `{type(what).__name__}`")
        draw(ax, what, _checks.string("monitor", monitor))
    ax.grid(alpha=0.3)
    if ax.get_legend_handles_labels()[0]:
        ax.legend()
    return cast("Figure", ax.figure)


def _is_schedules(what: Any) -> bool:
    if isinstance(what, dict):  # Either of schedules or, like that of a `History`, of lists.
        return not what or not isinstance(next(iter(what.values())), (list, tuple, np.ndarray))
    kinds = (LearningRateSchedule, numbers.Real, keras.optimizers.Optimizer, keras.Model)
    return isinstance(what, kinds)


def _draw_schedules(ax: Axes, what: Any, epochs: Any, steps_per_epoch: Any) -> None:
    named = what if isinstance(what, dict) else {None: what}
    if not named:
        _checks.fail("what", what, "at least one schedule")
    epochs = _checks.integer("epochs", epochs, 1)
    curves, lasting = {}, []
    for name, each in named.items():
        label = "what" if name is None else f"what[{name!r}]"
        source = Source.of(label, each, steps_per_epoch)
        length = source.steps_per_epoch
        steps = _drawn_steps(epochs, length)
        rates = source.rates(steps)
        curves[name] = source.epoch + np.append(steps / length, epochs), _until_end(rates)
        # A warmup from 0, or a cosine down to 0, must not stretch a logarithmic axis, so only the
        # highest rate of each epoch counts.
        starts = np.unique(steps // length, return_index=True)[1]
        lasting.append(np.maximum.reduceat(rates, starts))
    _draw_rates(ax, curves, labelled=isinstance(what, dict))
    _label(ax, "epoch", "learning rate", np.concatenate(lasting))


def _drawn_steps(epochs: int, steps_per_epoch: int) -> NDArray[np.int64]:
    """All steps or, if there are many, evenly spaced ones and the first step of each epoch."""
    count = epochs * steps_per_epoch
    evenly = np.linspace(0, count - 1, min(count, DRAWN), dtype="int64")
    return np.union1d(evenly, np.arange(epochs) * steps_per_epoch) if epochs < DRAWN else evenly


def _draw_history(ax: Axes, history: Any, monitor: str) -> None:
    logs = history if isinstance(history, dict) else history.history
    names = [name for name in logs if name.startswith("learning_rate")]
    scales = [name for name in names if name.startswith("learning_rate_scale")]
    rates = {
        name: history_values("what", history, name)
        for name in [name for name in names if name not in scales] or ["learning_rate"]
    }
    values = history_values("what", history, monitor)
    first = 0 if isinstance(history, dict) else history.epoch[0]
    # A float has no scale, but it falls only at a reduction; a schedule may fall by itself.
    falls = [np.diff(logs[name]) < 0 for name in scales or _float_rates(history) if name in logs]
    reductions = first + 1 + np.flatnonzero(np.any(falls, axis=0))
    _draw_run(ax, first + np.arange(len(values) + 1), rates, values, reductions, monitor)


def _float_rates(history: Any) -> list[str]:
    """The log names of the rates that were floats; unknown, so none, for a plain dict."""
    optimizer = getattr(getattr(history, "model", None), "optimizer", None)
    named = () if optimizer is None else named_optimizers(optimizer)
    return [f"learning_rate{suffix}" for suffix, inner in named if schedule_of(inner) is None]


def _draw_rehearsal(ax: Axes, rehearsal: Rehearsal, _: str) -> None:
    epoch, reductions = rehearsal.epoch, rehearsal.reductions
    if epoch.dtype.kind == "f":  # With `every`, `epoch` is the end of each interval.
        edges = np.append(epoch[0] - np.diff(epoch, prepend=0.0)[-1], epoch)
    else:
        edges, reductions = np.append(epoch, epoch[-1] + 1), reductions + 1
    rates = {"learning_rate": rehearsal.learning_rate}
    _draw_run(ax, edges, rates, rehearsal.value, reductions, rehearsal.monitor)


def _draw_run(
    ax: Axes, edges: NDArray[Any], rates: dict[str, Any], values: Any, reductions: Any, monitor: str
) -> None:
    """Draws rates between the `edges` of the epochs, and a metric at their ends."""
    metric = ax.twinx()
    # Draw the metric under the rate.
    metric.set_zorder(ax.get_zorder() - 1)
    ax.patch.set_visible(False)
    metric.plot(edges[1:], values, **METRIC)
    _label(metric, "", monitor, np.asarray(values))
    curves = {name: (edges, _until_end(rate)) for name, rate in rates.items()}
    _draw_rates(ax, curves, labelled=len(curves) > 1)
    _mark(ax, reductions, "reduction")
    _label(ax, "epoch", "learning rate", np.concatenate(list(rates.values())))


def _draw_logger(ax: Axes, logger: LearningRateLogger, _: str) -> None:
    if not logger.seen:
        _checks.fail("what", logger, "a `LearningRateLogger` that was in a `fit`")
    curves = {name: np.transpose(points) for name, points in logger.seen.items()}
    _draw_rates(ax, curves, labelled=len(curves) > 1)
    _label(ax, "step", "learning rate", np.concatenate([rates for _, rates in curves.values()]))


def _draw_observations(ax: Axes, plateau: PlateauDecay, _: str) -> None:
    if not plateau.observations:
        _checks.fail("what", plateau, "a `PlateauDecay` with `every` that was in a `fit`")
    steps, values, reduced = map(np.array, zip(*plateau.observations, strict=True))
    ax.plot(steps, values, **METRIC)
    _mark(ax, steps[reduced], "reduction")
    _label(ax, "step", plateau.monitor, values)


def _draw_range_test(ax: Axes, test: RangeTest, _: str) -> None:
    ax.plot(test.learning_rate, test.loss, ".", color="0.6", label="loss of a batch")
    ax.plot(test.learning_rate, test.smoothed, color="C0", linewidth=2, label="smoothed")
    # A curve without a descent has no suggestion, but it is drawn: it shows what is wrong.
    with contextlib.suppress(ValueError):
        _mark(ax, [test.suggestion], f"suggestion: {test.suggestion:.2g}")
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss")
    # The fall of the curve fills the axis, even if the loss rises far above it later.
    lowest, highest = test.smoothed.min(), test.smoothed[: test.smoothed.argmin() + 1].max()
    if highest > lowest:
        height = highest - lowest
        ax.set_ylim(lowest - 0.1 * height, highest + 0.25 * height)


DRAWINGS: dict[type, Callable[[Axes, Any, str], None]] = {
    keras.callbacks.History: _draw_history,
    dict: _draw_history,
    Rehearsal: _draw_rehearsal,
    RangeTest: _draw_range_test,
    LearningRateLogger: _draw_logger,
    PlateauDecay: _draw_observations,
}


def _until_end(rates: Any) -> NDArray[Any]:
    """Repeats the last rate, so that it is drawn until the end of its step or epoch."""
    return np.append(rates, rates[-1])


def _draw_rates(ax: Axes, curves: dict[Any, Any], *, labelled: bool) -> None:
    for (name, (x, rates)), line in zip(curves.items(), cycle(("-", "--", "-.", ":"))):
        label = str(name) if labelled else None
        ax.plot(x, rates, line, drawstyle="steps-post", label=label)


def _mark(ax: Axes, positions: Iterable[float], label: str) -> None:
    for index, position in enumerate(positions):
        legend = None if index else label
        ax.axvline(position, color="C3", linestyle="--", linewidth=1, label=legend)


def _label(ax: Axes, x: str, y: str, values: NDArray[Any]) -> None:
    """Labels the axes. If the values span decades, the vertical one becomes logarithmic, with plain
    numbers as labels."""
    ax.set(xlabel=x, ylabel=y)
    ax.locator_params(axis="x", integer=True)
    ax.margins(x=0.01)
    values = values[np.isfinite(values) & (values != 0)]
    if len(values) == 0 or values.min() < 0 or values.max() < 20 * values.min():
        return
    # Lower rates have no effect on training.
    highest = values.max()
    lowest = max(values.min(), highest * 1e-8)
    ax.set(yscale="log", ylim=(lowest / 1.3, highest * 1.3))
    ax.locator_params(axis="y", subs=(1, 2, 5) if highest < 1000 * lowest else (1,))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("")
