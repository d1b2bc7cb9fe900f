"""One decision for all processes that train a model together."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from keras_decay import _keras
from keras_decay._backend import all_gather
from keras_decay.optimizer._rates import learning_rates
from keras_decay.optimizer._state import State


def all_reduce_mean(value: float, optimizer: Any, state: State) -> float:
    """The mean of the metric over the processes, by which all of them decide.

    Processes whose rates or states differ train replicas that drift apart, while their logs stay
    equal. So each process sends two numbers: the value, and a checksum of its rates and state.
    """
    inner = _keras.inner_optimizers(optimizer)
    gather = all_gather(_keras.step_counter(inner[0]))
    if gather is None:
        return value
    here = f"{state.plateau}, {state.clock}, {learning_rates(optimizer)}"
    values, checksums = gather(np.array([value, zlib.crc32(here.encode())], "float64")).T
    if (checksums != checksums[0]).any():
        raise RuntimeError(
            "The processes that train this model have different learning rates, or states of "
            "`PlateauDecay`, so its replicas would drift apart. Load the same files on every "
            "process, and do on every process what changes the optimizer or the plateau. "
            f"Here: {here}"
        )
    if (values == value).all():
        return value
    # `fsum` rounds once, so every process gets the same result in any order.
    return math.fsum(values) / len(values) if np.isfinite(values).all() else math.nan
