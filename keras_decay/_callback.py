"""What both callbacks do in a `fit`: teach schedules, log rates, compare."""

from __future__ import annotations

from typing import Any

import keras

from keras_decay import _keras
from keras_decay._config import Configured
from keras_decay._doubts import Doubts
from keras_decay._formula import forget, teach, untaught
from keras_decay._hold import renew_step
from keras_decay._rates import learning_rates, schedule_of, steps_done

SAID = "said_by_keras_decay"


class RateCallback(Configured, keras.callbacks.Callback):
    """Tells the schedules how many steps an epoch has, logs the rates at each epoch end, and
    compares what the schedules and the memory take for true with this run."""

    warn = True
    """Whether to compare."""

    def __init__(self) -> None:
        super().__init__()
        self.params: Any = None  # Old Kerases leave it out.
        self._begins = False
        self._batch = -1
        """The last batch of the epoch that has ended."""
        self._steps_before = 0
        """The steps that the optimizer had done when the epoch began."""
        self._doubts = Doubts()
        self._told: list[Any] = []
        """The schedules that `set_params` has taught, until it is clear that it was `fit`'s."""

    def __getstate__(self) -> dict[str, Any]:
        # A copy is another callback: the model is not its own.
        return {**vars(self), **_keras.CALLBACK_OUTSIDE_FIT}

    @property
    def _optimizer(self) -> Any:
        """The optimizer whose rates are logged."""
        return self.model.optimizer

    @property
    def _suffix(self) -> str:
        """What its log names end with."""
        return ""

    def _leaves(self) -> list[Any]:
        optimizer = self._optimizer
        return [] if optimizer is None else _keras.leaf_optimizers(optimizer)

    def _schedules(self) -> list[Any]:
        return [each for each in map(schedule_of, self._leaves()) if each is not None]

    def _steps_done(self) -> int:
        return max(map(steps_done, self._leaves()), default=0)

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        # Before any callback's `on_train_begin`, for one that reads the rate there.
        known = self.model is not None and params.get("steps")
        for schedule in self._schedules() if known else ():
            self._told += teach(schedule, params["steps"])

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._told = []
        unknowing = [each for schedule in self._schedules() for each in untaught(schedule)]
        if unknowing:
            raise ValueError(
                f"`{type(unknowing[0]).__name__}` is to learn from `fit` how many steps an "
                "epoch has, but `fit` does not know it. Pass `steps_per_epoch=` to `fit` or "
                "to the schedule; a `tf.data.Dataset` is told its size by "
                "`dataset.apply(tf.data.experimental.assert_cardinality(batches))`."
            )
        renew_step(self.model, self._optimizer)
        self._begins = True
        # The callbacks of a `fit` share their `params`.
        said = self.params.setdefault(SAID, {})
        self._doubts = Doubts(said.setdefault(id(self._optimizer), set()))

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        # `evaluate` and `predict` call `set_params` as `fit` does, with steps of their own.
        forget(self._told)
        self._told = []

    on_predict_begin = on_test_begin

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps_before, self._batch = self._steps_done(), -1
        # Not earlier: `BackupAndRestore` loads when training begins, and sets the epoch too.
        if self._begins:
            self._begin(epoch)
        self._begins = False

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._batch = batch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None and self._optimizer is not None:
            # What is there already stays: who logged it may have lowered the rate since.
            rates = learning_rates(self._optimizer, self._suffix, last_step=True)
            logs.update({**rates, **logs})
        if self.warn and self._batch >= 0:
            self._end()

    def _begin(self, epoch: int) -> None:
        """Compares the first epoch of a `fit` with what the optimizer has done."""
        if self.warn:
            leaves, steps = self._leaves(), self.params.get("steps")
            self._doubts.compare_epochs(leaves, steps)
            self._doubts.compare_clock(leaves, epoch, self._steps_before, steps)

    def _end(self) -> None:
        """Compares an epoch with what the optimizer has done in it."""
        # One that scales the loss leaves out what overflows; a user's own may count elsewhere.
        counts = not _keras.wrappers(self._optimizer) and not any(
            map(_keras.forwards_learning_rate, self._leaves())
        )
        self._doubts.compare_steps(
            counted=self._steps_done() - self._steps_before,
            batches=self._batch + 1,
            size_known=bool(self.params.get("steps")),
            alone=counts and len(self.params[SAID]) == 1,
        )
