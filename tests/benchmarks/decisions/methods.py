"""What decides the rates: schedules, and the real callbacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_decay
from keras_decay.optimizer._state import PlateauState
from keras_decay.plateau._best_weights import forget_start

GOES_BACK = {
    "restore": "the weights",
    "restore + state": "the weights, and both moments, of the best epoch",
    "restore + zero": "the weights; the first moment starts from zero, the second stays",
    "restore + zero + second": "the weights; the first moment starts from zero, and the second "
    "is the best epoch's",
    "restore + zero + corrected": "the same, and the second is scaled as if the counter of its "
    "bias correction had gone back too",
}
"""What goes back to the best epoch at a reduction, by the name of the form."""


Form = tuple[float, int]
"""Factor and patience."""
FORMS: tuple[Form, ...] = ((0.1, 10), (0.1, 5), (0.3, 3))
OTHER_FORMS: tuple[Form, ...] = ((0.5, 5), (0.1, 3))
CHOSEN, SECOND = "restore + zero", "restore + zero + second"
"""The forms of going back that the other questions are asked with."""
RECOVER = "recover"
"""`restore_best_weights=True, recover=True` of the package."""

K = 4.0
"""How many times the first batch's training loss an explosion is, where no other is named."""


class Losses(NamedTuple):
    """What `fit` knows at the end of an epoch, and the loss of its very first batch."""

    value: float
    training: float
    first: float


class Action(NamedTuple):
    """What a decision does to the state of training.

    Attributes:
        better: Whether this epoch is the one to go back to from now on.
        restore: A key of `GOES_BACK`, or nothing.
        recover: Whether the epoch is undone.
        good: Whether it is one that `recover` can go back to.
    """

    better: bool = False
    restore: str = ""
    recover: bool = False
    good: bool = True


class Table:
    """A schedule: all its rates are known beforehand."""

    reductions = 0

    def __init__(self, rates: np.ndarray, steps: int):
        self._rates = rates.reshape(-1, steps)

    def rates(self, epoch: int) -> np.ndarray:
        return self._rates[epoch]

    def observe(self, epoch: int, losses: Losses) -> Action:
        return Action()


class KerasPlateau:
    """`keras.callbacks.ReduceLROnPlateau`."""

    def __init__(self, rate: float, steps: int, **arguments: Any):
        self._steps, self._rate, self.reductions = steps, rate, 0
        self._optimizer = keras.optimizers.SGD(rate)
        self._callback = keras.callbacks.ReduceLROnPlateau(**arguments)
        self._callback.set_model(SimpleNamespace(optimizer=self._optimizer))
        self._callback.on_train_begin()

    def rates(self, epoch: int) -> np.ndarray:
        return np.full(self._steps, self._rate)

    def observe(self, epoch: int, losses: Losses) -> Action:
        self._callback.on_epoch_end(epoch, {"val_loss": losses.value})
        rate = float(self._optimizer.learning_rate)
        self.reductions += rate != self._rate
        self._rate = rate
        return Action()


class Plateau:
    """`keras_decay.PlateauDecay`, with what a form of it goes back to."""

    def __init__(
        self,
        rate: float,
        steps: int,
        restore: str = "",
        exploded: Callable[[Losses, Losses], bool] | None = None,
        start: float = math.inf,
        **arguments: Any,
    ):
        self._steps, self._rate, self._restore, self._exploded = steps, rate, restore, exploded
        self._start = start
        self._optimizer = keras.optimizers.SGD(rate)
        self._callback = keras_decay.PlateauDecay(mode="min", **arguments)
        self._callback.attach(SimpleNamespace(optimizer=self._optimizer, stop_training=False))
        self._best, self.reductions = Losses(math.inf, math.inf, math.inf), 0

    def rates(self, epoch: int) -> np.ndarray:
        return np.full(self._steps, self._rate)

    def observe(self, epoch: int, losses: Losses) -> Action:
        if self._exploded is not None and self._exploded(losses, self._best):
            self._reduced(self._callback.reduce())
            return Action(recover=True, good=False)
        best = self._callback.state["best"]
        reduced = self._reduced(self._callback.update(losses.value, epoch))
        better = self._callback.state["best"] != best
        # Else it is the start that training goes back to.
        better &= losses.training <= self._start * losses.first
        self._best = Losses(*np.fmin(self._best, losses))
        # As in the package: where no value was finite, only the forms that know a start go back.
        goes_back = reduced and (
            math.isfinite(self._start) or self._callback.state["best"] is not None
        )
        return Action(better, self._restore if goes_back else "")

    def _reduced(self, reduced: bool) -> bool:
        if reduced:
            self._rate = float(self._optimizer.learning_rate)
            self.reductions += 1
        return reduced


class Recovering(Plateau):
    """The same with `restore_best_weights=True, recover=True`, by the package's own rule of when
    the weights of the start are left."""

    def __init__(self, rate: float, steps: int, **arguments: Any):
        super().__init__(rate, steps, CHOSEN, above_first(math.inf), **arguments)
        self._undone = False
        self._known_start: PlateauState | None = None

    def observe(self, epoch: int, losses: Losses) -> Action:
        if self._known_start is None:
            self._known_start = PlateauState(start_loss=losses.first)
        action = super().observe(epoch, losses)
        again, self._undone = action.recover and self._undone, action.recover
        if again:
            return action._replace(restore=CHOSEN)
        if action.better and self._known_start.start_loss is not None:
            better = replace(self._known_start, best=losses.value)
            self._known_start = forget_start(better, losses.training)
            return action._replace(better=self._known_start.start_loss is None)
        return action


@dataclass(frozen=True)
class Method:
    """A name, and what makes the decider of one training run from rate, epochs and steps."""

    name: str
    make: Callable[[float, int, int], Any]
    known_length: bool = False


