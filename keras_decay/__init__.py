"""Learning rates that come down: by the epoch, smoothly, or when training stalls.

Schedules, for an optimizer's `learning_rate=`:

- `StepDecay`: a constant factor every k epochs, or at milestones.
- `InverseTimeDecay`: eta0 / (1 + decay * epoch).
- `EpochSchedule`: a rate for each epoch, from a table or any function of the epoch.
- `InEpochs`: any Keras schedule, called with epochs instead of steps.
- `LinearWarmup`: a linear rise from a fraction of the rate, then any schedule.
- `JoinedSchedule`: several schedules, one after the other.
- `ProductSchedule`: several schedules and numbers, multiplied.
- `PlateauScale`: a constant rate (or schedule) whose plateau state is saved in a model file.

Call a schedule with a step, an int or an array of ints (NumPy, tensor or `keras.Variable`). It
returns a float32 tensor of the same shape, whatever `keras.config.floatx()` is. Without
`steps_per_epoch`, schedules count the epochs of `fit`, through one of the callbacks.

Callbacks, for `model.fit(callbacks=...)`:

- `PlateauDecay`: a constant factor each time a metric stops improving, over any learning rate.
- `LearningRateLogger`: the rate in the logs, and a warning where a schedule does not fit the run.

Tools, for before and after training:

- `steps_per_epoch`: how many steps an epoch of `fit` has.
- `preview`: the rate at every step, as arrays.
- `rehearse`: what a `PlateauDecay` would have done with the metrics of an earlier run; it returns a
  `Rehearsal`.
- `find_learning_rate`: a range test that suggests the first rate; it returns a `RangeTest`.
- `plot`: a figure of schedules, a `History`, a rehearsal or a range test.
"""

# First, because its error says how to install a backend.
from keras_decay import _backend as _backend
from keras_decay.callbacks._logger import LearningRateLogger
from keras_decay.optimizer._scale import PlateauScale
from keras_decay.plateau._plateau import PlateauDecay
from keras_decay.schedules._compose import JoinedSchedule, LinearWarmup, ProductSchedule
from keras_decay.schedules._decay import EpochSchedule, InEpochs, InverseTimeDecay, StepDecay
from keras_decay.tools._plot import plot
from keras_decay.tools._preview import preview
from keras_decay.tools._range_test import RangeTest, find_learning_rate
from keras_decay.tools._rehearse import Rehearsal, rehearse
from keras_decay.tools._steps import steps_per_epoch

__version__ = "0.1.0"

__all__ = [
    "EpochSchedule",
    "InEpochs",
    "InverseTimeDecay",
    "JoinedSchedule",
    "LearningRateLogger",
    "LinearWarmup",
    "PlateauDecay",
    "PlateauScale",
    "ProductSchedule",
    "RangeTest",
    "Rehearsal",
    "StepDecay",
    "find_learning_rate",
    "plot",
    "preview",
    "rehearse",
    "steps_per_epoch",
]

# Saved files, pickles and `help` name the public module, not the private file.
for _name in __all__:
    vars()[_name].__module__ = __name__
