"""The callback that lowers the learning rate when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple, TypedDict

import keras

from keras_decay import _checks, _keras
from keras_decay._backend import sync_variables, to_number
from keras_decay._config import register
from keras_decay.callbacks._base import SETTING, RateCallback, Watched
from keras_decay.callbacks._warnings import Warnings, float_rates, usable_weights
from keras_decay.optimizer._attach import Attached, attach, remake_train_function
from keras_decay.optimizer._rates import learning_rates
from keras_decay.optimizer._state import Clock, State
from keras_decay.plateau._best_weights import after_better, with_first_loss, with_start
from keras_decay.plateau._every import InsideEpoch, checked_data
from keras_decay.plateau._processes import all_reduce_mean
from keras_decay.plateau._rule import Rule
from keras_decay.plateau._snapshot import Snapshot, Write, reduction, restoring_weights

ONLY_ONE = (
    "An optimizer can have only one `PlateauDecay`: a second one would count every observation "
    "twice. Remove one of them."
)


class Observation(NamedTuple):
    """An observation of `every=`: the step, the value, and whether the rate was reduced."""

    step: int
    value: float
    reduced: bool


class PlateauDecayState(TypedDict):
    """What `PlateauDecay.state` shows."""

    best: float | None
    wait: int
    cooldown: int
    scale: float
    reductions: int


@dataclass
class Notes:
    """What a plateau notes in one `fit`, or in one custom loop."""

    kept: Snapshot | None = None
    """The end of the last finite epoch, or the start of training."""
    was_finite: bool = False
    """Whether any epoch was finite."""
    undone: bool = False
    """Whether the last epoch was undone."""
    first_loss: float | None = None
    """The training loss of the first batch."""
    warnings: Warnings = field(default_factory=Warnings)


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
                              Not better: during cooldown, uses up one of the cooldown;
                              else wait += 1, and wait == patience -> reduce, wait = 0.
    reduce_on="improvement":  better (except the first) and not in cooldown -> wait += 1,
                              and wait == patience -> reduce, wait = 0.
    reduce:                   scale *= factor, and with it
                              learning_rate = max(base * scale, min(base, min_learning_rate))
    ```

    `base` is the rate that the optimizer's schedule gives at the step. A plateau never raises a
    rate; if the rate would not change, nothing is reduced. After a reduction, exactly `cooldown`
    observations are not counted; a better one among them still becomes the best.

    It works with any learning rate. A float is multiplied in place, whatever its value is then. A
    schedule is put into a `PlateauScale`, which the compiled training step follows without being
    recompiled. In a `LossScaleOptimizer` or a `MultiOptimizer`, one decision reduces all inner
    optimizers.

    Its memory (`best`, `wait`, `cooldown`, `scale`, `reductions`) belongs to the optimizer and is
    saved with it. So it goes on after a second `fit`, with a new `PlateauDecay` object, and after
    `load_model` or `BackupAndRestore`; with a new optimizer it starts afresh. One exception: a
    whole-model file saves nothing but the rate for a float, so the memory starts afresh there. To
    keep it, use `learning_rate=PlateauScale(0.1)` instead of `0.1`.

    Put it before `BackupAndRestore` and `ModelCheckpoint` in the list of callbacks, so that they
    save the epoch's observation too. If several processes train the model together, an observation
    is the mean of their values; do on every process what you do on one.

    Like `LearningRateLogger`, it counts the epochs for schedules without a `steps_per_epoch`, and
    warns of mistakes. At each epoch end it adds to the logs: `learning_rate`, the rate of the
    epoch's last step, and, with a schedule, `learning_rate_scale`, the scale of that step. (With a
    `MultiOptimizer`, `learning_rate_<name>` for each inner optimizer; with `optimizer=`, its name
    is appended.) A rate that is already in the logs stays.

    Args:
        monitor: String, the name of the metric in the logs.
        factor: Float in (0, 1), by which the rate is multiplied at a reduction.
        patience: Int >= 1, the number of observations to wait for; or a sequence of such ints:
            entry i is the patience before reduction i, the last entry that of all later ones.
        mode: "min", "max" or "auto". "auto" is "min" for a loss, and otherwise the direction that
            the Keras metric declares; if it declares none, pass the mode.
        min_delta: Float >= 0, by how much a value has to be better.
        relative: Whether `min_delta` is a fraction of the best value.
        smoothing: Float in [0, 1), the weight of the past in the moving average; 0 for none.
        cooldown: Int >= 0, the number of observations after a reduction that do not count. (Keras's
            `cooldown=c` is `c - 1` here.)
        min_learning_rate: Float >= 0, the floor.
        max_reductions: Int >= 0, the largest number of reductions; `None` for no limit.
        reduce_on: "plateau", or "improvement": reduce each time the metric has improved
            `patience` times (patience=1: at every improvement).
        start_from_epoch: Int >= 0, the first epoch (from 0) whose observation counts, over all
            calls of `fit` together.
        every: Int >= 1 or `None`: observe every `every` steps of the training run instead of once
            per epoch. It is for runs of few, long epochs. Steps are updates of the optimizer,
            micro-batches included. `patience` and `cooldown` then count these observations;
            `start_from_epoch` still counts epochs. With `validation_data`, the metric is evaluated
            at that step, and the training run is not affected. Without it, `monitor="loss"` (or
            another mean) is the mean over the batches since the last observation. No file holds
            it: a run that is resumed between two observations warns. The epoch's logs get the last
            value, unless they have an entry of that name.
        validation_data: What `model.evaluate` takes: a tuple of arrays, a `tf.data.Dataset`, a
            `PyDataset`, a `DataLoader`, but no iterator; with `every` only. Not part of the config.
        restore_best_weights: Whether training goes on from the best weights seen at a reduction
            (`EarlyStopping` puts them back when training ends). Momentum, and every optimizer
            variable that is not finite, is then set to zero; second moments and counters go on.
            The best weights are kept on the host, as one more copy of the model's weights. They
            are saved in the files that hold the optimizer's state: a weights file is twice as
            large.
        recover: Whether to go back when the metric or the training loss of an epoch is not finite.
            The weights and all optimizers of the model, except their step counters and rates, go
            back to the end of the last finite epoch (or the start of training), and the rate is
            reduced at once. The copy is kept on the host and replaced at each epoch. It is as large
            as the weights and the optimizers' state (three times the weights with Adam), and twice
            that while it is being made. With `gradient_accumulation_steps`, the counter moves ahead
            to where as many gradients are accumulated as in the copy.
            With `restore_best_weights` too, a run that has learned nothing starts over, since a
            rate that is far too high can silence a network in its first steps: the weights of the
            start count as the best ones until a better value is 5 % better than the first value,
            or its training loss is at most half that of the first batch. And where training
            diverges again in the epoch after going back, it goes on from the best weights.
        stop_at_minimum: Whether to stop training when a reduction is due and none can be made:
            at the floor, or after `max_reductions`.
        optimizer: String, the attribute of the model that holds the optimizer. For a model with
            several optimizers, each with its own `PlateauDecay`.
        verbose: 1 (or True) prints a line at each reduction, at each observation inside an epoch,
            and when training goes on from an earlier state.

    Attributes:
        observations: What `every` has observed: a list of `(step, value, reduced)`.

    Raises:
        TypeError: an argument of the wrong type; a learning rate that is neither a float nor a
            `LearningRateSchedule`.
        ValueError: an argument out of its range; `mode="auto"` with a metric that declares no
            direction; two `PlateauDecay` on one optimizer; a schedule that counts the epochs of
            `fit`, if `fit` does not know how many steps an epoch has; with `every`, a metric that
            neither `validation_data` nor the training run has.
        RuntimeError: processes that train the model together have different rates.

    Example:

    >>> plateau = keras_decay.PlateauDecay(factor=0.5, patience=5)
    >>> # model.fit(x, y, validation_split=0.2, epochs=100, callbacks=[plateau])

    Source: the second technique of the lecture notes; `ReduceLROnPlateau` in Keras and
    PyTorch; the bias-corrected average of Kingma and Ba, "Adam" (2015), section 3.
    """

    counts_first = True

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int | Sequence[int] = 10,
        *,
        mode: Literal["auto", "min", "max"] = "auto",
        min_delta: float = 1e-4,
        relative: bool = False,
        smoothing: float = 0.0,
        cooldown: int = 0,
        min_learning_rate: float = 0.0,
        max_reductions: int | None = None,
        reduce_on: Literal["plateau", "improvement"] = "plateau",
        start_from_epoch: int = 0,
        every: int | None = None,
        validation_data: Any = None,
        restore_best_weights: bool = False,
        recover: bool = False,
        stop_at_minimum: bool = False,
        optimizer: str = "optimizer",
        verbose: int | bool = 0,
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
        self.every = None if every is None else _checks.integer("every", every, 1)
        self.validation_data = checked_data(validation_data, self.every, self.monitor)
        self.restore_best_weights = _checks.boolean("restore_best_weights", restore_best_weights)
        self.recover = _checks.boolean("recover", recover)
        self.stop_at_minimum = _checks.boolean("stop_at_minimum", stop_at_minimum)
        self.optimizer = _checks.string("optimizer", optimizer)
        self.verbose = int(verbose) if verbose is True else _checks.integer("verbose", verbose, 0)
        self._rule = Rule(**{each.name: getattr(self, each.name) for each in fields(Rule)})
        self.observations: list[Observation] = []
        self._inside = self._new_inside()
        self._starts_over = self.restore_best_weights and self.recover
        """Whether the weights of the start are the best ones until something has been learned."""
        self._attached: Attached | None = None
        self._notes = Notes()

    def __getstate__(self) -> dict[str, Any]:
        # A copy is another callback, which does not own the optimizer's state.
        own: dict[str, Any] = {"_attached": None, "_notes": Notes(), "_inside": self._new_inside()}
        return {**super().__getstate__(), **own, "observations": []}

    def _new_inside(self) -> InsideEpoch | None:
        if self.every is None:
            return None
        return InsideEpoch(self.every, self.monitor, self.validation_data)

    def _arguments(self) -> dict[str, Any]:
        # Data cannot be part of a config.
        arguments = super()._arguments()
        arguments.pop("validation_data", None)
        return arguments

    @property
    def state(self) -> PlateauDecayState:
        """The memory: `best` (`None` before the first finite value), `wait`, `cooldown`,
        `scale`, `reductions`."""
        plateau = asdict(self._known().state.plateau)
        return {name: plateau[name] for name in PlateauDecayState.__annotations__}  # type: ignore[return-value]

    def reset(self) -> None:
        """Forgets all observations and reductions.

        A schedule returns to its own rate; a float rate stays as it is. The epochs that have been
        trained still count.
        """
        self._known()
        self.attach(self.model)
        attached = self._known()
        attached.commit(State(clock=attached.state.clock))

    def attach(self, model: Any) -> None:
        """Attaches the plateau to the model's optimizer, as `fit` does when it begins.

        Call it in a custom training loop, before the step is compiled. Call it also before
        `load_weights`, or else there is no place to load the file's state into.

        Args:
            model: A compiled model, or any object with an `optimizer`.

        Raises:
            TypeError: a learning rate that is neither a float nor a `LearningRateSchedule`.
            ValueError: no optimizer.
        """
        if self.model is not model:
            # Not this class's own `set_model`, which begins a `fit`.
            keras.callbacks.Callback.set_model(self, model)
            self._run, self._notes = None, Notes()
        optimizer = self._optimizer
        self._attach(optimizer)
        self._known().owner = id(self)
        remake_train_function(model, optimizer)
        if self._notes.kept is None:
            self._keep()

    def update(self, value: Any, epoch: int | None = None) -> bool:
        """Takes one observation, as `fit` does at the end of an epoch.

        If several processes train the model together, each of them must call it with its own value.
        It waits for the others, and the mean of the values is observed.

        Args:
            value: The metric: a number, or a scalar array or tensor.
            epoch: Int >= 0 or `None`, the epoch (from 0), for `start_from_epoch`.

        Returns:
            Whether the learning rate was reduced.

        Raises:
            TypeError: `value` is not a number, or `epoch` is not an int.
            RuntimeError: no `attach` before; processes whose rates or states differ.
            ValueError: `epoch` below 0; `mode="auto"` with a metric that declares no direction;
                another `PlateauDecay` has been attached to the optimizer.
        """
        number = _number(value)
        if epoch is not None:
            epoch = _checks.integer("epoch", epoch, 0)
        clock = self._ready().state.clock
        after = clock if epoch is None else clock.after(epoch)
        reduced = self._observe({self.monitor: number}, epoch, after)
        self._keep()  # A custom loop has no epoch hook.
        return reduced

    def reduce(self) -> bool:
        """Reduces the learning rate now, with everything else that a reduction does.

        Returns:
            Whether the rate changed: not if it is at its floor, nor after `max_reductions`.

        Raises:
            RuntimeError: no `attach` before.
            ValueError: another `PlateauDecay` has been attached to the optimizer.
        """
        return self._reduce(self._ready().state, None)

    def _ready(self) -> Attached:
        """The attached state, for a call from outside of `fit`."""
        self._owned()
        sync_variables(self.model)
        self.attach(self.model)  # A schedule may have been set since.
        return self._known()

    def set_model(self, model: Any) -> None:
        with SETTING:
            self._notes = Notes()
            if self._inside is not None:
                self._inside.check()
            super().set_model(model)
            self._known().owner = id(self)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._this_run().training:
            raise ValueError(ONLY_ONE)  # This callback is listed twice.
        self._owned()
        super().on_train_begin(logs)
        # Fail before the first epoch, if Keras has built its metrics already.
        if self.monitor.removeprefix("val_") in _keras.metric_directions(self.model):
            self._direction()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        first = self._this_run().epoch < 0
        super().on_epoch_begin(epoch, logs)
        attached, watched, notes = self._known(), self._watched, self._notes
        found = watched.found or attached.state
        if first:
            notes.warnings = watched.warnings
            notes.warnings.leave_rates(watched.optimizer)
            notes.warnings.warn_if_state_differs(found, epoch, watched.first_step, watched.resumed)
            self._say_where_it_goes_on(attached.state)
            if self._starts_over:
                attached.commit(with_start(attached.state, self.model))
        if self._inside is not None:
            lacks = self._inside.begin_epoch(watched.first_step, first)
            if lacks and (attached.state.has_observed or found.loaded):
                notes.warnings.warn_if_batches_missing(
                    self.monitor, self._inside.position, self._inside.every
                )
        if first or self._inside is None:
            self._keep()

    def _say_where_it_goes_on(self, state: State) -> None:
        if self.verbose and state.has_observed:
            plateau = state.plateau
            print(
                f"\nPlateauDecay goes on after {state.clock.epochs} epochs: best "
                f"{plateau.best}, scale {plateau.scale:.6g}, {plateau.wait} of the patience."
            )

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        run, notes, logs = self._run, self._notes, {} if logs is None else logs
        wanted = self._starts_over and notes.first_loss is None
        if wanted and run is not None and batch < run.execution:
            notes.first_loss = _number(logs.get("loss", math.nan))
        if self._inside is not None:
            watched = self._watched
            updates = (watched.updates or 1) * (self._this_run().batch + 1)
            if self._inside.advance(watched.first_step + updates):
                self._observe_inside_epoch(self._inside, logs)

    def _observe_inside_epoch(self, inside: InsideEpoch, logs: dict[str, Any]) -> None:
        run, attached = self._this_run(), self._owned()
        sync_variables(self.model)
        self._know_first_loss()
        value = inside.value(self.model)
        logs = {**logs, self.monitor: value}
        reduced = self._observe(logs, run.epoch, attached.state.clock)
        self._keep()
        self.observations.append(Observation(inside.position, value, reduced))
        if self.verbose:
            print(f"\nStep {inside.position}: PlateauDecay observes {self.monitor} {value:.6g}.")

    def _know_first_loss(self) -> None:
        """Tells the state the loss of the first batch.

        Not at that batch's end, which Keras may report in another thread.
        """
        attached, loss = self._known(), self._notes.first_loss
        if loss is not None:
            attached.commit(with_first_loss(attached.state, loss, self._optimizer))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = {} if logs is None else logs
        super().on_epoch_end(epoch, logs)
        attached, watched, warnings = self._owned(), self._watched, self._notes.warnings
        self._know_first_loss()
        warnings.warn_if_rates_moved(watched.optimizer)
        clock = watched.ended(attached, epoch)
        if self._inside is None:
            self._observe(logs, epoch, clock)
            warnings.warn_if_monitor_missing(self.monitor, logs)
        else:
            self._inside.end_epoch(self.model, max(attached.counters(), default=0))
            attached.commit(replace(attached.state, clock=clock))
            if self.observations:
                logs.setdefault(self.monitor, self.observations[-1].value)
        warnings.leave_rates(watched.optimizer)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._notes.warnings.warn_if_never_monitored(self.monitor)
        self._notes = Notes()
        super().on_train_end(logs)

    def _observe(self, logs: dict[str, Any], epoch: int | None, clock: Clock) -> bool:
        """Takes the observation in the logs, if there is one; returns whether it reduced."""
        attached, optimizer, notes = self._owned(), self._optimizer, self._notes
        before, after = attached.state, replace(attached.state, clock=clock)
        number = self._metric(logs)
        if number is None:
            notes.was_finite, notes.undone = True, False
            attached.commit(after)
            return False
        number = all_reduce_mean(number, optimizer, before)
        due = False
        # Count the optimizer's epochs too: in a loop of `fit(epochs=1)`, `epoch` is always 0.
        if epoch is None or max(epoch, before.clock.epochs) >= self.start_from_epoch:
            plateau, due = self._rule.observe(before.plateau, number, self._direction())
            after = replace(after, plateau=plateau)
            if plateau.best != before.plateau.best:
                after = self._with_best_weights(after, logs)
        finite = math.isfinite(number)
        recovers = self.recover and not finite
        notes.was_finite |= finite
        if due or recovers:
            reduced = self._reduce(after, epoch, recovers)
        else:
            attached.commit(after)
            reduced = False
        notes.undone = recovers
        return reduced

    def _metric(self, logs: dict[str, Any]) -> float | None:
        """The metric; `None` if there is none, NaN if `recover` is to undo the epoch."""
        if self.recover:
            values = [_number(logs[name]) for name in (self.monitor, "loss") if name in logs]
            finite = 0.0 if all(map(math.isfinite, values)) else math.nan
            # All processes go back, or none.
            if math.isnan(all_reduce_mean(finite, self._optimizer, self._known().state)):
                return math.nan
        return _number(logs[self.monitor]) if self.monitor in logs else None

    def _with_best_weights(self, state: State, logs: dict[str, Any]) -> State:
        if not self.restore_best_weights:
            return replace(state, best_weights=None)
        loss = _number(logs["loss"]) if self._starts_over and "loss" in logs else None
        return after_better(state, loss, self.model, self._optimizer)

    def _keep(self) -> None:
        """Keeps a copy to go back to, unless it is not finite.

        The last step of an epoch can spoil the weights while the epoch's loss is still finite.
        """
        if self.recover and not self._notes.undone and self._optimizer.built:
            now = Snapshot(self.model, self._optimizer)
            if now.finite:
                self._notes.kept = now

    def _reduce(self, state: State, epoch: int | None, recovers: bool = False) -> bool:
        """Commits a state, with a reduction if one can be made; returns whether it was made."""
        attached, optimizer, notes = self._known(), self._optimizer, self._notes
        watched = self._watched if self._run is not None and self._run.training else None
        if watched is not None:
            # The logs must show the rate of the last step, from before the reduction.
            watched.rates_of_last_step(self._this_run().batch)
        plateau, set_rates = reduction(self._rule, state.plateau, optimizer, self.min_learning_rate)
        reduced = plateau is not None
        writes: list[Write] = []
        to_best = reduced and self.restore_best_weights
        if recovers:
            notes.warnings.warn_of_recovery(notes.kept is not None, notes.was_finite, reduced)
            if notes.kept is not None:
                writes.append(notes.kept.restoring())
            # A finite state from which training diverges at a lower rate too is spoilt already.
            to_best = notes.undone and self._starts_over and state.best_weights is not None
        if to_best:
            state = replace(state, best_weights=usable_weights(state.best_weights, self.model))
            if state.best_weights is not None:
                writes.append(restoring_weights(self.model, optimizer, state.best_weights))
        if plateau is not None:
            # After the recovery: a user's own optimizer may have its rate among its variables.
            writes += set_rates
            state = replace(state, plateau=plateau)
        elif self.stop_at_minimum:
            self.model.stop_training = True
        # A recovery has its own warning.
        if state.plateau.reductions == 0 and not recovers:
            notes.warnings.warn_if_at_floor(optimizer, self.min_learning_rate)

        def write() -> None:
            for each in writes:
                each()

        counters = attached.counters() if recovers else []
        attached.commit(state, write)
        if recovers:
            self._go_on_from(attached, counters)
        notes.warnings.leave_rates(optimizer, reduced)
        if watched is not None:
            watched.rates = float_rates(optimizer, watched.suffix)
        if reduced and self.verbose:
            at = "" if epoch is None else f"Epoch {epoch + 1}: "
            rates = ", ".join(f"{rate:.6g}" for rate in learning_rates(optimizer).values())
            starts_over = to_best and state.best_weights and state.plateau.start_loss is not None
            over = " Nothing has been learned: training starts over." if starts_over else ""
            print(f"\n{at}PlateauDecay reduces the learning rate to {rates}.{over}")
        return reduced

    def _go_on_from(self, attached: Attached, counters: list[int]) -> None:
        """After going back, adjusts the clock to counters that have moved.

        Inside an epoch it also resets the metrics, whose means would stay infinite.
        """
        ahead = [now - before for now, before in zip(attached.counters(), counters, strict=True)]
        inside = None if self._run is None else self._inside
        clock = attached.state.clock.counters_moved(ahead)
        if clock != attached.state.clock:
            attached.commit(replace(attached.state, clock=clock), inside_epoch=inside is not None)
            remake_train_function(self.model, self._optimizer)
        if inside is not None:
            watched = self._watched
            moved = zip(watched.counters, ahead, strict=True)
            watched.counters = [counter + by for counter, by in moved]
            self.model.reset_metrics()
            inside.forget_batches()

    @property
    def _watched(self) -> Watched:
        # Not by way of `self.model`: see `Run.execution`.
        return self._this_run().watched[0]

    @property
    def _optimizer(self) -> Any:
        optimizer = getattr(self.model, self.optimizer, None)
        if isinstance(optimizer, keras.optimizers.Optimizer):
            return optimizer
        if self.optimizer == "optimizer":
            raise ValueError(
                "`PlateauDecay` needs a model with an optimizer. Call "
                "`model.compile(optimizer=...)` first."
            )
        names = sorted(_keras.optimizers_of(self.model))
        must = f"the attribute of an optimizer of the model, one of {names}"
        return _checks.fail("optimizer", self.optimizer, must)

    def _optimizers(self) -> dict[str, Any]:
        return {self.optimizer: self._optimizer}

    def _attach(self, optimizer: Any) -> None:
        self._attached = attach(self.model, optimizer, self.min_learning_rate)

    def _known(self) -> Attached:
        if self._attached is None:
            raise RuntimeError(
                "This `PlateauDecay` has no optimizer yet. Pass it to `fit`, or call "
                "`attach(model)` first."
            )
        return self._attached

    def _owned(self) -> Attached:
        # Keras calls `set_model` on all callbacks first. The last plateau that attached itself owns
        # the state; any other would count each observation again.
        attached = self._known()
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
