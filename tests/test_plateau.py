"""`PlateauDecay` in training: what it does to the rate, to the logs, and to its optimizer."""

from __future__ import annotations

import copy
import json
import math
import pickle
import warnings
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from support import (
    BATCH_SIZE,
    STEPS_PER_EPOCH,
    cases,
    data,
    fit,
    in_step,
    jax_compilations,
    model,
    number,
    on_host,
)

from keras_decay import (
    InverseTimeDecay,
    LearningRateLogger,
    PlateauDecay,
    PlateauScale,
    StepDecay,
    _keras,
)

FLAT = [1.0] * 20


def weights_trained_at(rates):
    """The weights after one epoch at each of the rates, set by hand on a float optimizer."""
    network = model(1.0)
    for rate in rates:
        network.optimizer.learning_rate = rate
        fit(network, epochs=1)
    return network.get_weights()


def assert_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


LEARNING_RATES = {
    "float": (lambda: 0.1, lambda epoch: 0.1),
    "constant": (lambda: PlateauScale(0.1), lambda epoch: 0.1),
    "step": (
        lambda: StepDecay(0.1, 0.5, 2, steps_per_epoch=STEPS_PER_EPOCH),
        lambda epoch: 0.1 * 0.5 ** (epoch // 2),
    ),
    "inverse": (
        lambda: InverseTimeDecay(0.1, 1.0, steps_per_epoch=STEPS_PER_EPOCH, staircase=True),
        lambda epoch: 0.1 / (1 + epoch),
    ),
    "keras": (
        lambda: keras.optimizers.schedules.ExponentialDecay(
            0.1, STEPS_PER_EPOCH, 0.5, staircase=True
        ),
        lambda epoch: 0.1 * 0.5**epoch,
    ),
}
every_learning_rate = cases("learning_rate, base", LEARNING_RATES, oldest=2)


@every_learning_rate
def test_the_compiled_step_trains_at_base_times_scale(learning_rate, base):
    """The weights are those of a run whose float rate was set by hand before each epoch."""
    network = model(learning_rate())
    plateau = PlateauDecay(patience=2, factor=0.5)
    history = fit(network, [plateau], epochs=6, values=FLAT)
    scales = [1, 1, 1, 0.5, 0.5, 0.25]  # The reductions after epochs 2 and 4.
    rates = [base(epoch) * scale for epoch, scale in enumerate(scales)]
    np.testing.assert_allclose(history["learning_rate"], rates, rtol=1e-6)
    assert_close(network.get_weights(), weights_trained_at(rates))
    assert plateau.state == {
        "best": 1.0,
        "wait": 1,
        "cooldown": 0,
        "scale": 0.25,
        "reductions": 2,
    }


@pytest.mark.any_keras
@every_learning_rate
def test_logs_show_the_rate_and_scale_of_the_last_step(learning_rate, base):
    """A reduction at the end of an epoch shows in the next one; a float rate has no scale."""
    network = model(learning_rate())
    history = fit(network, [PlateauDecay(patience=1, factor=0.5)], epochs=3, values=FLAT)
    assert all(type(rate) is float for rate in history["learning_rate"])
    if isinstance(learning_rate(), float):
        assert "learning_rate_scale" not in history
    else:
        assert history["learning_rate_scale"] == [1.0, 1.0, 0.5]
        next_rate = base(3) * 0.25
        assert number(network.optimizer.learning_rate) == pytest.approx(next_rate, rel=1e-6)


def test_a_smooth_schedule_logs_the_rate_of_the_last_step_not_of_the_next():
    """The logged rate stands beside the loss that it produced."""
    schedule = InverseTimeDecay(0.1, 1.0, steps_per_epoch=STEPS_PER_EPOCH)
    history = fit(model(schedule), [PlateauDecay()], epochs=2, values=FLAT)
    last_steps = [STEPS_PER_EPOCH - 1, 2 * STEPS_PER_EPOCH - 1]
    np.testing.assert_allclose(history["learning_rate"], on_host(schedule, last_steps), rtol=1e-6)


class Traced(keras.Model):
    """Counts how often its training step is traced (on torch: run)."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.count = 0

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, *arguments):
        self.count += 1
        return super().train_step(*arguments)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch traces nothing here")
def test_a_reduction_does_not_trace_the_step_again():
    """The compiled step reads the scale; it does not contain it."""
    counts = {}
    for patience in (20, 1):
        network = Traced()
        schedule = StepDecay(0.1, 0.5, 99, steps_per_epoch=STEPS_PER_EPOCH)
        network.compile(keras.optimizers.SGD(schedule), "mse")
        history = fit(network, [PlateauDecay(patience=patience)], epochs=5, values=FLAT)
        counts[patience] = network.count
        assert (history["learning_rate_scale"][-1] < 1) is (patience == 1)
    assert counts[1] == counts[20] > 0


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's distinction")
def test_jax_compiles_the_training_step_as_often_as_with_a_constant_rate():
    """Once, in a new Keras. It would compile anew for arrays tied to a device, as a reference
    ties what a step returns, and as the metrics are not when an epoch begins."""
    counts = []
    schedule = StepDecay(0.1, 0.5, 99, steps_per_epoch=STEPS_PER_EPOCH)
    for rate, callbacks in ((0.1, []), (schedule, [PlateauDecay(patience=1)])):
        with jax_compilations("train_step") as compilations:
            history = fit(model(rate, metrics=["mae"]), callbacks, epochs=4, values=FLAT)
        counts.append(len(compilations))
    assert history["learning_rate"][-1] < 0.1
    assert counts[1] == counts[0] > 0


class OwnMaker(keras.Sequential):
    """A model that makes its training step itself."""

    def make_train_function(self, force=False):
        super().make_train_function(force)


def with_own_maker(network):
    """The same model, which now makes its training step itself."""
    own = OwnMaker(network.layers)
    own.compile(network.optimizer, network.loss)
    return own


@pytest.mark.parametrize(
    ("rate", "change"),
    [
        (lambda: StepDecay(0.1, 0.5, 10, steps_per_epoch=STEPS_PER_EPOCH), lambda network: network),
        (lambda: StepDecay(0.1, 0.5, 10, steps_per_epoch=STEPS_PER_EPOCH), with_own_maker),
        (lambda: PlateauScale(0.1), lambda network: network),
    ],
    ids=["bare", "bare, made by the model", "scaled"],
)
def test_a_step_compiled_in_an_earlier_fit_follows_the_plateau(rate, change):
    """The step compiled with the bare schedule is built anew, by Keras or by the model itself."""
    network = change(model(rate()))
    fit(network, epochs=1)
    fit(network, [PlateauDecay(patience=1)], epochs=3, values=FLAT)
    assert_close(network.get_weights(), weights_trained_at([0.1, 0.1, 0.1, 0.01]))


@pytest.mark.parametrize("logger", [LearningRateLogger, lambda: PlateauDecay(patience=9)])
def test_a_step_that_is_compiled_anew_has_nothing_of_one_that_is_still_around(logger):
    """A traceback may keep the old step, and JAX takes the two for the same function."""
    network = model(StepDecay(0.1, 0.5, 10, steps_per_epoch=STEPS_PER_EPOCH))
    fit(network, [logger()], epochs=1, values=FLAT)
    kept = network.train_function
    network.optimizer.learning_rate = StepDecay(0.02, 0.5, 10, steps_per_epoch=STEPS_PER_EPOCH)
    fit(network, [logger()], epochs=1, values=FLAT)
    assert network.train_function is not kept
    assert "train_step" not in vars(network)
    assert_close(network.get_weights(), weights_trained_at([0.1, 0.02]))


@pytest.mark.any_keras
def test_a_new_floor_takes_effect_in_a_step_compiled_with_another():
    """A second callback with another `min_learning_rate` is obeyed by the training step."""
    network = model(StepDecay(0.1, 0.5, 10, steps_per_epoch=STEPS_PER_EPOCH))
    fit(network, [PlateauDecay(patience=1)], epochs=2, values=FLAT)
    fit(network, [PlateauDecay(min_learning_rate=0.05)], epochs=1, values=FLAT)
    assert_close(network.get_weights(), weights_trained_at([0.1, 0.1, 0.05]))


@pytest.mark.parametrize("evaluate", [on_host, in_step], ids=["host", "compiled"])
def test_the_floor_bounds_the_scaled_rate_but_never_raises_the_base(evaluate):
    """effective = max(base * scale, min(base, floor)), on either side of the floor."""
    base = StepDecay(1.0, 0.1, steps_per_epoch=1)
    scaled = PlateauScale(base, min_learning_rate=0.05, state={"scale": 0.25, "reductions": 2})
    np.testing.assert_allclose(evaluate(scaled, range(4)), [0.25, 0.05, 0.01, 0.001], rtol=1e-6)


@pytest.mark.any_keras
@pytest.mark.parametrize("learning_rate", [0.1, PlateauScale(0.1)], ids=["float", "schedule"])
def test_at_the_floor_nothing_is_reduced(learning_rate):
    """The scale, the number of reductions and the cooldown stay as they are."""
    network = model(learning_rate)
    plateau = PlateauDecay(patience=1, factor=0.5, min_learning_rate=0.03, cooldown=1)
    history = fit(network, [plateau], epochs=9, values=FLAT)
    np.testing.assert_allclose(
        history["learning_rate"], [0.1, 0.1, 0.05, 0.05, *[0.03] * 5], rtol=1e-6
    )
    assert plateau.state == {
        "best": 1.0,
        "wait": 0,
        "cooldown": 0,
        "scale": 0.25,
        "reductions": 2,
    }


@pytest.mark.any_keras
def test_a_floor_above_the_rate_leaves_the_rate_alone():
    """A plateau never raises a rate."""
    for learning_rate in (0.1, PlateauScale(0.1)):
        plateau = PlateauDecay(patience=1, min_learning_rate=0.5)
        with pytest.warns(UserWarning, match="the learning rate is at its floor already"):
            history = fit(model(learning_rate), [plateau], epochs=3, values=FLAT)
        np.testing.assert_allclose(history["learning_rate"], [0.1] * 3, rtol=1e-6)
        assert plateau.state["reductions"] == 0


@pytest.mark.any_keras
def test_reduce_on_improvement_reduces_at_each_improvement():
    """The second technique of the lecture notes, taken literally, in a real `fit`."""
    plateau = PlateauDecay(reduce_on="improvement", patience=1, factor=0.5)
    history = fit(model(0.1), [plateau], epochs=4, values=[3.0, 2.0, 2.0, 1.0])
    np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.05, 0.05], rtol=1e-6)
    assert plateau.state["reductions"] == 2


@pytest.mark.any_keras
def test_epochs_before_the_start_are_ignored_altogether():
    """They neither set the best value nor count."""
    plateau = PlateauDecay(patience=1, start_from_epoch=2)
    fit(model(0.1), [plateau], epochs=3, values=[0.0, 5.0, 1.0])
    assert plateau.state["best"] == 1.0
    assert plateau.state["reductions"] == 0


@pytest.mark.any_keras
def test_an_epoch_without_the_metric_is_no_observation():
    """With `validation_freq=2` every other epoch counts, and nobody warns."""
    x, y = data()
    plateau = PlateauDecay(patience=1, min_delta=1e9)
    fit(model(0.1), [plateau], epochs=5, validation_data=(x, y), validation_freq=2)
    assert plateau.state["reductions"] == 1


@pytest.mark.parametrize("kind", [float, np.float32, np.array, keras.ops.convert_to_tensor])
def test_a_metric_may_be_any_kind_of_number(kind):
    """Python and NumPy numbers, zero-dimensional arrays, tensors."""
    plateau = PlateauDecay(patience=1)
    plateau.attach(model(0.1))
    assert plateau.update(kind(0.5)) is False
    assert plateau.state["best"] == 0.5
    assert plateau.update(kind(0.75)) is True


@pytest.mark.any_keras
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_spoils_nothing(bad):
    """As the first observation, in Keras's own callback, it becomes the best for ever."""
    plateau = PlateauDecay(patience=3)
    fit(model(0.1), [plateau], epochs=4, values=[bad, 1.0, bad, 0.5])
    assert plateau.state == {
        "best": 0.5,
        "wait": 0,
        "cooldown": 0,
        "scale": 1.0,
        "reductions": 0,
    }


def test_the_memory_belongs_to_the_optimizer():
    """A second `fit` with a new callback goes on; a new optimizer starts afresh."""
    for learning_rate in (0.1, StepDecay(0.1, 0.5, 100, steps_per_epoch=STEPS_PER_EPOCH)):
        network = model(learning_rate)
        fit(network, [PlateauDecay(patience=3)], epochs=3, values=FLAT)
        second = PlateauDecay(patience=3)
        fit(network, [second], epochs=1, values=FLAT)
        assert second.state["reductions"] == 1
        assert number(network.optimizer.learning_rate) == pytest.approx(0.01)

        network.compile(keras.optimizers.SGD(0.1), "mse")
        fit(network, [second], epochs=1, values=[2.0])
        assert second.state == {
            "best": 2.0,
            "wait": 0,
            "cooldown": 0,
            "scale": 1.0,
            "reductions": 0,
        }


@pytest.mark.any_keras
def test_reset_forgets_and_a_schedule_is_back_at_its_own_rate():
    """A float rate stays where it is: nothing remembers where it came from."""
    for learning_rate, rate in ((0.1, 0.01), (PlateauScale(0.1), 0.1)):
        network = model(learning_rate)
        plateau = PlateauDecay(patience=1)
        fit(network, [plateau], epochs=2, values=FLAT)
        plateau.reset()
        assert plateau.state == {
            "best": None,
            "wait": 0,
            "cooldown": 0,
            "scale": 1.0,
            "reductions": 0,
        }
        history = fit(network, [plateau], epochs=1, values=FLAT)
        assert history["learning_rate"] == pytest.approx([rate])


@pytest.mark.any_keras
def test_a_float_rate_changed_by_someone_else_is_multiplied_from_there():
    """The scale stays the plateau's own."""
    network = model(0.1)
    plateau = PlateauDecay(patience=1, factor=0.5)
    fit(network, [plateau], epochs=2, values=FLAT)
    network.optimizer.learning_rate = 0.8
    fit(network, [plateau], epochs=1, values=FLAT)
    assert number(network.optimizer.learning_rate) == pytest.approx(0.4)
    assert plateau.state["scale"] == 0.25


@pytest.mark.any_keras
def test_verbose_prints_a_line_at_each_reduction(capsys):
    """The epoch as Keras counts it in its progress bar, from 1, and the new rate."""
    fit(model(0.1), [PlateauDecay(patience=1, verbose=1)], epochs=2, values=FLAT)
    assert capsys.readouterr().out == (
        "\nEpoch 2: PlateauDecay reduces the learning rate to 0.01.\n"
    )
    fit(model(0.1), [PlateauDecay(patience=1)], epochs=2, values=FLAT)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("metric", "better"),
    [("mae", "min"), (keras.metrics.R2Score(name="r2"), "max")],
    ids=["down", "up"],
)
def test_auto_takes_the_direction_that_the_metric_declares(metric, better):
    """`val_mae` falls when it gets better, `val_r2` rises."""
    name = metric if isinstance(metric, str) else metric.name
    x, y = data()
    plateau = PlateauDecay(f"val_{name}", patience=9)
    fit(model(0.1, metrics=[metric]), [plateau], epochs=1, validation_data=(x, y))
    best = plateau.state["best"]
    plateau.update(best + 1)
    assert (plateau.state["best"] == best + 1) is (better == "max")


