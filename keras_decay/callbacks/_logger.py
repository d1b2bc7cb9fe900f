"""The rate in the logs of any training."""

from __future__ import annotations

from typing import Any

from keras_decay import _checks
from keras_decay._config import register
from keras_decay.callbacks._base import RateCallback, Shared
from keras_decay.optimizer._rates import (
    effective_rate,
    named_optimizers,
    rate_used,
    schedule_of,
    steps_done,
)


@register
class LearningRateLogger(RateCallback):
    """Puts the learning rate into the logs of each epoch, for any optimizer.

    ```
    logs["learning_rate"] = the effective rate of the epoch's last step
    ```

    so that `History`, `CSVLogger` and the progress bar show it beside the loss that it
    produced. (With a `MultiOptimizer`, `learning_rate_<name>` of each inner optimizer,
    as Keras's own callbacks name it; of an optimizer that the model holds under another name, such
    as `d_optimizer`, `learning_rate_d_optimizer`.) `PlateauDecay` does the same by itself. Put it
    before the callbacks that write the logs. A rate that is in the logs already stays.
    (`TensorBoard` replaces the rate of a schedule by that of the next step, which it takes itself.)

    Schedules without a `steps_per_epoch` count the epochs of this `fit` through it, in every
    optimizer that the model holds. And it warns of what schedules invite: a given
    `steps_per_epoch` that is not the run's (but for 1, which makes a step an epoch);
    `initial_epoch > 0` with an optimizer at step 0, where a schedule counts steps; an optimizer
    that takes no step; a counter that counts more steps than there are batches; a rate that has
    come to 0.

    Args:
        warn: Whether to warn.
        every: Int >= 1 or `None`: also put the rate into the logs of every n-th batch of the
            training run, counted from 1 as `TensorBoard(update_freq=n)` does: list it before that
            one and give both the same number. It is the rate of the batch's last update, computed
            on the host without reading a device (but for what a schedule that is not of this
            package does when it is called); a float rate is that of the beginning of the epoch.

    Attributes:
        seen: What it logged: for each name a list of pairs of a step and the rate at it.
            `keras_decay.plot` draws it.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: `every` below 1; a schedule that counts the epochs of a `fit` which does not
            know how many steps one has.

    Example:

    >>> logger = keras_decay.LearningRateLogger()
    >>> # model.fit(x, y, epochs=10, callbacks=[logger])
    """

    def __init__(self, warn: bool = True, every: int | None = None):
        super().__init__()
        self.warn = _checks.boolean("warn", warn)
        self.every = None if every is None else _checks.integer("every", every, 1)
        self.seen: dict[str, list[tuple[int, float]]] = {}
        self._batches = 0
        """The batches of the training run so far, as `TensorBoard` counts them: of those that run
        in one execution (`steps_per_execution`), the last one."""
        self._rates: list[tuple[str, Any, float | None, int, Shared]] = []
        """Of each inner optimizer, when the epoch began: the name of its rate, the optimizer, a
        float rate, which a read at a batch's end would wait for, and the steps it had counted."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self._batches = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if self.every is not None:
            self._rates = [
                (
                    f"learning_rate{name}",
                    inner,
                    effective_rate(inner) if schedule_of(inner) is None else None,
                    first,
                    shared,
                )
                for suffix, optimizer in self._optimizers().items()
                for shared in [self._this_run().shared[id(optimizer)]]
                for (name, inner), first in zip(
                    named_optimizers(optimizer, suffix), shared.counters, strict=False
                )
            ]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        self._batches += 1
        if self.every is None or logs is None or self._batches % self.every:
            return
        for name, inner, number, first, shared in self._rates:
            batch = self._this_run().batch
            step = first + (shared.updates or 1) * (batch + 1) - 1
            rate = schedule_of(inner) if number is None else shared.reduced.get(name, number)
            # A plateau before this one may have reduced the rate since that step.
            logged = shared.logged[1] if shared.logged[0] == batch else {}
            logs[name] = logged[name] if name in logged else rate_used(rate, step)
            self._see(name, step, logs[name])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self.every is None:
            for suffix, optimizer in self._optimizers().items():
                logged = self._this_run().shared[id(optimizer)].logged[1]
                for name, inner in named_optimizers(optimizer, suffix):
                    name = f"learning_rate{name}"
                    self._see(name, max(steps_done(inner) - 1, 0), logged[name])

    def _see(self, name: str, step: int, rate: float) -> None:
        self.seen.setdefault(name, []).append((step, rate))
