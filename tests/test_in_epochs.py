"""`InEpochs`: a schedule of Keras's, or a user's own, called with epochs instead of steps."""

from __future__ import annotations

import copy
import pickle

import keras
import numpy as np
import pytest
from internals import schedule_of
from rates import Rates, assert_rates, train
from support import BACKEND, in_step, measuring, number, on_host

from keras_decay import (
    InEpochs,
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

LAST_STEP = 2**31 - 1
schedules = keras.optimizers.schedules
ways = pytest.mark.parametrize("rates", [on_host, in_step], ids=["on the host", "in the step"])


def cosine(epochs=50):
    return schedules.CosineDecay(0.1, decay_steps=epochs)


def cosine_at(epoch, epochs=50):
    return 0.05 * (1.0 + np.cos(np.pi * np.minimum(epoch, epochs) / epochs))


def pieces(boundaries=(2, 5)):
    return schedules.PiecewiseConstantDecay(list(boundaries), [0.1, 0.01, 0.001])


def pieces_at(epoch, boundaries=(2, 5)):
    # Keras's own changes after the boundary.
    return np.select([epoch <= boundaries[0], epoch <= boundaries[1]], [0.1, 0.01], 0.001)


@ways
@pytest.mark.parametrize("length", [1, 3, 44, 1000])
def test_a_cosine_is_over_epochs(rates, length):
    """At any part of an epoch, or in stairs."""
    steps = np.unique(np.linspace(0, 52 * length, 300).astype("int32"))
    smooth = InEpochs(cosine(), steps_per_epoch=length)
    np.testing.assert_allclose(
        rates(smooth, steps), cosine_at(steps / length), rtol=1e-4, atol=1e-8
    )
    stairs = InEpochs(cosine(), steps_per_epoch=length, staircase=True)
    expected = cosine_at(steps // length)
    np.testing.assert_allclose(rates(stairs, steps), expected, rtol=1e-4, atol=1e-8)


@ways
@pytest.mark.parametrize("length", [1, 7, 1_000_003, 100_000_007])
@pytest.mark.parametrize("boundaries", [(2, 5), (1, 20), (9, 11)])
def test_in_stairs_each_boundary_is_exact(rates, length, boundaries):
    """At the first step of an epoch and one step either side, also where float32 holds neither."""
    epochs = np.arange(0, min(25, LAST_STEP // length - 1))
    steps = np.unique(np.concatenate([epochs * length + part for part in (-1, 0, 1)]))
    steps = steps[steps >= 0].astype("int32")
    schedule = InEpochs(pieces(boundaries), steps_per_epoch=length, staircase=True)
    expected = pieces_at(steps // length, boundaries).astype("float32")
    np.testing.assert_array_equal(rates(schedule, steps), expected)


@ways
def test_without_stairs_the_first_step_of_an_epoch_is_exact(rates):
    """As the docstring says: up to epoch 2 ** 24; the last steps of one may be rounded up."""
    length = 1000
    epochs = np.array([0, 1, 2, 4, 5, 6, 100, 1_000_000])
    schedule = InEpochs(pieces(), steps_per_epoch=length)
    np.testing.assert_array_equal(
        rates(schedule, epochs * length), pieces_at(epochs).astype("float32")
    )
    # One step on, a part of an epoch is past the boundary.
    steps = np.array([2, 5]) * length + 1
    np.testing.assert_array_equal(rates(schedule, steps), np.array([0.01, 0.001], "float32"))


@ways
def test_a_staircase_of_keras_changes_at_whole_epochs(rates):
    """`ExponentialDecay(staircase=True)`, each third epoch."""
    inner = schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True)
    schedule = InEpochs(inner, steps_per_epoch=1_000_003, staircase=True)
    epochs = np.arange(1, 60)
    steps = np.concatenate([epochs * 1_000_003 - 1, epochs * 1_000_003]).astype("int32")
    expected = 0.1 * 0.5 ** (steps // 1_000_003 // 3)
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"schedule": 0.1}, TypeError, "`schedule` must be a `LearningRateSchedule` that is not"),
        ({"schedule": StepDecay(0.1)}, ValueError, "whose schedules count epochs"),
        ({"schedule": PlateauScale(0.1)}, ValueError, "whose schedules count epochs"),
        ({"steps_per_epoch": 0}, ValueError, "`steps_per_epoch` must be an int >= 1"),
        ({"steps_per_epoch": 2.5}, TypeError, "`steps_per_epoch` must be an int >= 1"),
        ({"staircase": 1}, TypeError, "`staircase` must be"),
        ({"name": 3}, TypeError, "`name` must be"),
    ],
)
def test_what_it_refuses(arguments, error, message):
    """Bad arguments are errors of the constructor, with the name and the value."""
    with pytest.raises(error, match=message) as raised:
        InEpochs(**{"schedule": cosine(), **arguments})
    (name,) = arguments
    assert f"Received: {name}=" in str(raised.value)


class OfTheCounter(schedules.LearningRateSchedule):
    """A schedule that needs the variable that Keras passes."""

    def __call__(self, step):
        step.assign(step)
        return 0.1

    def get_config(self):
        return {}


@pytest.mark.parametrize(("staircase", "kind"), [(True, "ints"), (False, "floats")])
def test_a_schedule_that_takes_no_tensor_is_refused(staircase, kind):
    """Its clock is not the optimizer's counter here; the message has the line to begin it with."""
    with pytest.raises(
        ValueError, match=f"`schedule` must be .* a tensor of {kind} for its step.*cast"
    ):
        InEpochs(OfTheCounter(), staircase=staircase)


def test_it_is_saved_and_copied_as_it_is(tmp_path):
    """A config, a copy, a pickle, a model file, with its epochs."""
    schedule = InEpochs(cosine(8), staircase=True, name="cosine")
    config = schedule.get_config()
    assert config["steps_per_epoch"] is None
    for again in (
        InEpochs.from_config(config),
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
    ):
        assert again.get_config() == config
        assert again.schedule.get_config() == schedule.schedule.get_config()
    network = measuring(schedule)
    train(network, LearningRateLogger(), steps=3, epochs=2)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert schedule_of(loaded.optimizer).schedule.get_config() == config
    assert number(loaded.optimizer.learning_rate) == pytest.approx(cosine_at(2, 8), rel=1e-5)
    assert "steps_per_epoch=3" in repr(InEpochs(cosine(), steps_per_epoch=3))
    with pytest.raises(ValueError, match="`InEpochs` does not know yet how many steps"):
        schedule(0)


@ways
def test_under_a_warmup_in_a_join_and_in_a_product(rates):
    """Each on the clock that it has there."""
    length, steps = 10, np.arange(0, 120)
    own = InEpochs(cosine(8), steps_per_epoch=length)
    warmup = LinearWarmup(own, 2, steps_per_epoch=length)
    expected = np.where(steps < 20, 0.1 * steps / 20, cosine_at((steps - 20) / length, 8))
    np.testing.assert_allclose(rates(warmup, steps), expected, rtol=1e-4, atol=1e-8)
    joined = JoinedSchedule([0.3, own], [1.5], steps_per_epoch=length)
    expected = np.where(steps < 15, 0.3, cosine_at((steps - 15) / length, 8))
    np.testing.assert_allclose(rates(joined, steps), expected, rtol=1e-4, atol=1e-8)
    product = ProductSchedule([own, InEpochs(pieces(), steps_per_epoch=length, staircase=True)])
    expected = cosine_at(steps / length, 8) * pieces_at(steps // length)
    np.testing.assert_allclose(rates(product, steps), expected, rtol=1e-4, atol=1e-8)


def test_the_epochs_of_fit_under_a_warmup_a_join_a_product_and_a_plateau():
    """Trained, with batch sizes that change; the plateau scales it."""
    tree = ProductSchedule(
        [
            LinearWarmup(JoinedSchedule([InEpochs(cosine(4)), 0.02], [3]), 1),
            InEpochs(pieces((1, 9))),
        ]
    )
    network, plateau = measuring(tree), PlateauDecay(factor=0.5, patience=2)
    trained = train(network, plateau, steps=4, epochs=2)[0]
    trained += train(network, plateau, steps=2, epochs=3)[0]

    def rate(epoch, part):
        at = epoch + part
        base = 0.1 * at if at < 1 else cosine_at(at - 1, 4) if at < 4 else 0.02
        # The first value is the best one; the second one after it that is no better reduces.
        return base * pieces_at(np.array(at), (1, 9)) * 0.5 ** (epoch // 3)

    sizes = [4, 4, 2, 2, 2]
    expected = [[rate(e, step / n) for step in range(n)] for e, n in enumerate(sizes)]
    assert_rates(trained, expected)
    assert plateau.state["reductions"] == 2


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs each step on the host")
def test_a_compiled_run_changes_at_the_first_step_of_an_epoch():
    """In stairs, measured."""
    network, rates = measuring(InEpochs(pieces((0, 1)), staircase=True)), Rates()
    trained, logged = train(network, LearningRateLogger(), steps=3, epochs=3, rates=rates)
    assert_rates(trained, [0.1, 0.01, 0.001])
    np.testing.assert_allclose(logged, [0.1, 0.01, 0.001], rtol=1e-6)