def test_auto_finds_the_metric_of_one_of_several_outputs():
    """Keras logs it with the name of the output before it."""
    inputs = keras.Input((3,))
    outputs = {"a": keras.layers.Dense(1, name="a")(inputs)}
    outputs["b"] = keras.layers.Dense(1, name="b")(inputs)
    network = keras.Model(inputs, outputs)
    network.compile("sgd", {"a": "mse", "b": "mse"}, metrics={"b": [keras.metrics.R2Score()]})
    x, y = data()
    plateau = PlateauDecay("b_r2_score", patience=9)
    network.fit(x, {"a": y, "b": y}, verbose=0, callbacks=[plateau])
    best = plateau.state["best"]
    plateau.update(best + 1)
    assert plateau.state["best"] == best + 1


@pytest.mark.parametrize("name", ["my_metric", "val_my_metric"])
def test_auto_and_a_metric_without_a_direction_is_an_error(name):
    """Never a silent guess: the error says what to pass."""
    with pytest.raises(ValueError, match=r'Pass mode="min" or mode="max"\. Received: monitor='):
        fit(model(0.1), [PlateauDecay(name)], epochs=1, values=FLAT, monitor=name)
    fit(model(0.1), [PlateauDecay(name, mode="max")], epochs=1, values=FLAT, monitor=name)
    plateau = PlateauDecay(name)
    plateau.attach(SimpleNamespace(optimizer=keras.optimizers.SGD(0.1)))
    with pytest.raises(ValueError, match=r'Pass mode="min" or mode="max"'):
        plateau.update(1.0)


