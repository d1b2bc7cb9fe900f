"""A training step with each learning rate, against the same step with a constant one."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

import keras_decay
from tests.benchmarks import _names as names
from tests.benchmarks import _subjects as subjects
from tests.benchmarks._measure import Taken, Target, generations, measurements, wait_for
from tests.benchmarks._subjects import BACKEND
from tests.support import jax_step

AT_MOST = {"small": 1.02, "medium": 1.01}
MILESTONES = (2, 1000)
# Several steps of the small network, since on JAX the host prepares one while another runs.
BLOCK = {"small": 0.003, "medium": 0.01}


def run(budget: float) -> Iterator[dict[str, Any]]:
    others = {name: [peer] for name, peer in subjects.PEERS.items()}
    for size, optimizer in itertools.product(subjects.NETWORKS, subjects.OPTIMIZERS):
        yield from measurements(
            f"Training step, {size} network, {optimizer}",
            _taken(size, subjects.OPTIMIZERS[optimizer], subjects.RATES, budget),
            unit="ms",
            against={
                name: [subjects.CONSTANT, *others.get(name, [])]
                for name in subjects.RATES
                if name != subjects.CONSTANT
            },
            targets=dict.fromkeys(subjects.OURS, Target(AT_MOST[size], subjects.CONSTANT))
            | {subjects.PLATEAU_COSINE: Target(1.02, subjects.COSINE)},
        )
    rates = {name: subjects.RATES[name] for name in (subjects.CONSTANT, subjects.AGAIN)}
    for count in MILESTONES:
        rates[names.milestones(count)] = functools.partial(subjects.milestones, count)
    fewest, most = map(names.milestones, MILESTONES)
    yield from measurements(
        "Milestones in a training step, small network, SGD",
        _taken("small", keras.optimizers.SGD, rates, budget),
        unit="ms",
        against={
            fewest: [subjects.CONSTANT],
            most: [subjects.CONSTANT, fewest],
        },
        targets={most: Target(1.3, fewest)},
    )
    if BACKEND == "jax":
        yield from _own_loop(budget)


def _own_loop(budget: float) -> Iterator[dict[str, Any]]:
    """A training step as in Keras's guide to loops of one's own on JAX."""
    plateaus = {subjects.STEP: False, f"{subjects.STEP}, again": False, subjects.PLATEAU_STEP: True}
    bare, again, plateau = plateaus
    taken = generations(
        lambda: {name: _jax_by_hand(each) for name, each in plateaus.items()},
        equal=(again, bare),
        seconds=budget,
        block=BLOCK["small"],
    )
    yield from measurements(
        "A loop of one's own, small network, SGD",
        taken,
        unit="ms",
        against={again: [bare], plateau: [bare]},
        targets={plateau: Target(1.05, bare)},
    )


def _jax_by_hand(plateau: bool) -> Callable[[int], None]:
    import jax

    model = subjects.network("small", keras.optimizers.SGD(subjects.step_decay()))
    model.optimizer.build(model.trainable_variables)
    if plateau:
        keras_decay.PlateauDecay("loss").attach(model)
    step, _ = jax_step(model, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = map(jax.numpy.asarray, subjects.batch("small"))
    state = state_of(model)[:3]

    def steps(times: int) -> None:
        nonlocal state
        for _ in range(times):
            state = step(state, x, y)
        wait_for(state)

    return steps


def _taken(size: str, optimizer: Any, rates: dict[str, Any], budget: float) -> Taken:
    return generations(
        lambda: {
            name: trained(size, optimizer(rate()), plateau="PlateauDecay" in name)
            for name, rate in rates.items()
        },
        equal=(subjects.AGAIN, subjects.CONSTANT),
        seconds=budget,
        block=BLOCK[size],
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
            logs = model.train_function(iterator)
        wait_for(logs)

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
        wait_for(state)

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
            logs = model.train_function(data)
        wait_for(logs)

    return steps
