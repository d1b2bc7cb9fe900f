"""The state of one optimizer, immutable and in one place: its epochs and its plateau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from keras_decay import _checks


@dataclass(frozen=True)
class PlateauState:
    """What a plateau has counted so far. It belongs to the optimizer.

    Attributes:
        best: The best value observed; `None` before the first finite one.
        wait: The observations counted towards `patience`.
        cooldown: How many of the next observations are not counted.
        scale: The product of all reductions.
        reductions: The number of reductions.
        average: The moving average of the finite observations; it starts at 0.
        observations: The number of observations in the average.
        start_loss: The training loss of the first batch, as long as training has learned nothing;
            `None` afterwards, or if it is not needed.
        start_value: The first value observed; kept as long as `start_loss` is.
    """

    best: float | None = None
    wait: int = 0
    cooldown: int = 0
    scale: float = 1.0
    reductions: int = 0
    average: float = 0.0
    observations: int = 0
    start_loss: float | None = None
    start_value: float | None = None


@dataclass(frozen=True)
class Clock:
    """How many epochs of `fit` an optimizer has trained.

    A schedule that counts these epochs is called at `step + offset`, so that epoch k begins at
    step `k * steps_per_epoch` for it, however many steps the optimizer has counted.

    Attributes:
        epochs: How many epochs have ended, in all calls of `fit` together.
        epoch: The index that `fit` gave the last of them; `None` before epoch 0 has ended.
        steps_per_epoch: The updates in an epoch of the last `fit`; `None` if that is unknown.
        updates: How many weight updates a batch makes.
        offsets: For each inner optimizer, how many steps its schedule is ahead of its counter.
    """

    epochs: int = 0
    epoch: int | None = None
    steps_per_epoch: int | None = None
    updates: int = 1
    offsets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not any(self.offsets):
            object.__setattr__(self, "offsets", ())  # One way to say that there are none.

    def offset(self, index: int) -> int:
        return self.offsets[index] if index < len(self.offsets) else 0

    def begin(
        self, epoch: int, steps: int | None, counters: Sequence[int], *, loaded: bool, resumed: bool
    ) -> Clock:
        """The clock when `fit` begins at epoch `epoch`.

        Args:
            epoch: Int >= 0, the index that `fit` gives its first epoch.
            steps: The batches in an epoch of this `fit`; `None` if `fit` does not know.
            counters: The steps that each inner optimizer has counted.
            loaded: Whether the clock comes from a file, which may lack the last epochs.
            resumed: Whether the file was loaded in this `fit`, so that an epoch may begin again.
        """
        length = steps * self.updates if steps else self.steps_per_epoch
        missed = epoch - (-1 if self.epoch is None else self.epoch) - 1
        if resumed:
            position = max(self.epochs + missed, epoch)
        else:
            missed = max(missed, 0) if loaded else 0
            position = max(self.epochs + missed, self._counted(epoch, length, counters), epoch)
        begun = replace(self, epochs=position, epoch=epoch - 1 if epoch else None)
        return begun.aligned(length, counters)

    def _counted(self, epoch: int, length: int | None, counters: Sequence[int]) -> int:
        """The epochs that have passed by the counters, also those without a callback of ours."""
        if self.steps_per_epoch is not None:
            passed = [
                (counter + self.offset(index)) // self.steps_per_epoch
                for index, counter in enumerate(counters)
            ]
            return max(passed, default=0)
        if length is None or self.epochs or epoch:
            return 0  # Those epochs may have had another length, so only `fit`'s index counts.
        return max(counters, default=0) // length

    def end(self, epoch: int, counters: Sequence[int], moved: Sequence[bool]) -> Clock:
        """The clock when an epoch has ended.

        The next epoch begins at a whole number, whatever was counted. An inner optimizer that took
        no step has not trained the epoch.
        """
        ended = replace(self, epochs=self.epochs + any(moved), epoch=epoch)
        aligned = ended.aligned(self.steps_per_epoch, counters)
        offsets = [
            aligned.offset(index) if has else self.offset(index) for index, has in enumerate(moved)
        ]
        return replace(aligned, offsets=tuple(offsets))

    def counters_moved(self, ahead: Sequence[int]) -> Clock:
        """The same clock after counters have been moved ahead."""
        if self.steps_per_epoch is None or not any(ahead):
            return self
        offsets = tuple(self.offset(index) - each for index, each in enumerate(ahead))
        return replace(self, offsets=offsets)

    def after(self, epoch: int) -> Clock:
        """The clock after an epoch of a custom loop; offsets stay, as does its compiled step."""
        return replace(self, epochs=max(epoch, self.epochs) + 1, epoch=epoch)

    def aligned(self, length: int | None, counters: Sequence[int]) -> Clock:
        """The same clock at the beginning of an epoch of `length` steps."""
        if length is None:
            return self
        offsets = tuple(self.epochs * length - counter for counter in counters)
        return replace(self, steps_per_epoch=length, offsets=offsets)


PLATEAU, CLOCK = asdict(PlateauState()), asdict(Clock())
FRESH = {**PLATEAU, **CLOCK}


@dataclass(frozen=True)
class State:
    """All that is known about an optimizer.

    It is replaced as a whole, so an interrupt never leaves it half changed.
    """

    plateau: PlateauState = field(default_factory=PlateauState)
    clock: Clock = field(default_factory=Clock)
    best_weights: Sequence[NDArray[Any]] | None = None
    loaded: bool = False
    """Whether it comes from a file, and no epoch has begun since."""

    @property
    def has_observed(self) -> bool:
        return self.plateau.best is not None or self.plateau.reductions > 0

    def numbers(self, index: int | None = None) -> dict[str, Any]:
        """The plain numbers that differ from a fresh state; with `index`, of one inner optimizer
        only."""
        clock = asdict(self.clock)
        if index is not None and self.clock.offsets:
            clock["offsets"] = [self.clock.offset(index)]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {**asdict(self.plateau), **clock}.items()
            if value != FRESH[name]
        }


def checked_state(numbers: dict[str, Any]) -> State:
    """The state from a file or a config; an error names what is wrong with it."""
    if not isinstance(numbers, dict):
        _checks.fail("state", numbers, "a dict of numbers or None", TypeError)
    for name in numbers:
        if name not in FRESH:
            raise TypeError(f"`state` has no `{name}`; it has {list(FRESH)}.")
    checked = {name: _checked(name, number) for name, number in numbers.items()}
    plateau = PlateauState(**{name: checked[name] for name in checked if name in PLATEAU})
    clock = Clock(**{name: checked[name] for name in checked if name in CLOCK})
    if (plateau.scale == 1.0) != (plateau.reductions == 0):
        must = (
            "1.0 before the first reduction and below it after one; "
            f"here `reductions` is {plateau.reductions}"
        )
        _checks.fail("scale", plateau.scale, must)
    return State(plateau, clock)


def _checked(name: str, number: Any) -> Any:
    if number is None and FRESH[name] is None:
        return None
    if name in ("best", "start_loss", "start_value"):
        return _checks.real(name, number, "a finite number or None")
    if name == "average":
        return _checks.real(name, number, "a finite number")
    if name == "scale":
        return _checks.real(name, number, "a number in (0, 1]", above=0.0, at_most=1.0)
    if name == "offsets":
        offsets = _checks.sequence(name, number, "a list of ints")
        return tuple(_checks.integer(name, each, -_checks.LARGEST_INT) for each in offsets)
    return _checks.integer(name, number, 1 if name in ("steps_per_epoch", "updates") else 0)
