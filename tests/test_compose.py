"""Warmup and joined schedules: exact at the seams, over any schedule, nested."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import (
    BACKEND,
    STEPS_PER_EPOCH,
    fit,
    has_multi_optimizer,
    in_step,
    model,
    new_keras,
    number,
    on_host,
    two_optimizers,
)

from keras_decay import (
    InverseTimeDecay,
    JoinedSchedule,
    LearningRateLogger,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    ProductSchedule,
    StepDecay,
)

# The same operations as in `test_schedules`, which the oldest versions run.
pytestmark = pytest.mark.any_keras

LAST_STEP = 2**31 - 2

# Each of them is compiled.
few_examples = settings(max_examples=25)
evaluations = pytest.mark.parametrize("evaluate", [on_host, in_step], ids=["host", "compiled"])
keras_schedules = keras.optimizers.schedules

SCHEDULES = {
    "constant": 0.1,
    "step": StepDecay(0.1, 0.5, 2, steps_per_epoch=10),
    "inverse": InverseTimeDecay(0.1, 1.0, steps_per_epoch=10),
    "exponential": keras_schedules.ExponentialDecay(0.1, 20, 0.5),
    "cosine": keras_schedules.CosineDecay(0.1, 40),
    "polynomial": keras_schedules.PolynomialDecay(0.1, 25, 0.01),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def rate(schedule, step):
    """What a schedule gives on its own, one step at a time."""
    if isinstance(schedule, float):
        return schedule
    return number(schedule(keras.ops.convert_to_tensor(int(step), "int32")))


@evaluations
@every_schedule
@pytest.mark.parametrize("start_factor", [0.0, 0.25, 1.0])
def test_a_warmup_rises_to_the_schedule_and_then_follows_it(evaluate, schedule, start_factor):
    """The formula of the contract at every step; the schedule's clock starts after it."""
    length = 30
    warm = LinearWarmup(schedule, 3, steps_per_epoch=10, start_factor=start_factor)
    steps = np.arange(80)
    peak = rate(schedule, 0)
    expected = [
        peak * (start_factor + (1 - start_factor) * step / length)
        if step < length
        else rate(schedule, step - length)
        for step in steps
    ]
    np.testing.assert_allclose(evaluate(warm, steps), expected, rtol=1e-5, atol=1e-9)


@evaluations
def test_a_warmup_of_no_epochs_is_the_schedule(evaluate):
    """So that a sweep can switch it off."""
    schedule = SCHEDULES["inverse"]
    warm = LinearWarmup(schedule, 0, steps_per_epoch=10)
    assert np.array_equal(evaluate(warm, range(40)), evaluate(schedule, range(40)))


@evaluations
@few_examples
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=5, unique=True).map(sorted),
    st.integers(1, 1_000_003),
)
def test_joined_schedules_take_over_at_their_first_step_with_a_clock_of_their_own(
    evaluate, boundaries, steps_per_epoch
):
    """At each seam, one step before it and one after it, over the whole range of the counter."""
    schedules = [
        InverseTimeDecay(0.1 * (i + 1), 1.0, steps_per_epoch=7) for i in range(len(boundaries) + 1)
    ]
    joined = JoinedSchedule(schedules, boundaries, steps_per_epoch=steps_per_epoch)
    seams = [boundary * steps_per_epoch for boundary in boundaries]
    steps = sorted({0, LAST_STEP, *(seam + d for seam in seams for d in (-1, 0, 1))})

    def expected(step):
        i = sum(seam <= step for seam in seams)
        own = step - ([0, *seams][i])
        return 0.1 * (i + 1) / (1 + own / 7)

    np.testing.assert_allclose(evaluate(joined, steps), list(map(expected, steps)), rtol=4e-7)


@evaluations
@every_schedule
def test_any_schedule_may_be_joined_and_a_float_is_constant(evaluate, schedule):
    """In the first, second and last place."""
    joined = JoinedSchedule([schedule, 0.3, schedule], [2, 4], steps_per_epoch=10)
    expected = [rate(schedule, s) for s in range(20)] + [0.3] * 20
    expected += [rate(schedule, s) for s in range(20)]
    np.testing.assert_allclose(evaluate(joined, range(60)), expected, rtol=1e-5, atol=1e-9)


