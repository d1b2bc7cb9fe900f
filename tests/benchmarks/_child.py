"""All measurements on one backend: `python -m tests.benchmarks._child FILE [GROUP ...]`."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.benchmarks import callback, calls, imports, program, steps


def versions() -> dict[str, str]:
    backend = __import__(keras.backend.backend())
    return {
        "keras": keras.__version__,
        "numpy": np.__version__,
        keras.backend.backend(): backend.__version__,
    }


def main(file: str, quick: bool, only: list[str]) -> None:
    # TensorFlow takes the many models for one that it compiles again and again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    budget = 0.5 if quick else 6.0
    records: list[dict[str, Any]] = []
    groups = {
        "steps": lambda: steps.run(3.0 if quick else 120.0),
        "calls": lambda: calls.run(budget),
        "callback": lambda: callback.run(budget),
        "program": program.run,
        "import": lambda: imports.run(2 if quick else 15),
    }
    for name in only or groups:
        start = time.perf_counter()
        records += groups[name]()
        seconds = time.perf_counter() - start
        print(f"{keras.backend.backend()}: {name}, {seconds:.0f} s", file=sys.stderr, flush=True)
    Path(file).write_text(json.dumps({"versions": versions(), "measurements": records}))


if __name__ == "__main__":
    arguments = sys.argv[2:]
    main(sys.argv[1], "--quick" in arguments, [each for each in arguments if each != "--quick"])
