"""A training step with each learning rate, against the same step with a constant one."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

import keras_decay
from tests.benchmarks import _names as names
from tests.benchmarks import _subjects as subjects
from tests.benchmarks._measure import Target, interleaved, measurements
from tests.benchmarks._subjects import BACKEND

AT_MOST = 1.02
MILESTONES = (2, 10, 100, 1000)
SHARE = {"small": 1, "medium": 2}
# Several steps, since on JAX the host prepares one while another runs.
BLOCK = {"small": 0.01, "medium": 0.04}


def run(budget: float) -> Iterator[dict[str, Any]]:
    others = {name: [peer] for name, peer in subjects.PEERS.items()}
    for size, optimizer in itertools.product(subjects.NETWORKS, subjects.OPTIMIZERS):
        make = subjects.OPTIMIZERS[optimizer]
        variants = {
            name: trained(size, make(rate()), plateau="PlateauDecay" in name)
            for name, rate in subjects.RATES.items()
        }
        yield from measurements(
            f"Training step, {size} network, {optimizer}",
            interleaved(variants, seconds=budget * SHARE[size], block=BLOCK[size]),
            unit="ms",
            against={
                name: [subjects.CONSTANT, *others.get(name, [])]
                for name in variants
                if name != subjects.CONSTANT
            },
            targets=dict.fromkeys(subjects.OURS, Target(AT_MOST, subjects.CONSTANT)),
        )
    variants = {subjects.CONSTANT: trained("small", keras.optimizers.SGD(subjects.RATE))}
    for count in MILESTONES:
        optimizer = keras.optimizers.SGD(subjects.milestones(count))
        variants[names.milestones(count)] = trained("small", optimizer)
    fewest, most = names.milestones(MILESTONES[0]), names.milestones(MILESTONES[-1])
    yield from measurements(
        "Milestones in a training step, small network, SGD",
        interleaved(variants, seconds=budget, block=BLOCK["small"]),
        unit="ms",
        against={
            name: [subjects.CONSTANT, *([fewest] if name != fewest else [])]
            for name in variants
            if name != subjects.CONSTANT
        },
        targets={most: Target(1.3, fewest)},
    )


def trained(size: str, optimizer: Any, plateau: bool = False) -> Callable[[int], None]:
    """Some steps of the compiled function that `fit` calls, after a short `fit` has made it."""
    model = subjects.network(size, optimizer)
    x, y = subjects.batch(size)
    callbacks = [keras_decay.PlateauDecay("loss")] if plateau else []
    with warnings.catch_warnings():
        # A schedule counts longer epochs than these, and says so.
        warnings.filterwarnings("ignore", ".*counts epochs of")
        if BACKEND == "tensorflow":
            model.fit(_dataset(x, y), epochs=3, shuffle=False, verbose=0, callbacks=callbacks)
        else:
            model.fit(x, y, batch_size=len(x), epochs=3, verbose=0, callbacks=callbacks)
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND](model, x, y)


def _dataset(x: Any, y: Any) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensors((x, y))


def _tensorflow(model: Any, x: Any, y: Any) -> Callable[[int], None]:
    iterator = iter(_dataset(x, y).repeat())

    def steps(times: int) -> None:
        for _ in range(times):
            model.train_function(iterator)

    return steps


def _jax(model: Any, x: Any, y: Any) -> Callable[[int], None]:
    import jax

    batches = itertools.repeat((jax.numpy.asarray(x), jax.numpy.asarray(y)))
    # As `fit` does, each step takes the state that the one before it returned.
    state = state_of(model)

    def steps(times: int) -> None:
        nonlocal state
        for _ in range(times):
            _, state = model.train_function(state, batches)
        jax.block_until_ready(state)

    return steps


def state_of(model: Any) -> tuple[list[Any], ...]:
    """What a training step on JAX takes and returns."""
    return tuple(
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    )


def _torch(model: Any, x: Any, y: Any) -> Callable[[int], None]:
    data = [(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y))]

    def steps(times: int) -> None:
        model.train()
        for _ in range(times):
            model.train_function(data)

    return steps
