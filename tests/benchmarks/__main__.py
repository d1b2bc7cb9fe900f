"""The benchmarks: `python -m tests.benchmarks`, from the root of the checkout.

One process for each backend, since Keras has one for all of its life; then a table for each
group of measurements, and everything in a JSON file.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks._report import print_tables
from tests.benchmarks._table import markdown

BACKENDS = ("tensorflow", "jax", "torch")
GROUPS = ("steps", "calls", "callback", "restore", "program", "import")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--backend", action="append", choices=BACKENDS, help="several times for several backends"
    )
    parser.add_argument(
        "--group", action="append", choices=GROUPS, help="only these groups of measurements"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(tempfile.gettempdir()) / "keras-decay-benchmarks.json",
        help="where to write everything (%(default)s)",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of the guide's page on cost too"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=120.0,
        help="how long to look at each group of training steps, at most (%(default)g)",
    )
    parser.add_argument("--quick", action="store_true", help="too few repeats to mean anything")
    arguments = parser.parse_args()
    if arguments.markdown and arguments.group:
        parser.error("--markdown makes a table of all groups")

    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    backends = arguments.backend or installed
    missing = [name for name in backends if name not in installed]
    if missing or not backends:
        parser.error(f"not installed: {', '.join(missing or BACKENDS)}")

    results: dict[str, Any] = {"machine": machine(), "backends": {}}
    wanted = [*(arguments.group or []), f"--seconds={arguments.seconds}"]
    if arguments.quick:
        wanted.append("--quick")
    for name in backends:
        results["backends"][name] = measured(name, wanted)
        arguments.json.write_text(json.dumps(results, indent=1))
    print_tables(results)
    if arguments.markdown:
        command = " ".join(["python -m tests.benchmarks", *sys.argv[1:]])
        print(markdown(results, command))
    print(f"Everything is in {arguments.json}")


def measured(backend: str, wanted: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measurements.json"
        command = [sys.executable, "-m", "tests.benchmarks._child", str(file), *wanted]
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # On a machine that does other things too, threads of torch wait for each other.
            "OMP_NUM_THREADS": "1",
            # A step that is made anew is not compiled anew.
            "JAX_COMPILATION_CACHE_DIR": str(Path(folder) / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **os.environ,
        }
        subprocess.run(command, env={**environment, "KERAS_BACKEND": backend}, check=True)
        return json.loads(file.read_text())


def machine() -> dict[str, Any]:
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def cpu() -> str:
    # Python knows the model on some systems only.
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
