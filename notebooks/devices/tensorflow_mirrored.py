"""TensorFlow's `MirroredStrategy`: one process, all the GPUs of a machine."""

import keras
import numpy as np
import tensorflow as tf

import keras_decay

x = np.random.default_rng(0).normal(size=(64, 3)).astype("float32")
y = x.sum(axis=1, keepdims=True)

strategy = tf.distribute.MirroredStrategy()  # All GPUs of this machine.
with strategy.scope():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    rate = keras_decay.StepDecay(0.1, 0.5, 2, steps_per_epoch=6)
    model.compile(keras.optimizers.SGD(rate), "mse")
plateau = keras_decay.PlateauDecay("val_loss", factor=0.5, patience=5)
history = model.fit(
    x, y, validation_split=0.25, batch_size=8, epochs=3, verbose=0, callbacks=[plateau]
)
print(history.history["learning_rate"])
