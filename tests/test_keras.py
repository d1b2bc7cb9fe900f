"""Private names and call orders of Keras on which we rely: a test fails when one changes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from support import BACKEND, BATCH_SIZE, data, model, new_keras, number

from keras_decay import LearningRateLogger, PlateauDecay, StepDecay, _keras


def test_an_optimizer_keeps_its_schedule_or_its_rate_variable_in_learning_rate():
    """`_learning_rate`: the only way to get at a schedule instead of its value."""
    schedule = StepDecay(0.1, steps_per_epoch=10)
    assert keras.optimizers.SGD(schedule)._learning_rate is schedule
    variable = keras.optimizers.SGD(0.1)._learning_rate
    assert _keras.is_variable(variable)
    assert number(variable) == np.float32(0.1)
    assert not _keras.is_variable(schedule)


def test_a_schedule_is_called_with_the_step_counter():
    """`_iterations`, which counts micro-batches; `iterations` divides them."""
    seen = []

    class Seen(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            seen.append(step)
            return 0.1

    optimizer = keras.optimizers.SGD(Seen(), gradient_accumulation_steps=2)
    optimizer.build([keras.Variable(0.0)])
    _ = optimizer.learning_rate
    assert seen[-1] is _keras.step_counter(optimizer)
    for _ in range(4):
        optimizer.apply([keras.ops.ones(())])
    assert number(_keras.step_counter(optimizer)) == 4


def test_a_schedule_may_be_set_over_a_schedule_and_the_state_keeps_its_size():
    """The public setter is how a `PlateauScale` gets around an optimizer's schedule."""

    def set_learning_rate(schedule):
        _keras.set_learning_rate(optimizer, schedule)

    optimizer = keras.optimizers.SGD(StepDecay(0.1, steps_per_epoch=10), momentum=0.9)
    optimizer.build([keras.Variable(0.0)])
    size = len(optimizer.variables)
    for replace in (lambda it: setattr(optimizer, "learning_rate", it), set_learning_rate):
        replacement = StepDecay(0.2, steps_per_epoch=10)
        replace(replacement)
        assert optimizer._learning_rate is replacement
        assert number(optimizer.learning_rate) == np.float32(0.2)
    assert len(optimizer.variables) == size
    optimizer.learning_rate_state = keras.layers.Layer()
    assert len(optimizer.variables) == size


