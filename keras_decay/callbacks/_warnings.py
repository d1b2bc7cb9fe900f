"""Mistakes in a training run that no curve shows: one warning each, with the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_decay.optimizer._rates import (
    effective_rate,
    named_optimizers,
    rate_used,
    schedule_of,
    warn,
)
from keras_decay.optimizer._state import State
from keras_decay.schedules._base import counting_epochs, counting_steps, iter_schedules


class Warnings:
    """What one callback compares in one `fit`.

    Args:
        warned: The warnings about the optimizer in this `fit`, by any callback; none is repeated.
            `None` outside of a `fit`.
    """

    def __init__(self, warned: set[str] | None = None):
        self._warned = set() if warned is None else warned
        self._missed: set[str] | None = None if warned is None else set()
        """The metrics of the epochs so far, as long as the monitored one is not among them."""
        self._left: dict[str, float] = {}
        """The float rates as this callback last saw or set them."""
        self._reduced = False
        """Whether this callback has reduced them."""

    def _once(self, key: str, message: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warn(message)

    # For any training run.

    def warn_if_epochs_differ(self, inner: list[Any], steps: int | None) -> None:
        """Compares the `steps_per_epoch` of schedules with that of this run."""
        for optimizer in inner if steps else ():
            for each in iter_schedules(schedule_of(optimizer)):
                own = getattr(each, "steps_per_epoch", None)
                # With `steps_per_epoch=1` a schedule counts in steps.
                if own not in (None, 1, steps):
                    name = type(each).__name__
                    self._once(
                        f"{name} {own}",
                        f"`{name}` counts epochs of {own} steps, but an epoch of this run has "
                        f"{steps}. Pass `steps_per_epoch={steps}` to the schedule.",
                    )

    def warn_if_starting_over(
        self, inner: list[Any], epoch: int, done: int, steps: int | None
    ) -> None:
        """Compares the first epoch of a `fit` with the steps that the optimizer has done."""
        if epoch > 0 and done == 0 and any(counting_steps(schedule_of(each)) for each in inner):
            self._once(
                "starts over",
                f"Training starts at epoch {epoch}, but the optimizer is at step 0, so its "
                "learning-rate schedule, which counts steps, starts over. Load the optimizer's "
                "state too (`keras.models.load_model`, `BackupAndRestore`, or `load_weights` after "
                "`compile`, `optimizer.build` and `PlateauDecay.attach`), or set its counter: "
                f"`model.optimizer.iterations.assign({epoch * steps if steps else 'step'})`.",
            )

    def warn_if_steps_differ(
        self,
        optimizer: Any,
        counted: list[int],
        batches: int,
        *,
        updates: int,
        size_known: bool,
        alone: bool,
        expected: bool,
    ) -> None:
        """Compares the steps that the inner optimizers counted in an epoch with its batches.

        Args:
            optimizer: The optimizer.
            counted: The steps that each of its inner optimizers has counted.
            batches: The number of batches in the epoch.
            updates: The number of updates that a batch makes.
            size_known: Whether `fit` knew the number of batches in advance.
            alone: Whether no other callback watches another optimizer.
            expected: Whether the epoch ended early, or may have skipped steps.
        """
        most = max(counted, default=0)
        if most == 0:
            # A user with a callback for each optimizer knows that there are several.
            if alone:
                self._once(
                    "idle",
                    "The optimizer has taken no step in this epoch, so its learning rate changes "
                    "nothing. If another optimizer of the model trains it, pass the name of its "
                    'attribute to `PlateauDecay`, as in `optimizer="g_optimizer"`.',
                )
            return
        for (name, _), each in zip(named_optimizers(optimizer), counted, strict=False):
            if each == 0:
                self._once(
                    f"idle {name}",
                    f"The inner optimizer `{name[1:]}` has taken no step in this epoch, while "
                    "others have: its pattern matches no trainable variable.",
                )
        schedules = [schedule_of(inner) for _, inner in named_optimizers(optimizer)]
        if most == batches + 1 and not size_known:
            if any(map(counting_steps, schedules)):
                self._once(
                    "counter",
                    f"The optimizer has counted {most} steps in an epoch of {batches} batches, so "
                    "its schedule runs ahead: TensorFlow does so on data of unknown size. Tell it: "
                    "`dataset.apply(tf.data.experimental.assert_cardinality(batches))`, or pass "
                    "`steps_per_epoch` to `fit`.",
                )
        elif most != updates * batches and not expected and any(map(counting_epochs, schedules)):
            self._once(
                "updates",
                f"The optimizer has counted {most} steps in an epoch of {batches} batches, where "
                f"the first batch of this run said {updates * batches}. The next epoch begins in "
                "time; within an epoch the learning rate may be that of another step. Pass "
                f"`steps_per_epoch={most}` to the schedule if that is the number of every epoch.",
            )

    def warn_if_zero(self, optimizer: Any, first: int, last: int) -> None:
        """Warns if the rate of a schedule has been exactly 0 for an epoch."""
        for name, inner in named_optimizers(optimizer):
            schedule = schedule_of(inner)
            if schedule is None or any(rate_used(schedule, step) for step in (last, first)):
                continue
            of = f" of `{name[1:]}`" if name else ""
            self._once(
                f"zero {name}",
                f"The learning rate{of} has been exactly 0 for an epoch, so nothing is trained any "
                "more: its schedule has ended. Give the schedule as many steps as the run has, or "
                "a rate to end at.",
            )

    # For a plateau.

    def warn_if_state_differs(self, state: State, epoch: int, done: int, resumed: bool) -> None:
        """Compares the first epoch of a `fit` with the last one that the state has seen."""
        last = state.clock.epoch
        if epoch > 0 and done > 0 and state.clock.epochs == 0 and not state.has_observed:
            warn(
                f"Training goes on at epoch {epoch}, but `PlateauDecay` has no state of the "
                "epochs before. If the optimizer's weights were loaded from a file: call "
                "`attach(model)` before `load_weights`, or there is no place for the state that "
                "the file holds. (A whole-model file keeps none of a float rate; of "
                "`PlateauScale(0.1)` it does.)"
            )
        if last is None or not state.loaded:
            return
        if epoch == last + 2:
            warn(
                f"`PlateauDecay` goes on at epoch {epoch} without the observation of epoch "
                f"{last + 1}, which the state that was loaded does not hold. If it was saved "
                "at the end of that epoch, put `PlateauDecay` before `BackupAndRestore` and "
                "`ModelCheckpoint` in `callbacks`."
            )
        elif epoch == last and (epoch > 0 or resumed):
            warn(
                f"Epoch {epoch} is trained a second time: the state that was loaded had been "
                "saved at its end. If `BackupAndRestore` starts there, the process was "
                "killed between the writing of its two files, and with "
                "`double_checkpoint=True` the two `.bkp` files in its folder, copied over "
                "those without the suffix, are the state before this epoch."
            )

    def warn_if_batches_missing(self, monitor: str, step: int, every: int) -> None:
        """Warns if `fit` begins between two steps at which the mean of batches is observed."""
        missing = step % every
        if missing:
            warn(
                f"`PlateauDecay` goes on at step {step}, between two observations, without the "
                f"batches since the last one: the mean of `{monitor}` at step "
                f"{step - missing + every} lacks {missing} of {every} steps. Pass the same "
                "`PlateauDecay` to the next `fit`, or, for a run that may be killed, "
                "`validation_data`, of which an observation needs nothing of the steps before."
            )

    def warn_if_monitor_missing(self, monitor: str, logs: dict[str, Any]) -> None:
        """Compares the monitored metric with the metrics of an epoch."""
        metrics = sorted(name for name in logs if not name.startswith("learning_rate"))
        if monitor in logs:
            self._missed = None
            if monitor.startswith("learning_rate"):
                self._once(
                    "monitor",
                    f"`PlateauDecay` monitors `{monitor}`, the rate that it changes itself. "
                    f"Pass one of the metrics as `monitor`: {metrics}.",
                )
        elif self._missed is not None:
            self._missed.update(metrics)
            validated = any(name.startswith("val_") for name in metrics)
            # Without validation in this epoch, the metric may come later: `validation_freq=2`.
            if validated or not monitor.startswith("val_"):
                self._metric_missing(monitor)

    def warn_if_never_monitored(self, monitor: str) -> None:
        """Compares the monitored metric with the metrics of all epochs of the training run."""
        if self._missed:
            self._metric_missing(monitor)

    def _metric_missing(self, monitor: str) -> None:
        warn(
            f"`PlateauDecay` monitors `{monitor}`, which is not among the metrics, so the "
            f"learning rate is not reduced. The metrics are: {sorted(self._missed or ())}. "
            "Pass one of them as `monitor`, or `validation_data` to `fit`."
        )
        self._missed = None

    def leave_rates(self, optimizer: Any, reduced: bool = False) -> None:
        """Notes the float rates, to see later whether anything else changes them."""
        self._reduced |= reduced
        self._left = {
            name: effective_rate(inner)
            for name, inner in named_optimizers(optimizer)
            if schedule_of(inner) is None
        }

    def warn_if_rates_moved(self, optimizer: Any) -> None:
        """Compares the float rates with those that the callback left."""
        moved = {
            effective_rate(inner) > self._left[name]
            for name, inner in named_optimizers(optimizer)
            if name in self._left and effective_rate(inner) != self._left[name]
        }
        if True in moved and self._reduced:
            self._once(
                "raised",
                "The learning rate stands above where `PlateauDecay` has left it: something else "
                "sets it, as `LearningRateScheduler` does in every epoch. Give the optimizer a "
                "schedule instead, such as `keras_decay.EpochSchedule.from_function`, which "
                "`PlateauDecay` scales.",
            )
        elif False in moved:
            self._once(
                "lowered",
                "The learning rate stands below where `PlateauDecay` has left it: another callback "
                "lowers it too, such as `ReduceLROnPlateau` or `LearningRateScheduler`. Keep one "
                "of the two; a schedule of the optimizer's own, `PlateauDecay` scales.",
            )

    def warn_if_at_floor(self, reductions: int, rates: dict[str, float], floor: float) -> None:
        """Warns if the first reduction is due and the rates are at their floor."""
        if reductions == 0 and 0.0 < min(rates.values()) <= rate_used(floor, 0):
            self._once(
                "floor",
                f"A reduction is due, but the learning rate is at its floor already: {rates}. "
                "Pass a lower `min_learning_rate`, or a schedule that does not fall to it by "
                f"itself. Received: min_learning_rate={floor}",
            )

    def warn_of_recovery(self, kept: bool, was_finite: bool, reduced: bool) -> None:
        """Warns if a recovery has nothing to go back to, or will not help."""
        if not kept:
            self._once(
                "nothing kept",
                "`PlateauDecay` has nothing to go back to: the model or its optimizer had no "
                "variables yet when training began, or had some that were not finite. Build both "
                "first: `model.build`, `optimizer.build(model.trainable_variables)`.",
            )
            return
        if not was_finite:
            self._once(
                "start",
                "`PlateauDecay` goes back to the weights of the start of training, since no epoch "
                "was finite.",
            )
        if not reduced:
            self._once(
                "stuck",
                "`PlateauDecay` goes back to the last finite epoch at the same learning rate, "
                "which cannot be reduced any more: the same will happen again. Lower "
                "`min_learning_rate`, or pass `stop_at_minimum=True`.",
            )


def usable_weights(best: Sequence[Any] | None, model: Any) -> Sequence[Any] | None:
    """The best weights, if they are known and still fit the model; warns if not."""
    if best is None:
        warn(
            "`PlateauDecay` has restored no weights, since the best weights are not known: "
            "no value was finite, or the best one comes from a run without "
            "`restore_best_weights` or from `load_model`, which does not load them. "
            "`load_weights` and `BackupAndRestore` do."
        )
    elif [each.shape for each in best] != [tuple(each.shape) for each in model.weights]:
        warn(
            "`PlateauDecay` has restored no weights and forgets the best ones, since their "
            "number or shapes are no longer the model's: a layer was added, or the model was "
            "quantized."
        )
        best = None
    return best
