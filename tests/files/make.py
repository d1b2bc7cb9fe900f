"""Made the files beside this one, once, with version 0.1.0: those that later versions load.

KERAS_BACKEND=tensorflow python tests/files/make.py
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import keras

import keras_decay

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import fit, model, number

from keras_decay import PlateauDecay, PlateauScale, StepDecay

HERE = Path(__file__).parent
VALUES = [5.0, 5.0, 5.0, 4.0, 4.0]


def sgd(rate, **arguments):
    return keras.optimizers.SGD(rate, momentum=0.9, **arguments)


def schedule():
    return StepDecay(0.1, 0.8, 3, steps_per_epoch=4)


def several():
    optimizers = keras.optimizers.OptimizerMap(
        sgd(0.2, name="bias"), {".*kernel": sgd(schedule(), name="kernel")}
    )
    return keras.optimizers.MultiOptimizer(optimizers)


OPTIMIZERS = {
    "float": lambda: sgd(0.1),
    "schedule": lambda: sgd(schedule()),
    "constant": lambda: sgd(PlateauScale(0.1)),
    "loss_scale_float": lambda: keras.optimizers.LossScaleOptimizer(sgd(0.1), initial_scale=8.0),
    "loss_scale_schedule": lambda: keras.optimizers.LossScaleOptimizer(
        sgd(schedule()), initial_scale=8.0
    ),
    "several": several,
    "mixed": lambda: sgd(schedule()),
}


def plateau(**arguments):
    return PlateauDecay(factor=0.5, patience=2, cooldown=3, **arguments)


def network(name, seed=0):
    policy = keras.mixed_precision.dtype_policy()
    if name == "mixed":
        keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        return model(optimizer=OPTIMIZERS[name.removesuffix("_best")](), seed=seed)
    finally:
        keras.mixed_precision.set_dtype_policy(policy)


def leaves(optimizer):
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return getattr(optimizer, "optimizers", [optimizer])


def what_is(network, callback):
    """What a file holds: the memory, the next rates, and all slots of the optimizers."""
    found = leaves(network.optimizer)
    slots = [v for leaf in found for v in leaf.variables if "momentum" in v.name]
    return {
        **callback.state,
        "rates": [number(leaf.learning_rate) for leaf in found],
        "slots": [keras.ops.convert_to_numpy(slot).ravel().tolist() for slot in slots],
    }


if __name__ == "__main__":
    assert keras_decay.__version__ == "0.1.0"
    expected = {}
    for name in [*OPTIMIZERS, "schedule_best"]:
        trained = network(name)
        callback = plateau(restore_best_weights=name.endswith("_best"))
        backup = keras.callbacks.BackupAndRestore(HERE / name, delete_checkpoint=False)
        fit(trained, [callback, backup], epochs=5, values=VALUES)
        for file in (HERE / name).glob("*.bkp"):
            file.unlink()
        trained.save_weights(HERE / f"{name}.weights.h5")
        trained.save(HERE / f"{name}.keras")
        expected[name] = what_is(trained, callback)
        if name in ("mixed", "schedule_best"):
            shutil.rmtree(HERE / name)
            (HERE / f"{name}.keras").unlink()
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
