"""What survives what: an interrupted run is the uninterrupted one, after every kind of file."""

from __future__ import annotations

import functools
import json
import zipfile

import keras
import numpy as np
import pytest
from internals import inner_optimizers, schedule_of
from support import BACKEND, STEPS_PER_EPOCH, cases, fit, model, number, on_host

from keras_decay import InverseTimeDecay, PlateauDecay, PlateauScale, StepDecay

# A metric with everything in it: improvement, plateaus, a value that is not finite.
VALUES = [5.0, 5.0, 4.0, 4.0, float("nan"), 4.0, 4.0, 3.0, 3.0, 3.0]
EPOCHS = len(VALUES)
BREAK = 5

LEARNING_RATES = {
    "float": lambda: 0.1,
    "schedule": lambda: StepDecay(0.1, 0.8, 3, steps_per_epoch=STEPS_PER_EPOCH),
    "constant": lambda: PlateauScale(0.1),
    "keras": lambda: keras.optimizers.schedules.ExponentialDecay(0.1, 7, 0.8),
}
every_rate = cases("rate", LEARNING_RATES, oldest=2)
schedules = cases("rate", dict(list(LEARNING_RATES.items())[1:]))
# A float lives in a variable, a schedule in the config: the two ways through every kind of file.
both_kinds = pytest.mark.parametrize(
    "rate", list(LEARNING_RATES.values())[:2], ids=list(LEARNING_RATES)[:2]
)


def plateau():
    return PlateauDecay(factor=0.5, patience=2, cooldown=1)


def outcome(network, callback, history):
    """All that must be the same: rates of the epochs, memory, weights, optimizer state."""
    return {
        "rates": history["learning_rate"][-(EPOCHS - BREAK) :],
        "next rate": number(network.optimizer.learning_rate),
        **callback.state,
        "weights": np.concatenate([w.ravel() for w in network.get_weights()]),
        "momentum": np.concatenate(
            [keras.ops.convert_to_numpy(v).ravel() for v in network.optimizer.variables[1:]]
        ),
    }


@functools.cache
def uninterrupted(rate):
    """What every kind of interruption is compared with: trained once for each rate."""
    network, callback = model(rate()), plateau()
    history = fit(network, [callback], epochs=EPOCHS, values=VALUES)
    assert callback.state["reductions"] >= 2
    return outcome(network, callback, history)


def first_part(rate, callbacks=()):
    network = model(rate())
    fit(network, [plateau(), *callbacks], epochs=BREAK, values=VALUES)
    return network


def second_part(network, callback=None):
    callback = callback or plateau()
    history = fit(network, [callback], epochs=EPOCHS, initial_epoch=BREAK, values=VALUES)
    return outcome(network, callback, history)


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)


@both_kinds
def test_a_second_fit_goes_on(rate):
    """The same optimizer, a new callback object."""
    assert_same(second_part(first_part(rate)), uninterrupted(rate))


@schedules
def test_a_whole_model_file_goes_on(rate, tmp_path):
    """`.keras`, without custom objects, in safe mode."""
    first_part(rate).save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(second_part(loaded), uninterrupted(rate))


def test_of_a_float_a_whole_model_file_keeps_the_rate_alone(tmp_path):
    """Keras saves nothing else of a float rate; `PlateauScale(0.1)` is the way round."""
    network = first_part(lambda: 0.1)
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    callback = plateau()
    callback.attach(loaded)
    assert number(loaded.optimizer.learning_rate) == number(network.optimizer.learning_rate) < 0.1
    assert callback.state == {
        "best": None,
        "wait": 0,
        "cooldown": 0,
        "scale": 1.0,
        "reductions": 0,
    }


@every_rate
def test_a_weights_file_goes_on(rate, tmp_path):
    """`.weights.h5`, into a new model that the plateau is attached to."""
    first_part(rate).save_weights(tmp_path / "model.weights.h5")
    network, callback = model(rate(), seed=1), plateau()
    callback.attach(network)
    network.load_weights(tmp_path / "model.weights.h5")
    assert_same(second_part(network, callback), uninterrupted(rate))


