"""Rates from a table: NumPy's own indexing, `LearningRateScheduler`'s own runs."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from internals import COUNTER, rate_of
from support import (
    BACKEND,
    STEPS_PER_EPOCH,
    fit,
    in_step,
    model,
    new_keras,
    number,
    on_host,
)

from keras_decay import (
    EpochSchedule,
    JoinedSchedule,
    LearningRateLogger,
    LinearWarmup,
    PlateauDecay,
    PlateauScale,
    ProductSchedule,
)

# The same operations as in `test_schedules`, which the oldest versions run.
pytestmark = pytest.mark.any_keras

LAST_STEP = 2**31 - 2
STEPS = {"steps_per_epoch": STEPS_PER_EPOCH}
TABLE = [0.1, 0.3, 0.0, 0.05]

# Each of them is compiled.
few_examples = settings(max_examples=25)
evaluations = pytest.mark.parametrize("evaluate", [on_host, in_step], ids=["host", "compiled"])


@evaluations
@few_examples
@given(
    st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=50),
    st.integers(1, 2_000_003),
    st.lists(st.integers(0, 60), min_size=1, max_size=10),
)
def test_the_rate_is_the_entry_of_the_epoch(evaluate, rates, steps_per_epoch, epochs):
    """At each boundary, one step before it and one after it, and at the ends of the counter."""
    boundaries = np.array(epochs) * steps_per_epoch
    steps = np.concatenate([boundaries - 1, boundaries, boundaries + 1, [0, LAST_STEP]])
    steps = steps[(steps >= 0) & (steps <= LAST_STEP)]
    schedule = EpochSchedule(rates, steps_per_epoch=steps_per_epoch)
    entries = np.minimum(steps // steps_per_epoch, len(rates) - 1)
    assert np.array_equal(evaluate(schedule, steps), np.array(rates, "float32")[entries])


@evaluations
@pytest.mark.parametrize("floatx", ["float16", "bfloat16"])
def test_the_table_is_float32_under_any_floatx(evaluate, floatx, set_floatx):
    """60,000,179 is a step that float32 cannot hold."""
    set_floatx(floatx)
    step = 60_000_179
    rates = evaluate(EpochSchedule([0.1, 0.3], steps_per_epoch=step), [step - 1, step])
    assert rates.dtype == np.float32
    assert list(rates) == [np.float32(0.1), np.float32(0.3)]


@evaluations
def test_an_epoch_that_the_counter_never_ends_keeps_the_first_rate(evaluate):
    """An epoch of 2 ** 40 steps."""
    rates = evaluate(EpochSchedule([0.1, 0.3], steps_per_epoch=2**40), [0, LAST_STEP])
    assert list(rates) == [np.float32(0.1)] * 2


def warm_restarts(epoch):
    return 0.1 * 0.5 ** (epoch % 3)


def test_a_function_of_the_epoch_trains_as_in_keras_own_scheduler():
    """The rates and the weights of `LearningRateScheduler`, where it may be used."""
    theirs = model(0.1)
    scheduler = keras.callbacks.LearningRateScheduler(warm_restarts)
    expected = fit(theirs, [scheduler], epochs=7)["learning_rate"]
    ours = model(EpochSchedule.from_function(warm_restarts, 7))
    assert fit(ours, [LearningRateLogger()], epochs=7)["learning_rate"] == expected
    for own, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6, atol=1e-7)


def test_a_function_is_called_once_an_epoch_and_not_kept():
    """What is saved is a list of floats, whatever kind of number the function returns."""
    seen = []

    def function(epoch):
        seen.append(epoch)
        kinds = (float, np.float32, lambda rate: keras.ops.convert_to_tensor(rate, "float32"))
        return kinds[epoch % 3](0.5**epoch)

    schedule = EpochSchedule.from_function(function, 6, steps_per_epoch=10, name="halves")
    on_host(schedule, range(100))
    assert seen == list(range(6))
    config = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    assert config["config"] == {
        "learning_rates": [0.5**epoch for epoch in range(6)],
        "steps_per_epoch": 10,
        "name": "halves",
    }
    again = keras.optimizers.schedules.deserialize(config)
    assert again.get_config() == schedule.get_config()
    assert np.array_equal(on_host(again, range(100)), on_host(schedule, range(100)))


def test_a_model_file_holds_the_table(tmp_path):
    """Without custom objects."""
    model(EpochSchedule(TABLE, **STEPS)).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").optimizer._learning_rate
    assert loaded.get_config() == EpochSchedule(TABLE, **STEPS).get_config()


def operations(schedule):
    """The kinds of all operations of the rate as the backend compiles it."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        step = tf.TensorSpec((), COUNTER)
        graph = tf.function(lambda step: schedule(step)).get_concrete_function(step).graph
        return [operation.type for operation in graph.get_operations()]
    if BACKEND == "jax":
        import jax

        jaxpr = jax.make_jaxpr(lambda step: schedule(step))(np.int32(0)).jaxpr
        return [equation.primitive.name for equation in _equations(jaxpr)]
    from torch.utils._python_dispatch import TorchDispatchMode

    step, seen = keras.ops.convert_to_tensor(0, COUNTER), []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    with Recorder():  # What runs on an accelerator.
        rate_of(schedule, step, step)
    return seen


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                yield from _equations(value.jaxpr)


