"""JAX in several processes: each trains on its share of the data, the first writes the files.

Start it once for each process, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set, as
`torchrun` and most schedulers do.
"""

import os

import jax
import keras
import numpy as np

import keras_decay

jax.config.update("jax_cpu_collectives_implementation", "gloo")  # For processes on CPUs.
rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
keras.distribution.initialize(address, count, rank)
keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))


class Backup(keras.callbacks.BackupAndRestore):
    """Written by the first process, restored by all."""

    def on_epoch_end(self, epoch, logs=None):
        if rank == 0:
            # While it saves, Keras makes variables, which would wait for the other processes.
            distribution = keras.distribution.distribution()
            keras.distribution.set_distribution(None)
            super().on_epoch_end(epoch, logs)
            keras.distribution.set_distribution(distribution)


keras.utils.set_random_seed(0)  # The same weights on every process.
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
schedule = keras_decay.StepDecay(0.1, 0.5, 2, steps_per_epoch=4)
model.compile(keras.optimizers.SGD(schedule, momentum=0.9), "mse")

random = np.random.default_rng(0)
x = random.normal(size=(64, 3)).astype("float32")
y = x @ np.array([[1.0], [-2.0], [0.5]], "float32")
x, y, x_val, y_val = (each[rank::count] for each in (x[:32], y[:32], x[32:], y[32:]))
history = model.fit(
    x,
    y,
    batch_size=8 // count,  # Of this process's share.
    validation_data=(x_val, y_val),  # As many batches on every process, or Keras hangs.
    epochs=5,
    verbose=0,
    callbacks=[
        keras_decay.PlateauDecay(factor=0.5, patience=1),
        Backup("backup", delete_checkpoint=False),
    ],
).history
print(f"process {rank}: {history['learning_rate']}")