@schedules
def test_a_legacy_model_file_keeps_rate_scale_and_memory(rate, tmp_path):
    """Whole-model `.h5`. (Keras restores no optimizer slots from it.)"""
    network, callback = model(rate()), plateau()
    fit(network, [callback], epochs=BREAK, values=VALUES)
    network.save(tmp_path / "model.h5")
    loaded, again = keras.models.load_model(tmp_path / "model.h5"), plateau()
    again.attach(loaded)
    assert again.state == callback.state
    loaded.optimizer.iterations.assign(BREAK * STEPS_PER_EPOCH)
    assert number(loaded.optimizer.learning_rate) == number(network.optimizer.learning_rate)


def test_of_a_float_a_legacy_model_file_keeps_the_rate(tmp_path):
    """Whole-model `.h5` again."""
    network = first_part(LEARNING_RATES["float"])
    network.save(tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")
    assert number(loaded.optimizer.learning_rate) == number(network.optimizer.learning_rate) < 0.1


@pytest.mark.parametrize(
    ("rate", "weights_only"),
    [(LEARNING_RATES["float"], True), (LEARNING_RATES["schedule"], False)],
    ids=["weights", "model"],
)
def test_a_checkpoint_of_mid_training_goes_on(rate, weights_only, tmp_path):
    """`ModelCheckpoint` at the epoch of the break, from a run that went on after it."""
    name = "{epoch}.weights.h5" if weights_only else "{epoch}.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / name, save_weights_only=weights_only, monitor="loss"
    )
    fit(model(rate()), [plateau(), checkpoint], epochs=EPOCHS, values=VALUES)
    path, callback = tmp_path / name.format(epoch=BREAK), plateau()
    if weights_only:
        network = model(rate(), seed=1)
        callback.attach(network)
        network.load_weights(path)
    else:
        network = keras.models.load_model(path)
    assert_same(second_part(network, callback), uninterrupted(rate))


def wrapped(kind, rate):
    """An optimizer inside another, or two of them."""
    if kind == "loss-scale":
        inner = keras.optimizers.SGD(rate(), momentum=0.9)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    kernel = keras.optimizers.SGD(rate(), momentum=0.9, name="kernel")
    bias = keras.optimizers.SGD(rate(), momentum=0.9, name="bias")
    optimizers = keras.optimizers.OptimizerMap(bias, {".*kernel": kernel})
    return keras.optimizers.MultiOptimizer(optimizers)


def inner_rates(network):
    return [number(leaf.learning_rate) for leaf in inner_optimizers(network.optimizer)]


@functools.cache
def wrapped_uninterrupted(kind, rate):
    network, callback = model(optimizer=wrapped(kind, rate)), plateau()
    fit(network, [callback], epochs=EPOCHS, values=VALUES)
    return callback.state, inner_rates(network), network.get_weights()


@pytest.mark.parametrize(
    "kind",
    [
        "loss-scale",
        pytest.param(
            "multi",
            marks=pytest.mark.skipif(
                not hasattr(keras.optimizers, "MultiOptimizer"), reason="not in this Keras"
            ),
        ),
    ],
)
@pytest.mark.parametrize(
    ("rate", "file"),
    [
        (LEARNING_RATES["float"], "model.weights.h5"),
        (LEARNING_RATES["schedule"], "model.keras"),
        pytest.param(LEARNING_RATES["schedule"], "model.weights.h5", marks=pytest.mark.any_keras),
    ],
    ids=["float in weights", "schedule in model", "schedule in weights"],
)
def test_wrapped_optimizers_go_on_too(kind, rate, file, tmp_path):
    """One memory for all inner optimizers, whole models and weights."""
    network = model(optimizer=wrapped(kind, rate))
    fit(network, [plateau()], epochs=BREAK, values=VALUES)
    again = plateau()
    if file == "model.keras":
        network.save(tmp_path / file)
        network = keras.models.load_model(tmp_path / file)
    else:
        network.save_weights(tmp_path / file)
        network = model(optimizer=wrapped(kind, rate), seed=1)
        again.attach(network)
        network.load_weights(tmp_path / file)
    fit(network, [again], epochs=EPOCHS, initial_epoch=BREAK, values=VALUES)
    state, rates, weights = wrapped_uninterrupted(kind, rate)
    assert again.state == state
    np.testing.assert_allclose(inner_rates(network), rates, rtol=1e-6)
    for a, b in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def orbax(folder, rate):
    """The first part of a run, checkpointed by Orbax where it is installed."""
    pytest.importorskip("orbax.checkpoint", reason="an optional peer, on JAX in `tox`")
    checkpoint = keras.callbacks.OrbaxCheckpoint(
        str(folder), monitor="loss", save_on_background=False
    )
    return first_part(rate, [checkpoint])


