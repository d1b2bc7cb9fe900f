"""Learning rates that come down: by the epoch, smoothly, or when training stalls.

Schedules, for an optimizer's `learning_rate=`:

- `StepDecay`: a constant factor every k epochs, or at milestones.
- `InverseTimeDecay`: eta0 / (1 + decay * epoch).
- `EpochSchedule`: a rate for each epoch, from a table or any function of the epoch.
- `InEpochs`: any Keras schedule, with epochs for its steps.
- `LinearWarmup`: up from a fraction of the rate, then any schedule.
- `JoinedSchedule`: several schedules, one after the other.
- `ProductSchedule`: several schedules and numbers, multiplied.
- `PlateauScale`: a constant rate (or schedule) whose plateau's state travels in a model file.

Calling one with a step, an int or an array of ints (NumPy, tensor or `keras.Variable`), returns a
float32 tensor of the same shape, whatever `keras.config.floatx()` is. Without `steps_per_epoch`
they count the epochs of `fit`, through one of the callbacks.

Callbacks, for `model.fit(callbacks=...)`:

- `PlateauDecay`: a factor each time a metric stops improving, over any learning rate.
- `LearningRateLogger`: the rate in the logs, and a warning where epochs do not fit.

And to look before training:

- `steps_per_epoch`: how many steps an epoch of `fit` has.
- `preview`: the rate at every step, as arrays.
- `rehearse`: what a `PlateauDecay` would have done with the metrics of an earlier run; it returns a
  `Rehearsal`.
- `find_learning_rate`: a range test, for the rate to start from; it returns a `RangeTest`.
- `plot`: a picture of schedules, of a `History`, of a rehearsal, or of a range test.
"""

# First, since it says how to install a backend.
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

# Where users import them from, not where they lie: what files, pickles and `help` name.
for _name in __all__:
    vars()[_name].__module__ = __name__
