"""How things are timed: interleaved, in an order that changes, and compared in pairs.

In each round every variant runs for a block of calls, and two variants are compared by the ratio
of their blocks in the same round: a machine that is slower for a while is so for both. What is
reported is the median of these ratios with its 95 % confidence interval, which assumes nothing
about how times are distributed. A training step is made anew several times (`generations`): two
models that are equal differ, by where their memory lies, for as long as they live, so what counts
there is the median of each generation. An interval that leaves out 1 is a difference. A target is
met by all of the interval, missed by all of it, or not decided.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

LEAST_ROUNDS = 7
ROUNDS = 40
MOST_ROUNDS = 400
MOST_GENERATIONS = 40
NARROW = 0.01
"""The width at which the interval of two equal variants tells a hundredth."""

Taken = dict[str, list[np.ndarray]]
"""The seconds that one call of a variant takes: for each generation, one number a round."""


@dataclass(frozen=True)
class Target:
    """What the interval has to stay under: that of a ratio to another variant, or of a time in
    seconds."""

    at_most: float
    against: str | None = None


def generations(
    make: Callable[[], dict[str, Callable[[int], Any]]],
    *,
    equal: tuple[str, str],
    seconds: float,
    block: float,
) -> Taken:
    """What `interleaved` takes of variants that are made anew until the two equal ones are told
    to be equal to a hundredth, or for about `seconds`."""
    taken: Taken = {}
    start = time.perf_counter()
    for generation in range(MOST_GENERATIONS):
        variants = make()
        rounds = interleaved(variants, seconds=len(variants) * block * ROUNDS, block=block)
        for name, times in rounds.items():
            taken.setdefault(name, []).extend(times)
        del variants
        low, high = _spread(compared(taken, *equal))["interval"]
        narrow = generation + 1 >= LEAST_ROUNDS and high - low < NARROW
        if narrow or time.perf_counter() - start > seconds:
            break
    return taken


def compared(taken: Taken, name: str, other: str) -> np.ndarray:
    """The ratios of two variants: of each generation, or of each round where there is only one."""
    ratios = [ours / theirs for ours, theirs in zip(taken[name], taken[other], strict=True)]
    return ratios[0] if len(ratios) == 1 else np.array([np.median(each) for each in ratios])


def interleaved(
    variants: dict[str, Callable[[int], Any]], *, seconds: float, block: float = 0.01
) -> Taken:
    """The seconds that one call of each variant takes, once a round.

    A variant is a function of how often to do the thing; it returns when all of it is done.
    In each round every variant runs for about `block` seconds, in a new order: no variant always
    follows the same other.
    """
    times = {}
    for name, run in variants.items():
        run(1)
        # The first estimate of something short is a bad one, and so is one of a moment at which
        # the machine did something else.
        times[name] = max(1, round(block / _timed(run, 1)))
        if times[name] > 1:
            times[name] = max(1, round(block / min(_timed(run, times[name]) for _ in range(3))))
    names = list(variants)
    shuffle = random.Random(0).shuffle
    taken: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    while len(taken[names[0]]) < MOST_ROUNDS and (
        len(taken[names[0]]) < LEAST_ROUNDS or time.perf_counter() - start < seconds
    ):
        shuffle(names)
        for name in names:
            taken[name].append(_timed(variants[name], times[name]))
    return {name: [np.array(taken[name])] for name in variants}


def _timed(run: Callable[[int], Any], times: int) -> float:
    gc.collect(0)
    gc.disable()
    try:
        start = time.perf_counter()
        run(times)
        return (time.perf_counter() - start) / times
    finally:
        gc.enable()


def repeated(function: Callable[[], Any]) -> Callable[[int], Any]:
    """A variant that calls the function, and waits for the last result where it is a tensor."""

    def run(times: int) -> None:
        for _ in range(times):
            result = function()
        wait_for(result)

    return run


def wait_for(result: Any) -> None:
    """Until a device has done what it was asked for, this result last."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        tf.test.experimental.sync_devices()
    elif backend == "jax":
        import jax

        jax.block_until_ready(result)
    else:
        import torch

        if torch.accelerator.is_available():
            torch.accelerator.synchronize()


def measurements(
    group: str,
    taken: Taken,
    *,
    unit: str,
    against: dict[str, list[str]] | None = None,
    targets: dict[str, Target] | None = None,
) -> list[dict[str, Any]]:
    """What is written to the JSON: one record a variant, times in seconds."""
    records = []
    for name, times in taken.items():
        seconds = np.concatenate(times)
        others = (against or {}).get(name, [])
        record: dict[str, Any] = {
            "group": group,
            "name": name,
            "unit": unit,
            "repeats": len(seconds),
            **_spread(seconds),
            "ratios": {other: _spread(compared(taken, name, other)) for other in others},
        }
        target = (targets or {}).get(name)
        if target is not None:
            value = record["ratios"][target.against] if target.against else record
            record["target"] = {
                "at_most": target.at_most,
                "against": target.against,
                "met": _met(value["interval"], target.at_most),
            }
        records.append(record)
    return records


def _met(interval: list[float], at_most: float) -> bool | None:
    """Whether all of the interval is under the bound; `None` where the bound is within it."""
    low, high = interval
    return high <= at_most if high <= at_most or low > at_most else None


def count(group: str, name: str, value: int, note: str = "") -> dict[str, Any]:
    """A number that is the same in every run."""
    return {"group": group, "name": name, "unit": "", "median": value, "note": note, "ratios": {}}


def _spread(values: np.ndarray) -> dict[str, Any]:
    ordered, count = np.sort(values), len(values)
    # The number of values below the median of what they are drawn from is binomial.
    low = max(int((count - 1) / 2 - 0.98 * count**0.5), 0)
    interval = ordered[[low, count - 1 - low]]
    return {"median": float(np.median(values)), "interval": interval.tolist()}