def test_a_compiled_metric_without_a_direction_is_an_error_before_the_first_step():
    """If Keras has built its metrics already, no epoch is trained in vain."""

    def my_metric(y_true, y_pred):
        return keras.ops.mean(y_true - y_pred)

    network = model(0.1, metrics=[my_metric])
    fit(network, epochs=1)
    with pytest.raises(ValueError, match=r'Pass mode="min" or mode="max"'):
        fit(network, [PlateauDecay("my_metric")], epochs=1)
    assert number(network.optimizer.iterations) == STEPS_PER_EPOCH


@pytest.mark.any_keras
def test_a_metric_that_never_shows_up_is_one_warning_with_those_there_are():
    """At once where that is sure, else when training ends."""
    x, y = data()
    match = r"monitors `val_acc`.*The metrics are: \['loss', 'mae', 'val_loss', 'val_mae'\]"
    with pytest.warns(UserWarning, match=match) as caught:
        fit(
            model(0.1, metrics=["mae"]),
            [PlateauDecay("val_acc")],
            epochs=3,
            validation_data=(x, y),
        )
    assert [warning.category for warning in caught].count(UserWarning) == 1
    with pytest.warns(UserWarning, match=r"monitors `val_loss`.*\['loss'\]") as caught:
        fit(model(0.1), [PlateauDecay()], epochs=3)
    assert [warning.category for warning in caught].count(UserWarning) == 1


