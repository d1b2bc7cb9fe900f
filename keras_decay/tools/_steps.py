"""How many steps an epoch of `fit` has."""

from __future__ import annotations

import math
import types
from typing import Any

import keras

from keras_decay import _checks

FIX = "count them, or pass `steps_per_epoch` to `fit` and the same number to the schedule"


def steps_per_epoch(data: Any, batch_size: int | None = None) -> int:
    """The number of steps (batches) in an epoch of `fit` on this data.

    ```
    arrays:    ceil(samples / batch_size)
    the rest:  the number of batches that the data makes
    ```

    Args:
        data: What `fit` takes: an array, or a tuple, list or dict of arrays (only the size of the
            first one counts); a `tf.data.Dataset`; a `keras.utils.PyDataset`; a torch
            `DataLoader`. With `validation_split`, pass only the training part.
        batch_size: Int >= 1, for arrays only; 32 unless given, as in `fit`. Other data makes its
            own batches.

    Returns:
        Int >= 1.

    Raises:
        TypeError: data that `fit` does not take, or a `batch_size` that is not an int.
        ValueError: a length that is unknown or infinite, no data, or a `batch_size` for data that
            makes its own batches.

    Example:

    >>> keras_decay.steps_per_epoch(np.zeros((1000, 8)), batch_size=128)
    8
    """
    if batch_size is not None:
        batch_size = _checks.integer("batch_size", batch_size, 1)
    shape = getattr(next(iter(keras.tree.flatten(data)), None), "shape", None)
    if shape:
        if shape[0] < 1:
            _checks.fail("data", data, "data with at least one sample")
        return math.ceil(int(shape[0]) / (batch_size or 32))
    batches = _batches(data)
    if batch_size is not None:
        must = f"None for a `{type(data).__name__}`, which makes its own batches"
        _checks.fail("batch_size", batch_size, must)
    if batches is None or batches < 1:
        raise ValueError(
            f"`data` must have a known number of batches; this `{type(data).__name__}` has "
            f"{'none' if batches is None else batches}: {FIX}."
        )
    return batches


def _batches(data: Any) -> int | None:
    """The number of batches that the data makes; `None` if that is unknown."""
    if callable(getattr(data, "cardinality", None)):  # A `tf.data.Dataset`; unknown is below 0.
        count = int(data.cardinality())
        return None if count < 0 else count
    if isinstance(data, types.GeneratorType):
        return None
    loader = hasattr(data, "batch_sampler")  # A torch `DataLoader`.
    if not loader and not isinstance(data, keras.utils.PyDataset):
        must = "arrays, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch `DataLoader`"
        _checks.fail("data", data, must, TypeError)
    try:
        return len(data) if loader else data.num_batches
    except (NotImplementedError, TypeError):  # What these two raise if they have no length.
        return None
