"""One decision for all the processes that train a model together."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from keras_decay import _keras
from keras_decay._backend import gather_of
from keras_decay._logging import learning_rates
from keras_decay._rule import Memory


def agreed(value: float, model: Any, memory: Memory) -> float:
    """The value of the metric that every process decides by: its mean over the processes.

    What costs the most when it goes wrong is checked along with it: processes whose rate or
    memory differ train replicas that drift apart, while their logs stay equal. So each process
    sends two numbers, the value and a checksum.
    """
    leaves = _keras.leaf_optimizers(model.optimizer)
    gather = gather_of(_keras.step_counter(leaves[0]))
    if gather is None:
        return value
    state = f"{memory}, {learning_rates(model.optimizer)}"
    values, checksums = gather(np.array([value, zlib.crc32(state.encode())], "float64")).T
    if (checksums != checksums[0]).any():
        raise RuntimeError(
            "The processes that train this model have different learning rates, or memories of "
            "`PlateauDecay`, so its replicas would drift apart. Load the same files on every "
            "process, and do on every process what changes the optimizer or the plateau. "
            f"Here: {state}"
        )
    if (values == value).all():
        return value
    # `fsum` rounds once, so the order and the machine make no difference.
    return math.fsum(values) / len(values) if np.isfinite(values).all() else math.nan
