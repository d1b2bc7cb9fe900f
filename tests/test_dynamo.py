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


def compile_and_fit(rate, *callbacks):
    """The breaks in the graph of the training step, with the reason of each, what was said, the
    history, and the weights."""
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
            network = model(rate, jit_compile=True)
            history = fit(network, callbacks, epochs=3, values=[1.0] * 3)
    finally:
        for logger in loggers:
            logger.removeHandler(said)
    breaks = dict(torch._dynamo.utils.counters["graph_break"])
    return breaks, said.lines, history, network.get_weights()


def test_a_step_with_a_schedule_has_no_break_that_a_constant_rate_has_not():
    """The compiler prints nothing more either, also when the plateau reduces; the weights are those
    of a step that is not compiled."""
    expected, usual, _, _ = compile_and_fit(0.1)
    breaks, said, history, weights = compile_and_fit(
        SCHEDULES["warmup"](), PlateauDecay(patience=1, factor=0.5)
    )
    assert breaks == expected
    assert said == usual == []
    assert history["learning_rate_scale"] == [1.0, 1.0, 0.5]
    network = model(SCHEDULES["warmup"]())
    fit(network, [PlateauDecay(patience=1, factor=0.5)], epochs=3, values=[1.0] * 3)
    for own, other in zip(weights, network.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)