LOOKUP = {"tensorflow": "GatherV2", "jax": "gather", "torch": "index_select"}[BACKEND]


@new_keras
def test_five_thousand_rates_take_the_operations_of_five():
    """One lookup in a table, not a branch for each entry."""
    few = operations(EpochSchedule(np.linspace(1, 0, 5), **STEPS))
    many = operations(EpochSchedule(np.linspace(1, 0, 5000), **STEPS))
    assert many == few
    assert many.count(LOOKUP) == 1


@evaluations
def test_other_schedules_take_a_table(evaluate):
    """A warmup to its first rate, a join, a product: all on the clock that they give it."""
    table = EpochSchedule([0.2, 0.1, 0.3], steps_per_epoch=10)
    steps = np.arange(60)
    own = np.array([0.2, 0.1, 0.3])

    def rate(steps):
        return own[np.minimum(steps // 10, 2)]

    warm = LinearWarmup(table, 1.5, steps_per_epoch=10)
    expected = np.where(steps < 15, 0.2 * steps / 15, rate(np.maximum(steps - 15, 0)))
    np.testing.assert_allclose(evaluate(warm, steps), expected, rtol=1e-6)
    joined = JoinedSchedule([table, table], [2.5], steps_per_epoch=10)
    expected = np.where(steps < 25, rate(steps), rate(np.maximum(steps - 25, 0)))
    np.testing.assert_allclose(evaluate(joined, steps), expected, rtol=1e-6)
    product = ProductSchedule([table, 0.5, table])
    np.testing.assert_allclose(evaluate(product, steps), rate(steps) ** 2 / 2, rtol=1e-6)


def test_a_plateau_scales_the_table_in_training():
    """The pairing that `LearningRateScheduler` undoes: rates of the table times the scale."""
    network = model(EpochSchedule([0.1, 0.2, 0.1, 0.04]))
    history = fit(network, [PlateauDecay(factor=0.5, patience=1)], epochs=4, values=[1.0] * 4)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.2, 0.05, 0.01], rtol=1e-6)
    assert history["learning_rate_scale"] == [1.0, 1.0, 0.5, 0.25]
    manual = model(EpochSchedule([0.1, 0.2, 0.05, 0.01], **STEPS))
    fit(manual, epochs=4)
    for own, other in zip(network.get_weights(), manual.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("floor", [0.0, 0.01])
def test_a_rate_of_zero_under_a_plateau_stays_zero_and_is_not_reduced(floor):
    """Where the next epoch does not train, a reduction would change nothing: none is made, and
    the floor raises nothing."""
    plateau = PlateauDecay(factor=0.5, patience=1, min_learning_rate=floor)
    network = model(EpochSchedule([0.1, 0.1, 0.0, 0.1]))
    with pytest.warns(UserWarning, match="exactly 0 for an epoch"):
        history = fit(network, [plateau], epochs=4, values=[1.0] * 4)
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.0, 0.05], rtol=1e-6)
    # The observation of epoch 1 finds 0 ahead; those of epochs 2 and 3 a rate to reduce.
    assert plateau.state["reductions"] == 2


