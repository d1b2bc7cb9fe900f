"""Trains with a strategy of `tf.distribute`, in one process or in several; run by
`test_distributed_tensorflow`."""

from __future__ import annotations

import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import keras
import tensorflow as tf
from distributed import MEAN, ONE_NAN, RATES, ROWS, Record, disputed_data, plateau, result
from processes import emit, warnings_are_errors
from support import BATCH_SIZE, Metric, data, number

from keras_decay import PlateauScale

EPOCHS = 4
HALF = EPOCHS // 2


@keras.saving.register_keras_serializable()
class Traced(keras.Sequential):
    """Counts how often its training step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


class OnWorkers(Traced):
    """What Keras's `fit` needs under `MultiWorkerMirroredStrategy`: logs that have an axis."""

    def train_step(self, data):
        return {name: tf.reshape(log, (1,)) for name, log in super().train_step(data).items()}

    def test_step(self, data):
        return {name: tf.reshape(log, (1,)) for name, log in super().test_step(data).items()}


class Traces(keras.callbacks.Callback):
    """How often the training step has been traced by the end of each epoch."""

    def on_train_begin(self, logs=None):
        self.counts = []

    def on_epoch_end(self, epoch, logs=None):
        self.counts.append(self.model.traces)


def network(rate, strategy, seed=0):
    """A small regression, the same weights for the same seed; `rate` makes the learning rate."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1, name="out")]
    # Keras's `fit` fails if the model is made in the scope of several workers.
    model = OnWorkers(layers) if several_workers(strategy) else None
    with strategy.scope():
        model = model or Traced([keras.Input((3,)), *layers])
        model.compile(keras.optimizers.SGD(rate(), momentum=0.9), "mse")
        if not model.built:
            model.build((None, 3))
        model.optimizer.build(model.trainable_variables)
    return model


def several_workers(strategy):
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def loss_plateau(**arguments):
    """One that reduces every epoch but the first."""
    return plateau(monitor="loss", patience=1, **arguments)


def train(model, strategy, callbacks, *, epochs=EPOCHS, values=None, **arguments):
    """Trains and returns the result; `values` stand in for the loss that is observed."""
    x, y = data()
    injected = [] if values is None else [Metric(values, "loss")]
    traces = Traces()
    callbacks = [*injected, *callbacks, traces]
    # In the scope, which `fit` itself enters only for a model that was made in it.
    with strategy.scope():
        history = model.fit(
            x,
            y,
            batch_size=BATCH_SIZE,
            epochs=epochs,
            callbacks=callbacks,
            verbose=0,
            shuffle=False,
            **arguments,
        ).history
    return {
        "rates": history["learning_rate"],
        "scales": history.get("learning_rate_scale"),
        "traces": traces.counts,
        **result(model),
    }


def inside_epochs(strategy):
    """What is observed each three steps."""
    callback = plateau(every=3, validation_data=disputed_data(), patience=1, min_delta=1e-4)
    record = train(network(RATES["step"], strategy), strategy, [callback])
    return {"observations": callback.observations, **record}


def loop(model, strategy, callback, values):
    """A training loop as in TensorFlow's guide for strategies."""
    callback.attach(model)
    loss_function = keras.losses.MeanSquaredError(reduction="sum")

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_function(y, model(x, training=True)) / BATCH_SIZE
        weights = model.trainable_weights
        model.optimizer.apply(tape.gradient(loss, weights), weights)

    @tf.function
    def step(x, y):
        strategy.run(replica_step, (x, y))

    batches = tf.data.Dataset.from_tensor_slices(data()).batch(BATCH_SIZE)
    batches = strategy.experimental_distribute_dataset(batches)
    rates = []
    for epoch in range(EPOCHS):
        rates.append(number(model.optimizer.learning_rate))
        for x, y in batches:
            step(x, y)
        callback.update(values[epoch], epoch)
    return {"rates": rates, **result(model)}