def nested():
    joined = JoinedSchedule(
        [LinearWarmup(0.1, 1, steps_per_epoch=10), SCHEDULES["step"], SCHEDULES["cosine"]],
        [2, 4],
        steps_per_epoch=10,
    )
    return LinearWarmup(joined, 2, steps_per_epoch=10, start_factor=0.5)


@evaluations
def test_nested_in_each_other_they_are_what_their_parts_are(evaluate):
    """A warmup over joined schedules, one of which is a warmup."""
    schedule = nested()
    joined = schedule.schedule
    # The peak is the rate that the joined schedule starts with, which its own warmup makes 0.
    parts = [0.0] * 20 + [rate(joined, step) for step in range(60)]
    np.testing.assert_allclose(evaluate(schedule, range(80)), parts, rtol=1e-5, atol=1e-9)


def test_nested_schedules_come_back_from_json_and_from_a_model_file(tmp_path):
    """Configs within configs, with no custom objects."""
    schedule = nested()
    config = json.loads(json.dumps(keras_schedules.serialize(schedule)))
    again = keras_schedules.deserialize(config)
    assert again.get_config() == schedule.get_config()
    assert np.array_equal(on_host(again, range(80)), on_host(schedule, range(80)))
    model(schedule).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer._learning_rate
    assert np.array_equal(on_host(loaded, range(80)), on_host(schedule, range(80)))
    with pytest.raises(TypeError, match="later_option"):
        LinearWarmup.from_config({**schedule.get_config(), "later_option": 1})
    with pytest.raises(TypeError, match="later_option"):
        JoinedSchedule.from_config({**schedule.schedule.get_config(), "later_option": 1})


@pytest.mark.parametrize(
    "schedule",
    [
        keras_schedules.PiecewiseConstantDecay([9, 19], [0.1, 0.05, 0.01]),
        keras_schedules.CosineDecay(0.01, 30, warmup_target=0.1, warmup_steps=5),
    ],
    ids=["piecewise", "cosine-with-warmup"],
)
def test_a_schedule_that_takes_scalars_only_gets_an_array_step_by_step(schedule):
    """Some of Keras's own fail on an array of steps, on one backend or all."""
    scaled = PlateauScale(schedule, state={"scale": 0.5, "reductions": 1})
    steps = np.arange(40).reshape(4, 10)
    expected = np.reshape([rate(schedule, step) / 2 for step in steps.flat], steps.shape)
    np.testing.assert_allclose(on_host(scaled, steps), expected, rtol=1e-6)


