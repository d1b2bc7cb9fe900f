"""Step decay and inverse-time decay against their closed forms."""

from __future__ import annotations

import copy
import json
import pickle

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internals import effective_rate, step_counter
from support import BACKEND, compiled, in_step, model, number, on_host

import keras_decay
from keras_decay import InverseTimeDecay, StepDecay

LAST_STEP = 2**31 - 2


# Each of them is compiled.
few_examples = settings(max_examples=25)
evaluations = pytest.mark.parametrize("evaluate", [on_host, in_step], ids=["host", "compiled"])
dtypes = pytest.mark.parametrize("floatx", ["float16", "bfloat16", "float32"])


def step_decay(step, initial, rate, epochs, steps_per_epoch, floor=0.0):
    """The contract's formula in Python ints and floats."""
    epoch = int(step) // steps_per_epoch
    if isinstance(epochs, int):
        decays = epoch // epochs
    else:
        decays = sum(milestone <= epoch for milestone in epochs)
    return max(initial * rate**decays, floor)


def inverse_time(step, initial, rate, steps_per_epoch, staircase, floor=0.0):
    epochs = int(step) // steps_per_epoch if staircase else int(step) / steps_per_epoch
    return max(initial / (1 + rate * epochs), floor)


def around(boundaries):
    """Each boundary with the steps just before and after it, inside the counter's range."""
    steps = {0, 1, LAST_STEP - 1, LAST_STEP}
    for boundary in boundaries:
        steps |= {boundary - 1, boundary, boundary + 1}
    return np.array(sorted(step for step in steps if 0 <= step <= LAST_STEP))


def assert_rates(actual, expected, steps):
    """Equal to within two roundings of float32; rates below its normal range may be 0."""
    np.testing.assert_allclose(
        actual, np.array(expected), rtol=3e-7, atol=2e-38, err_msg=f"steps {steps}"
    )


rates = st.floats(1e-6, 10.0)
factors = st.floats(0.01, 0.999)
periods = st.integers(1, 2_000_003)
boundary_numbers = st.lists(st.integers(0, 2**31), min_size=1, max_size=20)


