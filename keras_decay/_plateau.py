"""The callback that lowers the learning rate when a metric stops improving."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from keras_decay import _checks, _keras
from keras_decay._backend import to_number
from keras_decay._logging import RateCallback, learning_rates, warn
from keras_decay._memory import PlateauMemory, take_hold
from keras_decay._processes import agreed
from keras_decay._rule import Memory, Rule
from keras_decay._schedules import register

ONLY_ONE = (
    "An optimizer can have only one `PlateauDecay`: a second one would count every observation "
    "twice. Remove one of them."
)


@register
class PlateauDecay(RateCallback):
    """Multiplies the learning rate by a factor when a metric has stopped improving.

    At the end of each epoch whose logs hold `monitor` (one observation):

    ```
    better = best is None or value < best - d     (mode "min"; "max" mirrors it)
    d      = min_delta, or min_delta * |best| with relative=True
    a value that is not finite is never better and never stored as best

    reduce_on="plateau":      better -> best = value, wait = 0.
                              Not better: while cooling down, uses up one of the cooldown;
                              else wait += 1, and wait == patience -> reduce, wait = 0.
    reduce_on="improvement":  better (but for the first) and not cooling down -> wait += 1,
                              and wait == patience -> reduce, wait = 0.
    reduce:                   scale *= factor, and with it
                              learning_rate = max(base * scale, min(base, min_learning_rate))
    ```

    `base` is what the optimizer's schedule gives at the step. A plateau never raises a rate;
    where the rate would not change, nothing is reduced. After a reduction exactly `cooldown`
    observations are not counted; a better one among them still becomes the best.

    It works with any learning rate. A float is multiplied in place, from wherever it stands. A
    schedule is put into a `PlateauScale`, which the compiled training step follows without
    being compiled anew. In `LossScaleOptimizer` and `MultiOptimizer` the inner optimizers are
    reduced, all by the same decision.

    The memory (`best`, `wait`, `cooldown`, `scale`, `reductions`) belongs to the optimizer and
    is saved with it: a second `fit`, a new `PlateauDecay` object, `load_model` and
    `BackupAndRestore` go on where it was; a new optimizer starts afresh. One exception: a
    whole-model file keeps nothing of a float rate but the rate, so there the memory starts
    afresh; `learning_rate=PlateauScale(0.1)` instead of `0.1` is the way round.

    Put it before `BackupAndRestore` and `ModelCheckpoint` in the list of callbacks, so that
    they save the epoch's observation too.

    Where several processes train the model together, an observation is the mean of their
    values, so all of them decide the same; do on every process what you do on one.

    When training begins it warns, as `LearningRateLogger` does, of a schedule whose
    `steps_per_epoch` is not the run's and of one that starts over.

    At each epoch end it adds to the logs: `learning_rate`, the rate of the epoch's last step,
    and, over a schedule, `learning_rate_scale`, the scale of that step. (With a
    `MultiOptimizer`, `learning_rate_<name>` of each inner optimizer.) A rate that is in the
    logs already stays.

    Args:
        monitor: String, the name of the metric in the logs.
        factor: Float in (0, 1), what the rate is multiplied by at a reduction.
        patience: Int >= 1, the number of observations to wait for.
        mode: "min", "max" or "auto". "auto" is "min" for a loss and else the direction that
            the Keras metric declares; where it declares none, pass the mode.
        min_delta: Float >= 0, by how much a value has to be better.
        relative: Whether `min_delta` is a fraction of the best value.
        cooldown: Int >= 0, the number of observations after a reduction that do not count.
        min_learning_rate: Float >= 0, the floor.
        reduce_on: "plateau", or "improvement": reduce each time the metric has improved
            `patience` times (patience=1: at every improvement).
        start_from_epoch: Int >= 0, the first epoch (from 0) whose observation counts.
        restore_best_weights: Whether to go on from the best weights seen at a reduction. They
            are kept on the host: one more copy of the model's weights. The optimizer's own
            state (momentum, ...) stays as it is, so a training whose gradients were NaN is not
            mended by them.
        stop_at_minimum: Whether to stop training when a reduction is due and the rate is at
            its floor.
        verbose: 1 prints a line at each reduction.

    Raises:
        TypeError: an argument of the wrong type; a learning rate that is neither a float nor a
            `LearningRateSchedule`.
        ValueError: an argument out of its range; `mode="auto"` and a metric that declares no
            direction; two `PlateauDecay` on one optimizer.
        RuntimeError: processes that train the model together and have different rates.

    Example:

    >>> plateau = keras_decay.PlateauDecay(factor=0.5, patience=5)
    >>> # model.fit(x, y, validation_split=0.2, epochs=100, callbacks=[plateau])

    Source: the second technique of the lecture notes; `ReduceLROnPlateau` in Keras and
    PyTorch.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        *,
        mode: str = "auto",
        min_delta: float = 1e-4,
        relative: bool = False,
        cooldown: int = 0,
        min_learning_rate: float = 0.0,
        reduce_on: str = "plateau",
        start_from_epoch: int = 0,
        restore_best_weights: bool = False,
        stop_at_minimum: bool = False,
        verbose: int = 0,
    ):
        super().__init__()
        self.monitor = _checks.string("monitor", monitor)
        self.factor = _checks.real("factor", factor, "a number in (0, 1)", above=0.0, below=1.0)
        self.patience = _checks.integer("patience", patience, 1)
        self.mode = _checks.choice("mode", mode, ("auto", "min", "max"))
        self.min_delta = _checks.real("min_delta", min_delta, "a finite number >= 0", at_least=0.0)
        self.relative = _checks.boolean("relative", relative)
        self.cooldown = _checks.integer("cooldown", cooldown, 0)
        self.min_learning_rate = _checks.min_learning_rate(min_learning_rate)
        self.reduce_on = _checks.choice("reduce_on", reduce_on, ("plateau", "improvement"))
        self.start_from_epoch = _checks.integer("start_from_epoch", start_from_epoch, 0)
        self.restore_best_weights = _checks.boolean("restore_best_weights", restore_best_weights)
        self.stop_at_minimum = _checks.boolean("stop_at_minimum", stop_at_minimum)
        self.verbose = _checks.integer("verbose", verbose, 0)
        self._rule = Rule(
            factor=self.factor,
            patience=self.patience,
            min_delta=self.min_delta,
            relative=self.relative,
            cooldown=self.cooldown,
            on_improvement=self.reduce_on == "improvement",
        )
        self._memory: PlateauMemory | None = None
        self._in_fit = False
        self._loaded_before = False
        self._missed: set[str] | None = None

    def get_config(self) -> dict[str, Any]:
        return {
            "monitor": self.monitor,
            "factor": self.factor,
            "patience": self.patience,
            "mode": self.mode,
            "min_delta": self.min_delta,
            "relative": self.relative,
            "cooldown": self.cooldown,
            "min_learning_rate": self.min_learning_rate,
            "reduce_on": self.reduce_on,
            "start_from_epoch": self.start_from_epoch,
            "restore_best_weights": self.restore_best_weights,
            "stop_at_minimum": self.stop_at_minimum,
            "verbose": self.verbose,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PlateauDecay:
        return cls(**config)

    def __reduce__(self) -> Any:
        # A copy is another callback: the model and the memory are not its own.
        return type(self).from_config, (self.get_config(),)

    @property
    def state(self) -> dict[str, Any]:
        """The memory: `best` (`None` before the first finite value), `wait`, `cooldown`,
        `scale`, `reductions`."""
        state = asdict(self._attached().memory)
        del state["epoch"]  # It tells resumed runs apart, and is no part of the rule.
        return state

    def reset(self) -> None:
        """Forgets all that was observed. A schedule is back at its own rate; a float rate
        stays where it is."""
        attached = self._attached()
        attached.write(Memory())
        attached.best_weights = None

    def attach(self, model: Any) -> None:
        """Takes hold of the model's optimizer, as `fit` does first.

        Call it in a custom training loop, before the step is compiled; and before
        `load_weights`, which else finds no place for the memory that the file holds.

        Args:
            model: A compiled model, or any object with an `optimizer`.

        Raises:
            TypeError: a learning rate that is neither a float nor a `LearningRateSchedule`.
            ValueError: no optimizer.
            ImportError: a schedule, on a JAX before 0.7.2.
        """
        optimizer = getattr(model, "optimizer", None)
        if optimizer is None:
            raise ValueError(
                "`PlateauDecay` needs a model with an optimizer. Call "
                "`model.compile(optimizer=...)` first."
            )
        if self.model is not model:
            super().set_model(model)
        self._memory = take_hold(model, self.min_learning_rate)
        self._memory.owner = id(self)

    def update(self, value: Any, epoch: int | None = None) -> bool:
        """Takes one observation, as `fit` does at the end of an epoch.

        Where several processes train the model together, each of them calls it, with its own
        value, and waits for the others: what counts is the mean.

        Args:
            value: The metric: a number, or a scalar array or tensor.
            epoch: Int or `None`, the epoch (from 0), for `start_from_epoch`.

        Returns:
            Whether the learning rate was reduced.

        Raises:
            RuntimeError: no `attach` before; processes whose rates or memories differ.
            ValueError: `mode="auto"` and a metric that declares no direction; another
                `PlateauDecay` has taken hold of the optimizer.
        """
        attached = self._owned()
        if epoch is not None and epoch < self.start_from_epoch:
            return False
        number = agreed(float(to_number(value)), self.model, attached.memory)
        memory, due = self._rule.observe(attached.memory, number, self._direction())
        if memory.best != attached.memory.best:
            attached.best_weights = self.model.get_weights() if self.restore_best_weights else None
        attached.write(memory)
        if not due:
            return False
        if not self._reduce(attached):
            if self.stop_at_minimum:
                self.model.stop_training = True
            return False
        if self.restore_best_weights:
            self._restore(attached)
        if self.verbose:
            at = "" if epoch is None else f"Epoch {epoch + 1}: "
            rates = ", ".join(
                f"{rate:.6g}" for rate in learning_rates(self.model.optimizer).values()
            )
            print(f"\n{at}PlateauDecay reduces the learning rate to {rates}.")
        return True

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        self.attach(model)
        self._in_fit = False
        attached = self._attached()
        # What is loaded from now on, `BackupAndRestore` loads.
        self._loaded_before, attached.loaded = attached.loaded, False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._in_fit:  # The same one, listed twice.
            raise ValueError(ONLY_ONE)
        self._owned()
        super().on_train_begin(logs)
        self._in_fit = True
        self._missed = set()
        # Keras may not have built its metrics yet; where it has, no epoch is trained in vain.
        if self.monitor.removeprefix("val_") in _keras.metric_directions(self.model):
            self._direction()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        attached = self._attached()
        last = attached.memory.epoch
        restored = attached.loaded
        if (restored or self._loaded_before) and last is not None:
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
        self._loaded_before = attached.loaded = False

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._missed:
            self._warn_missing()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        attached = self._attached()
        names = sorted(logs)
        super().on_epoch_end(epoch, logs)
        if attached.scales:
            logs["learning_rate_scale"] = attached.memory.scale
        attached.write(replace(attached.memory, epoch=epoch))
        if self.monitor in logs:
            self._missed = None
            self.update(logs[self.monitor], epoch)
        elif self._missed is not None:
            self._missed.update(names)
            validated = any(name.startswith("val_") for name in names)
            # Without validation in this epoch it may still come: `validation_freq=2`.
            if validated or not self.monitor.startswith("val_"):
                self._warn_missing()

    def _restore(self, attached: PlateauMemory) -> None:
        if attached.best_weights is None:
            warn(
                "`PlateauDecay` has restored no weights, since the best weights are not known: "
                "no value was finite, or the best one comes from a run without "
                "`restore_best_weights` or from `load_model`, which does not load them. "
                "`load_weights` and `BackupAndRestore` do."
            )
            return
        self.model.set_weights(attached.best_weights)

    def _warn_missing(self) -> None:
        warn(
            f"`PlateauDecay` monitors `{self.monitor}`, which is not among the metrics, so the "
            f"learning rate is not reduced. The metrics are: {sorted(self._missed or ())}. "
            "Pass one of them as `monitor`, or `validation_data` to `fit`."
        )
        self._missed = None

    def _attached(self) -> PlateauMemory:
        if self._memory is None:
            raise RuntimeError(
                "This `PlateauDecay` has no optimizer yet. Pass it to `fit`, or call "
                "`attach(model)` first."
            )
        return self._memory

    def _owned(self) -> PlateauMemory:
        # In one `fit`, Keras has called `set_model` on all callbacks before anything else: the
        # last one that attached itself owns the memory, and any other would count it again.
        attached = self._attached()
        if attached.owner != id(self):
            raise ValueError(ONLY_ONE)
        return attached

    def _direction(self) -> str:
        if self.mode != "auto":
            return self.mode
        name = self.monitor.removeprefix("val_")
        direction = "min" if name == "loss" else _keras.metric_directions(self.model).get(name)
        if direction is None:
            raise ValueError(
                f"`PlateauDecay` cannot tell whether `{self.monitor}` gets better downwards or "
                'upwards, since its metric declares no direction. Pass mode="min" or '
                f'mode="max". Received: monitor={self.monitor!r}, mode="auto"'
            )
        return direction

    def _reduce(self, attached: PlateauMemory) -> bool:
        """Lowers the rates of all optimizers; returns whether that changed any."""
        # A schedule may have been set, or a `MultiOptimizer` been built, since `attach`.
        self.attach(self.model)
        memory, rates = attached.memory, learning_rates(self.model.optimizer)
        for leaf in _keras.leaf_optimizers(self.model.optimizer):
            rate = _keras.learning_rate(leaf)
            if _keras.is_variable(rate):
                old = float(to_number(rate))
                leaf.learning_rate = max(old * self.factor, min(old, self.min_learning_rate))
        attached.write(self._rule.reduce(memory))
        if learning_rates(self.model.optimizer) == rates:
            attached.write(memory)
            return False
        return True