@pytest.mark.any_keras
def test_a_second_plateau_on_one_optimizer_is_an_error():
    """Two different ones or the same one twice, in `fit` and in a custom loop."""
    one, two = PlateauDecay(), PlateauDecay("loss")
    for callbacks in ([one, two], [one, one]):
        with pytest.raises(ValueError, match="only one `PlateauDecay`"):
            fit(model(0.1), callbacks, epochs=1, values=FLAT)
    network = model(0.1)
    one.attach(network)
    two.attach(network)
    with pytest.raises(ValueError, match="only one `PlateauDecay`"):
        one.update(1.0)


@pytest.mark.any_keras
def test_a_fit_that_failed_does_not_block_the_next():
    """Whatever a failed `fit` left behind, a new one may have a new callback or the same."""

    class Failing(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise KeyboardInterrupt

    network, plateau = model(0.1), PlateauDecay(patience=1)
    with pytest.raises(KeyboardInterrupt):
        fit(network, [plateau, Failing()], epochs=1, values=FLAT)
    fit(network, [plateau], epochs=1, values=FLAT)
    fit(network, [PlateauDecay()], epochs=1, values=FLAT)


def test_needs_an_optimizer_and_a_rate_that_it_can_lower():
    """A model that is not compiled, and a learning rate that is a bare function."""
    with pytest.raises(ValueError, match=r"Call `model.compile\(optimizer=...\)` first"):
        PlateauDecay().attach(keras.Sequential([keras.layers.Dense(1)]))
    with pytest.raises(TypeError, match="`learning_rate` must be a float or a `Learning"):
        PlateauDecay().attach(SimpleNamespace(optimizer=keras.optimizers.SGD(lambda: 0.1)))
    with pytest.raises(RuntimeError, match=r"call `attach\(model\)` first"):
        _ = PlateauDecay().state


def test_comes_back_from_its_config():
    """Registered, and JSON-safe."""
    plateau = PlateauDecay(
        "loss",
        np.float32(0.5),
        np.int64(3),
        mode="min",
        min_delta=0,
        relative=True,
        cooldown=2,
        min_learning_rate=1e-5,
        reduce_on="improvement",
        start_from_epoch=4,
        restore_best_weights=True,
        stop_at_minimum=True,
        verbose=1,
    )
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(plateau)))
    again = keras.saving.deserialize_keras_object(config)
    assert isinstance(again, PlateauDecay)
    assert again.get_config() == plateau.get_config() != PlateauDecay().get_config()
    with pytest.raises(TypeError, match="later_option"):
        PlateauDecay.from_config({**plateau.get_config(), "later_option": 1})