def test_a_table_under_a_plateau_scale_of_its_own():
    """As `PlateauDecay` makes it."""
    scaled = PlateauScale(EpochSchedule(TABLE, **STEPS), state={"scale": 0.5, "reductions": 1})
    expected = np.repeat(np.array(TABLE, "float32") / 2, STEPS_PER_EPOCH)
    np.testing.assert_allclose(on_host(scaled, range(4 * STEPS_PER_EPOCH)), expected, rtol=1e-6)
    assert number(scaled(10**6)) == pytest.approx(0.025)


RATES = "a non-empty sequence of finite numbers >= 0, the rate of each epoch"
RATE = "a finite number >= 0"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: EpochSchedule(warm_restarts),
            TypeError,
            f"`learning_rates` must be {RATES}; of a function, `EpochSchedule.from_function(",
        ),
        (
            lambda: EpochSchedule([]),
            ValueError,
            f"`learning_rates` must be {RATES}. Received: learning_rates=[]",
        ),
        (lambda: EpochSchedule(0.1), TypeError, "Received: learning_rates=0.1"),
        (lambda: EpochSchedule("0.1"), TypeError, "Received: learning_rates='0.1'"),
        (lambda: EpochSchedule(np.ones((2, 2))), ValueError, f"`learning_rates` must be {RATES}"),
        *[
            (
                lambda value=value: EpochSchedule([0.1, value]),
                error,
                f"`learning_rates[1]` must be {RATE}. Received: learning_rates[1]={value!r}",
            )
            for value, error in [
                (-0.1, ValueError),
                (float("nan"), ValueError),
                (float("inf"), ValueError),
                (1e39, ValueError),
                (True, TypeError),
                (None, TypeError),
                ("0.1", TypeError),
            ]
        ],
        (
            lambda: EpochSchedule.from_function(lambda epoch: 0.1 if epoch < 3 else np.nan, 5),
            ValueError,
            f"`function(3)` must be {RATE}. Received: function(3)=nan",
        ),
        (
            lambda: EpochSchedule.from_function(lambda epoch: 1 - epoch, 5),
            ValueError,
            "Received: function(2)=-1",
        ),
        (
            lambda: EpochSchedule.from_function(lambda epoch: None, 5),
            TypeError,
            "Received: function(0)=None",
        ),
        (
            lambda: EpochSchedule.from_function([0.1], 5),
            TypeError,
            "`function` must be a function of the epoch, an int. Received: function=[0.1]",
        ),
        (
            lambda: EpochSchedule.from_function(warm_restarts, 0),
            ValueError,
            "`epochs` must be an int >= 1. Received: epochs=0",
        ),
        (
            lambda: EpochSchedule.from_function(warm_restarts, 2.0),
            TypeError,
            "`epochs` must be an int >= 1. Received: epochs=2.0",
        ),
        (
            lambda: EpochSchedule([0.1], steps_per_epoch=0),
            ValueError,
            "`steps_per_epoch` must be an int >= 1. Received: steps_per_epoch=0",
        ),
        (lambda: EpochSchedule([0.1], name=""), ValueError, "`name` must be a non-empty string"),
    ],
)
def test_a_bad_argument_is_a_clear_error_in_the_constructor(make, error, message):
    """One wording: what must be, and what was received."""
    with pytest.raises(error) as raised:
        make()
    assert message in str(raised.value)


def test_an_unknown_key_in_a_config_is_an_error_that_names_it():
    """A file of a later version does not load into something else silently."""
    with pytest.raises(TypeError, match="later_option"):
        EpochSchedule.from_config({**EpochSchedule(TABLE).get_config(), "later_option": 1})