def test_a_variable_set_on_an_optimizer_is_one_of_its_variables_until_it_is_taken_out():
    """How the scale reaches a compiled step on JAX: `__setattr__` puts it into `_variables`."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build([keras.Variable(0.0)])
    before = optimizer.variables
    optimizer.plateau_scale = keras.Variable(1.0, trainable=False)
    during = optimizer.variables
    assert [id(each) for each in during] == [*map(id, before), id(optimizer.plateau_scale)]
    with _keras.without_variables([optimizer], ("plateau_scale",)):
        assert list(map(id, optimizer.variables)) == list(map(id, before))
    assert list(map(id, optimizer.variables)) == list(map(id, during))


def test_an_optimizer_saves_and_loads_with_methods_of_its_own_where_it_has_them(tmp_path):
    """`save_own_variables` and `load_own_variables` are looked up on the instance."""
    calls = []
    network = model()
    for name in ("save_own_variables", "load_own_variables"):
        setattr(network.optimizer, name, lambda store, name=name: calls.append(name))
    network.save_weights(tmp_path / "model.weights.h5")
    network.load_weights(tmp_path / "model.weights.h5")
    assert calls == ["save_own_variables", "load_own_variables"]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="the others write to the variables")
def test_on_jax_a_model_can_write_its_variables_in_the_middle_of_an_epoch():
    """A callback's `model` writes them when it is asked for; the next step starts from them."""
    rates = []

    class Halve(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            optimizer = self.model.optimizer
            rates.append(number(optimizer.learning_rate))
            optimizer.learning_rate = rates[-1] / 2

    x, y = data()
    network = model(0.5)
    network.fit(x, y, batch_size=BATCH_SIZE, verbose=0, callbacks=[Halve()])
    assert rates == [0.5, 0.25, 0.125, 0.0625]


def test_a_callback_keeps_what_fit_gives_it_in_two_attributes():
    """`_model`, since `model` has no setter, and `params`: what a copy has to be without."""
    callback = keras.callbacks.Callback()
    before = {name: getattr(callback, name, None) for name in _keras.CALLBACK_OUTSIDE_FIT}
    assert before == _keras.CALLBACK_OUTSIDE_FIT
    network = model()
    callback.set_model(network)
    assert callback._model is callback.model is network


def test_an_optimizer_that_forwards_its_rate_is_told_by_its_class():
    """Keras's own have the property of their base; a user's has another."""

    class Around(keras.optimizers.SGD):
        @property
        def learning_rate(self):
            return 0.5

    for kind in (keras.optimizers.SGD, keras.optimizers.AdamW, keras.optimizers.Adafactor):
        assert not _keras.forwards_learning_rate(kind(0.1))
    assert _keras.forwards_learning_rate(Around(0.1))


def test_a_float_rate_can_be_set_aside_and_put_back_only_by_the_private_name():
    """The public setter drops its variable, and takes no variable back after a schedule."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build([keras.Variable(0.0)])
    variable = _keras.learning_rate(optimizer)
    before = [id(each) for each in optimizer.variables]
    _keras.set_learning_rate(optimizer, StepDecay(0.2, steps_per_epoch=10))
    assert number(optimizer.learning_rate) == np.float32(0.2)
    assert [id(each) for each in optimizer.variables] == before
    _keras.set_learning_rate(optimizer, variable)
    assert optimizer.learning_rate is variable
    assert [id(each) for each in optimizer.variables] == before

    optimizer.learning_rate = StepDecay(0.2, steps_per_epoch=10)
    assert len(optimizer.variables) < len(before)
    with pytest.raises(TypeError, match="not settable"):
        optimizer.learning_rate = variable


def test_a_metric_declares_its_direction():
    """`_direction`, "up" or "down"; a plain mean has none."""
    assert keras.metrics.MeanSquaredError()._direction == "down"
    assert keras.metrics.SparseCategoricalAccuracy()._direction == "up"
    assert not hasattr(keras.metrics.Mean(), "_direction")


def test_compiled_metrics_are_grouped_by_output():
    """`_flat_metrics` with `output_name`, and the name that Keras logs them under."""
    network = model(metrics=["mae"])
    x, y = data()
    logs = network.evaluate(x, y, verbose=0, return_dict=True)
    directions = _keras.metric_directions(network)
    assert directions == {"loss": None, "mae": "min"}
    assert directions.keys() == logs.keys()


def test_fit_sets_the_model_of_every_callback_before_any_training_begins():
    """So that the memory is in place when `BackupAndRestore` loads into it."""
    calls = []

    class Recorder(keras.callbacks.Callback):
        def set_model(self, model):
            super().set_model(model)
            calls.append("set_model")

        def on_train_begin(self, logs=None):
            calls.append("on_train_begin")

    x, y = data()
    network = model()
    network.fit(x, y, batch_size=BATCH_SIZE, verbose=0, callbacks=[Recorder(), Recorder()])
    assert calls == ["set_model", "set_model", "on_train_begin", "on_train_begin"]


def test_a_layer_set_on_the_optimizer_is_saved_with_the_weights(tmp_path):
    """Through `save_own_variables` and `load_own_variables`, which are public."""

    class Note(keras.layers.Layer):
        def __init__(self, value):
            super().__init__(name="note")
            self.built = True
            self.value = value

        def save_own_variables(self, store):
            store["value"] = np.asarray(self.value)

        def load_own_variables(self, store):
            self.value = np.asarray(store["value"]).item()

    one, two = model(), model()
    one.optimizer.note, two.optimizer.note = Note(7), Note(0)
    one.save_weights(tmp_path / "model.weights.h5")
    two.load_weights(tmp_path / "model.weights.h5")
    assert two.optimizer.note.value == 7


def test_a_train_function_can_be_made_anew():
    """`make_train_function(force=True)`: how a compiled step forgets the bare schedule."""
    network = model()
    network.make_train_function()
    before = network.train_function
    network.make_train_function()
    assert network.train_function is before
    network.make_train_function(force=True)
    assert network.train_function is not before


def test_a_wrapped_optimizer_is_found_under_its_public_name():
    """`inner_optimizer` of a `LossScaleOptimizer`."""
    inner = keras.optimizers.SGD(0.1)
    assert _keras.inner_optimizers(keras.optimizers.LossScaleOptimizer(inner)) == [inner]
    assert _keras.inner_optimizers(inner) == [inner]
    outer = keras.optimizers.LossScaleOptimizer(keras.optimizers.LossScaleOptimizer(inner))
    assert _keras.unwrapped(outer) is inner
    assert _keras.wrappers(outer) == [outer, outer.inner_optimizer]


def test_keras_itself_still_refuses_a_plateau_over_a_schedule():
    """The reason for this package. When this fails, the README's comparison is out of date."""
    x, y = data()
    network = model(StepDecay(0.1, steps_per_epoch=10))
    peer = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=1e9)
    with pytest.raises(TypeError, match="its learning rate is not settable"):
        network.fit(x, y, epochs=3, verbose=0, callbacks=[peer])


