"""A call of a schedule outside the compiled step: one step, a million, all of a training run."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import keras_decay
from tests.benchmarks import _names as names
from tests.benchmarks import _subjects as subjects
from tests.benchmarks._measure import Target, interleaved, measurements, repeated
from tests.benchmarks._subjects import BACKEND

MANY = 1_000_000
PREVIEW = 10_000_000


def run(budget: float) -> Iterator[dict[str, Any]]:
    yield from _eager(budget)
    yield from _array(budget)
    yield from _milestones(budget)
    yield from _preview(budget)


def _callables() -> dict[str, Any]:
    """The schedules as an optimizer would hold them."""
    made = {name: make() for name, make in subjects.RATES.items()}
    made = {name: rate for name, rate in made.items() if not isinstance(rate, float)}
    for name in (subjects.PLATEAU_STEP, subjects.PLATEAU_COSINE):
        made[name] = keras_decay.PlateauScale(made[name])
    return made


def _eager(budget: float) -> Iterator[dict[str, Any]]:
    # Reading an optimizer's `learning_rate` is what calls its schedule, in a step of torch and
    # in the callbacks of Keras.
    optimizers = {subjects.CONSTANT: keras.optimizers.SGD(subjects.RATE)}
    for name, schedule in _callables().items():
        optimizers[name] = keras.optimizers.SGD(schedule)
    variants = {
        name: repeated(functools.partial(getattr, optimizer, "learning_rate"))
        for name, optimizer in optimizers.items()
    }
    yield from measurements(
        "One eager call, at the optimizer's own step",
        interleaved(variants, seconds=budget / 2),
        unit="us",
        against=_against(variants),
        targets={
            subjects.STEP: Target(0.5, subjects.EXPONENTIAL),
            subjects.INVERSE: Target(0.5, subjects.KERAS_INVERSE),
            subjects.MILESTONES: Target(0.25, subjects.PIECEWISE),
        },
    )


def _against(variants: dict[str, Any]) -> dict[str, list[str]]:
    return {name: [peer] for name, peer in subjects.PEERS.items() if {name, peer} <= set(variants)}


def _array(budget: float) -> Iterator[dict[str, Any]]:
    steps = keras.ops.convert_to_tensor(np.arange(MANY, dtype="int32"), "int32")
    schedules = _callables()
    # It takes no array on torch.
    del schedules[subjects.PIECEWISE]
    variants = {
        name: repeated(functools.partial(schedule, steps)) for name, schedule in schedules.items()
    }
    yield from measurements(
        "A call with a tensor of a million steps",
        interleaved(variants, seconds=budget / 2),
        unit="ms",
        against=_against(variants),
        targets={
            name: Target(1.0, subjects.PEERS[name]) for name in (subjects.STEP, subjects.INVERSE)
        },
    )


def _milestones(budget: float) -> Iterator[dict[str, Any]]:
    counts = (2, 5, 10, 100, 1000)
    ours = {count: names.milestones(count) for count in counts}
    keras_too = {count: f"Keras PiecewiseConstantDecay, {count:,} boundaries" for count in counts}
    counter = keras.optimizers.SGD().iterations
    schedules = {name: subjects.milestones(count) for count, name in ours.items()}
    # Of a thousand boundaries one call of Keras's takes a large part of a second.
    schedules |= {keras_too[count]: subjects.piecewise(count) for count in counts[:-1]}
    variants = {
        name: repeated(functools.partial(schedule, counter)) for name, schedule in schedules.items()
    }
    yield from measurements(
        "One eager call, by the number of milestones",
        interleaved(variants, seconds=budget / 2),
        unit="us",
        against={
            name: [
                *([ours[2]] if count != 2 else []),
                *([keras_too[count]] if count != 1000 else []),
            ]
            for count, name in ours.items()
        },
        targets={ours[1000]: Target(1.3, ours[2])},
    )


def _preview(budget: float) -> Iterator[dict[str, Any]]:
    epochs = PREVIEW // subjects.STEPS_PER_EPOCH
    preview, keras_call = "preview(StepDecay)", f"{subjects.EXPONENTIAL}, called for each step"
    torch_step = "PyTorch StepLR, stepped"
    exponential = subjects.RATES[subjects.EXPONENTIAL]()
    some, few = 20_000, 1_000

    def keras_calls(times: int) -> None:
        for _ in range(times):
            for step in range(few):
                float(exponential(step))

    variants = {
        preview: repeated(lambda: keras_decay.preview(subjects.step_decay(), epochs)),
        keras_call: keras_calls,
    }
    if BACKEND == "torch":
        import torch

        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], subjects.RATE)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10 * subjects.STEPS_PER_EPOCH, 0.5)
        # PyTorch warns where its optimizer has not stepped before its scheduler.
        optimizer.step()

        def torch_steps(times: int) -> None:
            for _ in range(times * some):
                scheduler.step()
                optimizer.param_groups[0]["lr"]

        variants[torch_step] = torch_steps
    taken = interleaved(variants, seconds=budget / 2)
    # Ten million steps of the other two would take minutes: a few, times how many there are.
    for name, counted in ((keras_call, few), (torch_step, some)):
        if name in taken:
            taken[name] = [times * (PREVIEW / counted) for times in taken[name]]
    yield from measurements(
        f"The rates of ten million steps (Keras: {few:,} steps, PyTorch: {some:,}, scaled up)",
        taken,
        unit="s",
        against={preview: [name for name in taken if name != preview]},
    )
