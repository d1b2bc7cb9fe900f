"""TensorFlow's `MultiWorkerMirroredStrategy`: several processes, each started with `TF_CONFIG`."""

import keras
import numpy as np
import tensorflow as tf

import keras_decay

# Before anything else of TensorFlow. It reads `TF_CONFIG`, which the scheduler of a cluster sets
# on each machine: {"cluster": {"worker": ["host0:port", "host1:port"]},
#                   "task": {"type": "worker", "index": 0}}
strategy = tf.distribute.MultiWorkerMirroredStrategy()

x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
y = x.sum(axis=1, keepdims=True)


class OnWorkers(keras.Sequential):
    """What Keras's `fit` needs under this strategy (keras issue 20585): logs that have an axis."""

    def train_step(self, data):
        return {name: tf.reshape(log, (1,)) for name, log in super().train_step(data).items()}

    def test_step(self, data):
        return {name: tf.reshape(log, (1,)) for name, log in super().test_step(data).items()}


# For the same reason the model is made outside of the scope, without an `Input`, and all the
# rest inside.
model = OnWorkers([keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
with strategy.scope():
    rate = keras_decay.StepDecay(0.1, 0.5, 2, steps_per_epoch=6)
    model.compile(keras.optimizers.SGD(rate), "mse")
    model.build((None, 3))
    plateau = keras_decay.PlateauDecay("val_loss", factor=0.5, patience=5)
    # `batch_size` is that of all workers together.
    history = model.fit(
        x, y, validation_split=0.25, batch_size=8, epochs=3, verbose=0, callbacks=[plateau]
    )
print(history.history["learning_rate"])