def two_devices():
    (cpu,) = tf.config.list_physical_devices("CPU")
    logical = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, logical)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def devices(folder):
    """One process, two devices. `one.keras` in the folder was trained on one."""
    strategy = two_devices()
    early = PlateauScale(0.05)
    for name, rate in {"float": RATES["float"], "early constant": lambda: early}.items():
        emit({"name": name, **train(network(rate, strategy), strategy, [loss_plateau()])})

    callback = loss_plateau()
    model = network(RATES["step"], strategy)
    first = train(model, strategy, [loss_plateau()], epochs=HALF)
    model.save(folder / "two.keras")
    record = train(model, strategy, [callback], initial_epoch=HALF)
    for name in ("rates", "scales", "traces"):
        record[name] = first[name] + record[name]
    callback.reset()
    emit({"name": "step", "reset": result(model)["next"], **record})

    with strategy.scope():
        model = keras.models.load_model(folder / "one.keras")
    loaded = result(model)["next"]
    record = train(model, strategy, [loss_plateau()], initial_epoch=HALF)
    emit({"name": "load", "loaded": loaded, **record})

    for seed, epochs in ((0, HALF), (1, EPOCHS)):
        backup = keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False)
        model = network(RATES["step"], strategy, seed)
        record = train(model, strategy, [loss_plateau(), backup], epochs=epochs)
    emit({"name": "backup", **record})

    callback = loss_plateau(min_delta=1e-4)
    emit({"name": "loop", **loop(network(RATES["step"], strategy), strategy, callback, MEAN)})

    callback = loss_plateau(recover=True)
    model = network(RATES["step"], strategy)
    emit({"name": "recover", **train(model, strategy, [callback], values=ONE_NAN[1])})
    emit({"name": "every", **inside_epochs(strategy)})


class SecondAlone(keras.callbacks.Callback):
    """Something that the second process does alone, after the first epoch."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1 and os.environ["RANK"] == "1":
            self.change()


@cache
def of_all_workers():
    """The strategy, of which a process can have one."""
    return tf.distribute.MultiWorkerMirroredStrategy()


def workers(folder):
    """Several processes."""
    strategy = of_all_workers()
    model = network(RATES["warmup"], strategy)
    emit({"name": "warmup", **train(model, strategy, [loss_plateau()], validation_data=data(1))})

    own = ROWS[int(os.environ["RANK"])]
    callback = loss_plateau(min_delta=1e-4)
    record = train(network(RATES["float"], strategy), strategy, [callback], values=own)
    emit({"name": "float", "best": callback.state["best"], **record})
    callback = loss_plateau(min_delta=1e-4)
    emit({"name": "loop", **loop(network(RATES["step"], strategy), strategy, callback, own)})

    emit({"name": "every", **inside_epochs(strategy)})

    model, callback = network(RATES["float"], strategy), loss_plateau()
    change = SecondAlone(lambda: setattr(model.optimizer, "learning_rate", 0.01))
    emit({"name": "rate alone", "error": error_of(model, strategy, [callback, change])})
    model, callback = network(RATES["step"], strategy), loss_plateau()
    change = SecondAlone(callback.reset)
    emit({"name": "scale alone", "error": error_of(model, strategy, [callback, change])})


def error_of(*arguments):
    with warnings.catch_warnings():
        # One process alone is told that the rate stands below where the plateau left it.
        warnings.filterwarnings("ignore", "The learning rate stands below")
        try:
            train(*arguments)
        except RuntimeError as error:
            return str(error)


class BackupByTheFirst(keras.callbacks.BackupAndRestore):
    """The first process alone writes; all restore."""

    def on_epoch_end(self, epoch, logs=None):
        if os.environ["RANK"] == "0":
            # Keras makes variables while it saves, which in the scope of the strategy would wait
            # for the other processes to make them too. A new thread is outside of the scope.
            save = super().on_epoch_end
            with ThreadPoolExecutor() as thread:
                thread.submit(save, epoch, logs).result()


def backup(folder):
    """A run of several processes that is to be killed, and then started again."""
    strategy = of_all_workers()
    folder = folder / "backup"
    started_before = any(folder.iterdir())
    restore = BackupByTheFirst(folder, delete_checkpoint=False)
    model = network(RATES["step"], strategy, seed=started_before)
    train(model, strategy, [loss_plateau(), Record(), restore])


if __name__ == "__main__":
    warnings_are_errors()
    scenarios = {"devices": devices, "workers": workers, "backup": backup}
    for name in sys.argv[1].split():
        scenarios[name](Path(sys.argv[2]))
