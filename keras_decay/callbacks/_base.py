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
from keras_decay.callbacks._warnings import Warnings
from keras_decay.optimizer._attach import Attached, attach, attached_to, remake_train_function
from keras_decay.optimizer._rates import learning_rates, steps_done
from keras_decay.optimizer._state import Clock, State

SHARED = "keras_decay"
ONE_FIT = (
    "This `{}` has been given to another `fit` or `evaluate` since this one began. Give each of "
    "those that run at the same time a callback of its own."
)


SETTING = threading.RLock()
"""Held while a callback is set up, so that its model and its record are those of one `fit`."""


@dataclass
class Shared:
    """What the callbacks of one `fit` share about one optimizer."""

    warned: set[str] = field(default_factory=set)
    counter: Any = None
    """The callback that counts its epochs: a plateau, if there is one."""
    found: State | None = None
    """The optimizer's state before the first epoch; `None` until then, or if it has none."""
    resumed: bool = False
    """Whether `found` was loaded in this `fit`."""
    begun: bool = False
    updates: int | None = None
    """How many updates a batch makes, once that is known."""
    first_epoch: int = 0
    counters: list[int] = field(default_factory=list)
    """The steps that the inner optimizers had counted when the epoch began."""
    logged: tuple[int, dict[str, float]] = (-1, {})
    """A batch, and what to log about its last step, even if the rate is reduced afterwards."""
    reduced: dict[str, float] = field(default_factory=dict)
    """The rates after the last reduction inside this epoch."""

    def counted(self, optimizer: Any) -> list[int]:
        """The steps that each inner optimizer has counted in this epoch.

        (A `MultiOptimizer` may have no inner optimizers before its first step.)
        """
        now = map(steps_done, _keras.inner_optimizers(optimizer))
        return [each - before for each, before in zip_longest(now, self.counters, fillvalue=0)]


@dataclass
class Run:
    """What a callback knows about one `fit`: made when it begins, dropped when it ends."""

    thread: int = field(default_factory=threading.get_ident)
    training: bool = False
    begun: bool = False
    """Whether the first epoch has begun."""
    epoch: int = 0
    batch: int = -1
    """The last batch of this epoch that has ended."""
    execution: int = 1
    """`steps_per_execution`. (At a batch's end nothing may ask for `self.model`: on JAX Keras then
    puts all variables back.)"""
    measured: bool = False
    """Whether it is known how many updates a batch makes."""
    states: dict[int, tuple[State, State]] = field(default_factory=dict)
    """The state of each optimizer before and after `fit` passed its number of steps."""
    shared: dict[int, Shared] = field(default_factory=dict)
    warnings: dict[int, Warnings] = field(default_factory=dict)