@evaluations
def test_the_branch_that_is_not_taken_cannot_spoil_the_one_that_is(evaluate):
    """A schedule is never asked for a step before its own beginning."""

    class Root(keras_schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1 * keras.ops.sqrt(keras.ops.cast(step, "float32"))

    for schedule in (
        LinearWarmup(Root(), 2, steps_per_epoch=10),
        JoinedSchedule([0.1, Root()], [2], steps_per_epoch=10),
    ):
        rates = evaluate(schedule, range(40))
        assert np.all(np.isfinite(rates))
        np.testing.assert_allclose(rates[20:], 0.1 * np.sqrt(np.arange(20)), rtol=1e-6)


@evaluations
def test_parts_beyond_the_range_of_the_counter_never_begin(evaluate):
    """A boundary, or the end of a warmup, that int32 and even int64 cannot hold."""
    joined = JoinedSchedule([0.1, 0.2], [2**40], steps_per_epoch=2**40)
    np.testing.assert_allclose(evaluate(joined, [0, LAST_STEP]), [0.1, 0.1], rtol=1e-6)
    warm = LinearWarmup(0.1, 2**20, steps_per_epoch=2**20)
    np.testing.assert_allclose(
        evaluate(warm, [0, LAST_STEP]), [0.0, 0.1 * LAST_STEP / 2**40], rtol=1e-6
    )


@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
@evaluations
def test_seams_are_exact_under_any_floatx(evaluate, floatx, set_floatx):
    """60,000,179 is a step that float32 cannot hold."""
    set_floatx(floatx)
    seam = 60_000_179
    joined = JoinedSchedule([0.1, 0.2], [1], steps_per_epoch=seam)
    rates = evaluate(joined, [seam - 1, seam])
    assert rates.dtype == np.float32
    assert list(rates) == [np.float32(0.1), np.float32(0.2)]
    warm = LinearWarmup(0.1, 1, steps_per_epoch=10)
    np.testing.assert_allclose(evaluate(warm, [0, 1, 10]), [0.0, 0.01, 0.1], rtol=1e-6)


def test_a_plateau_goes_around_a_warmup():
    """Scaled as a whole, in training."""
    schedule = LinearWarmup(0.1, 2, steps_per_epoch=STEPS_PER_EPOCH, start_factor=0.5)
    history = fit(
        model(schedule), [PlateauDecay(patience=2, factor=0.5)], epochs=5, values=[1.0] * 5
    )
    last = [0.05 + 0.05 * 3 / 8, 0.05 + 0.05 * 7 / 8, 0.1, 0.05, 0.05]
    np.testing.assert_allclose(history["learning_rate"], last, rtol=1e-6)


SCHEDULE = "a float or a `LearningRateSchedule`"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LinearWarmup([0.1], 1, steps_per_epoch=1), TypeError, "`schedule` must be a"),
        (
            lambda: LinearWarmup("x", 1, steps_per_epoch=1),
            TypeError,
            f"`schedule` must be {SCHEDULE}",
        ),
        (
            lambda: LinearWarmup(0.0, 1, steps_per_epoch=1),
            ValueError,
            "`schedule` must be a finite number > 0. Received: schedule=0.0",
        ),
        (
            lambda: LinearWarmup(0.1, -1, steps_per_epoch=1),
            ValueError,
            "`warmup_epochs` must be a finite number >= 0. Received: warmup_epochs=-1",
        ),
        (
            lambda: LinearWarmup(0.1, True, steps_per_epoch=1),
            TypeError,
            "`warmup_epochs` must be a finite number >= 0. Received: warmup_epochs=True",
        ),
        (
            lambda: LinearWarmup(0.1, 1, steps_per_epoch=0),
            ValueError,
            "`steps_per_epoch` must be an int >= 1. Received: steps_per_epoch=0",
        ),
        (
            lambda: LinearWarmup(0.1, 1, steps_per_epoch=1, start_factor=1.5),
            ValueError,
            "`start_factor` must be a number in [0, 1]. Received: start_factor=1.5",
        ),
        (lambda: LinearWarmup(0.1, 1, steps_per_epoch=1, name=""), ValueError, "`name` must be"),
        (
            lambda: LinearWarmup(PlateauScale(0.1), 1, steps_per_epoch=1),
            ValueError,
            "`schedule` must be a schedule that is not a `PlateauScale`",
        ),
        (
            lambda: JoinedSchedule(0.1, [], steps_per_epoch=1),
            TypeError,
            "`schedules` must be a list or tuple of schedules. Received: schedules=0.1",
        ),
        (
            lambda: JoinedSchedule([], [], steps_per_epoch=1),
            ValueError,
            "`schedules` must be a non-empty list",
        ),
        (
            lambda: JoinedSchedule([0.1, [0.2]], [1], steps_per_epoch=1),
            TypeError,
            "`schedules[1]` must be a",
        ),
        (
            lambda: JoinedSchedule([0.1, -0.2], [1], steps_per_epoch=1),
            ValueError,
            "`schedules[1]` must be a finite number > 0. Received: schedules[1]=-0.2",
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2], [], steps_per_epoch=1),
            ValueError,
            (
                "`boundaries` must be 1 strictly increasing numbers > 0, one fewer than there are "
                "schedules. Received: boundaries=[]"
            ),
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2], [1, 2], steps_per_epoch=1),
            ValueError,
            "Received: boundaries=[1, 2]",
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2, 0.3], [2, 1], steps_per_epoch=1),
            ValueError,
            "Received: boundaries=[2, 1]",
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2], [0], steps_per_epoch=1),
            ValueError,
            "Received: boundaries=[0]",
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2], ["1"], steps_per_epoch=1),
            TypeError,
            "Received: boundaries=['1']",
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2], [float("nan")], steps_per_epoch=1),
            ValueError,
            "Received: boundaries=[nan]",
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2, 0.3], [1.1, 1.12], steps_per_epoch=4),
            ValueError,
            (
                "`boundaries` must be at least one step after the one before; with 4 steps in an "
                "epoch they are the steps [4, 4]"
            ),
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2], 3, steps_per_epoch=1),
            TypeError,
            "Received: boundaries=3",
        ),
        (
            lambda: JoinedSchedule([0.1, 0.2], [1], steps_per_epoch=1.0),
            TypeError,
            "`steps_per_epoch` must be an int >= 1. Received: steps_per_epoch=1.0",
        ),
    ],
)
def test_a_bad_argument_is_a_clear_error_in_the_constructor(make, error, message):
    """One wording: what must be, and what was received."""
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)