def test_random_numbers_without_a_seed_come_from_one_generator_that_can_be_set():
    """`global_state` and `GLOBAL_SEED_GENERATOR`: Keras makes it with the first number."""
    keras.utils.set_random_seed(1)
    assert _keras.global_seed_generator() is None
    first = number(keras.random.uniform(()))
    generator = _keras.global_seed_generator()
    assert isinstance(generator, keras.random.SeedGenerator)
    before = keras.ops.convert_to_numpy(generator.state).tolist()
    second = number(keras.random.uniform(()))
    assert second != first
    assert _keras.global_seed_generator() is generator
    generator.state.assign(before)
    assert number(keras.random.uniform(())) == second
    _keras.set_global_seed_generator(None)
    assert _keras.global_seed_generator() is None


def test_a_model_says_whether_it_trains_with_a_step_of_its_own():
    """`train_step`, of the class or of the instance."""

    class Own(keras.Model):
        def train_step(self, *arguments):
            return super().train_step(*arguments)

    network = model()
    assert _keras.trains_as_keras_does(network)
    assert not _keras.trains_as_keras_does(Own(network.inputs, network.outputs))
    network.train_step = network.train_step
    assert not _keras.trains_as_keras_does(network)


@pytest.mark.parametrize("takes_training", [True, False])
def test_the_loss_of_a_batch_can_be_computed_without_a_step(takes_training):
    """`_call_has_training_arg` and `_compute_loss`: in the mode of training, with the weights of
    samples and what layers add, whatever arguments a `compute_loss` of a user's takes."""

    class Own(keras.Model):
        def compute_loss(self, x, y, y_pred, sample_weight, **training):
            # Old versions of Keras have a `compute_loss` without it.
            passed = hasattr(keras.Model, "_compute_loss")
            assert training == ({"training": True} if passed else {})
            return 2 * super().compute_loss(x, y, y_pred, sample_weight)

    class Mode(keras.layers.Layer):
        def call(self, x, training=False):
            self.add_loss(keras.ops.mean(x))
            return 3 * x if training else x

    if not takes_training:

        class Own(keras.Model):
            def compute_loss(self, x, y, y_pred, sample_weight):
                return 2 * super().compute_loss(x, y, y_pred, sample_weight)

    inputs = keras.Input((1,))
    network = Own(inputs, Mode()(inputs))
    network.compile("sgd", "mse")
    x, weight = np.array([[1.0], [2.0]], "float32"), np.array([1.0, 0.0], "float32")
    loss = _keras.training_loss(network, (x, np.zeros((2, 1), "float32"), weight))
    # (3 * 1)^2 / 2 samples, and the mean of x.
    assert number(loss) == pytest.approx(2 * (9 / 2 + 1.5))


class Counts(LearningRateLogger):
    """A user's own, which Keras must not call from other threads unasked."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)


@new_keras
@pytest.mark.parametrize(
    ("callback", "safe"),
    [
        (LearningRateLogger(), True),
        (PlateauDecay("loss", restore_best_weights=True, recover=True), True),
        (LearningRateLogger(every=2), False),
        (PlateauDecay("loss", every=2), False),
        (Counts(), False),
    ],
)
def test_keras_waits_for_no_batch_to_pass_us_its_logs(callback, safe):
    """`async_safe`, which Keras reads and nowhere documents; TensorFlow is never asked."""
    listed = keras.callbacks.CallbackList([callback])
    assert listed._async_train == (safe and BACKEND != "tensorflow")


@pytest.mark.skipif(BACKEND != "jax", reason="the others have no state outside of the variables")
@pytest.mark.parametrize(
    ("callback", "looks"),
    [
        (LearningRateLogger(), 1),
        (LearningRateLogger(every=2), 1),
        (PlateauDecay("loss", restore_best_weights=True, recover=True), 1),
        # Eight observations, before the last of which the first epoch ends.
        (PlateauDecay("loss", every=8), 1 + 8),
    ],
)
def test_only_one_batch_puts_the_variables_back_on_jax(callback, looks):
    """`Callback.model` does so; the next step then begins by collecting them again."""
    network = model(StepDecay(0.1))
    x, y = data()
    collected, own = [], network._get_jax_state
    network._get_jax_state = lambda **which: collected.append(1) or own(**which)
    network.fit(x, y, batch_size=1, epochs=2, verbose=0, callbacks=[callback])
    begins = 3  # Of the `fit`, and of its two epochs.
    assert len(collected) <= begins + looks
