"""How things are timed: interleaved, in an order that changes, as ratios within a round."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_ROUNDS = 7
MOST_ROUNDS = 400


@dataclass(frozen=True)
class Target:
    """What a median has to stay under: a ratio to another variant, or a time in seconds."""

    at_most: float
    against: str | None = None


def interleaved(
    variants: dict[str, Callable[[int], Any]], *, seconds: float, block: float = 0.01
) -> dict[str, np.ndarray]:
    """The seconds that one call of each variant takes, once a round.

    A variant is a function of how often to do the thing; it returns when all of it is done.
    In each round every variant runs for about `block` seconds, in a new order: a machine that is
    slower for a while is so for all of them, and no variant always follows the same other.
    """
    times = {}
    for name, run in variants.items():
        run(1)
        # The first estimate of something short is a bad one.
        times[name] = max(1, round(block / _timed(run, 1)))
        if times[name] > 1:
            times[name] = max(1, round(block / _timed(run, times[name])))
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
    return {name: np.array(taken[name]) for name in variants}


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
        if hasattr(result, "block_until_ready"):
            result.block_until_ready()

    return run


def measurements(
    group: str,
    taken: dict[str, np.ndarray],
    *,
    unit: str,
    against: dict[str, list[str]] | None = None,
    targets: dict[str, Target] | None = None,
) -> list[dict[str, Any]]:
    """What is written to the JSON: one record a variant, times in seconds."""
    records = []
    for name, seconds in taken.items():
        others = (against or {}).get(name, [])
        record: dict[str, Any] = {
            "group": group,
            "name": name,
            "unit": unit,
            "repeats": len(seconds),
            **_spread(seconds),
            "ratios": {other: _spread(seconds / taken[other]) for other in others},
        }
        target = (targets or {}).get(name)
        if target is not None:
            value = record["ratios"][target.against] if target.against else record
            record["target"] = {
                "at_most": target.at_most,
                "against": target.against,
                "met": value["median"] <= target.at_most,
            }
        records.append(record)
    return records


def count(group: str, name: str, value: int, note: str = "") -> dict[str, Any]:
    """A number that is the same in every run."""
    return {"group": group, "name": name, "unit": "", "median": value, "note": note, "ratios": {}}


def _spread(values: np.ndarray) -> dict[str, Any]:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return {"median": float(middle), "quartiles": [float(low), float(high)]}