def test_one_schedule_may_stand_alone():
    """There are no boundaries then."""
    joined = JoinedSchedule([SCHEDULES["step"]], [], steps_per_epoch=10)
    assert np.array_equal(on_host(joined, range(40)), on_host(SCHEDULES["step"], range(40)))


@evaluations
@few_examples
@given(st.floats(0, 20), st.integers(1, 1000))
def test_a_warmup_of_parts_of_an_epoch_ends_at_the_nearest_step(
    evaluate, warmup_epochs, steps_per_epoch
):
    """W = round(warmup_epochs * steps_per_epoch), Python's own `round`."""
    length = round(warmup_epochs * steps_per_epoch)
    warm = LinearWarmup(0.1, warmup_epochs, steps_per_epoch=steps_per_epoch, start_factor=0.5)
    steps = np.array(sorted({0, max(length - 1, 0), length, length + 1}))
    expected = np.where(steps < length, 0.05 + 0.05 * steps / max(length, 1), 0.1)
    np.testing.assert_allclose(evaluate(warm, steps), expected, rtol=1e-6)


@evaluations
def test_seams_may_lie_in_parts_of_epochs_and_in_steps(evaluate):
    """Rounded to a step; with `steps_per_epoch=1` a number of steps."""
    for boundaries, steps_per_epoch in (([0.25, 1.124], 100), ([25, 112], 1)):
        joined = JoinedSchedule([0.1, 0.2, 0.3], boundaries, steps_per_epoch=steps_per_epoch)
        expected = np.repeat(np.float32([0.1, 0.2, 0.3]), [25, 87, 10])
        assert np.array_equal(evaluate(joined, range(122)), expected)
    warm = LinearWarmup(0.1, 5, steps_per_epoch=1)
    np.testing.assert_allclose(evaluate(warm, range(8)), np.minimum(np.arange(8) / 50, 0.1), 1e-6)


@evaluations
@every_schedule
def test_a_product_is_that_of_its_factors_on_one_clock(evaluate, schedule):
    """Numbers and schedules, in any order, any schedule of Keras's among them."""
    product = ProductSchedule([2.0, SCHEDULES["step"], schedule, 0.25])
    expected = [0.5 * rate(SCHEDULES["step"], step) * rate(schedule, step) for step in range(60)]
    np.testing.assert_allclose(evaluate(product, range(60)), expected, rtol=1e-6, atol=1e-9)


