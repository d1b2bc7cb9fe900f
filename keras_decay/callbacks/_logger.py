"""The learning rate in the logs of any training run."""

from __future__ import annotations

from typing import Any

from keras_decay import _checks
from keras_decay._config import register
from keras_decay.callbacks._base import RateCallback
from keras_decay.optimizer._rates import rate_used, schedule_of, steps_done


@register
class LearningRateLogger(RateCallback):
    """Puts the learning rate into the logs of each epoch, for any optimizer.

    ```
    logs["learning_rate"] = the effective rate of the epoch's last step
    ```

    So `History`, `CSVLogger` and the progress bar show the rate beside the loss that it produced.
    Each inner optimizer of a `MultiOptimizer` has its own entry, `learning_rate_<name>`, as in
    Keras's own callbacks. An optimizer in another attribute of the model, such as `d_optimizer`,
    is logged as `learning_rate_d_optimizer`. `PlateauDecay` does the same for its optimizer.

    Put it before the callbacks that write the logs. A rate that is already in the logs stays.
    (`TensorBoard` replaces the rate of a schedule with that of the next step, which it reads
    itself.)

    Through this callback, schedules without a `steps_per_epoch` count the epochs of this `fit`, in
    every optimizer that the model holds. It also warns of common mistakes with schedules: a given
    `steps_per_epoch` that is not the run's (except 1, which makes each step an epoch);
    `initial_epoch > 0` with an optimizer at step 0, where a schedule counts steps; an optimizer
    that takes no step; a counter that counts more steps than there are batches; a rate that has
    reached 0.

    Args:
        warn: Whether to warn.
        every: Int >= 1 or `None`: also put the rate into the logs of every n-th batch of the
            training run. Batches are counted from 1, as in `TensorBoard(update_freq=n)`: list the
            logger before `TensorBoard` and give both the same number. The rate is that of the
            batch's last update. It is computed on the host without reading a device (unless a
            schedule from outside this package does so); a float rate is read once, when the epoch
            begins.

    Attributes:
        seen: What was logged: for each name, a list of pairs of a step and the rate at that step.
            `keras_decay.plot` draws it.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: `every` below 1; a schedule that counts the epochs of `fit`, if `fit` does not
            know how many steps an epoch has.

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
        """The batches of the training run so far, as `TensorBoard` counts them: with
        `steps_per_execution`, one per execution."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        self._batches = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_train_batch_end(batch, logs)
        if self.every is None:
            return
        self._batches += 1
        if logs is None or self._batches % self.every:
            return
        run = self._this_run()
        for watched in run.watched:
            # A plateau before this one may have reduced the rate since that step.
            logged = watched.logged[1] if watched.logged[0] == run.batch else {}
            for (name, inner), first in zip(watched.named(), watched.counters, strict=False):
                step = first + (watched.updates or 1) * (run.batch + 1) - 1
                if name in logged:
                    rate = logged[name]
                elif name in watched.rates:
                    # To read the variable inside an epoch would wait for the device.
                    rate = watched.rates[name]
                else:
                    rate = rate_used(schedule_of(inner), step)
                logs[name] = rate
                self._see(name, step, rate)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        super().on_epoch_end(epoch, logs)
        if self.every is None:
            for watched in self._this_run().watched:
                for name, inner in watched.named():
                    self._see(name, max(steps_done(inner) - 1, 0), watched.logged[1][name])

    def _see(self, name: str, step: int, rate: float) -> None:
        self.seen.setdefault(name, []).append((step, rate))
