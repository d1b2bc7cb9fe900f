"""The rate in the logs, and a warning where epochs are not what the schedule takes them for."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np

from keras_decay import _checks, _keras
from keras_decay._backend import to_number
from keras_decay._compose import LearningRateSchedule, rate_of, within
from keras_decay._operations import NUMBER
from keras_decay._schedules import register

CHECKED = "keras_decay_checked"


def learning_rates(optimizer: Any, last_step: bool = False) -> dict[str, float]:
    """The effective rate at the optimizer's next step, or at the last one done.

    Named as Keras's own callbacks do: `learning_rate`, or `learning_rate_<name>` for each
    optimizer inside a `MultiOptimizer`.
    """
    several = hasattr(optimizer, "optimizers")
    rates = {}
    for leaf in _keras.leaf_optimizers(optimizer):
        rate = _keras.learning_rate(leaf)
        if isinstance(rate, LearningRateSchedule):
            rate = np.float32(rate_of(rate, max(_steps_done(leaf) - last_step, 0), NUMBER))
        elif not _keras.is_variable(rate):
            rate = leaf.learning_rate
        name = f"learning_rate_{leaf.name}" if several else "learning_rate"
        rates[name] = float(to_number(rate))
    return rates


class RateCallback(keras.callbacks.Callback):
    """Logs the rates at each epoch end, and compares the schedules' epochs with the run's."""

    def __init__(self, warn: bool = True):
        super().__init__()
        self.warn = warn
        self._checks_start = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        # The callbacks of a `fit` share their `params`: the first one that warns does it for all.
        params = self.params or {}
        self._checks_start = self.warn and not params.get(CHECKED)
        if not self._checks_start:
            return
        params[CHECKED] = True
        if params.get("steps"):
            self._compare(params["steps"])

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Not earlier: `BackupAndRestore` loads when training begins, and sets the epoch too.
        leaves = _keras.leaf_optimizers(self.model.optimizer)
        if (
            self._checks_start
            and epoch > 0
            and any(_schedules(leaf) for leaf in leaves)
            and not any(_steps_done(leaf) for leaf in leaves)
        ):
            warn(
                f"Training starts at epoch {epoch}, but the optimizer is at step 0, so its "
                "learning-rate schedule starts over. Load the optimizer's state too "
                "(`keras.models.load_model`, `load_weights` after `compile` and "
                "`optimizer.build`, or `BackupAndRestore`), or pass `initial_epoch=0`."
            )
        self._checks_start = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            # What is there already stays: who logged it may have lowered the rate since.
            logs.update({**learning_rates(self.model.optimizer, last_step=True), **logs})

    def _compare(self, steps: int) -> None:
        seen = set()
        for leaf in _keras.leaf_optimizers(self.model.optimizer):
            for schedule in _schedules(leaf):
                own = getattr(schedule, "steps_per_epoch", None)
                if own not in (None, steps) and (type(schedule), own) not in seen:
                    seen.add((type(schedule), own))
                    warn(
                        f"`{type(schedule).__name__}` counts epochs of {own} steps, but an epoch "
                        f"of this run has {steps}. Pass `steps_per_epoch={steps}` to the schedule."
                    )


def warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def _steps_done(optimizer: Any) -> int:
    return int(to_number(_keras.step_counter(optimizer)))


def _schedules(optimizer: Any) -> list[Any]:
    return list(within(_keras.learning_rate(optimizer)))


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

    When training begins it warns of the two mistakes that schedules invite: a
    `steps_per_epoch` that is not the run's, also inside nested schedules (not where the data
    does not tell how many steps it has); and `initial_epoch > 0` with an optimizer at step 0,
    whose schedule starts over.

    Args:
        warn: Whether to warn.

    Raises:
        TypeError: `warn` is not a bool.

    Example:

    >>> logger = keras_decay.LearningRateLogger()
    >>> # model.fit(x, y, epochs=10, callbacks=[logger])
    """

    def __init__(self, warn: bool = True):
        super().__init__(_checks.boolean("warn", warn))

    def get_config(self) -> dict[str, Any]:
        return {"warn": self.warn}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearningRateLogger:
        return cls(**config)