@evaluations
def test_a_warmup_in_a_product_does_not_move_the_decay(evaluate):
    """The decay falls at epochs 10 and 20, not 15 and 25."""
    told = {"steps_per_epoch": 10}
    product = ProductSchedule([LinearWarmup(1.0, 5, **told), StepDecay(0.1, 0.5, 10, **told)])
    steps = np.arange(300)
    expected = np.minimum(steps / 50, 1.0) * 0.1 * 0.5 ** (steps // 100)
    np.testing.assert_allclose(evaluate(product, steps), expected, rtol=1e-6)


@evaluations
def test_a_product_may_be_part_of_a_warmup_and_of_a_join(evaluate):
    """It runs on the clock that they give it."""
    product = ProductSchedule([SCHEDULES["step"], 0.5])
    warm = LinearWarmup(product, 1, steps_per_epoch=10)
    joined = JoinedSchedule([0.3, product], [1], steps_per_epoch=10)
    own = [rate(SCHEDULES["step"], step) / 2 for step in range(50)]
    rise = 0.05 * np.arange(10) / 10
    np.testing.assert_allclose(evaluate(warm, range(60)), [*rise, *own], rtol=1e-6)
    np.testing.assert_allclose(evaluate(joined, range(60)), [0.3] * 10 + own, rtol=1e-6)


def test_a_product_comes_back_from_json_and_from_a_model_file(tmp_path):
    """With no custom objects; an unknown key is an error."""
    product = ProductSchedule([SCHEDULES["cosine"], 0.5, SCHEDULES["step"]], name="half")
    config = json.loads(json.dumps(keras_schedules.serialize(product)))
    model(product).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer._learning_rate
    for again in (keras_schedules.deserialize(config), loaded):
        assert again.get_config() == product.get_config()
        assert np.array_equal(on_host(again, range(60)), on_host(product, range(60)))
    with pytest.raises(TypeError, match="later_option"):
        ProductSchedule.from_config({**product.get_config(), "later_option": 1})


@has_multi_optimizer
def test_rates_by_layer_train_at_the_scaled_rate():
    """On a constant gradient of 1 and 1 each weight moves by the sum of its own rates."""
    schedule = StepDecay(0.1, 0.5, 2)
    layers = [keras.layers.Dense(1, kernel_initializer="zeros", name="dense")]
    network = keras.Sequential([keras.Input((1,)), *layers])
    optimizer = two_optimizers(ProductSchedule([schedule, 0.1]), schedule)
    network.compile(optimizer, lambda y, prediction: prediction)
    ones = np.ones((STEPS_PER_EPOCH, 1))
    arguments = {"batch_size": 1, "epochs": 4, "verbose": 0, "callbacks": [LearningRateLogger()]}
    history = network.fit(ones, ones, **arguments).history
    expected = np.array([0.1, 0.1, 0.05, 0.05])
    np.testing.assert_allclose(history["learning_rate_kernel"], expected / 10, rtol=1e-6)
    np.testing.assert_allclose(history["learning_rate_bias"], expected, rtol=1e-6)
    kernel, bias = (weights.item() for weights in network.get_weights())
    assert kernel == pytest.approx(-STEPS_PER_EPOCH * expected.sum() / 10, rel=1e-5)
    assert bias == pytest.approx(-STEPS_PER_EPOCH * expected.sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("factors", "error", "message"),
    [
        (0.1, TypeError, "`factors` must be a list or tuple of schedules and numbers"),
        ([], ValueError, "`factors` must be a non-empty list or tuple of schedules and numbers"),
        ([0.1, 2], ValueError, "schedules and numbers, at least one schedule. Received: factors="),
        ([SCHEDULES["step"], 0], ValueError, "`factors[1]` must be a finite number > 0"),
        ([float("nan"), SCHEDULES["step"]], ValueError, "Received: factors[0]=nan"),
        ([SCHEDULES["step"], "x"], TypeError, "`factors[1]` must be a float or a"),
        ([SCHEDULES["step"], True], TypeError, "Received: factors[1]=True"),
        ([PlateauScale(0.1)], ValueError, "`factors[0]` must be a schedule that is not a"),
    ],
)
def test_a_bad_factor_is_an_error_that_names_it(factors, error, message):
    """In the constructor."""
    with pytest.raises(error) as raised:
        ProductSchedule(factors)
    assert message in str(raised.value)


class Plain(keras_schedules.LearningRateSchedule):
    """A schedule in plain arithmetic, which a bare int tensor of TensorFlow does not take."""

    def __call__(self, step):
        return 0.1 * 0.5**step

    def get_config(self):
        return {}


@new_keras
def test_plain_arithmetic_works_on_the_clock_of_the_optimizer():
    """In a product, and as the first of a join, it is called with what Keras calls it with."""
    for schedule in (
        ProductSchedule([Plain(), 2.0]),
        JoinedSchedule([ProductSchedule([Plain(), 2.0]), 0.01], [200], steps_per_epoch=1),
    ):
        history = fit(model(schedule), [PlateauDecay("loss")], epochs=2)
        expected = [0.2 * 0.5**3, 0.2 * 0.5**7]
        np.testing.assert_allclose(history["learning_rate"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: LinearWarmup(ProductSchedule([Plain(), 2.0]), 2, steps_per_epoch=1), 0.1),
        (lambda: JoinedSchedule([0.2, Plain()], [2], steps_per_epoch=1), 0.05),
    ],
    ids=["warmup", "join"],
)
def test_plain_arithmetic_on_a_shifted_clock_works_or_is_an_error_with_the_fix(make, expected):
    """TensorFlow's own tensors do not take it; the others' do."""
    if BACKEND == "tensorflow":
        with pytest.raises(ValueError, match=r"tensor of ints.*`step = keras\.ops\.cast\(step, "):
            make()
        return
    history = fit(model(make()), [PlateauDecay("loss")], epochs=1)
    assert history["learning_rate"] == [pytest.approx(expected)]
