"""What goes wrong in a training and shows in no curve: what is compared, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_decay._formula import within
from keras_decay._memory import PlateauMemory
from keras_decay._rates import effective_rate, named_optimizers, schedule_of, warn
from keras_decay._rule import Memory


class Doubts:
    """What one callback compares in one `fit`.

    Args:
        said: What has been said of the optimizer in this `fit`, by any callback: none says it
            again. `None` outside of a `fit`.
    """

    def __init__(self, said: set[str] | None = None):
        self._said = set() if said is None else said
        self._missed: set[str] | None = None if said is None else set()
        """The metrics of the epochs so far, until the one that is monitored is among them."""
        self._left: dict[str, float] = {}
        """Where the last reduction left the float rates."""

    def _once(self, key: str, message: str) -> None:
        if key not in self._said:
            self._said.add(key)
            warn(message)

    # Of any training.

    def compare_epochs(self, leaves: list[Any], steps: int | None) -> None:
        """The steps that schedules take for an epoch, with those of this run."""
        for leaf in leaves if steps else ():
            for each in within(schedule_of(leaf)):
                own = getattr(each, "steps_per_epoch", None)
                # With one step to an epoch a schedule counts in steps.
                if own not in (None, 1, steps):
                    name = type(each).__name__
                    self._once(
                        f"{name} {own}",
                        f"`{name}` counts epochs of {own} steps, but an epoch of this run has "
                        f"{steps}. Pass `steps_per_epoch={steps}` to the schedule.",
                    )

    def compare_clock(self, leaves: list[Any], epoch: int, done: int, steps: int | None) -> None:
        """The first epoch of a `fit`, with the steps that the optimizer has done."""
        if epoch > 0 and done == 0 and any(schedule_of(leaf) is not None for leaf in leaves):
            self._once(
                "starts over",
                f"Training starts at epoch {epoch}, but the optimizer is at step 0, so its "
                "learning-rate schedule starts over. Load the optimizer's state too "
                "(`keras.models.load_model`, `BackupAndRestore`, or `load_weights` after "
                "`compile`, `optimizer.build` and `PlateauDecay.attach`), or set its clock: "
                f"`model.optimizer.iterations.assign({epoch * steps if steps else 'step'})`.",
            )

    def compare_steps(self, counted: int, batches: int, size_known: bool, alone: bool) -> None:
        """The steps that the optimizer has counted in an epoch, with its batches."""
        # Where another callback watches another optimizer, the user knows of both.
        if counted == 0 and alone:
            self._once(
                "idle",
                "The optimizer has taken no step in this epoch, so its learning rate changes "
                "nothing. If another optimizer of the model trains it, pass the name of its "
                'attribute to `PlateauDecay`, as in `optimizer="g_optimizer"`.',
            )
        if counted == batches + 1 and not size_known:
            self._once(
                "counter",
                f"The optimizer has counted {counted} steps in an epoch of {batches} batches, so "
                "its schedule runs ahead: TensorFlow does so on data of unknown size. Tell it: "
                "`dataset.apply(tf.data.experimental.assert_cardinality(batches))`, or pass "
                "`steps_per_epoch` to `fit`.",
            )

    # Of a plateau.

    def compare_memory(
        self, attached: PlateauMemory, epoch: int, done: int, loaded_before: bool
    ) -> None:
        """The first epoch of a `fit`, with the last one that was observed."""
        last, restored = attached.memory.epoch, attached.loaded
        if epoch > 0 and done > 0 and attached.memory == Memory():
            warn(
                f"Training goes on at epoch {epoch}, but `PlateauDecay` has no memory of the "
                "epochs before. If the optimizer's weights were loaded from a file: call "
                "`attach(model)` before `load_weights`, or there is no place for the memory that "
                "the file holds. (A whole-model file keeps none of a float rate; of "
                "`PlateauScale(0.1)` it does.)"
            )
        if last is None or not (restored or loaded_before):
            return
        if epoch == last + 2:
            warn(
                f"`PlateauDecay` goes on at epoch {epoch} without the observation of epoch "
                f"{last + 1}, which the state that was loaded does not hold. If it was saved "
                "at the end of that epoch, put `PlateauDecay` before `BackupAndRestore` and "
                "`ModelCheckpoint` in `callbacks`."
            )
        elif epoch == last and (epoch > 0 or restored):
            warn(
                f"Epoch {epoch} is trained a second time: the state that was loaded had been "
                "saved at its end. If `BackupAndRestore` starts there, the process was "
                "killed between the writing of its two files, and with "
                "`double_checkpoint=True` the two `.bkp` files in its folder, copied over "
                "those without the suffix, are the state before this epoch."
            )

    def compare_metrics(self, monitor: str, logs: dict[str, Any]) -> None:
        """The metric that is monitored, with those of an epoch."""
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
            # Without validation in this epoch it may still come: `validation_freq=2`.
            if validated or not monitor.startswith("val_"):
                self._metric_missing(monitor)

    def compare_all_metrics(self, monitor: str) -> None:
        """The metric that is monitored, with those of all epochs of the training."""
        if self._missed:
            self._metric_missing(monitor)

    def _metric_missing(self, monitor: str) -> None:
        warn(
            f"`PlateauDecay` monitors `{monitor}`, which is not among the metrics, so the "
            f"learning rate is not reduced. The metrics are: {sorted(self._missed or ())}. "
            "Pass one of them as `monitor`, or `validation_data` to `fit`."
        )
        self._missed = None

    def rates_left(self, optimizer: Any) -> None:
        """Takes down where a reduction leaves the float rates."""
        self._left = {
            name: effective_rate(leaf)
            for name, leaf in named_optimizers(optimizer)
            if schedule_of(leaf) is None
        }

    def compare_rates(self, optimizer: Any) -> None:
        """The float rates, with where the last reduction left them."""
        raised = [
            name
            for name, leaf in named_optimizers(optimizer)
            if name in self._left and effective_rate(leaf) > self._left[name]
        ]
        if raised:
            self._once(
                "raised",
                "The learning rate stands above where `PlateauDecay` has left it: something else "
                "sets it, as `LearningRateScheduler` does in every epoch. Give the optimizer a "
                "schedule instead, such as `keras_decay.EpochSchedule.from_function`, which "
                "`PlateauDecay` scales.",
            )

    def compare_recovery(self, kept: bool, was_finite: bool, reduced: bool) -> None:
        """What a recovery goes back to, with what there should be."""
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
    """The best weights, if they are known and are still the model's."""
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
