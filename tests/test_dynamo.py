"""torch with `jit_compile=True`: our schedules are compiled with the step, in one piece."""

from __future__ import annotations

import functools
import logging

import keras
import numpy as np
import pytest
from support import BACKEND, STEPS_PER_EPOCH, fit, model, number

from keras_decay import InverseTimeDecay, LinearWarmup, PlateauDecay, StepDecay

torch = pytest.importorskip("torch") if BACKEND == "torch" else None
pytestmark = [
    pytest.mark.any_keras,
    pytest.mark.skipif(BACKEND != "torch", reason="torch's compiler"),
]

SCHEDULES = {
    "step": lambda: StepDecay(0.1, 0.5, 1, steps_per_epoch=STEPS_PER_EPOCH),
    "milestones": lambda: StepDecay(0.1, 0.5, [1, 3], steps_per_epoch=STEPS_PER_EPOCH),
    "inverse": lambda: InverseTimeDecay(0.1, 1.0, steps_per_epoch=STEPS_PER_EPOCH),
    "warmup": lambda: LinearWarmup(
        StepDecay(0.1, 0.5, 1, steps_per_epoch=STEPS_PER_EPOCH), 1, steps_per_epoch=STEPS_PER_EPOCH
    ),
}
# The default one needs a C++ compiler, which not every machine has. This one takes operations apart
# as that one does, which "eager" and "aot_eager" do not: of a scalar, not all of them bear it.
COMPILER = "aot_eager_decomp_partition"
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@every_schedule
def test_a_schedule_is_one_graph(schedule):
    """`fullgraph=True` is an error where there would be two; the rates are those of the host."""
    schedule, steps = schedule(), range(0, 5 * STEPS_PER_EPOCH, 3)
    torch._dynamo.reset()
    function = torch.compile(lambda step: schedule(step), backend=COMPILER, fullgraph=True)
    rates = [number(function(keras.ops.convert_to_tensor(step, "int32"))) for step in steps]
    np.testing.assert_allclose(rates, [number(schedule(step)) for step in steps], rtol=1e-6)


class Lines(logging.Handler):
    """What torch's compiler says."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@functools.cache
def compile_and_fit(make=None, with_plateau=False):
    """The breaks in the graph of the training step, with the reason of each, and what was said."""
    callbacks = [PlateauDecay(patience=1, factor=0.5)] if with_plateau else []
    own = functools.partial(torch.compile, backend=COMPILER)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    said = Lines()
    # Each of them hands nothing on to that of torch.
    loggers = [logging.getLogger(name) for name in ("torch", "torch._dynamo")]
    for logger in loggers:
        logger.addHandler(said)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "compile", own)
            network = model(make() if make else 0.1, jit_compile=True)
            history = fit(network, callbacks, epochs=3, values=[1.0] * 3)
    finally:
        for logger in loggers:
            logger.removeHandler(said)
    return dict(torch._dynamo.utils.counters["graph_break"]), said.lines, history


@pytest.mark.parametrize(
    ("name", "with_plateau"),
    [("step", False), ("warmup", False), ("step", True)],
    ids=["step", "warmup", "plateau"],
)
def test_a_step_with_a_schedule_has_no_break_that_a_constant_rate_has_not(name, with_plateau):
    """The compiler prints nothing more either, also when the plateau reduces."""
    expected, usual, _ = compile_and_fit()
    breaks, said, history = compile_and_fit(SCHEDULES[name], with_plateau)
    assert breaks == expected
    assert said == usual == []
    if with_plateau:
        assert history["learning_rate_scale"] == [1.0, 1.0, 0.5]
