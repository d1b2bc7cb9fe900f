"""The private names that tests look inside with, all in one place.

(`test_keras` and `test_processes` test private modules themselves, and `support` is imported by the
benchmarks too.)
"""

from keras_decay._backend import COUNTER
from keras_decay._keras import inner_optimizers, step_counter
from keras_decay.callbacks._base import ONE_FIT
from keras_decay.optimizer._attach import attached_to
from keras_decay.optimizer._rates import effective_rate, schedule_of
from keras_decay.optimizer._state import PlateauState
from keras_decay.plateau._best_weights import forget_start
from keras_decay.plateau._rule import Rule
from keras_decay.schedules._base import counting_epochs, rate_of

__all__ = [
    "COUNTER",
    "ONE_FIT",
    "PlateauState",
    "Rule",
    "attached_to",
    "counting_epochs",
    "effective_rate",
    "forget_start",
    "inner_optimizers",
    "rate_of",
    "schedule_of",
    "step_counter",
]
