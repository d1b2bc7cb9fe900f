"""A plateau over every schedule, in every optimizer wrapper and mode of training."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from internals import schedule_of
from support import (
    BACKEND,
    BATCH_SIZE,
    STEPS_PER_EPOCH,
    cases,
    compiled,
    data,
    fit,
    has_multi_optimizer,
    model,
    number,
    two_optimizers,
)

from keras_decay import PlateauDecay, PlateauScale, StepDecay

FLAT = [1.0] * 20
STEPS = np.arange(5 * STEPS_PER_EPOCH)


@keras.saving.register_keras_serializable(package="tests")
class HalfAtSeven(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule as a user writes it."""

    def __call__(self, step):
        return keras.ops.where(step < 7, 0.1, 0.05)

    def get_config(self):
        return {}


def piecewise():
    return keras.optimizers.schedules.PiecewiseConstantDecay([3, 9], [0.1, 0.05, 0.01])


schedules = keras.optimizers.schedules
BASES = {
    "exponential": lambda: schedules.ExponentialDecay(0.1, 5, 0.5),
    "inverse": lambda: schedules.InverseTimeDecay(0.1, 5, 0.5),
    "polynomial": lambda: schedules.PolynomialDecay(0.1, 15, 0.01, power=2.0),
    "cosine": lambda: schedules.CosineDecay(0.01, 15, warmup_target=0.1, warmup_steps=3),
    "restarts": lambda: schedules.CosineDecayRestarts(0.1, 5),
    "piecewise": piecewise,
    "ours": lambda: StepDecay(0.1, 0.5, 2, steps_per_epoch=STEPS_PER_EPOCH),
    "user": HalfAtSeven,
}


@cases("base", BASES, oldest=2)
def test_every_schedule_is_scaled_in_the_compiled_step(base):
    """Training follows base(step) * scale: the sum of all updates on a constant gradient."""
    peer = base()
    base_rates = [number(peer(keras.ops.convert_to_tensor(int(s), "int32"))) for s in STEPS]
    scales = np.repeat([1.0, 1.0, 0.5, 0.25, 0.125], STEPS_PER_EPOCH)
    # The gradient of the sum of a linear model's outputs does not depend on its weights.
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    network.compile(keras.optimizers.SGD(base()), lambda y, prediction: prediction)
    before = network.get_weights()[0].item()
    network.fit(
        np.ones((STEPS_PER_EPOCH, 1)),
        np.ones((STEPS_PER_EPOCH, 1)),
        batch_size=1,
        epochs=5,
        verbose=0,
        callbacks=[PlateauDecay("loss", 0.5, 1, min_delta=1e6)],
    )
    moved = before - network.get_weights()[0].item()
    assert moved == pytest.approx(sum(base_rates * scales), rel=1e-4)
    rate = number(network.optimizer.learning_rate)
    after = number(peer(keras.ops.convert_to_tensor(len(STEPS), "int32")))
    assert rate == pytest.approx(after * 0.5**4, rel=1e-5, abs=1e-9)


def test_a_user_schedule_may_return_a_python_float():
    """It is taken as float32, whatever `floatx` is."""

    class Constant(schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    history = fit(model(Constant()), [PlateauDecay(patience=1)], epochs=3, values=FLAT)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.01], rtol=1e-6)


def rates_and_weights(optimizer, epochs=4, plateau=None, **compile_arguments):
    network = model(optimizer=optimizer, **compile_arguments)
    plateau = plateau or PlateauDecay(patience=1, factor=0.5)
    return fit(network, [plateau], epochs=epochs, values=FLAT), network


def decay(steps=STEPS_PER_EPOCH):
    return StepDecay(0.1, 0.9, steps_per_epoch=steps)


EXPECTED = [0.1, 0.09, 0.081 / 2, 0.0729 / 4]


