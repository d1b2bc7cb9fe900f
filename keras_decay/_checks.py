"""Argument checks: one wording for every error, raised where the argument was passed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np

# Every rate is used in float32, so a rate must be a number that float32 can hold.
SMALLEST = float(np.finfo("float32").smallest_subnormal)
LARGEST = float(np.finfo("float32").max)
LARGEST_INT = int(np.iinfo("int64").max)


def fail(name: str, value: object, must: str, error: type[Exception] = ValueError) -> NoReturn:
    raise error(f"`{name}` must be {must}. Received: {name}={value!r}")


def is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def integer(name: str, value: Any, minimum: int) -> int:
    """`value` as a plain int, at least `minimum`."""
    must = f"an int >= {minimum}"
    if not is_int(value):
        fail(name, value, must, TypeError)
    if value < minimum:
        fail(name, value, must)
    if value > LARGEST_INT:
        fail(name, value, f"{must} and < 2 ** 63")
    return int(value)


def steps_per_epoch(value: Any) -> int | None:
    return None if value is None else integer("steps_per_epoch", value, 1)


def sequence(name: str, value: Any, must: str) -> list[Any]:
    """`value` as a list, if it is a sequence of one dimension."""
    if isinstance(value, (str, bytes)) or not isinstance(value, (Sequence, np.ndarray)):
        fail(name, value, must, TypeError)
    if isinstance(value, np.ndarray) and value.ndim != 1:
        fail(name, value, must)
    return list(value)


def increasing(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def epochs(name: str, value: Any) -> int | float:
    """`value` as a number of epochs >= 0; fractions are allowed."""
    number = real(name, value, "a finite number >= 0", at_least=0.0)
    return int(value) if is_int(value) else number


def real(
    name: str,
    value: Any,
    must: str,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """`value` as a plain, finite float within the bounds."""
    if not is_number(value):
        fail(name, value, must, TypeError)
    try:
        number = float(value)
    except OverflowError:  # An int that is too large for a float.
        number = math.inf
    if not (math.isfinite(number) and above < number < below and at_least <= number <= at_most):
        fail(name, value, must)
    return number


def learning_rate(name: str, value: Any) -> float:
    return real(name, value, "a finite number > 0", at_least=SMALLEST, at_most=LARGEST)


def min_learning_rate(value: Any) -> float:
    return real("min_learning_rate", value, "a finite number >= 0", at_least=0.0)


def patience(value: Any) -> int | tuple[int, ...]:
    if is_int(value):
        return integer("patience", value, 1)
    must = "an int >= 1 or a non-empty sequence of them"
    entries = sequence("patience", value, must)
    if not entries:
        fail("patience", value, must)
    return tuple(integer(f"patience[{index}]", entry, 1) for index, entry in enumerate(entries))


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        fail(name, value, "True or False", TypeError)
    return bool(value)


def string(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        error = ValueError if isinstance(value, str) else TypeError
        fail(name, value, "a non-empty string", error)
    return value


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    must = "one of " + ", ".join(f'"{item}"' for item in choices)
    if not isinstance(value, str):
        fail(name, value, must, TypeError)
    if value not in choices:
        fail(name, value, must)
    return value
