"""Trains on several JAX devices, in one process or in several; run by `test_distributed_jax`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jax
import keras
import numpy as np
from distributed import (
    MEAN,
    ONE_NAN,
    RATES,
    ROWS,
    Record,
    disputed_data,
    plateau,
    result,
    step_by_fit,
    strict_plateau,
)
from processes import emit, warnings_are_errors
from support import (
    BATCH_SIZE,
    STEPS_PER_EPOCH,
    Metric,
    data,
    jax_compilations,
    jax_step,
    write_back,
)

from keras_decay import LearningRateLogger, PlateauScale

EPOCHS = 6
HALF = EPOCHS // 2
# `val_loss` has its best value in the second epoch.
BEST_SECOND = [3.0, 2.0, 4.0, 4.0, 4.0, 4.0]


def network(rate, seed=0, **compile_arguments):
    """A small regression, the same weights for the same seed."""
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "mse", **compile_arguments)
    model.optimizer.build(model.trainable_variables)
    return model


def share(array):
    """The rows of each batch that this process trains on."""
    count, own = jax.process_count(), jax.process_index()
    batches = array.reshape(-1, count, BATCH_SIZE // count, *array.shape[1:])
    return batches[:, own].reshape(-1, *array.shape[1:])


def train(model, callbacks, *, epochs=EPOCHS, values=None, **arguments):
    """Trains and validates on this process's share; returns the result."""
    x, y = map(share, data(0))
    injected = [] if values is None else [Metric(values)]
    history = model.fit(
        x,
        y,
        batch_size=BATCH_SIZE // jax.process_count(),
        epochs=epochs,
        validation_data=tuple(map(share, data(1))),
        callbacks=[*injected, *callbacks],
        verbose=0,
        shuffle=False,
        **arguments,
    ).history
    return {"rates": history["learning_rate"], **result(model), "called": called(model)}


def inside_epochs():
    """What is observed each three steps, on this process's share."""
    callback = strict_plateau(every=3, validation_data=tuple(map(share, disputed_data())))
    record = train(network(RATES["step"]()), [callback])
    return {"observations": callback.observations, **record}


def called(model):
    """The next rate, from the schedule itself."""
    rate = model.optimizer._learning_rate
    return float(rate(model.optimizer.iterations) if callable(rate) else rate.value)


def loop(model, callback, values):
    """The training loop of Keras's guide for JAX, over whatever devices there are."""
    callback.attach(model)
    distribution = keras.distribution.distribution()

    def placed(array):
        if distribution is None:
            return array
        layout = distribution.get_data_layout(array.shape).backend_layout
        return jax.make_array_from_process_local_data(layout, array)

    step, groups = jax_step(model, keras.losses.MeanSquaredError())
    x, y = map(share, data(0))
    rates = []
    for epoch in range(EPOCHS):
        rates.append(float(model.optimizer.learning_rate))
        state = [[variable.value for variable in group] for group in groups]
        for rows in np.split(np.arange(len(x)), STEPS_PER_EPOCH):
            state = step(state, placed(x[rows]), placed(y[rows]))
        write_back(groups, state)
        callback.update(values[epoch], epoch)
    return {"rates": rates, **result(model), "called": called(model)}


def data_parallel():
    return keras.distribution.DataParallel(auto_shard_dataset=False)


def model_parallel():
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"), devices)
    layout = keras.distribution.LayoutMap(mesh)
    layout[".*hidden.*kernel"] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layout, batch_dim_name="batch")