@pytest.mark.parametrize("learning_rate", [decay, lambda: 0.1], ids=["schedule", "float"])
def test_the_optimizer_inside_a_loss_scale_optimizer_is_reduced(learning_rate):
    """The rate is the inner optimizer's; loss scaling goes on as without a plateau."""
    expected = EXPECTED if learning_rate is decay else [0.1, 0.1, 0.05, 0.025]
    inner = keras.optimizers.SGD(learning_rate())
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    history, network = rates_and_weights(optimizer)
    np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-6)
    _, reference = rates_and_weights(keras.optimizers.SGD(learning_rate()))
    np.testing.assert_allclose(network.get_weights()[0], reference.get_weights()[0], rtol=1e-4)


def test_mixed_precision_makes_a_wrapper_and_is_reduced():
    """The policy `mixed_float16` puts a `LossScaleOptimizer` around the optimizer."""
    policy = keras.mixed_precision.dtype_policy()
    try:
        keras.mixed_precision.set_dtype_policy("mixed_float16")
        history, network = rates_and_weights(keras.optimizers.SGD(decay()))
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    assert isinstance(network.optimizer, keras.optimizers.LossScaleOptimizer)
    np.testing.assert_allclose(history["learning_rate"], EXPECTED, rtol=1e-6)


@has_multi_optimizer
def test_one_decision_reduces_every_optimizer_of_a_multi_optimizer():
    """A schedule and a float, logged under Keras's own names."""
    plateau = PlateauDecay(patience=1, factor=0.5)
    history, network = rates_and_weights(two_optimizers(decay(), 0.2), plateau=plateau)
    np.testing.assert_allclose(history["learning_rate_kernel"], EXPECTED, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate_bias"], [0.2, 0.2, 0.1, 0.05], rtol=1e-6)
    assert plateau.state["reductions"] == 3
    one, two = (number(inner.learning_rate) for inner in network.optimizer.optimizers)
    assert (one, two) == (pytest.approx(0.1 * 0.9**4 / 8), pytest.approx(0.025))


@has_multi_optimizer
@pytest.mark.parametrize("built", [True, False], ids=["built", "unbuilt"])
def test_optimizers_that_a_function_chooses_are_found(built):
    """A `MultiOptimizer` made with a function has no optimizers until it is built."""
    kernel, bias = keras.optimizers.SGD(0.1), keras.optimizers.SGD(decay())
    optimizer = keras.optimizers.MultiOptimizer(
        lambda variable: kernel if "kernel" in variable.path else bias
    )
    network = keras.Sequential([keras.Input((3,))] if built else [])
    network.add(keras.layers.Dense(1))
    network.compile(optimizer, "mse")
    fit(network, [PlateauDecay(patience=1, factor=0.5)], epochs=2, values=FLAT)
    assert number(kernel.learning_rate) == pytest.approx(0.05)
    assert number(bias.learning_rate) == pytest.approx(0.1 * 0.9**2 / 2)


@has_multi_optimizer
def test_attach_finds_the_optimizers_that_a_function_chooses():
    """So a custom loop compiles the scaled schedule, not the bare one."""
    inner = keras.optimizers.SGD(decay())
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    network.compile(keras.optimizers.MultiOptimizer(lambda variable: inner), "mse")
    PlateauDecay().attach(network)
    assert isinstance(schedule_of(inner), PlateauScale)


def test_gradient_accumulation_keeps_the_steps_of_an_epoch():
    """The schedule counts micro-batches, so its epochs stay those of the data."""
    optimizer = keras.optimizers.SGD(decay(), gradient_accumulation_steps=2)
    history, _ = rates_and_weights(optimizer)
    np.testing.assert_allclose(history["learning_rate"], EXPECTED, rtol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(
            {"steps_per_execution": 2},
            marks=pytest.mark.skipif(BACKEND == "torch", reason="Keras refuses it on torch"),
        ),
        pytest.param(
            {"jit_compile": True},
            marks=pytest.mark.skipif(BACKEND == "torch", reason="`test_dynamo` has it"),
        ),
        {"run_eagerly": True},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_every_way_to_run_a_step_trains_alike(arguments):
    """The weights are those of the default way."""
    history, network = rates_and_weights(keras.optimizers.SGD(decay(), momentum=0.9), **arguments)
    np.testing.assert_allclose(history["learning_rate"], EXPECTED, rtol=1e-6)
    _, reference = rates_and_weights(keras.optimizers.SGD(decay(), momentum=0.9))
    np.testing.assert_allclose(
        network.get_weights()[0], reference.get_weights()[0], rtol=1e-4, atol=1e-6
    )


@pytest.mark.any_keras
@pytest.mark.skipif(BACKEND == "jax", reason="JAX reads the scale with the optimizer's variables")
@pytest.mark.parametrize("milestones", [1, [1, 3]], ids=["every-epoch", "milestones"])
def test_dynamo_compiles_the_schedules_without_a_break(milestones):
    """On torch `jit_compile=True` compiles them; the scale changes without a recompilation."""
    network = SimpleNamespace(
        optimizer=keras.optimizers.SGD(StepDecay(0.1, 0.5, milestones, steps_per_epoch=2))
    )
    plateau = PlateauDecay(factor=0.5)
    plateau.attach(network)
    scaled = schedule_of(network.optimizer)
    function = compiled(lambda step: scaled(step))
    steps = keras.ops.convert_to_tensor(np.arange(8), "int32")
    before = keras.ops.convert_to_numpy(function(steps))
    np.testing.assert_allclose(before, keras.ops.convert_to_numpy(scaled(np.arange(8))), rtol=1e-6)
    assert plateau.reduce()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(function(steps)), before / 2, rtol=1e-6)


@cases(
    "kind, arguments",
    {
        "decay": ("AdamW", {"weight_decay": 0.01}),
        "average": ("SGD", {"use_ema": True, "ema_overwrite_frequency": 4}),
        "norm": ("SGD", {"clipnorm": 1.0}),
    },
)
def test_the_optimizers_other_options_see_the_scaled_rate(kind, arguments):
    """The weights are those of a run whose float rate was set by hand before each epoch."""
    make = getattr(keras.optimizers, kind)
    _, network = rates_and_weights(make(decay(), **arguments))
    by_hand = model(optimizer=make(1.0, **arguments))
    x, y = data()
    for rate in EXPECTED:
        by_hand.optimizer.learning_rate = rate
        for start in range(0, len(x), BATCH_SIZE):
            by_hand.train_on_batch(x[start : start + BATCH_SIZE], y[start : start + BATCH_SIZE])
    if arguments.get("use_ema"):  # `fit` does this when it ends.
        by_hand.optimizer.finalize_variable_values(by_hand.trainable_weights)
    np.testing.assert_allclose(
        network.get_weights()[0], by_hand.get_weights()[0], rtol=1e-4, atol=1e-6
    )


def test_a_schedule_set_in_mid_training_is_scaled_at_the_next_reduction():
    """Nobody tells the callback when a schedule replaces another."""

    class SetSchedule(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.optimizer.learning_rate = HalfAtSeven()

    network = model(decay())
    fit(network, [PlateauDecay(patience=2, factor=0.5), SetSchedule()], epochs=4, values=FLAT)
    assert number(network.optimizer.learning_rate) == pytest.approx(0.05 / 2)


@pytest.mark.any_keras
def test_a_schedule_set_between_two_fits_is_scaled_as_well():
    """The memory is the optimizer's: a new schedule on it starts at the old scale."""
    network = model(decay())
    fit(network, [PlateauDecay(patience=1, factor=0.5)], epochs=2, values=FLAT)
    network.optimizer.learning_rate = HalfAtSeven()
    plateau = PlateauDecay()
    history = fit(network, [plateau], epochs=1, values=FLAT)
    assert history["learning_rate"] == pytest.approx([0.025])
    assert isinstance(schedule_of(network.optimizer), PlateauScale)
