"""What both callbacks do in a `fit`: count epochs, log rates, warn."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

import keras

from keras_decay import _keras
from keras_decay._backend import sync_variables
from keras_decay._config import Configured
from keras_decay.callbacks._warnings import Warnings, float_rates
from keras_decay.optimizer._attach import Attached, attach, attached_to, remake_train_function
from keras_decay.optimizer._rates import learning_rates, named_optimizers, steps_done
from keras_decay.optimizer._state import Clock, State

SHARED = "keras_decay"
ONE_FIT = (
    "This `{}` has been given to another `fit` or `evaluate` since this one began. Give each of "
    "those that run at the same time a callback of its own."
)


SETTING = threading.RLock()
"""Held while a callback is set up, so that its model and its record are those of one `fit`."""


@dataclass
class Watched:
    """One optimizer in one `fit`. All callbacks that watch it share this record."""

    optimizer: Any
    suffix: str
    """What its names in the logs end with."""
    steps: int | None
    """The batches in an epoch; `None` if `fit` does not know."""
    warnings: Warnings = field(default_factory=Warnings)
    counter: Any = None
    """The callback that counts its epochs: a plateau, if there is one."""
    told: tuple[State, State] | None = None
    """The state before and after `fit` passed its number of steps."""
    found: State | None = None
    """The state before the first epoch; `None` until then, or if it has none."""
    first_epoch: int = 0
    resumed: bool = False
    """Whether `found` was loaded in this `fit`."""
    updates: int | None = None
    """How many updates a batch makes, once that is known."""
    counters: list[int] = field(default_factory=list)
    """The steps that the inner optimizers had counted when the epoch began."""
    logged: tuple[int | None, dict[str, float]] = (None, {})
    """A batch, and what to log about its last step, even if the rate is reduced afterwards."""
    rates: dict[str, float] = field(default_factory=dict)
    """The float rates when the epoch began, or after a reduction inside it."""

    @property
    def attached(self) -> Attached | None:
        return attached_to(self.optimizer)

    @property
    def inner(self) -> list[Any]:
        return _keras.inner_optimizers(self.optimizer)

    def named(self) -> list[tuple[str, Any]]:
        """The inner optimizers, each with the name of its rate in the logs."""
        named = named_optimizers(self.optimizer, self.suffix)
        return [(f"learning_rate{name}", inner) for name, inner in named]

    @property
    def first_step(self) -> int:
        """The step that the epoch began with."""
        return max(self.counters, default=0)

    @property
    def counts_every_step(self) -> bool:
        """Whether the optimizer's counter counts every step.

        A `LossScaleOptimizer` skips steps whose gradients overflow, and a user's wrapper may count
        elsewhere.
        """
        forwards = map(_keras.forwards_learning_rate, self.inner)
        return not (_keras.wrappers(self.optimizer) or any(forwards))

    def counted(self) -> list[int]:
        """The steps that each inner optimizer has counted in this epoch.

        (A `MultiOptimizer` may have no inner optimizers before its first step.)
        """
        now = map(steps_done, self.inner)
        return [each - before for each, before in zip_longest(now, self.counters, fillvalue=0)]

    @property
    def taken(self) -> int:
        """The steps that the optimizer has taken in this epoch."""
        return max(self.counted(), default=0)

    def tell_steps(self) -> None:
        """Tells the clock the steps: a callback may read the rate before the first epoch."""
        attached = self.attached
        if attached is None or self.told is not None:
            return
        before = attached.state
        if before.clock.steps_per_epoch is None and self.steps:
            attached.commit(self._begun(before, attached.counters()))
        self.told = before, attached.state

    def forget_steps(self) -> None:
        attached = self.attached
        if attached is not None and self.told is not None and attached.state is self.told[1]:
            attached.commit(self.told[0])

    def begin_epoch(self, epoch: int) -> None:
        self.counters = list(map(steps_done, self.inner))
        self.rates = float_rates(self.optimizer, self.suffix)
        self.logged = None, {}
        attached = self.attached
        if attached is None:
            return
        # Not earlier: `BackupAndRestore` loads in `on_train_begin`, and sets the first epoch.
        if self.found is None:
            state = attached.state
            before, told = self.told or (state, None)
            self.found, self.first_epoch = before if state is told else state, epoch
            self.resumed = state is not told and state.loaded
            attached.commit(self._begun(self.found, self.counters))
        if attached.counts_epochs and attached.state.clock.steps_per_epoch is None:
            raise ValueError(
                "The learning-rate schedule counts the epochs of `fit`, but `fit` does not know "
                "how many steps an epoch has. Pass `steps_per_epoch=` to `fit` or to the "
                "schedule; a `tf.data.Dataset` is told its size by "
                "`dataset.apply(tf.data.experimental.assert_cardinality(batches))`."
            )

    def _begun(self, state: State, counters: list[int]) -> State:
        clock = state.clock.begin(
            self.first_epoch, self.steps, counters, loaded=state.loaded, resumed=self.resumed
        )
        return replace(state, clock=clock, loaded=False)

    def measure_updates(self, batches: int) -> None:
        """Tells the clock how many weight updates a batch makes."""
        # Rounded, since a `LossScaleOptimizer` skips steps whose gradients overflow.
        self.updates = max(1, round(self.taken / batches))
        attached, found = self.attached, self.found
        if attached is None or found is None or self.updates == attached.state.clock.updates:
            return
        self.found = replace(found, clock=replace(found.clock, updates=self.updates))
        clock = self._begun(self.found, self.counters).clock
        attached.commit(replace(attached.state, clock=clock), inside_epoch=True)

    def rates_of_last_step(self, batch: int) -> dict[str, float]:
        """What the logs say about the last step, noted before a reduction changes it."""
        if self.logged[0] != batch:
            # On data of unknown size TensorFlow counts one step more than it trains.
            extra = not self.steps and self.taken == (self.updates or 1) * (batch + 1) + 1
            rates = learning_rates(self.optimizer, self.suffix, back=1 + extra)
            attached = self.attached
            if attached is not None and attached.scales and self.counter.counts_first:
                rates[f"learning_rate_scale{self.suffix}"] = attached.state.plateau.scale
            self.logged = batch, rates
        return self.logged[1]

    def ended(self, attached: Attached, epoch: int) -> Clock:
        """The clock after the end of an epoch."""
        sure = self.counts_every_step
        moved = [not sure or each != 0 for each in self.counted()]
        return attached.state.clock.end(epoch, attached.counters(), moved)


@dataclass
class Run:
    """What a callback knows about one `fit`: made when it begins, dropped when it ends."""

    execution: int
    """`steps_per_execution`. (At a batch's end nothing may ask for `self.model`: on JAX Keras then
    puts all variables back.)"""
    thread: int = field(default_factory=threading.get_ident)
    training: bool = False
    epoch: int = -1
    """The epoch; -1 before the first one."""
    batch: int = -1
    """The last batch of this epoch that has ended."""
    watched: list[Watched] = field(default_factory=list)


class RateCallback(Configured, keras.callbacks.Callback):
    """Counts epochs for the schedules, logs the rates at each epoch end, and warns of mistakes."""

    warn = True
    """Whether to warn."""
    every: int | None = None
    """The steps or batches between two things that are done inside an epoch."""
    counts_first = False
    """Whether this callback takes over the counting of epochs from any other: a plateau does."""

    def __init__(self) -> None:
        super().__init__()
        self.params: Any = None  # Old versions of Keras do not set it.
        self._run: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy is another callback, which does not belong to this model.
        return {**vars(self), **_keras.CALLBACK_OUTSIDE_FIT, "_run": None}

    def _optimizers(self) -> dict[str, Any]:
        """The optimizers to watch, by the attribute of the model that holds them."""
        return _keras.optimizers_of(self.model)

    def _attach(self, optimizer: Any) -> None:
        attach(self.model, optimizer)

    def _watch(self) -> list[Watched]:
        self.params = {} if self.params is None else self.params
        # All callbacks of a `fit` get the same `params` dict.
        records, steps = self.params.setdefault(SHARED, {}), self.params.get("steps")
        watched = []
        for name, optimizer in self._optimizers().items():
            new = Watched(optimizer, "" if name == "optimizer" else f"_{name}", steps)
            each = records.setdefault(id(optimizer), new)
            if each.counter is None or self.counts_first:
                each.counter = self
            watched.append(each)
        return watched

    def _this_run(self) -> Run:
        run = self._run
        if run is None or run.thread != threading.get_ident():
            raise ValueError(ONE_FIT.format(type(self).__name__))
        return run

    def set_model(self, model: Any) -> None:
        """What `fit` begins with."""
        with SETTING:
            self._run = None  # Keras does not tell us when a `fit` fails.
            super().set_model(model)
            for optimizer in self._optimizers().values():
                self._attach(optimizer)
            self._run = Run(getattr(model, "steps_per_execution", None) or 1)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        if self._run is not None:
            self._run.watched = self._watch()
            for watched in self._run.watched:
                watched.tell_steps()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._this_run().training = True

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # `evaluate` and `predict` call `set_params` too, with their own number of steps: undo it.
        if self._run is not None and not self._run.training:
            for watched in self._run.watched:
                watched.forget_steps()
            self._run = None

    on_predict_begin = on_test_begin

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._this_run()
        first = run.epoch < 0
        run.epoch, run.batch, run.watched = epoch, -1, self._watch()
        for watched in run.watched:
            # Since the last epoch, the user may have set a schedule, or Keras may have built a
            # `MultiOptimizer`.
            self._attach(watched.optimizer)
            watched.begin_epoch(epoch)
            remake_train_function(self.model, watched.optimizer)
            if self.warn and first:
                if watched.steps:
                    watched.warnings.warn_if_epochs_differ(watched.inner, watched.steps)
                if watched.first_step == 0:
                    watched.warnings.warn_if_starting_over(watched.inner, epoch, watched.steps)

    @property
    def async_safe(self) -> bool:
        """Whether Keras may call `on_train_batch_end` from threads of its own, out of order.

        Otherwise Keras waits for the device at the end of each batch, to read its logs.
        """
        own = type(self).on_train_batch_end.__module__.startswith("keras_decay.")
        return own and self.every is None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._measure_updates(self._this_run(), batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._run
        if run is None:
            return
        size = run.execution
        if size > 1 and batch % size == 0:
            # Old versions of Keras pass the first batch of the execution.
            batch = min(batch + size, self.params.get("steps") or batch + size) - 1
        run.batch = max(run.batch, batch)
        if self.every is not None:
            self._measure_updates(self._this_run(), run.batch + 1)

    def _measure_updates(self, run: Run, batches: int) -> None:
        """Measures how many updates a batch makes, once per `fit`, after so many batches."""
        for watched in run.watched:
            if batches > 0 and watched.updates is None and watched.counter is self:
                sync_variables(self.model)
                watched.measure_updates(batches)
                remake_train_function(self.model, watched.optimizer)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._this_run()
        self._measure_updates(run, run.batch + 1)
        for watched in run.watched:
            rates = watched.rates_of_last_step(run.batch)
            if logs is not None:
                # A rate that is already in the logs stays.
                logs.update({**rates, **logs})
            if self.warn and run.batch >= 0:
                self._warn_at_end(watched, run.batch + 1)
            attached = watched.attached
            if attached is not None and watched.counter is self and not self.counts_first:
                clock = watched.ended(attached, epoch)
                attached.commit(replace(attached.state, clock=clock))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._run = None

    def _warn_at_end(self, watched: Watched, batches: int) -> None:
        """Compares an epoch with the steps that the optimizer has taken in it."""
        warnings, taken = watched.warnings, watched.taken
        if watched.counts_every_step:
            # A user with a plateau for each optimizer knows that there are several.
            plateaus = [each.counter.counts_first for each in self.params[SHARED].values()]
            alone = (sum(plateaus) if self.counts_first else len(plateaus)) == 1
            warnings.warn_if_idle(watched.optimizer, watched.counted(), alone)
            if not watched.steps:
                warnings.warn_if_ahead(watched.inner, taken, batches)
        if taken > 0:
            first = watched.first_step
            warnings.warn_if_zero(watched.optimizer, first, first + taken - 1)
