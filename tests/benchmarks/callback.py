"""What the plateau callback costs once an epoch, and with its files."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_decay
from tests.benchmarks import _subjects as subjects
from tests.benchmarks._measure import Target, interleaved, measurements, repeated
from tests.benchmarks._names import KERAS_PLATEAU
from tests.benchmarks.steps import trained

DECISION = Target(0.2e-3)
VALUE = "val_loss"


def run(budget: float) -> Iterator[dict[str, Any]]:
    yield from _epoch(budget)
    yield from _inside_epoch(budget)
    yield from _fits(budget)
    yield from _files(budget)
    yield from _range_test(budget)


def attached(callback: Any, model: Any) -> Any:
    """The callback as it is in the middle of a `fit`."""
    callback.set_model(model)
    callback.set_params({"steps": subjects.STEPS_PER_EPOCH})
    callback.on_train_begin({})
    return callback


def _plateau(rate: Any, patience: int, size: str = "small") -> Any:
    model = subjects.network(size, keras.optimizers.AdamW(rate))
    model.optimizer.build(model.trainable_variables)
    # So close to 1 that the rate stays a rate, whatever the number of reductions.
    callback = keras_decay.PlateauDecay(factor=1 - 1e-6, patience=patience, mode="min")
    return attached(callback, model)


def _epoch(budget: float) -> Iterator[dict[str, Any]]:
    rates = {"a float": lambda: subjects.RATE, "StepDecay": subjects.step_decay}
    never = 10**9
    variants = {}
    for name, rate in rates.items():
        variants[f"a decision, over {name}"] = _updates(_plateau(rate(), never))
        variants[f"a decision to reduce, over {name}"] = _updates(_plateau(rate(), 1))
        for size in subjects.NETWORKS:
            variants[f"begin and end of an epoch, over {name}, {size} network"] = _epochs(
                _plateau(rate(), never, size)
            )
    model = subjects.network("small", keras.optimizers.AdamW(subjects.RATE))
    variants[KERAS_PLATEAU] = _epochs(
        attached(keras.callbacks.ReduceLROnPlateau(patience=never), model)
    )
    yield from measurements(
        "PlateauDecay, each epoch",
        interleaved(variants, seconds=budget / 2),
        unit="us",
        against={name: [KERAS_PLATEAU] for name in variants if name != KERAS_PLATEAU},
        targets={name: DECISION for name in variants if name.startswith("a decision")},
    )


def _inside_epoch(budget: float) -> Iterator[dict[str, Any]]:
    """What a step costs with a callback, and an observation by `every` but for its evaluation."""
    never, every = 10**9, 50
    validation_data = subjects.batch("medium")
    steps = {f"a step, {size} network": size for size in subjects.NETWORKS}
    variants = {name: trained(size, keras.optimizers.SGD(0.01)) for name, size in steps.items()}
    callbacks = {
        "LearningRateLogger": keras_decay.LearningRateLogger(),
        "PlateauDecay": keras_decay.PlateauDecay("loss"),
        "PlateauDecay(every=)": keras_decay.PlateauDecay(
            mode="min", patience=never, every=never, validation_data=validation_data
        ),
    }
    for name, callback in callbacks.items():
        model = subjects.network("medium", keras.optimizers.SGD(subjects.RATE))
        model.fit(*validation_data, verbose=0)
        attached(callback, model).on_epoch_begin(0, {})
        variants[f"the end of a batch, {name}"] = repeated(
            lambda callback=callback: callback.on_train_batch_end(1, {})
        )
    ends = list(variants)[len(steps) :]
    observation = "an observation, but for its evaluation"
    vars(model)["evaluate"] = lambda *_, **__: {"loss": 1.0}
    variants[observation] = repeated(lambda: callback._observe_inside_epoch(callback._inside, {}))
    medium = list(steps)[-1]
    yield from measurements(
        "PlateauDecay, inside an epoch",
        interleaved(variants, seconds=budget / 2),
        unit="us",
        against={name: list(steps) for name in (*ends, observation)},
        # A hundredth of each of the steps between two observations.
        targets={
            **dict.fromkeys(ends, Target(0.01, medium)),
            observation: Target(0.01 * every, medium),
        },
    )


def _fits(budget: float) -> Iterator[dict[str, Any]]:
    """A whole `fit` of a few steps, to which a callback attaches itself."""
    most = 5
    x, y = (np.concatenate([each] * most) for each in subjects.batch("small"))
    size = len(x) // most

    def fits(schedule: Any, *callbacks: Any, steps: tuple[int, ...] = (4,)) -> Any:
        model = subjects.network("small", keras.optimizers.SGD(schedule))
        counts = itertools.cycle(steps)

        def fit() -> None:
            part = slice(size * next(counts))
            model.fit(x[part], y[part], batch_size=size, verbose=0, callbacks=list(callbacks))

        return repeated(fit)

    by_fit = keras_decay.StepDecay(subjects.RATE, 0.5)
    logger = keras_decay.LearningRateLogger(warn=False)
    bare = "no callback"
    variants = {
        bare: fits(subjects.step_decay()),
        "LearningRateLogger": fits(subjects.step_decay(), logger),
        "the epochs of fit": fits(by_fit, logger),
        "the epochs of fit, another number of steps each time": fits(by_fit, logger, steps=(4, 5)),
    }
    yield from measurements(
        "A fit of 4 steps, small network, over StepDecay",
        interleaved(variants, seconds=budget / 2),
        unit="ms",
        against={name: [bare] for name in variants if name != bare},
    )


def _updates(plateau: Any) -> Callable[[int], None]:
    return repeated(lambda: plateau.update(1.0, 0))


def _epochs(callback: Any) -> Callable[[int], None]:
    epochs = itertools.count()

    def epoch() -> None:
        number = next(epochs)
        callback.on_epoch_begin(number, {})
        callback.on_epoch_end(number, {VALUE: 1.0})

    return repeated(epoch)


def _files(budget: float) -> Iterator[dict[str, Any]]:
    ours = "StepDecay and PlateauDecay"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        variants: dict[str, dict[str, Any]] = {"Saving": {}, "Loading": {}}
        models = {
            subjects.CONSTANT: _model_to_save(subjects.RATE),
            subjects.AGAIN: _model_to_save(subjects.RATE),
            subjects.EXPONENTIAL: _model_to_save(subjects.RATES[subjects.EXPONENTIAL]()),
            ours: _plateau(subjects.step_decay(), 1, "medium").model,
        }
        for number, (name, model) in enumerate(models.items()):
            file = Path(folder) / f"{number}.keras"
            model.save(file)
            variants["Saving"][name] = repeated(lambda model=model, file=file: model.save(file))
            variants["Loading"][name] = repeated(lambda file=file: keras.models.load_model(file))
        for verb, each in variants.items():
            yield from measurements(
                f"{verb} a whole model, medium network, AdamW",
                interleaved(each, seconds=budget / 2),
                unit="ms",
                against={
                    subjects.AGAIN: [subjects.CONSTANT],
                    ours: [subjects.CONSTANT, subjects.EXPONENTIAL],
                },
            )


def _range_test(budget: float) -> Iterator[dict[str, Any]]:
    """Against an epoch of as many steps, each of a new model: the test compiles its own step."""
    steps = 100
    x, y = subjects.batch("medium")
    x, y = np.repeat(x, steps, axis=0), np.repeat(y, steps, axis=0)
    size = len(x) // steps
    fitted, tested = "the first fit of 100 steps", "find_learning_rate, 100 steps"

    def model() -> Any:
        return subjects.network("medium", keras.optimizers.SGD(subjects.RATE))

    def fit() -> None:
        model().fit(x, y, batch_size=size, verbose=0)

    def test() -> None:
        keras_decay.find_learning_rate(
            model(), x, y, batch_size=size, steps=steps, stop_at=1e9, verbose=0
        )

    yield from measurements(
        "The range test, medium network, SGD",
        interleaved({fitted: repeated(fit), tested: repeated(test)}, seconds=budget / 2),
        unit="ms",
        against={tested: [fitted]},
    )


def _model_to_save(rate: Any) -> Any:
    model = subjects.network("medium", keras.optimizers.AdamW(rate))
    model.optimizer.build(model.trainable_variables)
    return model
