"""The rate in the logs of any training."""

from __future__ import annotations

from typing import Any

from keras_decay import _checks
from keras_decay._callback import RateCallback
from keras_decay._config import register
from keras_decay._rates import (
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
    as Keras's own callbacks name it.) `PlateauDecay` does the same by itself. Put it before
    the callbacks that write the logs. A rate that is in the logs already stays. (`TensorBoard`
    replaces the rate of a schedule by that of the next step, which it takes itself.)

    Before training begins it tells the schedules of the optimizer, also those inside others, how
    many steps an epoch of this `fit` has, where they do not know it. And it warns of what
    schedules invite: a `steps_per_epoch` that is not the run's (but for 1, which makes a step an
    epoch); `initial_epoch > 0` with an optimizer at step 0, whose schedule starts over; an
    optimizer that takes no step; a counter that counts more steps than there are batches.

    Args:
        warn: Whether to warn.
        every: Int >= 1 or `None`: also put the rate into the logs of every n-th batch, beginning
            with the first one of the epoch, for `TensorBoard(update_freq=...)` and other callbacks
            after this one that read them. It is computed on the host, from the batches counted,
            without reading a device (but for what a schedule that is not of this package does
            when it is called); a float rate is that of the beginning of the epoch.

    Attributes:
        seen: What it logged: for each name a list of pairs of a step and the rate at it.
            `keras_decay.plot` draws it.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: `every` below 1; a schedule that is to learn its `steps_per_epoch` in a `fit`
            that does not know it.

    Example:

    >>> logger = keras_decay.LearningRateLogger()
    >>> # model.fit(x, y, epochs=10, callbacks=[logger])
    """

    def __init__(self, warn: bool = True, every: int | None = None):
        super().__init__()
        self.warn = _checks.boolean("warn", warn)
        self.every = None if every is None else _checks.integer("every", every, 1)
        self.seen: dict[str, list[tuple[int, float]]] = {}
        self._next_batch = 0
        self._rates: dict[str, Any] = {}

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_begin(epoch, logs)
        self._next_batch = 0
        if self.every is not None:
            self._rates = {
                f"learning_rate{name}": schedule_of(leaf) or effective_rate(leaf)
                for name, leaf in named_optimizers(self._optimizer)
            }

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        # With `steps_per_execution` only the last batch of each execution comes by here.
        if self.every is None or logs is None or batch < self._next_batch:
            return
        self._next_batch = (batch // self.every + 1) * self.every
        step = self._steps_before + batch
        for name, rate in self._rates.items():
            logs[name] = rate_used(rate, step)
            self._see(name, step, logs[name])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self.every is None:
            for name, leaf in named_optimizers(self._optimizer):
                rate = effective_rate(leaf, last_step=True)
                self._see(f"learning_rate{name}", max(steps_done(leaf) - 1, 0), rate)

    def _see(self, name: str, step: int, rate: float) -> None:
        self.seen.setdefault(name, []).append((step, rate))
