"""What each learning rate adds to the compiled training step, where it is compiled.

XLA computes the rate anew in each fused update of a variable, so there it counts several times.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import keras

import keras_decay
from tests.benchmarks import _subjects as subjects
from tests.benchmarks._measure import count
from tests.benchmarks._subjects import BACKEND
from tests.benchmarks.steps import state_of

HOST = re.compile(r"PyFunc|callback|python|infeed|outfeed|\bsend\b|\brecv\b|host", re.IGNORECASE)
"""What an operation is called that leaves the program for the host and comes back."""

NO_OPERATION = {"Const", "NoOp", "Identity", "Placeholder", "_Arg", "_Retval"} | {
    "constant",
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "copy",
}


def run() -> Iterator[dict[str, Any]]:
    if BACKEND == "torch":  # Runs each operation as Python comes to it.
        return
    stages = {"tensorflow": _tensorflow, "jax": _jax}[BACKEND]
    programs = {name: stages(_model(name)) for name in subjects.RATES}
    for stage, constant in programs[subjects.CONSTANT].items():
        group = f"Operations beside a constant rate's, {stage}"
        yield count(group, "in the whole step", constant.total())
        for name in subjects.RATES:
            operations = programs[name][stage]
            added, gone = operations - constant, constant - operations
            note = ", ".join(f"{kind} {number}" for kind, number in added.most_common())
            record = count(group, name, added.total() - gone.total(), note)
            if name in subjects.PEERS:
                peer = programs[subjects.PEERS[name]][stage].total() - constant.total()
                record["beside_keras"] = record["median"] - peer
            yield {**record, "to_host": sorted(filter(HOST.search, operations))}


def _model(name: str) -> Any:
    model = subjects.network("small", keras.optimizers.SGD(subjects.RATES[name]()))
    model.optimizer.build(model.trainable_variables)
    if "PlateauDecay" in name:
        keras_decay.PlateauDecay("loss").attach(model)
    return model


def _tensorflow(model: Any) -> dict[str, Counter[str]]:
    import tensorflow as tf

    step = tf.function(model.train_step, jit_compile=True)
    data = tuple(map(tf.constant, subjects.batch("small")))
    graph = step.get_concrete_function(data).graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return {
        "TensorFlow graph": _operations(node.op for node in nodes),
        "XLA program": _hlo(step.experimental_get_compiler_ir(data)(stage="optimized_hlo")),
    }


def _jax(model: Any) -> dict[str, Counter[str]]:
    import jax

    model(subjects.batch("small")[0])
    step = jax.jit(model.train_step, donate_argnums=0)
    lowered = step.lower(state_of(model), subjects.batch("small"))
    return {
        "before XLA": _operations(re.findall(r"= \"?stablehlo\.(\w+)", lowered.as_text())),
        "XLA program": _hlo(lowered.compile().as_text()),
    }


def _hlo(text: str) -> Counter[str]:
    # A call of another program is told by its target: the matrix product, or Python.
    targets = re.findall(r'custom_call_target="([^"]+)"', text)
    kinds = re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = .*?\s([a-z][\w-]*)\(", text, re.MULTILINE)
    return _operations([*(kind for kind in kinds if kind != "custom-call"), *targets])


def _operations(kinds: Any) -> Counter[str]:
    return Counter(kind for kind in kinds if kind not in NO_OPERATION)