PATIENCE = "an int >= 1 or a non-empty sequence of them"


@pytest.mark.any_keras
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("monitor", "", ValueError, "a non-empty string"),
        ("monitor", 3, TypeError, "a non-empty string"),
        ("factor", 0.0, ValueError, "a number in (0, 1)"),
        ("factor", 1.0, ValueError, "a number in (0, 1)"),
        pytest.param("factor", 10**400, ValueError, "a number in (0, 1)", id="factor-huge"),
        ("factor", float("nan"), ValueError, "a number in (0, 1)"),
        ("factor", "0.1", TypeError, "a number in (0, 1)"),
        ("patience", 0, ValueError, "an int >= 1"),
        ("patience", 2.5, TypeError, PATIENCE),
        ("patience", True, TypeError, PATIENCE),
        ("patience", [], ValueError, PATIENCE),
        ("patience", "12", TypeError, PATIENCE),
        ("smoothing", 1.0, ValueError, "a number in [0, 1)"),
        ("smoothing", -0.1, ValueError, "a number in [0, 1)"),
        ("smoothing", None, TypeError, "a number in [0, 1)"),
        ("max_reductions", -1, ValueError, "an int >= 0"),
        ("max_reductions", 2.0, TypeError, "an int >= 0"),
        ("recover", 1, TypeError, "True or False"),
        ("optimizer", "", ValueError, "a non-empty string"),
        ("optimizer", None, TypeError, "a non-empty string"),
        ("mode", "up", ValueError, 'one of "auto", "min", "max"'),
        ("mode", None, TypeError, 'one of "auto", "min", "max"'),
        ("min_delta", -1e-9, ValueError, "a finite number >= 0"),
        ("min_delta", float("inf"), ValueError, "a finite number >= 0"),
        ("min_delta", None, TypeError, "a finite number >= 0"),
        ("relative", 1, TypeError, "True or False"),
        ("cooldown", -1, ValueError, "an int >= 0"),
        ("cooldown", 1.0, TypeError, "an int >= 0"),
        ("min_learning_rate", -0.1, ValueError, "a finite number >= 0"),
        ("min_learning_rate", "0", TypeError, "a finite number >= 0"),
        ("reduce_on", "each", ValueError, 'one of "plateau", "improvement"'),
        ("start_from_epoch", -1, ValueError, "an int >= 0"),
        ("start_from_epoch", 0.5, TypeError, "an int >= 0"),
        ("restore_best_weights", "yes", TypeError, "True or False"),
        ("stop_at_minimum", None, TypeError, "True or False"),
        ("verbose", -1, ValueError, "an int >= 0"),
        ("verbose", "auto", TypeError, "an int >= 0"),
    ],
)
def test_a_bad_argument_is_a_clear_error_in_the_constructor(name, value, error, message):
    """One wording: what must be, and what was received."""
    with pytest.raises(error) as raised:
        PlateauDecay(**{name: value})
    assert str(raised.value) == f"`{name}` must be {message}. Received: {name}={value!r}"


