"""Several processes on this machine that train one model together, always ended in time."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

# With a `sitecustomize` in it, which Python runs first.
FIRST = Path(__file__).with_name("first")


class Ended(NamedTuple):
    """How a process ended: its exit status (negative: the signal), the records that it wrote
    with `emit`, and what it wrote to stdout and stderr."""

    status: int
    records: list
    output: str
    errors: str


def emit(record):
    """Writes a record, from within one of the processes."""
    with Path(os.environ["RECORDS"]).open("a") as file:
        file.write(json.dumps(record) + "\n")


def warnings_are_errors():
    """Makes the warnings that a user would see errors, from within one of the processes."""
    warnings.simplefilter("error", UserWarning)
    # Of a compilation that another process is just writing down, or was killed at writing.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")


def environment(**variables):
    """The environment of this process, for processes that import the tests' modules too."""
    path = os.pathsep.join([str(FIRST), str(FIRST.parent), *sys.path])
    return {**os.environ, "PYTHONPATH": path, **variables}


def run_together(script, *arguments, count=2, timeout=120, kill=None, cwd=None, **variables):
    """Runs a script in `count` processes and returns how each `Ended`.

    Each finds its number, theirs and an address to meet at in the environment, by the names
    that torch gives them, and in TensorFlow's `TF_CONFIG`. `kill` is the number of a process to
    be killed, and of the records after which it is. What still runs after `timeout` seconds is
    killed: its status is -9.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [free_port() for _ in range(count)]
        shared = environment(
            **variables,
            WORLD_SIZE=str(count),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(ports[0]),
            # Those of JAX want an accelerator each.
            JAX_PLATFORMS="cpu",
        )
        children, records, outputs, errors = [], [], [], []
        try:
            for rank in range(count):
                records.append(folder / f"{rank}.jsonl")
                for kind, files in (("output", outputs), ("errors", errors)):
                    file = (folder / f"{rank}.{kind}.txt").open("w+")
                    files.append(stack.enter_context(file))
                records[rank].touch()
                children.append(
                    subprocess.Popen(
                        [sys.executable, script, *map(str, arguments)],
                        env={
                            **shared,
                            "RANK": str(rank),
                            "RECORDS": str(records[rank]),
                            "TF_CONFIG": tf_config(ports, rank),
                        },
                        cwd=cwd,
                        stdout=outputs[rank],
                        stderr=errors[rank],
                        stdin=subprocess.DEVNULL,
                    )
                )
            end = time.monotonic() + timeout
            while time.monotonic() < end and any(child.poll() is None for child in children):
                if kill is not None and records[kill[0]].read_text().count("\n") >= kill[1]:
                    children[kill[0]].send_signal(signal.SIGKILL)
                time.sleep(0.02)
        finally:
            # A process that waits for another one in C does not heed a gentler signal.
            for child in children:
                child.send_signal(signal.SIGKILL)
                child.wait()
        return [
            Ended(
                child.returncode,
                [json.loads(line) for line in records[rank].read_text().splitlines()],
                *(Path(files[rank].name).read_text() for files in (outputs, errors)),
            )
            for rank, child in enumerate(children)
        ]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def tf_config(ports, rank):
    workers = [f"127.0.0.1:{port}" for port in ports]
    task = {"type": "worker", "index": rank}
    return json.dumps({"cluster": {"worker": workers}, "task": task})
