"""All measurements on one backend: `python -m tests.benchmarks._child FILE [GROUP ...]`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.benchmarks import callback, calls, imports, program, restore, steps


def versions() -> dict[str, str]:
    backend = __import__(keras.backend.backend())
    return {
        "keras": keras.__version__,
        "numpy": np.__version__,
        keras.backend.backend(): backend.__version__,
    }


def device() -> str:
    """The accelerator that Keras puts the variables on, or the processor."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        accelerators = tf.config.list_physical_devices("GPU")
        details = map(tf.config.experimental.get_device_details, accelerators[:1])
        return next((each["device_name"] for each in details), "cpu")
    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("groups", nargs="*")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    # TensorFlow takes the many models for one that it compiles again and again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    budget = 0.5 if arguments.quick else 6.0
    records: list[dict[str, Any]] = []
    groups = {
        "steps": lambda: steps.run(3.0 if arguments.quick else arguments.seconds),
        "calls": lambda: calls.run(budget),
        "callback": lambda: callback.run(budget),
        "restore": lambda: restore.run(budget),
        "program": program.run,
        "import": lambda: imports.run(2 if arguments.quick else 15),
    }
    for name in arguments.groups or groups:
        start = time.perf_counter()
        records += groups[name]()
        seconds = time.perf_counter() - start
        print(f"{keras.backend.backend()}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)
    result = {"versions": versions(), "device": device(), "measurements": records}
    arguments.file.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
