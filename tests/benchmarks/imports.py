"""`import keras_decay` after `import keras`, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.benchmarks._measure import Target, count, measurements

PROGRAM = """
import json, sys, time
start = time.perf_counter()
import keras
middle, before = time.perf_counter(), set(sys.modules)
import keras_decay
end = time.perf_counter()
new = sorted(set(sys.modules) - before)
print(json.dumps({"keras": middle - start, "ours": end - middle, "modules": new}))
"""


def run(repeats: int) -> Iterator[dict[str, Any]]:
    # What is installed has its bytecode, which pip writes; without it Python would compile ours
    # each time.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}

    def once() -> dict[str, Any]:
        command = [sys.executable, "-c", PROGRAM]
        process = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment
        )
        return json.loads(process.stdout.splitlines()[-1])

    once()  # Writes the bytecode, if it is not there yet.
    runs = [once() for _ in range(repeats)]
    keras, ours = "import keras", "import keras_decay after it"
    yield from measurements(
        "Import",
        {
            keras: [np.array([each["keras"] for each in runs])],
            ours: [np.array([each["ours"] for each in runs])],
        },
        unit="ms",
        against={ours: [keras]},
        targets={ours: Target(0.01)},
    )
    modules = runs[0]["modules"]
    others = [name for name in modules if name.split(".")[0] != "keras_decay"]
    yield count("Import", "modules that keras_decay adds", len(modules))
    yield count("Import", "of which not its own", len(others), ", ".join(others))
