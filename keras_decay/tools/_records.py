"""Records with columns that `pandas.DataFrame` accepts."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Columns:
    """The base of a frozen dataclass in which some fields are arrays of the same length."""

    COLUMNS: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """The arrays of the same length, by name: `pandas.DataFrame(record.columns)`."""
        return {name: getattr(self, name) for name in self.COLUMNS}

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other, equal_nan=True)
    return bool(one == other)