def test_an_unknown_argument_is_a_type_error():
    """`patiance=3` is not swallowed, and what is keyword-only stays so."""
    with pytest.raises(TypeError, match="patiance"):
        PlateauDecay(patiance=3)
    with pytest.raises(TypeError, match="positional"):
        PlateauDecay("loss", 0.1, 3, "min")


@pytest.mark.any_keras
def test_the_same_scale_may_serve_two_optimizers():
    """The memory belongs to the optimizer: the second one starts afresh, and the first keeps
    its own."""
    shared = PlateauScale(0.1)
    first, plateau = model(shared), PlateauDecay(patience=1)
    history = fit(first, [plateau], epochs=3, values=FLAT)
    again = PlateauDecay(patience=1)
    for name, values in fit(model(shared), [again], epochs=3, values=FLAT).items():
        assert values == pytest.approx(history[name], rel=1e-5)
    assert again.state == plateau.state
    assert plateau.state["reductions"] == 2
    assert plateau.update(1.0)
    assert number(first.optimizer.learning_rate) == pytest.approx(1e-4)
    assert again.state["reductions"] == 2


def test_a_model_compiled_with_another_optimizer_trains_without_the_plateau():
    """Also if its rate is a `PlateauScale` to which no plateau is attached."""
    network = model(StepDecay(0.1, 0.5, 99, steps_per_epoch=STEPS_PER_EPOCH))
    fit(network, [PlateauDecay(patience=1)], epochs=3, values=FLAT)
    network.set_weights(model().get_weights())
    network.compile(keras.optimizers.SGD(PlateauScale(0.05), momentum=0.9), "mse")
    fit(network, epochs=1)
    assert_close(network.get_weights(), weights_trained_at([0.05]))
    # And a plateau that comes to it later is followed.
    fit(network, [PlateauDecay(patience=1)], epochs=3, values=FLAT)
    assert_close(network.get_weights(), weights_trained_at([0.05, 0.05, 0.05, 0.005]))