def above_first(times: float) -> Callable[[Losses, Losses], bool]:
    """The training loss is above that of the first batch, so many times."""

    def exploded(now: Losses, best: Losses) -> bool:
        finite = math.isfinite(now.value) and math.isfinite(now.training)
        return not finite or now.training > times * now.first

    return exploded


def above_best(times: float) -> Callable[[Losses, Losses], bool]:
    """The value or the training loss is above the best so far, so many times."""

    def exploded(now: Losses, best: Losses) -> bool:
        finite = math.isfinite(now.value) and math.isfinite(now.training)
        return not finite or now.value > times * best.value or now.training > times * best.training

    return exploded


def methods(forms: bool = False) -> list[Method]:
    """The methods that are compared; with `forms`, all those that were tried."""
    return [
        Method("constant", lambda rate, epochs, steps: Table(np.full(epochs * steps, rate), steps)),
        Method("ReduceLROnPlateau", lambda rate, epochs, steps: KerasPlateau(rate, steps)),
        *(plateau(form) for form in FORMS),
        *(plateau(form, restore) for restore in list(GOES_BACK)[:3] for form in FORMS),
        *(plateau(form, RECOVER) for form in FORMS),
        *(_other_forms() if forms else []),
        _schedule("StepDecay .1 every third", _step_decay, known_length=True),
        _schedule("InverseTimeDecay .5", _inverse),
        _schedule("cosine to 0", _cosine, known_length=True),
        _schedule("linear to 0", _linear, known_length=True),
        Method("warmup-stable-decay", _warmup_stable_decay, known_length=True),
    ]


def _other_forms() -> list[Method]:
    every, half, last = (*FORMS, *OTHER_FORMS), OTHER_FORMS[0], FORMS[-1]
    return [
        *(plateau(half, restore) for restore in ("", *list(GOES_BACK)[:3])),
        *(plateau(form, restore) for restore in list(GOES_BACK)[3:] for form in (*FORMS, half)),
        *(plateau(form, SECOND) for form in OTHER_FORMS[1:]),
        *(plateau(form, RECOVER) for form in OTHER_FORMS),
        *(plateau(form, CHOSEN, "start", times) for times in (2, 0.9) for form in (*FORMS, half)),
        *(plateau(form, SECOND, "start", 2) for form in every),
        *(plateau(last, SECOND, "start", times) for times in (1, K)),
        *(plateau(form, SECOND, "first", K) for form in every),
        *(plateau(form, SECOND, "both", K) for form in every),
        *(plateau(last, SECOND, "first", times) for times in (math.inf, 1, 2, 10)),
        plateau(last, SECOND, "best", 3),
        plateau(last, CHOSEN, "first", K),
        *(plateau(form, "", "first", K) for form in FORMS),
        plateau(FORMS[0], "", "first", math.inf),
    ]


def plateau(form: Form, restore: str = "", explosion: str = "", times: float = math.inf) -> Method:
    """`PlateauDecay` with a factor and a patience, and with what it goes back to.

    Args:
        form: Factor and patience.
        restore: A key of `GOES_BACK`, or nothing; or `RECOVER`, without an explosion.
        explosion: What an exploded loss is compared with, `"first"` or `"best"`, or nothing;
            with `"start"`, the best epochs are those whose training loss is not above so many
            times the first batch's: where there is none, a reduction goes back to the start of
            training; `"both"` is that with 2 times, and `"first"`.
        times: How many times that an exploded loss is; infinity for losses that are not finite.
    """
    factor, patience = form
    exploded = {"first": above_first, "both": above_first, "best": above_best}.get(explosion)
    start = {"start": times, "both": 2.0}.get(explosion, math.inf)
    names = [f"plateau {factor:g}/{patience}"]
    if restore:
        names.append(f"{CHOSEN} + {RECOVER}" if restore == RECOVER else restore)
    if exploded:
        kind = "best" if explosion == "best" else "first"
        names.append(f"recover over {times:g} x {kind}" if math.isfinite(times) else "recover")
    if math.isfinite(start):
        names.append(f"start over {start:g} x first")

    def make(rate: float, epochs: int, steps: int) -> Plateau:
        if restore == RECOVER:
            return Recovering(rate, steps, factor=factor, patience=patience)
        return Plateau(
            rate,
            steps,
            restore,
            exploded(times) if exploded else None,
            start,
            factor=factor,
            patience=patience,
        )

    return Method(", ".join(names), make)


def _schedule(name: str, make: Callable[..., Any], known_length: bool = False) -> Method:
    def table(rate: float, epochs: int, steps: int) -> Table:
        schedule = make(rate, epochs, steps)
        return Table(keras_decay.preview(schedule, epochs, steps_per_epoch=steps)[1], steps)

    return Method(name, table, known_length)


def _inverse(rate: float, epochs: int, steps: int) -> Any:
    return keras_decay.InverseTimeDecay(rate, 0.5)


def _step_decay(rate: float, epochs: int, steps: int) -> Any:
    return keras_decay.StepDecay(rate, 0.1, epochs // 3)


def _cosine(rate: float, epochs: int, steps: int) -> Any:
    return keras.optimizers.schedules.CosineDecay(rate, epochs * steps)


def _linear(rate: float, epochs: int, steps: int) -> Any:
    return keras.optimizers.schedules.PolynomialDecay(rate, epochs * steps, 0.0)


def _warmup_stable_decay(rate: float, epochs: int, steps: int) -> Table:
    t = np.arange(epochs * steps) / (epochs * steps)
    return Table(rate * np.minimum(np.minimum(1, (t + 1e-3) / 0.05), (1 - t) / 0.2), steps)