class RateCallback(Configured, keras.callbacks.Callback):
    """Counts epochs for the schedules, logs the rates at each epoch end, and warns of mistakes."""

    warn = True
    """Whether to warn."""
    every: int | None = None
    """The steps or batches between two things that are done inside an epoch."""
    counts_first = False
    """Whether this callback takes over the counting of epochs from any other."""

    def __init__(self) -> None:
        super().__init__()
        self.params: Any = None  # Old versions of Keras do not set it.
        self._run: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy is another callback, which does not belong to this model.
        return {**vars(self), **_keras.CALLBACK_OUTSIDE_FIT, "_run": None}

    def _optimizers(self) -> dict[str, Any]:
        """The optimizers whose rates are logged, by the suffix of their log names."""
        return {
            "" if name == "optimizer" else f"_{name}": each
            for name, each in _keras.optimizers_of(self.model).items()
        }

    def _attach(self, optimizer: Any) -> Attached | None:
        return attach(self.model, optimizer)

    def _this_run(self) -> Run:
        run = self._run
        if run is None or not run.training or run.thread != threading.get_ident():
            raise ValueError(ONE_FIT.format(type(self).__name__))
        return run

    def set_model(self, model: Any) -> None:
        with SETTING:
            self._begin(model)

    def _begin(self, model: Any) -> None:
        """What a `fit` begins with."""
        self._run = None  # Keras does not tell us when a `fit` fails.
        super().set_model(model)
        for optimizer in self._optimizers().values():
            self._attach(optimizer)
        self._run = Run()

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        if self._run is None:
            return
        for optimizer in self._optimizers().values():
            attached = attached_to(optimizer)
            if attached is None:
                continue
            before, steps = attached.state, params.get("steps")
            if before.clock.steps_per_epoch is None and steps:
                # Another callback may read the rate in its `on_train_begin`.
                clock = before.clock.begin(
                    0, steps, attached.counters(), loaded=before.loaded, resumed=False
                )
                attached.commit(replace(before, clock=clock))
            self._run.states[id(optimizer)] = before, attached.state

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        run = self._run
        if run is None or run.thread != threading.get_ident():
            raise ValueError(ONE_FIT.format(type(self).__name__))
        self.params = {} if self.params is None else self.params
        # All callbacks of a `fit` get the same `params` dict.
        shared = self.params.setdefault(SHARED, {})
        for optimizer in self._optimizers().values():
            self._check_epochs(optimizer)
            remake_train_function(self.model, optimizer)
            of = run.shared[id(optimizer)] = shared.setdefault(id(optimizer), Shared())
            if of.counter is None or self.counts_first:
                of.counter = self
            run.warnings[id(optimizer)] = Warnings(of.warned)
        run.execution = getattr(self.model, "steps_per_execution", None) or 1
        run.training = True

    def _check_epochs(self, optimizer: Any) -> None:
        attached = attached_to(optimizer)
        if attached is None or not attached.counts_epochs:
            return
        if attached.state.clock.steps_per_epoch is None:
            raise ValueError(
                "The learning-rate schedule counts the epochs of `fit`, but `fit` does not know "
                "how many steps an epoch has. Pass `steps_per_epoch=` to `fit` or to the "
                "schedule; a `tf.data.Dataset` is told its size by "
                "`dataset.apply(tf.data.experimental.assert_cardinality(batches))`."
            )

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # `evaluate` and `predict` call `set_params` too, with their own number of steps: undo it.
        if self._run is None or self._run.training:
            return
        for optimizer in self._optimizers().values():
            attached, states = attached_to(optimizer), self._run.states.get(id(optimizer))
            if attached is not None and states is not None and attached.state is states[1]:
                attached.commit(states[0])
        self._run = None

    on_predict_begin = on_test_begin

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._this_run()
        run.epoch, run.batch = epoch, -1
        for optimizer in self._optimizers().values():
            # Since the last epoch, the user may have set a schedule, or Keras may have built a
            # `MultiOptimizer`.
            attached = self._attach(optimizer)
            shared = run.shared.setdefault(id(optimizer), Shared(counter=self))
            run.warnings.setdefault(id(optimizer), Warnings(shared.warned))
            shared.counters = list(map(steps_done, _keras.inner_optimizers(optimizer)))
            shared.logged, shared.reduced = (-1, {}), {}
            # Not earlier: `BackupAndRestore` loads in `on_train_begin`, and sets the first epoch.
            if not shared.begun:
                shared.begun, shared.first_epoch = True, epoch
                if attached is not None:
                    before, told = run.states.get(id(optimizer), (attached.state, None))
                    loaded_since = attached.state is not told
                    # Not the state from `set_params`, which only serves to read the rate early.
                    shared.found = attached.state if loaded_since else before
                    shared.resumed = loaded_since and attached.state.loaded
                    self._begin_clock(attached, shared)
            self._check_epochs(optimizer)
            remake_train_function(self.model, optimizer)
            if self.warn and not run.begun:
                self._warn_at_begin(optimizer, shared)
        run.begun = True

    def _begin_clock(self, attached: Attached, shared: Shared, inside_epoch: bool = False) -> None:
        found = shared.found
        assert found is not None
        clock = found.clock.begin(
            shared.first_epoch,
            self.params.get("steps"),
            shared.counters,
            loaded=found.loaded,
            resumed=shared.resumed,
        )
        state = replace(attached.state if inside_epoch else found, clock=clock, loaded=False)
        attached.commit(state, inside_epoch=inside_epoch)

    @property
    def async_safe(self) -> bool:
        """Whether Keras may call `on_train_batch_end` from threads of its own, out of order.

        Otherwise Keras waits for the device at the end of each batch, to read its logs.
        """
        own = type(self).on_train_batch_end.__module__.startswith("keras_decay.")
        return own and self.every is None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._this_run()
        if batch > 0 and not run.measured:
            self._measure_updates(run, batch)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._run
        if run is None:
            return
        run.batch = max(run.batch, self._last_batch(run, batch))
        if self.every is not None and not run.measured:
            self._measure_updates(self._this_run(), run.batch + 1)

    def _last_batch(self, run: Run, batch: int) -> int:
        """The last batch of this execution; old versions of Keras pass the first one."""
        size = run.execution
        if size > 1 and batch % size == 0:
            batch = min(batch + size, self.params.get("steps") or batch + size) - 1
        return batch

    def _measure_updates(self, run: Run, batches: int) -> None:
        """Tells the clocks how many weight updates a batch makes, once per `fit`."""
        run.measured = True
        for optimizer in self._optimizers().values():
            shared = run.shared[id(optimizer)]
            if shared.updates is not None or shared.counter is not self:
                continue
            sync_variables(self.model)
            moved = shared.counted(optimizer)
            # Rounded, since a `LossScaleOptimizer` skips steps whose gradients overflow.
            shared.updates = max(1, round(max(moved, default=0) / batches))
            attached = attached_to(optimizer)
            if attached is None or shared.found is None:
                continue
            if shared.updates != attached.state.clock.updates:
                clock = replace(shared.found.clock, updates=shared.updates)
                shared.found = replace(shared.found, clock=clock)
                self._begin_clock(attached, shared, inside_epoch=True)
                remake_train_function(self.model, optimizer)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        run = self._this_run()
        if not run.measured and run.batch >= 0:
            self._measure_updates(run, run.batch + 1)
        for suffix, optimizer in self._optimizers().items():
            shared = run.shared[id(optimizer)]
            rates = self._rates_of_last_step(optimizer, suffix, shared)
            if logs is not None:
                # A rate that is already in the logs stays.
                logs.update({**rates, **logs})
            if self.warn and run.batch >= 0:
                self._warn_at_end(suffix, optimizer, shared)
            attached = attached_to(optimizer)
            if attached is not None and shared.counter is self and not self.counts_first:
                clock = self._ended(optimizer, attached, epoch)
                attached.commit(replace(attached.state, clock=clock))

    def _rates_of_last_step(self, optimizer: Any, suffix: str, shared: Shared) -> dict[str, float]:
        """What the logs say about the last step, noted before a reduction changes it."""
        batch = self._this_run().batch
        if shared.logged[0] != batch or not shared.logged[1]:
            shared.logged = batch, self._rates_now(optimizer, suffix, shared)
        return shared.logged[1]

    def _rates_now(self, optimizer: Any, suffix: str, shared: Shared) -> dict[str, float]:
        counted = max(shared.counted(optimizer), default=0)
        # On data of unknown size TensorFlow counts one step more than it trains.
        batches = (shared.updates or 1) * (self._this_run().batch + 1)
        extra = not self.params.get("steps") and counted == batches + 1
        return learning_rates(optimizer, suffix, back=1 + extra)

    def _ended(self, optimizer: Any, attached: Attached, epoch: int) -> Clock:
        """The clock after the end of an epoch."""
        shared, counters = self._this_run().shared[id(optimizer)], attached.counters()
        sure = _counts_every_step(optimizer)
        moved = [not sure or each != 0 for each in shared.counted(optimizer)]
        return attached.state.clock.end(epoch, counters, moved)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._run = None

    def _warn_at_begin(self, optimizer: Any, shared: Shared) -> None:
        """Compares the first epoch of a `fit` with the steps of the optimizer."""
        inner, steps = _keras.inner_optimizers(optimizer), self.params.get("steps")
        warnings = self._this_run().warnings[id(optimizer)]
        warnings.warn_if_epochs_differ(inner, steps)
        done = max(shared.counters, default=0)
        warnings.warn_if_starting_over(inner, shared.first_epoch, done, steps)

    def _watches_alone(self) -> bool:
        """Whether no other optimizer has its own callback; a logger watches all of them."""
        counters = [shared.counter for shared in self.params[SHARED].values()]
        alike = [each for each in counters if each.counts_first >= self.counts_first]
        return len(alike) == 1

    def _warn_at_end(self, suffix: str, optimizer: Any, shared: Shared) -> None:
        """Compares an epoch with the steps that the optimizer has taken in it."""
        run = self._this_run()
        counted = shared.counted(optimizer)
        warnings = run.warnings[id(optimizer)]
        if _counts_every_step(optimizer):
            warnings.warn_if_steps_differ(
                optimizer,
                counted,
                run.batch + 1,
                updates=shared.updates or 1,
                size_known=bool(self.params.get("steps")),
                alone=self._watches_alone(),
                expected=self.model.stop_training,
            )
        if max(counted, default=0):
            first = max(shared.counters, default=0)
            warnings.warn_if_zero(optimizer, first, first + max(counted) - 1)


def _counts_every_step(optimizer: Any) -> bool:
    """Whether the optimizer's counter counts every step.

    A `LossScaleOptimizer` skips steps whose gradients overflow, and a user's wrapper may count
    elsewhere.
    """
    inner = _keras.inner_optimizers(optimizer)
    return not (_keras.wrappers(optimizer) or any(map(_keras.forwards_learning_rate, inner)))
