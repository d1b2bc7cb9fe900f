"""Mistakes in a training run that no curve shows: one warning each, with the fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_decay.optimizer._rates import (
    effective_rate,
    learning_rates,
    named_optimizers,
    rate_used,
    schedule_of,
    warn,
)
from keras_decay.optimizer._state import State
from keras_decay.schedules._base import counting_steps, iter_schedules


class Warnings:
    """The warnings about one optimizer in one `fit`, by any callback; none is repeated."""

    def __init__(self) -> None:
        self._warned: set[str] = set()
        self._missed: list[str] | None = []
        """The metrics of the last epoch, as long as the monitored one has not been among them."""
        self._left: dict[str, float] = {}
        """The float rates as the plateau last saw or set them."""
        self._reduced = False
        """Whether the plateau has reduced them."""

    def _once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warn(message)

    # For any training run.

    def warn_if_epochs_differ(self, inner: list[Any], steps: int) -> None:
        """Compares the `steps_per_epoch` of schedules with that of this run."""
        for optimizer in inner:
            for each in iter_schedules(schedule_of(optimizer)):
                own = getattr(each, "steps_per_epoch", None)
                # With `steps_per_epoch=1` a schedule counts in steps.
                if own not in (None, 1, steps):
                    self._once(
                        f"`{type(each).__name__}` counts epochs of {own} steps, but an epoch of "
                        f"this run has {steps}. Pass `steps_per_epoch={steps}` to the schedule."
                    )

    def warn_if_starting_over(self, inner: list[Any], epoch: int, steps: int | None) -> None:
        """Warns if a `fit` starts at a later epoch with schedules that begin at step 0."""
        if epoch > 0 and any(counting_steps(schedule_of(each)) for each in inner):
            self._once(
                f"Training starts at epoch {epoch}, but the optimizer is at step 0, so its "
                "learning-rate schedule, which counts steps, starts over. Load the optimizer's "
                "state too (`load_model`, `BackupAndRestore`, or `load_weights` after `compile`, "
                "`optimizer.build` and `PlateauDecay.attach`), or set its counter: "
                f"`model.optimizer.iterations.assign({epoch * steps if steps else 'step'})`."
            )

    def warn_if_idle(self, optimizer: Any, counted: list[int], alone: bool) -> None:
        """Warns if the optimizer, or one inside it, has counted no step in an epoch.

        Args:
            optimizer: The optimizer.
            counted: The steps that each of its inner optimizers has counted.
            alone: Whether no other optimizer is watched, which may be the one that trains.
        """
        if any(counted):
            for (name, _), each in zip(named_optimizers(optimizer), counted, strict=False):
                if each == 0:
                    self._once(
                        f"The inner optimizer `{name[1:]}` has taken no step in this epoch, while "
                        "others have: its pattern matches no trainable variable."
                    )
        elif alone:
            self._once(
                "The optimizer has taken no step in this epoch, so its learning rate changes "
                "nothing. If another optimizer of the model trains it, pass the name of its "
                'attribute to `PlateauDecay`, as in `optimizer="g_optimizer"`.'
            )

    def warn_if_ahead(self, inner: list[Any], counted: int, batches: int) -> None:
        """Warns if TensorFlow has counted one step more than an epoch has."""
        if counted == batches + 1 and any(counting_steps(schedule_of(each)) for each in inner):
            self._once(
                f"The optimizer has counted {counted} steps in an epoch of {batches} batches, so "
                "its schedule runs ahead: TensorFlow does so on data of unknown size. Tell it: "
                "`dataset.apply(tf.data.experimental.assert_cardinality(batches))`, or pass "
                "`steps_per_epoch` to `fit`."
            )

    def warn_if_zero(self, optimizer: Any, first: int, last: int) -> None:
        """Warns if the rate of a schedule has been exactly 0 for an epoch."""
        for name, inner in named_optimizers(optimizer):
            schedule = schedule_of(inner)
            if schedule is None or any(rate_used(schedule, step) for step in (last, first)):
                continue
            of = f" of `{name[1:]}`" if name else ""
            self._once(
                f"The learning rate{of} has been exactly 0 for an epoch: its schedule has ended. "
                "Give the schedule as many steps as the run has, or a rate to end at."
            )

    # For a plateau.

    def warn_if_state_differs(self, state: State, epoch: int, done: int, resumed: bool) -> None:
        """Compares the first epoch of a `fit` with the last one that the state has seen."""
        last = state.clock.epoch
        if epoch > 0 and done > 0 and state.clock.epochs == 0 and not state.has_observed:
            self._once(
                f"Training goes on at epoch {epoch}, but `PlateauDecay` has no state of the "
                "epochs before. Call `attach(model)` before `load_weights`, or there is no place "
                "for the state in the file. (A whole-model file keeps none of a float rate; of "
                "`PlateauScale(0.1)` it does.)"
            )
        if last is None or not state.loaded:
            return
        if epoch == last + 2:
            self._once(
                f"`PlateauDecay` goes on at epoch {epoch} without the observation of epoch "
                f"{last + 1}, which the state that was loaded does not hold. If it was saved "
                "at the end of that epoch, put `PlateauDecay` before `BackupAndRestore` and "
                "`ModelCheckpoint` in `callbacks`."
            )
        elif epoch == last and (epoch > 0 or resumed):
            self._once(
                f"Epoch {epoch} is trained a second time: the state that was loaded had been "
                "saved at its end. If `BackupAndRestore` was killed while it wrote its two files, "
                "those that end in `.bkp` (`double_checkpoint=True`) hold the state before it."
            )

    def warn_if_batches_missing(self, monitor: str, step: int, every: int) -> None:
        """Warns if `fit` begins between two steps at which the mean of batches is observed."""
        missing = step % every
        if missing:
            self._once(
                f"`PlateauDecay` goes on at step {step}, between two observations, without the "
                f"batches since the last one: the mean of `{monitor}` at step "
                f"{step - missing + every} lacks {missing} of {every} steps. Pass the same "
                "`PlateauDecay` to the next `fit`, or, for a run that may be killed, "
                "`validation_data`."
            )

    def warn_if_monitor_missing(self, monitor: str, logs: dict[str, Any]) -> None:
        """Compares the monitored metric with the metrics of an epoch."""
        metrics = sorted(name for name in logs if not name.startswith("learning_rate"))
        if monitor in logs:
            self._missed = None
            if monitor.startswith("learning_rate"):
                self._once(
                    f"`PlateauDecay` monitors `{monitor}`, the rate that it changes itself. "
                    f"Pass one of the metrics as `monitor`: {metrics}."
                )
        elif self._missed is not None:
            self._missed = metrics
            validated = any(name.startswith("val_") for name in metrics)
            # Without validation in this epoch, the metric may come later: `validation_freq=2`.
            if validated or not monitor.startswith("val_"):
                self.warn_if_never_monitored(monitor)

    def warn_if_never_monitored(self, monitor: str) -> None:
        """Warns if no epoch has had the monitored metric."""
        if self._missed:
            self._once(
                f"`PlateauDecay` monitors `{monitor}`, which is not among the metrics, so the "
                f"learning rate is not reduced. The metrics are: {self._missed}. "
                "Pass one of them as `monitor`, or `validation_data` to `fit`."
            )
            self._missed = None

    def leave_rates(self, optimizer: Any, reduced: bool = False) -> None:
        """Notes the float rates, to see later whether anything else changes them."""
        self._reduced |= reduced
        self._left = float_rates(optimizer)

    def warn_if_rates_moved(self, optimizer: Any) -> None:
        """Compares the float rates with those that the callback left."""
        now = float_rates(optimizer)
        moved = [rate - self._left[name] for name, rate in now.items() if name in self._left]
        if max(moved, default=0.0) > 0 and self._reduced:
            self._once(
                "The learning rate stands above where `PlateauDecay` has left it: something else "
                "sets it, as `LearningRateScheduler` does in every epoch. Give the optimizer a "
                "schedule instead, such as `keras_decay.EpochSchedule.from_function`, which "
                "`PlateauDecay` scales."
            )
        elif min(moved, default=0.0) < 0:
            self._once(
                "The learning rate stands below where `PlateauDecay` has left it: another callback "
                "lowers it too, such as `ReduceLROnPlateau` or `LearningRateScheduler`. Keep one "
                "of the two; a schedule of the optimizer's own, `PlateauDecay` scales."
            )

    def warn_if_at_floor(self, optimizer: Any, floor: float) -> None:
        """Warns if the rates are at their floor when the first reduction is due."""
        if 0.0 < min(learning_rates(optimizer).values()) <= rate_used(floor, 0):
            self._once(
                "A reduction is due, but the learning rate is at its floor already. Pass a lower "
                "`min_learning_rate`, or a schedule that does not fall to it by itself. "
                f"Received: min_learning_rate={floor}"
            )

    def warn_of_recovery(self, kept: bool, was_finite: bool, reduced: bool) -> None:
        """Warns if a recovery has nothing to go back to, or will not help."""
        if not kept:
            self._once(
                "`PlateauDecay` has nothing to go back to: when training began, the model or its "
                "optimizer was not built, or not finite. Build both first: `model.build`, "
                "`optimizer.build(model.trainable_variables)`."
            )
        elif not was_finite:
            self._once(
                "`PlateauDecay` goes back to the weights of the start of training, since no epoch "
                "was finite."
            )
        if kept and not reduced:
            self._once(
                "`PlateauDecay` goes back to the last finite epoch at the same learning rate, "
                "which cannot be reduced any more: the same will happen again. Lower "
                "`min_learning_rate`, or pass `stop_at_minimum=True`."
            )


def float_rates(optimizer: Any, suffix: str = "") -> dict[str, float]:
    """The rates that no schedule gives, by their names in the logs."""
    return {
        f"learning_rate{name}": effective_rate(inner)
        for name, inner in named_optimizers(optimizer, suffix)
        if schedule_of(inner) is None
    }


def usable_weights(best: Sequence[Any] | None, model: Any) -> Sequence[Any] | None:
    """The best weights, if they are known and still fit the model; warns if not."""
    if best is None:
        warn(
            "`PlateauDecay` has restored no weights, since the best weights are not known: no "
            "value was finite, or the best one comes from a run without `restore_best_weights` or "
            "from `load_model`. (`load_weights` and `BackupAndRestore` load them.)"
        )
    elif [each.shape for each in best] != [tuple(each.shape) for each in model.weights]:
        warn(
            "`PlateauDecay` has restored no weights and forgets the best ones, since their number "
            "or shapes are no longer the model's: a layer was added, or the model was quantized."
        )
        return None
    return best