# Keras restores without telling Orbax about sharding.
orbax_warnings = pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning")


@orbax_warnings
@pytest.mark.parametrize("rate", [LEARNING_RATES["schedule"]], ids=["schedule"])
def test_a_model_loaded_from_an_orbax_checkpoint_goes_on(rate, tmp_path):
    """Its config holds the schedule with scale and memory. (Keras finds the optimizer's own
    state by automatic names, and so only in a fresh process.)"""
    network = orbax(tmp_path / "orbax", rate)
    loaded, expected = keras.models.load_model(str(tmp_path / "orbax")), plateau()
    expected.attach(network)
    callback = plateau()
    callback.attach(loaded)
    assert callback.state == expected.state
    steps = np.arange(BREAK * STEPS_PER_EPOCH, EPOCHS * STEPS_PER_EPOCH)
    rates = [on_host(schedule_of(each.optimizer), steps) for each in (loaded, network)]
    assert np.array_equal(*rates)


@orbax_warnings
def test_a_float_rate_loaded_from_an_orbax_checkpoint_has_no_memory(tmp_path):
    """As in any whole-model file."""
    orbax(tmp_path / "orbax", LEARNING_RATES["float"])
    callback = plateau()
    callback.attach(keras.models.load_model(str(tmp_path / "orbax")))
    assert callback.state["best"] is None


@orbax_warnings
@both_kinds
def test_weights_from_an_orbax_checkpoint_bring_no_memory(rate, tmp_path):
    """Orbax keeps variables only: the README says to use `load_model`."""
    orbax(tmp_path / "orbax", rate)
    network, callback = model(rate(), seed=1), plateau()
    callback.attach(network)
    network.load_weights(str(tmp_path / "orbax"))
    assert callback.state["best"] is None
    assert callback.state["scale"] == 1.0


class Crash(keras.callbacks.Callback):
    def __init__(self, epoch, batch=0):
        super().__init__()
        self.epoch, self.batch, self.now = epoch, batch, -1

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.batch):
            raise RuntimeError("crash")


def interrupted(rate, callbacks, crash):
    """A run that crashes, and a new one, from new objects, that resumes it."""
    with pytest.raises(RuntimeError, match="crash"):
        fit(model(rate()), [*callbacks(plateau()), crash], epochs=EPOCHS, values=VALUES)
    network, callback = model(rate(), seed=1), plateau()
    history = fit(network, callbacks(callback), epochs=EPOCHS, values=VALUES)
    return outcome(network, callback, history)


@pytest.mark.parametrize(
    ("rate", "batch"),
    [
        (LEARNING_RATES["float"], 0),
        (LEARNING_RATES["float"], 2),
        (LEARNING_RATES["schedule"], 2),
        pytest.param(LEARNING_RATES["keras"], 0, marks=pytest.mark.any_keras),
    ],
    ids=["float between", "float within", "schedule within", "keras between"],
)
def test_backup_and_restore_goes_on(rate, batch, tmp_path):
    """A crash between two epochs or within one: the epoch is done again from its beginning."""

    def callbacks(callback):
        return [callback, keras.callbacks.BackupAndRestore(tmp_path / "backup")]

    actual = interrupted(rate, callbacks, Crash(BREAK, batch))
    assert_same(actual, uninterrupted(rate))


@both_kinds
def test_a_backup_within_an_epoch_keeps_the_memory(rate, tmp_path):
    """`save_freq=int`: Keras repeats the epoch with its steps counted on; the memory is that
    of the epochs that ended."""

    def callbacks(callback):
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=3)
        return [callback, backup]

    actual = interrupted(rate, callbacks, Crash(BREAK, 3))
    expected = uninterrupted(rate)
    for name in ("best", "wait", "cooldown", "scale", "reductions"):
        assert actual[name] == expected[name]


