"""The callback that lowers the learning rate when a metric stops improving."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras

from keras_decay import _checks, _keras
from keras_decay._backend import to_number
from keras_decay._callback import RateCallback
from keras_decay._config import register
from keras_decay._doubts import usable_weights
from keras_decay._hold import renew_step, take_hold
from keras_decay._memory import PlateauMemory, Record
from keras_decay._processes import agreed
from keras_decay._rates import learning_rates
from keras_decay._rule import Memory, Rule
from keras_decay._writes import Snapshot, Writes, reduction

ONLY_ONE = (
    "An optimizer can have only one `PlateauDecay`: a second one would count every observation "
    "twice. Remove one of them."
)
ONE_FIT = (
    "This `PlateauDecay` is in another `fit` that has not ended. Give each `fit` that runs at the "
    "same time a callback of its own."
)
CLAIMING = threading.Lock()
STATE = ("best", "wait", "cooldown", "scale", "reductions")


@register
class PlateauDecay(RateCallback):
    """Multiplies the learning rate by a factor when a metric has stopped improving.

    At the end of each epoch whose logs hold `monitor` (one observation):

    ```
    value  = what was observed; with smoothing=s its moving average, average / (1 - s ** n),
             where average = s * average + (1 - s) * observed, after n finite observations
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
    they save the epoch's observation too. Where several processes train the model together, an
    observation is the mean of their values; do on every process what you do on one.

    Before training it does what `LearningRateLogger` does: tells schedules how many steps an
    epoch has, and warns. At each epoch end it adds to the logs: `learning_rate`, the rate of the
    epoch's last step, and, over a schedule, `learning_rate_scale`, the scale of that step. (With
    a `MultiOptimizer`, `learning_rate_<name>` of each inner optimizer; with `optimizer=`, that
    name at the end.) A rate that is in the logs already stays.

    Args:
        monitor: String, the name of the metric in the logs.
        factor: Float in (0, 1), what the rate is multiplied by at a reduction.
        patience: Int >= 1, the number of observations to wait for; or a sequence of them, whose
            entry i is the patience before reduction i, the last one from there on.
        mode: "min", "max" or "auto". "auto" is "min" for a loss and else the direction that
            the Keras metric declares; where it declares none, pass the mode.
        min_delta: Float >= 0, by how much a value has to be better.
        relative: Whether `min_delta` is a fraction of the best value.
        smoothing: Float in [0, 1), the weight of the past in the moving average; 0 for none.
        cooldown: Int >= 0, the number of observations after a reduction that do not count.
        min_learning_rate: Float >= 0, the floor.
        max_reductions: Int >= 0, how many reductions there may be; `None` for any number.
        reduce_on: "plateau", or "improvement": reduce each time the metric has improved
            `patience` times (patience=1: at every improvement).
        start_from_epoch: Int >= 0, the first epoch (from 0) whose observation counts, in all
            calls of `fit` together.
        restore_best_weights: Whether to go on from the best weights seen at a reduction. They
            are kept on the host: one more copy of the model's weights. The optimizer's own
            state (momentum, ...) stays as it is.
        recover: Whether to go back, when the metric or the training loss of an epoch is not
            finite, to the end of the last epoch that was finite (or the start of training), with
            the weights and all of the optimizer but its step counter and rate, and to reduce at
            once. The copy is kept on the host and made anew at each epoch: as large as the weights
            and the optimizer's state (three times the weights with Adam), and twice that while it
            is made. (A loss that explodes and stays finite is not undone.)
        stop_at_minimum: Whether to stop training when a reduction is due and none can be made:
            at the floor, or after `max_reductions`.
        optimizer: String, the attribute of the model that holds the optimizer, for a model with
            several of them, each of which has a `PlateauDecay` of its own.
        verbose: 1 prints a line at each reduction.

    Raises:
        TypeError: an argument of the wrong type; a learning rate that is neither a float nor a
            `LearningRateSchedule`.
        ValueError: an argument out of its range; `mode="auto"` and a metric that declares no
            direction; two `PlateauDecay` on one optimizer; a schedule that is to learn its
            `steps_per_epoch` in a `fit` that does not know it.
        RuntimeError: processes that train the model together and have different rates.

    Example:

    >>> plateau = keras_decay.PlateauDecay(factor=0.5, patience=5)
    >>> # model.fit(x, y, validation_split=0.2, epochs=100, callbacks=[plateau])

    Source: the second technique of the lecture notes; `ReduceLROnPlateau` in Keras and
    PyTorch; the bias-corrected average of Kingma and Ba, "Adam" (2015), section 3.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int | Sequence[int] = 10,
        *,
        mode: str = "auto",
        min_delta: float = 1e-4,
        relative: bool = False,
        smoothing: float = 0.0,
        cooldown: int = 0,
        min_learning_rate: float = 0.0,
        max_reductions: int | None = None,
        reduce_on: str = "plateau",
        start_from_epoch: int = 0,
        restore_best_weights: bool = False,
        recover: bool = False,
        stop_at_minimum: bool = False,
        optimizer: str = "optimizer",
        verbose: int = 0,
    ):
        super().__init__()
        self.monitor = _checks.string("monitor", monitor)
        self.factor = _checks.real("factor", factor, "a number in (0, 1)", above=0.0, below=1.0)
        self.patience = _checks.patience(patience)
        self.mode = _checks.choice("mode", mode, ("auto", "min", "max"))
        self.min_delta = _checks.real("min_delta", min_delta, "a finite number >= 0", at_least=0.0)
        self.relative = _checks.boolean("relative", relative)
        self.smoothing = _checks.real(
            "smoothing", smoothing, "a number in [0, 1)", at_least=0.0, below=1.0
        )
        self.cooldown = _checks.integer("cooldown", cooldown, 0)
        self.min_learning_rate = _checks.min_learning_rate(min_learning_rate)
        self.max_reductions = (
            None if max_reductions is None else _checks.integer("max_reductions", max_reductions, 0)
        )
        self.reduce_on = _checks.choice("reduce_on", reduce_on, ("plateau", "improvement"))
        self.start_from_epoch = _checks.integer("start_from_epoch", start_from_epoch, 0)
        self.restore_best_weights = _checks.boolean("restore_best_weights", restore_best_weights)
        self.recover = _checks.boolean("recover", recover)
        self.stop_at_minimum = _checks.boolean("stop_at_minimum", stop_at_minimum)
        self.optimizer = _checks.string("optimizer", optimizer)
        self.verbose = _checks.integer("verbose", verbose, 0)
        self._rule = Rule(
            factor=self.factor,
            patience=(self.patience,) if isinstance(self.patience, int) else self.patience,
            min_delta=self.min_delta,
            relative=self.relative,
            smoothing=self.smoothing,
            cooldown=self.cooldown,
            max_reductions=self.max_reductions,
            on_improvement=self.reduce_on == "improvement",
        )
        self._memory: PlateauMemory | None = None
        self._thread: int | None = None
        """The thread of the `fit` that has this callback."""
        self._training = False
        self._loaded_before = False
        self._finite: Snapshot | None = None
        """The end of the last finite epoch, or the start of training."""
        self._was_finite = False

    def __getstate__(self) -> dict[str, Any]:
        # A copy is another callback: the memory and the training are not its own.
        return {
            **super().__getstate__(),
            "_memory": None,
            "_thread": None,
            "_training": False,
            "_finite": None,
        }

    @property
    def state(self) -> dict[str, Any]:
        """The memory: `best` (`None` before the first finite value), `wait`, `cooldown`,
        `scale`, `reductions`."""
        memory = self._attached().memory
        return {name: getattr(memory, name) for name in STATE}

    def reset(self) -> None:
        """Forgets all that was observed. A schedule is back at its own rate; a float rate
        stays where it is."""
        attached = self._attached()
        self.attach(self.model)
        attached.commit(Record(Memory()))

    def attach(self, model: Any) -> None:
        """Takes hold of the model's optimizer, as `fit` does first.

        Call it in a custom training loop, before the step is compiled; and before
        `load_weights`, which else finds no place for the memory that the file holds.

        Args:
            model: A compiled model, or any object with an `optimizer`.

        Raises:
            TypeError: a learning rate that is neither a float nor a `LearningRateSchedule`.
            ValueError: no optimizer.
        """
        optimizer = self._optimizer_of(model)
        if self.model is not model:
            super().set_model(model)
            self._finite, self._was_finite = None, False
        self._memory = take_hold(model, optimizer, self.min_learning_rate)
        if self._memory.owner != id(self):
            self._memory.owner = id(self)
        renew_step(model, optimizer)
        if self._finite is None:
            self._keep()

    def update(self, value: Any, epoch: int | None = None) -> bool:
        """Takes one observation, as `fit` does at the end of an epoch.

        Where several processes train the model together, each of them calls it, with its own
        value, and waits for the others: what counts is the mean.

        Args:
            value: The metric: a number, or a scalar array or tensor.
            epoch: Int >= 0 or `None`, the epoch (from 0), for `start_from_epoch`.

        Returns:
            Whether the learning rate was reduced.

        Raises:
            TypeError: `value` is no number, `epoch` no int.
            RuntimeError: no `attach` before; processes whose rates or memories differ.
            ValueError: `epoch` below 0; `mode="auto"` and a metric that declares no direction;
                another `PlateauDecay` has taken hold of the optimizer.
        """
        number = _number(value)
        if epoch is not None:
            epoch = _checks.integer("epoch", epoch, 0)
        self._owned()
        self.attach(self.model)  # A schedule may have been set since.
        return self._observe(number, epoch, math.isfinite(number))

    def reduce(self) -> bool:
        """Reduces the learning rate now, by hand, with all that a reduction brings.

        Returns:
            Whether the rate changed: not at its floor, nor after `max_reductions`.

        Raises:
            RuntimeError: no `attach` before.
            ValueError: another `PlateauDecay` has taken hold of the optimizer.
        """
        attached = self._owned()
        self.attach(self.model)
        return self._reduce(attached.record, None)

    def set_model(self, model: Any) -> None:
        self._claim()
        with self._free_after_an_error():
            super().set_model(model)
            self.attach(model)
        attached = self._attached()
        # What is loaded from now on, `BackupAndRestore` loads.
        self._loaded_before, attached.loaded = attached.loaded, False

    def _claim(self) -> None:
        """Makes this the callback of the `fit` in this thread, and of no other until its end."""
        alive = {thread.ident for thread in threading.enumerate()}
        with CLAIMING:
            if self._thread not in (None, threading.get_ident()) and self._thread in alive:
                raise ValueError(ONE_FIT)
            self._thread = threading.get_ident()
        # Still set where a `fit` before was stopped by an error, of which Keras says nothing.
        self._training = False

    @contextlib.contextmanager
    def _free_after_an_error(self) -> Iterator[None]:
        """A `fit` that this refuses has not got it."""
        try:
            yield
        except BaseException:
            self._thread, self._training = None, False
            raise

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        with self._free_after_an_error():
            if self._training:  # The same one, listed twice.
                raise ValueError(ONLY_ONE)
            self._owned()
            super().on_train_begin(logs)
        self._training = True
        self._was_finite = False
        # Keras may not have built its metrics yet; where it has, no epoch is trained in vain.
        if self.monitor.removeprefix("val_") in _keras.metric_directions(self.model):
            self._direction()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # What an interrupt left half done is done now; and a schedule may have been set, or a
        # `MultiOptimizer` been built, since the last epoch.
        self.attach(self.model)
        super().on_epoch_begin(epoch, logs)
        self._keep()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        attached = self._attached()
        super().on_epoch_end(epoch, logs)
        if attached.scales:
            logs[f"learning_rate_scale{self._suffix}"] = attached.memory.scale
        self._doubts.compare_rates(self._optimizer)
        finite = not self.recover or self._all_finite(logs)
        if self.monitor in logs or not finite:
            value = _number(logs[self.monitor]) if finite else math.nan
            self._observe(value, epoch, finite)
        else:
            self._was_finite = True
            self._commit(attached.record, attached.memory.after(epoch))
        self._doubts.compare_metrics(self.monitor, logs)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        if not self._training:  # `evaluate`, and not the validation of a `fit`.
            self._thread = None

    on_predict_end = on_test_end

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._thread, self._training = None, False
        self._finite = None
        self._doubts.compare_all_metrics(self.monitor)

    def _observe(self, number: float, epoch: int | None, finite: bool) -> bool:
        """Takes one observation; returns whether it reduced the rate."""
        record = self._owned().record
        memory = record.memory
        # Of the optimizer's life: a loop of `fit(epochs=1)` is at epoch 0 for ever.
        early = epoch is not None and max(epoch, memory.epochs) < self.start_from_epoch
        after = memory if epoch is None else memory.after(epoch)
        due, weights = False, record.best_weights
        if self.recover or not early:
            number = agreed(number, self._optimizer, memory)
        if not early:
            after, due = self._rule.observe(after, number, self._direction())
            if after.best != memory.best:
                weights = self.model.get_weights() if self.restore_best_weights else None
        record = Record(after, weights)
        finite = finite and math.isfinite(number)
        recovers = self.recover and not finite
        self._was_finite |= finite
        if due or recovers:
            reduced = self._reduce(record, epoch, recovers)
        else:
            self._attached().commit(record)
            reduced = False
        if finite and not self._training:
            # In a loop of one's own nobody says when an epoch begins.
            self._keep()
        return reduced

    def _keep(self) -> None:
        """Keeps the state to go back to, unless the last step of a finite epoch has spoilt it."""
        optimizer = self._optimizer
        if self.recover and optimizer.built:
            now = Snapshot(self.model, optimizer)
            if now.finite:
                self._finite = now

    def _commit(self, record: Record, memory: Memory) -> None:
        self._attached().commit(replace(record, memory=memory))

    def _reduce(self, record: Record, epoch: int | None, recovers: bool = False) -> bool:
        """Commits a record, with a reduction where one can be made; returns whether it was."""
        made = reduction(self._rule, record.memory, self._optimizer, self.min_learning_rate)
        writes: Writes = ()
        if made is not None:
            memory, writes = made
            record = replace(record, memory=memory)
        elif self.stop_at_minimum:
            self.model.stop_training = True
        if recovers:
            # First, since an optimizer of a user's own may have its rate among its variables.
            kept = self._finite
            self._doubts.compare_recovery(kept is not None, self._was_finite, made is not None)
            writes = (() if kept is None else (kept.restore,)) + writes
        elif made is not None and self.restore_best_weights:
            weights = usable_weights(record.best_weights, self.model)
            record = replace(record, best_weights=weights)
            writes += () if weights is None else (lambda: self.model.set_weights(weights),)
        self._attached().commit(replace(record, writes=writes))
        self._doubts.rates_left(self._optimizer)
        if made is not None and self.verbose:
            at = "" if epoch is None else f"Epoch {epoch + 1}: "
            rates = ", ".join(f"{rate:.6g}" for rate in learning_rates(self._optimizer).values())
            print(f"\n{at}PlateauDecay reduces the learning rate to {rates}.")
        return made is not None

    def _all_finite(self, logs: dict[str, Any]) -> bool:
        """Whether the metric and the training loss of an epoch are finite, on all processes."""
        values = [_number(logs[name]) for name in (self.monitor, "loss") if name in logs]
        finite = 0.0 if all(map(math.isfinite, values)) else math.nan
        return math.isfinite(agreed(finite, self._optimizer, self._attached().memory))

    def _begin(self, epoch: int) -> None:
        super()._begin(epoch)
        attached = self._attached()
        self._doubts.compare_memory(attached, epoch, self._steps_before, self._loaded_before)
        self._loaded_before = attached.loaded = False

    @property
    def _optimizer(self) -> Any:
        return self._optimizer_of(self.model)

    def _optimizer_of(self, model: Any) -> Any:
        optimizer = getattr(model, self.optimizer, None)
        if isinstance(optimizer, keras.optimizers.Optimizer):
            return optimizer
        if self.optimizer == "optimizer":
            raise ValueError(
                "`PlateauDecay` needs a model with an optimizer. Call "
                "`model.compile(optimizer=...)` first."
            )
        names = [
            name
            for name, each in vars(model).items()
            if isinstance(each, keras.optimizers.Optimizer)
        ]
        must = f"the attribute of an optimizer of the model, one of {names}"
        return _checks.fail("optimizer", self.optimizer, must)

    @property
    def _suffix(self) -> str:
        return "" if self.optimizer == "optimizer" else f"_{self.optimizer}"

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


def _number(value: Any) -> float:
    """A metric as a float: a number, or a scalar array, tensor or variable."""
    number = value
    if hasattr(value, "dtype") and not tuple(value.shape):
        number = to_number(value)
    if not _checks.is_number(number):
        _checks.fail("value", value, "a number, or a scalar array or tensor", TypeError)
    return float(number)
