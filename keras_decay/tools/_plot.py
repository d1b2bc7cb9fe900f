"""Figures of schedules, training runs, rehearsals and range tests."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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
from keras_decay.tools._preview import Source, rates_at
from keras_decay.tools._range_test import RangeTest
from keras_decay.tools._rehearse import Rehearsal, history_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN = 2000
"""About how many points a curve has: more than a figure has pixels."""


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
    draw = _drawing(what, epochs, steps_per_epoch, monitor)
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
    draw(ax)
    return cast("Figure", ax.figure)


def _drawing(what: Any, epochs: Any, steps_per_epoch: Any, monitor: str) -> Callable[[Axes], None]:
    """The function that draws `what`; wrong arguments raise here, before Matplotlib is needed."""
    if _is_schedules(what):
        return partial(_draw_curves, curves=list(_curves(what, epochs, steps_per_epoch)))
    for name, value in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
        if value is not None:
            _checks.fail(name, value, f"left out for a `{type(what).__name__}`")
    monitor = _checks.string("monitor", monitor)
    if isinstance(what, LearningRateLogger):
        if not what.seen:
            _checks.fail("what", what, "a `LearningRateLogger` that was in a `fit`")
        return partial(_draw_seen, seen=what.seen)
    if isinstance(what, PlateauDecay):
        if not what.observations:
            _checks.fail("what", what, "a `PlateauDecay` with `every` that was in a `fit`")
        return partial(_draw_observations, plateau=what)
    if isinstance(what, RangeTest):
        return partial(_draw_range_test, test=what)
    if isinstance(what, Rehearsal):
        rates = {"learning_rate": what.learning_rate}
        if what.epoch.dtype.kind == "f":  # With `every`, `epoch` is the end of each interval.
            length, after = float(np.diff(what.epoch, prepend=0.0)[-1]), 0
        else:
            length, after = 1.0, 1
        end, reductions = what.epoch + after, what.reductions + after
        run = _Run(end, rates, what.value, reductions, what.monitor, length)
        return partial(_draw_run, run=run)
    return partial(_draw_run, run=_as_run(what, monitor))


def _is_schedules(what: Any) -> bool:
    """Whether `what` can be drawn as a schedule, or is a dict of these.

    Raises an error if it cannot be drawn at all.
    """
    kinds = (keras.callbacks.History, Rehearsal, RangeTest, LearningRateLogger, PlateauDecay)
    optimized = (keras.optimizers.Optimizer, keras.Model)
    if isinstance(what, (LearningRateSchedule, numbers.Real, *optimized)):
        return True
    if isinstance(what, dict):
        if not what:
            _checks.fail("what", what, "at least one schedule")
        return not all(isinstance(each, (list, tuple, np.ndarray)) for each in what.values())
    if not isinstance(what, kinds):
        must = (
            "a schedule, an optimizer, a compiled model, a dict of them, a `History`, what "
            "`rehearse` or `find_learning_rate` returned, a `LearningRateLogger` or a "
            "`PlateauDecay` with `every`"
        )
        _checks.fail("what", what, must, TypeError)
    return False


@dataclass(frozen=True)
class _Curve:
    name: str | None
    epoch: NDArray[np.float64]
    rate: NDArray[np.float32]


def _curves(what: Any, epochs: Any, steps_per_epoch: Any) -> Iterator[_Curve]:
    named = what if isinstance(what, dict) else {None: what}
    epochs = _checks.integer("epochs", epochs, 1)
    for name, each in named.items():
        label = "what" if name is None else f"what[{name!r}]"
        source = Source.of(label, each, steps_per_epoch)
        steps = _drawn_steps(epochs, source.steps_per_epoch)
        rates = rates_at(source.schedule, source.step + steps)
        # Repeat the last rate, so that it is drawn until the end of its step.
        yield _Curve(
            None if name is None else str(name),
            source.epoch + np.append(steps / source.steps_per_epoch, float(epochs)),
            np.append(rates, rates[-1]),
        )


def _drawn_steps(epochs: int, steps_per_epoch: int) -> NDArray[np.int64]:
    """All steps or, if there are many, evenly spaced ones and the first step of each epoch."""
    count = epochs * steps_per_epoch
    if count <= 2 * DRAWN:
        return np.arange(count)
    chosen = np.arange(DRAWN) * (count - 1) // (DRAWN - 1)
    if epochs > DRAWN:
        return chosen
    return np.union1d(chosen, np.arange(epochs) * steps_per_epoch)


@dataclass(frozen=True)
class _Run:
    """A training run or a rehearsal.

    `rates` are by log name; `end` is the end of each epoch, or with `every` the time of each
    observation, in epochs.
    """

    end: NDArray[Any]
    rates: dict[str, NDArray[np.float64]]
    value: NDArray[np.float64]
    reductions: NDArray[Any]
    monitor: str
    length: float = 1.0


def _as_run(history: Any, monitor: str) -> _Run:
    logs = history if isinstance(history, dict) else history.history
    names = [name for name in logs if name.startswith("learning_rate")]
    scales = [name for name in names if name.startswith("learning_rate_scale")]
    rates = {
        name: np.asarray(history_values("what", history, name), "float64")
        for name in [name for name in names if name not in scales] or ["learning_rate"]
    }
    value = np.asarray(history_values("what", history, monitor), "float64")
    epochs = np.arange(len(value)) if isinstance(history, dict) else np.asarray(history.epoch)
    # A float has no scale, but it falls only at a reduction; a schedule may fall by itself.
    falls = [logs[name] for name in scales] or [
        rate for name, rate in rates.items() if _is_float(history, name)
    ]
    reduced = np.zeros(max(len(epochs) - 1, 0), bool)
    for each in falls:
        reduced |= np.diff(each) < 0
    return _Run(epochs + 1, rates, value, epochs[:-1][reduced] + 1, monitor)


def _is_float(history: Any, name: str) -> bool:
    """Whether the rate of that name was a float; unknown, so false, for a plain dict."""
    optimizer = getattr(getattr(history, "model", None), "optimizer", None)
    return optimizer is not None and any(
        f"learning_rate{suffix}" == name and schedule_of(inner) is None
        for suffix, inner in named_optimizers(optimizer)
    )


def _draw_seen(ax: Axes, seen: dict[str, list[tuple[int, float]]]) -> None:
    for name, points in seen.items():
        steps, rates = np.transpose(points)
        ax.plot(steps, rates, drawstyle="steps-post", label=name)
    ax.set_xlabel("step")
    ax.set_ylabel("learning rate")
    ax.grid(alpha=0.3)
    _scale_axis(ax, np.concatenate([[rate for _, rate in points] for points in seen.values()]))
    if len(seen) > 1:
        ax.legend()


def _draw_curves(ax: Axes, curves: list[_Curve]) -> None:
    lasting = []
    for curve, line in zip(curves, cycle(("-", "--", "-.", ":"))):
        ax.plot(curve.epoch, curve.rate, line, drawstyle="steps-post", label=curve.name)
        # A warmup from 0, or a cosine down to 0, must not stretch a logarithmic axis, so only the
        # highest rate of each epoch counts.
        starts = np.unique(np.floor(curve.epoch[:-1]), return_index=True)[1]
        lasting.append(np.maximum.reduceat(curve.rate[:-1], starts))
    _label_epochs(ax)
    ax.set_ylabel("learning rate")
    ax.grid(alpha=0.3)
    _scale_axis(ax, np.concatenate(lasting))
    if len(curves) > 1 or curves[0].name is not None:
        ax.legend()


def _draw_run(ax: Axes, run: _Run) -> None:
    metric = ax.twinx()
    # Draw the metric under the rate.
    metric.set_zorder(ax.get_zorder() - 1)
    ax.patch.set_visible(False)
    metric.plot(run.end, run.value, "o-", color="0.6", markersize=3, linewidth=1.2)
    metric.set_ylabel(run.monitor, color="0.35")
    several = len(run.rates) > 1
    for index, (name, rate) in enumerate(run.rates.items()):
        ax.plot(
            np.append(run.end - run.length, run.end[-1]),
            np.append(rate, rate[-1]),
            color=("C0", "C2", "C4", "C5")[index % 4],
            linewidth=2,
            drawstyle="steps-post",
            label=name if several else None,
        )
    _mark_reductions(ax, run.reductions)
    _label_epochs(ax)
    ax.set_ylabel("learning rate", color="C0")
    _scale_axis(ax, np.concatenate(list(run.rates.values())))
    _scale_axis(metric, run.value)
    if len(run.reductions) or several:
        ax.legend()


def _draw_observations(ax: Axes, plateau: PlateauDecay) -> None:
    steps, values, reduced = map(np.array, zip(*plateau.observations, strict=True))
    ax.plot(steps, values, "o-", color="0.6", markersize=3, linewidth=1.2)
    _mark_reductions(ax, steps[reduced])
    ax.set_xlabel("step")
    ax.set_ylabel(plateau.monitor)
    ax.grid(alpha=0.3)
    _scale_axis(ax, values)
    if reduced.any():
        ax.legend()


def _mark_reductions(ax: Axes, positions: NDArray[Any]) -> None:
    for index, position in enumerate(positions):
        label = None if index else "reduction"
        ax.axvline(position, color="C3", linestyle="--", linewidth=1, label=label)


def _draw_range_test(ax: Axes, test: RangeTest) -> None:
    ax.plot(test.learning_rate, test.loss, ".", color="0.6", label="loss of a batch")
    ax.plot(test.learning_rate, test.smoothed, color="C0", linewidth=2, label="smoothed")
    ax.set_ylim(_fall(test.smoothed))
    # A curve without a descent has no suggestion, but it is drawn: it shows what is wrong.
    with contextlib.suppress(ValueError):
        rate = test.suggestion
        ax.axvline(rate, color="C3", linestyle="--", linewidth=1, label=f"suggestion: {rate:.2g}")
    ax.set_xscale("log")
    ax.set_xlabel("learning rate")
    ax.set_ylabel("loss")
    ax.grid(alpha=0.3)
    ax.legend()


def _fall(smoothed: NDArray[np.float64]) -> tuple[float, float] | None:
    """The limits of an axis that the fall of the curve fills, even if the loss rises far above it
    later; `None` if there is no fall."""
    lowest, highest = float(smoothed.min()), float(smoothed[: smoothed.argmin() + 1].max())
    height = highest - lowest
    return (lowest - 0.1 * height, highest + 0.25 * height) if height > 0 else None


def _label_epochs(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.margins(x=0.01)


def _scale_axis(ax: Axes, values: NDArray[Any]) -> None:
    """Makes the axis logarithmic if the values span decades, with plain numbers as labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = values[np.isfinite(values) & (values != 0)]
    if len(values) == 0 or values.min() < 0 or values.max() < 20 * values.min():
        return
    highest = float(values.max())
    # Lower rates have no effect on training.
    lowest = max(float(values.min()), highest * 1e-8)
    ax.set_yscale("log")
    ax.set_ylim(lowest / 1.3, highest * 1.3)
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 1000 * lowest else (1,)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