@pytest.mark.any_keras
@both_kinds
def test_listed_after_the_backup_it_warns_at_resume(rate, tmp_path):
    """The backup of an epoch was made before the plateau saw it: one observation is lost."""

    def callbacks(callback):
        return [keras.callbacks.BackupAndRestore(tmp_path / "backup"), callback]

    with pytest.warns(UserWarning, match=r"epoch 5.*before `BackupAndRestore`"):
        actual = interrupted(rate, callbacks, Crash(BREAK))
    # The value of epoch 4, which is lost, is the one that is not finite.
    values = [*VALUES[: BREAK - 1], None, *VALUES[BREAK:]]
    callback, network = plateau(), model(rate())
    fit(network, [callback], epochs=EPOCHS, values=values)
    for name, value in callback.state.items():
        assert actual[name] == value


@pytest.mark.any_keras
def test_listed_after_a_checkpoint_of_the_whole_model_it_warns_at_resume(tmp_path):
    """The model of an epoch was saved before the plateau saw it, as above."""
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
    fit(model(PlateauScale(0.1)), [checkpoint, plateau()], epochs=3, values=VALUES)
    network = keras.models.load_model(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match=r"epoch 3 without the observation of epoch 2"):
        fit(network, [plateau()], initial_epoch=3, epochs=4, values=VALUES)


def saved_variables(network):
    """The optimizer's variables without the scale, which is one of them on JAX."""
    return [each for each in network.optimizer.variables if each.name != "plateau_scale"]


def test_a_weights_file_with_a_memory_loads_into_a_model_without_one(tmp_path):
    """And the other way round, each without a warning, momentum included."""
    for rate in LEARNING_RATES.values():
        with_plateau = first_part(rate)
        with_plateau.save_weights(tmp_path / "with.weights.h5")
        without = model(rate(), seed=1)
        without.load_weights(tmp_path / "with.weights.h5")
        bare = model(rate())
        fit(bare, epochs=1)
        bare.save_weights(tmp_path / "without.weights.h5")
        network, callback = model(rate(), seed=1), plateau()
        callback.attach(network)
        network.load_weights(tmp_path / "without.weights.h5")
        assert callback.state["best"] is None
        for loaded, saved in ((without, with_plateau), (network, bare)):
            for a, b in zip(saved_variables(loaded), saved_variables(saved), strict=True):
                assert np.array_equal(keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b))


def test_the_memory_of_a_loaded_float_rate_is_in_the_weights_file_to_the_last_bit(tmp_path):
    """Counters and best are float64 in the file; a best that float32 rounds comes back."""
    network, callback = model(0.1), PlateauDecay(patience=9)
    callback.attach(network)
    callback.update(1 / 3)
    network.save_weights(tmp_path / "model.weights.h5")
    loaded, again = model(0.1), PlateauDecay()
    again.attach(loaded)
    loaded.load_weights(tmp_path / "model.weights.h5")
    assert again.state["best"] == 1 / 3


