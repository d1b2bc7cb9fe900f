"""Learning rates that come down: by the epoch, smoothly, or when training stalls.

Schedules, for an optimizer's `learning_rate=`:

- `StepDecay`: a constant factor every k epochs, or at milestones.
- `InverseTimeDecay`: eta0 / (1 + decay * epoch).
- `PlateauScale`: a constant rate (or schedule) whose plateau memory travels in a model file.

A callback, for `model.fit(callbacks=...)`:

- `PlateauDecay`: a factor each time a metric stops improving, over any learning rate.
"""

from keras_decay._compose import PlateauScale
from keras_decay._plateau import PlateauDecay
from keras_decay._schedules import InverseTimeDecay, StepDecay

__version__ = "0.1.0"

__all__ = ["InverseTimeDecay", "PlateauDecay", "PlateauScale", "StepDecay"]