def devices(folder):
    """One process, several devices. `one.keras` in the folder was trained on one."""
    for distribution, before, within in (
        (model_parallel, "float", ("step",)),
        (data_parallel, "step", ("float", "warmup")),
    ):
        keras.distribution.set_distribution(None)
        early = PlateauScale(RATES[before]())
        keras.distribution.set_distribution(distribution())
        rates = {name: RATES[name]() for name in within}
        for name, rate in {**rates, f"early {before}": early}.items():
            model = network(rate)
            with jax_compilations("train_step") as compilations:
                record = train(model, [plateau()])
            kernel = model.get_layer("hidden").kernel.value
            emit(
                {
                    "name": f"{distribution.__name__} {name}",
                    "compilations": len(compilations),
                    "devices": len(kernel.sharding.device_set),
                    "shard": kernel.addressable_shards[0].data.shape,
                    **record,
                }
            )

    used = PlateauScale(RATES["step"]())
    keras.distribution.set_distribution(None)
    plateau().attach(network(used))
    keras.distribution.set_distribution(data_parallel())
    emit({"name": "loop", **loop(network(used), strict_plateau(), MEAN)})

    model = network(RATES["step"]())
    train(model, [plateau()], epochs=HALF)
    model.save(folder / "several.keras")
    for file, callback in (
        ("one", plateau()),
        ("several", plateau()),
        ("several", LearningRateLogger()),
    ):
        model = keras.models.load_model(folder / f"{file}.keras")
        loaded = result(model)
        record = train(model, [callback], initial_epoch=HALF)
        name = f"{file} on with {type(callback).__name__}"
        emit({"name": name, "loaded": loaded["next"], **record})

    for seed, epochs in ((0, HALF), (1, EPOCHS)):
        backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
        record = train(network(RATES["step"](), seed), [plateau(), backup], epochs=epochs)
    emit({"name": "backup", **record})

    callbacks = [plateau(restore_best_weights=True)]
    record = train(network(RATES["step"]()), callbacks, values=BEST_SECOND)
    emit({"name": "best weights", **record})
    emit({"name": "recover", **recover()})
    emit({"name": "every", **inside_epochs()})


class Alone(keras.callbacks.Callback):
    """Something that one process alone does to the plateau."""

    def __init__(self, callback):
        super().__init__()
        self.callback = callback

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 4 and jax.process_index() == 1:
            self.callback.reset()


def processes(folder):
    """Several processes with several devices each."""
    keras.distribution.set_distribution(data_parallel())
    emit({"name": "warmup", **train(network(RATES["warmup"]()), [plateau()])})
    emit({"name": "step by fit", **train(network(step_by_fit()), [plateau()])})
    model = network(RATES["step"](), steps_per_execution=2)
    emit({"name": "two steps an execution", **train(model, [plateau()])})

    own = ROWS[jax.process_index()]
    for name in ("float", "step"):
        callback = strict_plateau()
        record = train(network(RATES[name]()), [callback], values=own)
        emit({"name": f"{name} by the mean", "best": callback.state["best"], **record})
    callback = strict_plateau()
    emit({"name": "loop", **loop(network(RATES["step"]()), callback, own)})

    emit({"name": "recover", **recover()})
    emit({"name": "every", **inside_epochs()})

    callback = plateau()
    try:
        train(network(RATES["step"]()), [Alone(callback), callback])
    except RuntimeError as error:
        emit({"name": "one alone", "error": str(error)})


def recover():
    """The metric of one process alone is not finite in one epoch."""
    own = ONE_NAN[jax.process_index() + 2 - jax.process_count()]
    return train(network(RATES["step"]()), [plateau(recover=True)], values=own)


class BackupByTheFirst(keras.callbacks.BackupAndRestore):
    """The first process alone writes; all restore."""

    def on_epoch_end(self, epoch, logs=None):
        if jax.process_index() == 0:
            # Keras makes variables while it saves, which under the distribution would wait for
            # the other processes to make them too.
            distribution = keras.distribution.distribution()
            keras.distribution.set_distribution(None)
            super().on_epoch_end(epoch, logs)
            keras.distribution.set_distribution(distribution)


def backup(folder):
    """A run of several processes that is to be killed, and then started again."""
    keras.distribution.set_distribution(data_parallel())
    folder = folder / "backup"
    started_before = any(folder.iterdir())
    restore = BackupByTheFirst(folder, delete_checkpoint=False)
    train(network(RATES["step"](), seed=started_before), [plateau(), Record(), restore])


if __name__ == "__main__":
    warnings_are_errors()
    if int(os.environ["WORLD_SIZE"]) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        # As `keras.distribution.initialize` does, which has no argument for the last one.
        jax.distributed.initialize(
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
            int(os.environ["WORLD_SIZE"]),
            int(os.environ["RANK"]),
            heartbeat_timeout_seconds=5,
        )
    scenarios = {"devices": devices, "processes": processes, "backup": backup}
    for name in sys.argv[1].split():
        scenarios[name](Path(sys.argv[2]))
