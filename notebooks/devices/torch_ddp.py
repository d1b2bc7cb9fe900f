"""torch's `DistributedDataParallel`: each process trains and validates on its share of the data.

torchrun --nproc-per-node 2 torch_ddp.py
"""

from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import keras_decay

# On GPUs: "nccl", and `torch.cuda.set_device` of LOCAL_RANK before it.
distributed.init_process_group("gloo", timeout=timedelta(minutes=5))
rank, count = distributed.get_rank(), distributed.get_world_size()

keras.utils.set_random_seed(0)  # The same weights on every process.
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
schedule = keras_decay.StepDecay(0.1, 0.5, 2, steps_per_epoch=4)
model.compile(keras.optimizers.SGD(schedule, momentum=0.9), keras.losses.MeanSquaredError())
model.optimizer.build(model.trainable_variables)
everywhere = DistributedDataParallel(model)
plateau = keras_decay.PlateauDecay(factor=0.5, patience=1)
plateau.attach(model)
backup = Path("backup.weights.h5")
if backup.exists():
    model.load_weights(backup)  # On every process. After `attach`.

random = np.random.default_rng(0)
x = random.normal(size=(64, 3)).astype("float32")
y = x @ np.array([[1.0], [-2.0], [0.5]], "float32")
x, y, x_val, y_val = (each[rank::count] for each in (x[:32], y[:32], x[32:], y[32:]))
batches = list(zip(np.split(x, 4), np.split(y, 4), strict=True))

for epoch in range(int(model.optimizer.iterations) // len(batches), 5):
    for x_batch, y_batch in batches:
        model.zero_grad()
        prediction = everywhere(torch.from_numpy(x_batch))  # Not `model`: averages the gradients.
        model.loss(torch.from_numpy(y_batch), prediction).backward()
        with torch.no_grad():
            gradients = [variable.value.grad for variable in model.trainable_variables]
            model.optimizer.apply(gradients, model.trainable_variables)
    own_loss = model.evaluate(x_val, y_val, verbose=0)
    plateau.update(own_loss, epoch)  # By the mean of all processes, on every process.
    print(f"process {rank}, epoch {epoch}: next rate {float(model.optimizer.learning_rate)}")
    if rank == 0:  # The others read it when they start again.
        model.save_weights("new.weights.h5")
        Path("new.weights.h5").replace(backup)
distributed.destroy_process_group()