def edited(path, change):
    """Rewrites the optimizer's schedule in the config of a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(files["config.json"])
    optimizer = config["compile_config"]["optimizer"]
    change(optimizer["config"]["learning_rate"]["config"])
    files["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("scale", 0.0, ValueError, "a number in (0, 1]"),
        ("scale", -0.5, ValueError, "a number in (0, 1]"),
        ("scale", 1.5, ValueError, "a number in (0, 1]"),
        ("scale", float("nan"), ValueError, "a number in (0, 1]"),
        ("scale", "0.5", TypeError, "a number in (0, 1]"),
        ("wait", -1, ValueError, "an int >= 0"),
        ("wait", 0.5, TypeError, "an int >= 0"),
        ("cooldown", -1, ValueError, "an int >= 0"),
        ("reductions", None, TypeError, "an int >= 0"),
        ("epoch", -1, ValueError, "an int >= 0"),
        ("epochs", 2.5, TypeError, "an int >= 0"),
        ("steps_per_epoch", -3, ValueError, "an int >= 1"),
        ("steps_per_epoch", 2.5, TypeError, "an int >= 1"),
        ("updates", 0, ValueError, "an int >= 1"),
        ("offsets", 3, TypeError, "a list of ints"),
        ("state", [0.5], TypeError, "a dict of numbers or None"),
        ("best", float("inf"), ValueError, "a finite number or None"),
        ("best", "low", TypeError, "a finite number or None"),
        ("min_learning_rate", -0.1, ValueError, "a finite number >= 0"),
        ("schedule", -0.1, ValueError, "a finite number > 0"),
        ("schedule", "fast", TypeError, "a float or a `LearningRateSchedule`"),
        ("name", 3, TypeError, "a non-empty string"),
    ],
)
def test_a_state_that_cannot_be_is_an_error(name, value, error, message):
    """A hand-edited config never becomes a silently wrong rate."""
    config = PlateauScale(0.1, state={"scale": 0.5, "reductions": 1}).get_config()
    (config if name in config else config["state"])[name] = value
    with pytest.raises(error) as raised:
        PlateauScale.from_config(config)
    assert str(raised.value) == f"`{name}` must be {message}. Received: {name}={value!r}"


@pytest.mark.parametrize(("scale", "reductions"), [(0.5, 0), (1.0, 2)])
def test_a_state_that_contradicts_itself_is_an_error(scale, reductions):
    """A scale below 1 comes from reductions, and reductions make one."""
    with pytest.raises(ValueError, match=rf"`scale` must be 1.0 before.*Received: scale={scale}"):
        PlateauScale(0.1, state={"scale": scale, "reductions": reductions})


def test_an_unknown_number_in_a_state_is_an_error():
    """It names the number, and those that exist."""
    with pytest.raises(TypeError, match=r"`state` has no `later`; it has \['best', 'wait'"):
        PlateauScale(0.1, state={"later": 1})


@pytest.mark.any_keras
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["state"].update(scale=7.0), "`scale` must be a number in"),
        (lambda config: config.update(later_option=1), "later_option"),
        (lambda config: config.pop("schedule"), "schedule"),
    ],
    ids=["edited", "later-version", "incomplete"],
)
def test_a_model_file_that_was_edited_does_not_load_silently(change, message, tmp_path):
    """The error that Keras shows names the key."""
    path = tmp_path / "model.keras"
    first_part(LEARNING_RATES["schedule"]).save(path)
    edited(path, change)
    with pytest.raises((TypeError, ValueError, KeyError), match=message):
        keras.models.load_model(path)


def test_a_corrupted_weights_file_does_not_load_silently(tmp_path):
    """An impossible state is an error there too."""
    import h5py

    path = tmp_path / "model.weights.h5"
    first_part(LEARNING_RATES["float"]).save_weights(path)
    with h5py.File(path, "a") as file:
        file["optimizer/learning_rate_state/vars/scale"][...] = 3.0
    network, callback = model(0.1), plateau()
    callback.attach(network)
    with pytest.raises(ValueError, match="`scale` must be a number in"):
        network.load_weights(path)


def test_a_plateau_scale_holds_no_other_plateau_scale():
    """One memory an optimizer."""
    with pytest.raises(ValueError, match="`schedule` must be a schedule that is not"):
        PlateauScale(PlateauScale(0.1))


def test_restored_weights_are_the_best_ones_and_momentum_begins_from_zero():
    """At a reduction training goes on from the best weights."""
    network, seen = model(0.1), {}

    class Record(keras.callbacks.Callback):
        def __init__(self, when):
            super().__init__()
            self.when = when

        def on_epoch_end(self, epoch, logs=None):
            variables = network.optimizer.variables[2:]
            state = [keras.ops.convert_to_numpy(v) for v in variables]
            seen[self.when, epoch] = (network.get_weights(), state)

    callback = PlateauDecay(patience=2, restore_best_weights=True)
    values = [3.0, 1.0, 2.0, 2.0]
    fit(network, [Record("before"), callback, Record("after")], epochs=4, values=values)
    best, _ = seen["before", 1]
    weights, momentum = seen["after", 3]
    for a, b in zip(weights, best, strict=True):
        assert np.array_equal(a, b)
    assert not np.array_equal(weights[0], seen["before", 3][0][0])
    assert all(each.any() for each in seen["before", 3][1])
    assert not any(each.any() for each in momentum)


@both_kinds
def test_the_best_weights_survive_a_crash(rate, tmp_path):
    """They are in the backup, so that a later reduction finds them."""
    values = [1.0, 2.0, 2.0, 2.0, 2.0]

    def run(seed, crash=()):
        network = model(rate(), seed=seed)
        callback = PlateauDecay(patience=3, restore_best_weights=True)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fit(network, [callback, backup, *crash], epochs=5, values=values)
        return network.get_weights()

    expected = run(seed=0)
    with pytest.raises(RuntimeError, match="crash"):
        run(seed=0, crash=[Crash(2)])
    for a, b in zip(run(seed=1), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_without_best_weights_a_reduction_restores_nothing_and_says_so(tmp_path):
    """`load_model` brings back the best value but not the weights that had it."""
    network = model(PlateauScale(0.1))
    fit(network, [PlateauDecay(restore_best_weights=True)], epochs=1, values=[1.0])
    network.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    callback = PlateauDecay(patience=1, restore_best_weights=True)
    with pytest.warns(UserWarning, match="best weights are not known"):
        fit(loaded, [callback], epochs=1, values=[2.0])
    assert callback.state["reductions"] == 1


@pytest.mark.any_keras
def test_best_weights_are_not_those_of_an_older_best_value():
    """A callback that keeps no weights has seen a better value in between."""
    network = model(0.1)
    for restore, value in ((True, 2.0), (False, 1.0)):
        fit(network, [PlateauDecay(restore_best_weights=restore)], epochs=1, values=[value])
    callback = PlateauDecay(patience=1, restore_best_weights=True)
    with pytest.warns(UserWarning, match="best weights are not known"):
        fit(network, [callback], epochs=1, values=[2.0])
    assert callback.state["reductions"] == 1


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's own checkpoint")
@pytest.mark.parametrize(
    ("rate", "next_rate"), [(lambda: 0.1, 0.05), (LEARNING_RATES["constant"], 0.1)]
)
def test_of_a_plateau_a_tensorflow_checkpoint_keeps_the_rate_of_a_float_alone(
    rate, next_rate, tmp_path
):
    """`tf.train.Checkpoint` saves variables that it finds, not what Keras saves."""
    import tensorflow as tf

    network = model(rate())
    fit(network, [plateau()], epochs=3, values=[1.0] * 3)
    assert number(network.optimizer.learning_rate) == pytest.approx(0.05)
    path = tf.train.Checkpoint(model=network, optimizer=network.optimizer).save(tmp_path / "ckpt")
    loaded, callback = model(rate(), seed=1), plateau()
    callback.attach(loaded)
    tf.train.Checkpoint(model=loaded, optimizer=loaded.optimizer).restore(path)
    assert np.array_equal(loaded.get_weights()[0], network.get_weights()[0])
    assert number(loaded.optimizer.learning_rate) == pytest.approx(next_rate)
    assert callback.state["best"] is None


@pytest.mark.any_keras
@pytest.mark.parametrize("rate", [lambda: 0.1, lambda: PlateauScale(0.1)], ids=["float", "scale"])
def test_training_stops_when_a_reduction_is_due_at_the_floor(rate):
    """Not when the floor is reached: the epochs at the floor get their chance."""
    callback = PlateauDecay(factor=0.5, patience=2, min_learning_rate=0.05, stop_at_minimum=True)
    history = fit(model(rate()), [callback], epochs=20, values=[1.0] * 20)
    np.testing.assert_allclose(history["learning_rate"], [0.1] * 3 + [0.05] * 2, rtol=1e-6)


@pytest.mark.any_keras
def test_a_smooth_schedule_at_its_floor_stops_too():
    """The rate that counts is the effective one, schedule and scale together."""
    schedule = InverseTimeDecay(0.1, 100.0, steps_per_epoch=STEPS_PER_EPOCH, min_learning_rate=0.01)
    callback = PlateauDecay(patience=1, min_learning_rate=0.01, stop_at_minimum=True)
    with pytest.warns(UserWarning, match="due, but the learning rate is at its floor already"):
        history = fit(model(schedule), [callback], epochs=20, values=[1.0] * 20)
    assert len(history["loss"]) == 2


def test_the_data_is_what_the_other_tests_take_it_for():
    """A guard of this file: an epoch has `STEPS_PER_EPOCH` steps."""
    network = model(0.1)
    fit(network, epochs=2)
    assert int(keras.ops.convert_to_numpy(network.optimizer.iterations)) == 2 * STEPS_PER_EPOCH