@pytest.mark.any_keras
@evaluations
@few_examples
@given(rates, factors, st.integers(1, 1000), periods, boundary_numbers)
def test_step_decay_equals_its_closed_form_at_and_around_every_boundary(
    evaluate, initial, rate, decay_epochs, steps_per_epoch, numbers
):
    """Every k epochs, over the whole range of the step counter."""
    period = decay_epochs * steps_per_epoch
    steps = around([n % (LAST_STEP // period + 1) * period for n in numbers])
    schedule = StepDecay(initial, rate, decay_epochs, steps_per_epoch=steps_per_epoch)
    expected = [step_decay(s, initial, rate, decay_epochs, steps_per_epoch) for s in steps]
    assert_rates(evaluate(schedule, steps), expected, steps)


@pytest.mark.any_keras
@evaluations
@few_examples
@given(
    rates,
    factors,
    st.lists(st.integers(1, 10_000), min_size=1, max_size=30, unique=True).map(sorted),
    periods,
)
def test_step_decay_at_milestones_equals_its_closed_form(
    evaluate, initial, rate, milestones, steps_per_epoch
):
    """Milestones, also those that lie beyond the range of the step counter."""
    steps = around([epoch * steps_per_epoch for epoch in milestones])
    schedule = StepDecay(initial, rate, milestones, steps_per_epoch=steps_per_epoch)
    expected = [step_decay(s, initial, rate, milestones, steps_per_epoch) for s in steps]
    assert_rates(evaluate(schedule, steps), expected, steps)


@pytest.mark.any_keras
@evaluations
@pytest.mark.parametrize("rate", [0.9999, 0.999999, 1 - 1e-9])
def test_step_decay_is_exact_after_millions_of_decays(evaluate, rate):
    """A decay at every step, by a factor that float32 cannot hold exactly."""
    steps = around([10, 65_535, 65_536, 65_537, 1_000_000, 50_000_000, 2**30])
    schedule = StepDecay(0.1, rate, steps_per_epoch=1)
    expected = [step_decay(s, 0.1, rate, 1, 1) for s in steps]
    assert_rates(evaluate(schedule, steps), expected, steps)


@pytest.mark.any_keras
@evaluations
@few_examples
@given(rates, st.floats(0.0, 100.0), periods, st.booleans(), boundary_numbers)
def test_inverse_time_decay_equals_its_closed_form(
    evaluate, initial, rate, steps_per_epoch, staircase, numbers
):
    """Smooth and staircase, over the whole range of the step counter."""
    steps = around([n % (LAST_STEP // steps_per_epoch + 1) * steps_per_epoch for n in numbers])
    schedule = InverseTimeDecay(initial, rate, steps_per_epoch=steps_per_epoch, staircase=staircase)
    expected = [inverse_time(s, initial, rate, steps_per_epoch, staircase) for s in steps]
    assert_rates(evaluate(schedule, steps), expected, steps)


@evaluations
def test_a_period_that_the_counter_cannot_reach_never_decays(evaluate):
    """A product of epochs and steps beyond int32, also beyond int64."""
    for schedule in (
        StepDecay(0.1, 0.5, 2**20, steps_per_epoch=2**20),
        StepDecay(0.1, 0.5, 2**40, steps_per_epoch=2**40),
        StepDecay(0.1, 0.5, [2**40], steps_per_epoch=2**40),
        InverseTimeDecay(0.1, 1.0, steps_per_epoch=2**40, staircase=True),
    ):
        assert_rates(evaluate(schedule, [0, LAST_STEP]), [0.1, 0.1], "ends")


@evaluations
@pytest.mark.parametrize(
    "schedule",
    [
        StepDecay(0.1, 0.5, steps_per_epoch=10, min_learning_rate=0.02),
        StepDecay(0.1, 0.5, [1, 2, 3, 4], steps_per_epoch=10, min_learning_rate=0.02),
        StepDecay(0.1, 0.99999, steps_per_epoch=1, min_learning_rate=0.02),
        InverseTimeDecay(0.1, 1.0, steps_per_epoch=10, min_learning_rate=0.02),
        InverseTimeDecay(0.1, 1.0, steps_per_epoch=10, min_learning_rate=0.02, staircase=True),
    ],
    ids=["every-epoch", "milestones", "long", "smooth", "staircase"],
)
def test_the_floor_is_reached_and_kept(evaluate, schedule):
    """The rate falls to `min_learning_rate`, in float32, and no further."""
    before, *after = evaluate(schedule, [9, 10_000_000, LAST_STEP])
    assert before > np.float32(0.02)
    assert after == [np.float32(0.02)] * 2


def test_a_floor_at_the_initial_rate_keeps_it_constant():
    """`min_learning_rate` may be as high as the rate itself."""
    schedule = StepDecay(0.1, 0.5, steps_per_epoch=1, min_learning_rate=0.1)
    assert list(on_host(schedule, [0, 1, 1000])) == [np.float32(0.1)] * 3


@evaluations
@dtypes
def test_rates_are_float32_and_exact_under_any_floatx(evaluate, floatx, set_floatx):
    """Neither the steps nor the rates pass through `floatx`."""
    set_floatx(floatx)
    step = 60_000_179  # float32 holds its neighbour, 60,000,180, but not it.
    decay = StepDecay(0.1, 0.7, steps_per_epoch=step)
    rates = evaluate(decay, [step - 1, step, step + 1])
    assert rates.dtype == np.float32
    assert_rates(rates, [0.1, 0.07, 0.07], "boundary")
    for staircase in (False, True):
        decay = InverseTimeDecay(0.1, 0.3, steps_per_epoch=70_000, staircase=staircase)
        rates = evaluate(decay, [70_000])
        assert rates.dtype == np.float32
        assert_rates(rates, [0.1 / 1.3], "step")


SCHEDULES = [
    StepDecay(0.1, 0.5, 2, steps_per_epoch=10),
    StepDecay(0.1, 0.5, [2, 4], steps_per_epoch=10),
    InverseTimeDecay(0.1, 1.0, steps_per_epoch=10),
]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=["step", "milestones", "inverse"])


@schedules
def test_every_kind_of_step_is_accepted_and_keeps_its_shape(schedule):
    """Ints, NumPy integers and arrays, lists, tensors and variables of several dtypes."""
    expected = on_host(schedule, [0, 19, 20, 41])
    assert expected.shape == (4,)
    scalars = [int, float, np.float32, np.int32, np.int64, np.uint8, np.array]
    scalars += [lambda s, d=d: keras.ops.convert_to_tensor(s, d) for d in ("int32", "uint8")]
    scalars += [lambda s: keras.Variable(s, dtype="int32", trainable=False)]
    scalars += [lambda s: keras.ops.convert_to_tensor(s, "float32")]
    for kind in scalars:
        rates = [schedule(kind(step)) for step in (0, 19, 20, 41)]
        assert all(tuple(rate.shape) == () for rate in rates)
        assert [number(rate) for rate in rates] == list(expected)
        assert all(keras.backend.standardize_dtype(rate.dtype) == "float32" for rate in rates)
    grid = np.array([[0, 19], [20, 41]])
    for steps in (grid, grid.tolist(), keras.ops.convert_to_tensor(grid, "int32")):
        assert np.array_equal(keras.ops.convert_to_numpy(schedule(steps)), expected.reshape(2, 2))
    assert np.array_equal(in_step(schedule, grid), expected.reshape(2, 2))
    assert np.array_equal(in_step(schedule, 20), expected[2])


@schedules
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_schedule_can_be_copied_and_pickled(schedule, copied):
    """Tuners and job launchers do both; the scale of a plateau is a number like the others."""
    for original in (
        schedule,
        keras_decay.PlateauScale(schedule, state={"scale": 0.5, "reductions": 1}),
    ):
        again = copied(original)
        assert again.get_config() == original.get_config()
        assert np.array_equal(on_host(again, range(60)), on_host(original, range(60)))


@schedules
def test_a_schedule_comes_back_from_its_serialized_form(schedule):
    """Through Keras's own functions and JSON, with no custom objects."""
    config = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    again = keras.optimizers.schedules.deserialize(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert np.array_equal(on_host(again, range(60)), on_host(schedule, range(60)))
    assert config["registered_name"] == f"keras_decay>{type(schedule).__name__}"


@schedules
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_model_file_holds_the_schedule_and_the_step(schedule, suffix, tmp_path):
    """`load_model` needs no custom objects, and the loaded optimizer is at the same rate."""
    network = model(schedule)
    step_counter(network.optimizer).assign(25)
    path = tmp_path / f"model.{suffix}"
    network.save(path)
    loaded = keras.models.load_model(path)
    assert loaded.optimizer._learning_rate.get_config() == schedule.get_config()
    if suffix == "keras":
        rate = number(loaded.optimizer.learning_rate)
        assert rate == number(network.optimizer.learning_rate)
        assert rate == pytest.approx(number(schedule(25)), rel=2e-7)


@schedules
def test_an_unknown_key_in_a_config_is_an_error_that_names_it(schedule):
    """A file of a later version does not load into something else silently."""
    with pytest.raises(TypeError, match="later_option"):
        type(schedule).from_config({**schedule.get_config(), "later_option": 1})


def test_numpy_arguments_are_stored_as_plain_numbers():
    """Arguments that come out of NumPy code are accepted and can be written as JSON."""
    schedule = StepDecay(
        np.float32(0.5), np.float64(0.5), np.array([2, 4]), steps_per_epoch=np.int64(10)
    )
    assert json.loads(json.dumps(schedule.get_config()))["decay_epochs"] == [2, 4]
    assert on_host(schedule, 40) == np.float32(0.125)


def test_an_int_rate_is_a_rate_like_any_other():
    """In Keras's `InverseTimeDecay` an int initial rate makes the decay rate an int too."""
    assert_rates(on_host(InverseTimeDecay(1, 0.5, steps_per_epoch=10), [10]), [1 / 1.5], "int")


def test_our_schedules_agree_with_those_of_keras():
    """Keras's own code beside ours, where both count alike: in steps, at smooth values."""
    # Not where an epoch begins: JAX on a GPU divides step 1,050 by 150 to something below 7.
    steps = np.array([step for step in range(0, 2000, 7) if step % 50])
    peers = keras.optimizers.schedules
    pairs = [
        (StepDecay(0.1, 0.5, 3, steps_per_epoch=50), peers.ExponentialDecay(0.1, 150, 0.5, True)),
        (
            StepDecay(0.1, 0.5, [4, 9], steps_per_epoch=50),
            # Keras's boundaries are the last steps with the higher rate.
            peers.PiecewiseConstantDecay([199, 449], [0.1, 0.05, 0.025]),
        ),
        (
            InverseTimeDecay(0.1, 0.5, steps_per_epoch=50),
            peers.InverseTimeDecay(0.1, 50, 0.5),
        ),
        (
            InverseTimeDecay(0.1, 0.5, steps_per_epoch=50, staircase=True),
            peers.InverseTimeDecay(0.1, 50, 0.5, staircase=True),
        ),
    ]
    for ours, keras_own in pairs:
        theirs = [number(keras_own(keras.ops.convert_to_tensor(step, "int32"))) for step in steps]
        np.testing.assert_allclose(on_host(ours, steps), theirs, rtol=1e-6)


INT_OR_SEQUENCE = "an int >= 1 or a strictly increasing sequence of them"


@pytest.mark.parametrize(
    ("kind", "arguments", "error", "message"),
    [
        *[
            (kind, {"initial_learning_rate": value}, error, "a finite number > 0")
            for kind in (StepDecay, InverseTimeDecay)
            for value, error in [
                (0.0, ValueError),
                (-0.1, ValueError),
                (float("nan"), ValueError),
                (float("inf"), ValueError),
                (1e39, ValueError),
                (1e-50, ValueError),
                ("0.1", TypeError),
                (None, TypeError),
                (True, TypeError),
            ]
        ],
        *[
            (StepDecay, {"decay_rate": value}, error, "a number in (0, 1)")
            for value, error in [
                (0, ValueError),
                (1, ValueError),
                (1.5, ValueError),
                (-0.5, ValueError),
                (float("nan"), ValueError),
                ("x", TypeError),
            ]
        ],
        *[
            (InverseTimeDecay, {"decay_rate": value}, error, "a finite number >= 0")
            for value, error in [
                (-1e-9, ValueError),
                (float("inf"), ValueError),
                (float("nan"), ValueError),
                (1e300, ValueError),
                (None, TypeError),
                (False, TypeError),
            ]
        ],
        *[
            (StepDecay, {"decay_epochs": value}, error, INT_OR_SEQUENCE)
            for value, error in [
                (0, ValueError),
                (-1, ValueError),
                ([], ValueError),
                ([0, 2], ValueError),
                ([2, 2], ValueError),
                ([3, 2], ValueError),
                (np.array([[1, 2]]), ValueError),
                (2.5, TypeError),
                (True, TypeError),
                ([1, 2.5], TypeError),
                ([1, True], TypeError),
                ("12", TypeError),
                (None, TypeError),
                ({1, 2}, TypeError),
            ]
        ],
        *[
            (kind, {"steps_per_epoch": value}, error, "an int >= 1")
            for kind in (StepDecay, InverseTimeDecay)
            for value, error in [
                (0, ValueError),
                (-3, ValueError),
                (1.0, TypeError),
                (True, TypeError),
            ]
        ],
        *[
            (
                kind,
                {"min_learning_rate": value},
                error,
                "a number >= 0 and <= the initial rate, 0.1",
            )
            for kind in (StepDecay, InverseTimeDecay)
            for value, error in [
                (-1e-3, ValueError),
                (0.2, ValueError),
                (float("nan"), ValueError),
                ("0", TypeError),
            ]
        ],
        *[
            (InverseTimeDecay, {"staircase": value}, TypeError, "True or False")
            for value in (1, None, "yes")
        ],
        *[
            (kind, {"name": value}, error, "a non-empty string")
            for kind in (StepDecay, InverseTimeDecay)
            for value, error in [("", ValueError), (3, TypeError), (None, TypeError)]
        ],
    ],
)
def test_a_bad_argument_is_a_clear_error_in_the_constructor(kind, arguments, error, message):
    """One wording: what must be, and what was received."""
    (name, value), *_ = arguments.items()
    good = {"initial_learning_rate": 0.1, "decay_rate": 0.5, "steps_per_epoch": 10}
    with pytest.raises(error) as raised:
        kind(**{**good, **arguments})
    assert str(raised.value) == f"`{name}` must be {message}. Received: {name}={value!r}"


@pytest.mark.parametrize("kind", [StepDecay, InverseTimeDecay])
def test_an_unknown_argument_is_a_type_error(kind):
    """A misspelt argument is never swallowed."""
    with pytest.raises(TypeError, match="decay_step"):
        kind(0.1, 0.5, steps_per_epoch=10, decay_steps=3)


def test_the_optimizer_uses_the_schedule_in_its_compiled_step():
    """Plain SGD on a constant gradient moves by the sum of the rates of all steps."""
    schedule = StepDecay(0.1, 0.5, [1, 3], steps_per_epoch=2)
    variable = keras.Variable(0.0, dtype="float32")
    optimizer = keras.optimizers.SGD(schedule)
    optimizer.build([variable])
    one = keras.ops.ones(())
    if BACKEND == "jax":

        def step(values, state):
            return optimizer.stateless_apply(state, [one], values)

        step = compiled(step)
        values, state = [variable.value], [v.value for v in optimizer.variables]
        for _ in range(8):
            values, state = step(values, state)
        total = -number(values[0])
    else:
        step = (lambda: optimizer.apply([one])) if BACKEND == "torch" else None
        if BACKEND == "tensorflow":
            step = compiled(lambda: optimizer.apply([one]))
        for _ in range(8):
            step()
        total = -number(variable)
    assert total == pytest.approx(2 * (0.1 + 0.05 + 0.05 + 0.025), rel=1e-6)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="its counter does not wrap")
@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (StepDecay(0.1, 0.5, 10, steps_per_epoch=1), 0.0),
        (InverseTimeDecay(0.1, 1.0, steps_per_epoch=1), 0.1 / 2**31),
        (keras_decay.LinearWarmup(0.1, 5, steps_per_epoch=1), 0.1),
        (keras_decay.PlateauScale(0.1, state={"scale": 0.5, "reductions": 1}), 0.05),
    ],
    ids=lambda value: type(value).__name__ if callable(value) else "",
)
def test_a_counter_that_has_wrapped_gives_the_rate_of_its_last_step(schedule, last):
    """Past 2**31 - 1 steps an int32 starts over from below: in the step as for the log."""
    optimizer = keras.optimizers.SGD(schedule)
    step_counter(optimizer).assign(-(2**31) + 5)
    assert number(optimizer.learning_rate) == pytest.approx(last, rel=1e-6)
    if BACKEND == "jax":
        assert float(in_step(schedule, -(2**31) + 5)) == pytest.approx(last, rel=1e-6)
    assert effective_rate(optimizer) == pytest.approx(last, rel=1e-6)


def test_public_schedules_are_keras_schedules():
    """Anything that takes a Keras schedule takes ours."""
    for name in ("StepDecay", "InverseTimeDecay", "PlateauScale"):
        kind = getattr(keras_decay, name)
        assert issubclass(kind, keras.optimizers.schedules.LearningRateSchedule)