@pytest.mark.any_keras
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_of_a_callback_that_was_used_is_a_new_callback(copied):
    """With the same arguments, and no optimizer yet."""
    plateau = PlateauDecay(factor=0.5, patience=1)
    fit(model(PlateauScale(0.1)), [plateau], epochs=3, values=FLAT)
    duplicate = copied(plateau)
    assert duplicate.get_config() == plateau.get_config()
    with pytest.raises(RuntimeError, match="has no optimizer yet"):
        duplicate.state  # noqa: B018
    fit(model(0.1), [duplicate], epochs=1, values=FLAT)
    assert (duplicate.state["reductions"], plateau.state["reductions"]) == (0, 2)


@pytest.mark.any_keras
@pytest.mark.parametrize(
    "copied",
    [
        lambda optimizer: type(optimizer)(copy.deepcopy(_keras.learning_rate(optimizer))),
        lambda optimizer: type(optimizer).from_config(optimizer.get_config()),
    ],
    ids=["deepcopy", "config"],
)
def test_a_copy_of_a_scale_belongs_to_no_optimizer(copied):
    """It has the memory, as one that is loaded has."""
    network, plateau = model(PlateauScale(0.1)), PlateauDecay(factor=0.5, patience=1)
    fit(network, [plateau], epochs=3, values=FLAT)
    again, duplicate = PlateauDecay(factor=0.5, patience=1), copied(network.optimizer)
    duplicate.iterations.assign(network.optimizer.iterations)
    again.attach(model(optimizer=duplicate))
    assert again.state == plateau.state
    assert again.state["reductions"] == 2


def test_the_scale_of_a_rate_that_is_set_back_again_and_again_stays_above_zero(tmp_path):
    """What is saved can be loaded."""
    network, plateau = model(0.1), PlateauDecay(factor=1e-3, patience=1)
    plateau.attach(network)
    for _ in range(120):
        network.optimizer.learning_rate = 0.1
        plateau.update(1.0)
    assert 0 < plateau.state["scale"] < 1e-300
    network.save_weights(tmp_path / "model.weights.h5")
    loaded, again = model(0.1), PlateauDecay()
    again.attach(loaded)
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert again.state == plateau.state


@pytest.mark.any_keras
def test_the_same_schedule_may_serve_two_optimizers():
    """Each optimizer has a plateau of its own."""
    schedule = StepDecay(0.1, 0.5, 100, steps_per_epoch=STEPS_PER_EPOCH)
    one, two = model(schedule), model(schedule)
    fit(one, [PlateauDecay(patience=1)], epochs=2, values=FLAT)
    fit(two, [PlateauDecay(patience=1)], epochs=1, values=FLAT)
    assert number(one.optimizer.learning_rate) == pytest.approx(0.01)
    assert number(two.optimizer.learning_rate) == pytest.approx(0.1)


@pytest.mark.any_keras
def test_training_is_silent_where_all_is_right():
    """No warning from a fit over a schedule with validation."""
    x, y = data()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        network = model(StepDecay(0.1, steps_per_epoch=STEPS_PER_EPOCH))
        network.fit(
            x,
            y,
            batch_size=BATCH_SIZE,
            validation_data=(x, y),
            epochs=2,
            verbose=0,
            callbacks=[PlateauDecay()],
        )
