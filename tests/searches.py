"""The tools that train many models at once, or one after the other, get the rates by hand.

Not among the other tests, which need none of these tools: `tox -e searches` names this file, and
fails where one of them is missing.
"""

from __future__ import annotations

import copy
import pickle
import threading

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from scikeras.wrappers import KerasClassifier
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from support import BATCH_SIZE, Metric, data, number

from keras_decay import InverseTimeDecay, PlateauDecay, StepDecay

pytestmark = [
    # Of KerasTuner 1.4.8, on Python 3.10 and later.
    pytest.mark.filterwarnings("ignore:currentThread:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:getName:DeprecationWarning"),
]


def rates_by_hand(rate, factor, epochs):
    """Those of a `StepDecay(rate, 0.5)` and a plateau of patience 1 whose metric never improves:
    its second observation is the first one that reduces, which shows an epoch later."""
    return [rate * 0.5**epoch * factor ** max(epoch - 1, 0) for epoch in epochs]


def network(learning_rate):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(learning_rate, momentum=0.9), "mse")
    return model


def stalled(factor=0.5):
    """A plateau of patience 1 to which no value is better than the first one."""
    return PlateauDecay("loss", factor=factor, patience=1, min_delta=1e6)


# KerasTuner


class Search(keras_tuner.HyperModel):
    """Searches a rate, and keeps what each trial was and its history."""

    def __init__(self, prepare):
        super().__init__()
        self.prepare = prepare
        self.trials = []

    def build(self, hp):
        model = network(StepDecay(hp.Float("rate", 0.01, 0.1), 0.5))
        self.prepare(model)
        return model

    def fit(self, hp, model, *arguments, **keywords):
        history = model.fit(*arguments, **keywords)
        self.trials.append((hp.values, history))
        return history


class SearchFactors(Search):
    """Searches the factor of the plateau too."""

    def fit(self, hp, model, *arguments, callbacks, **keywords):
        plateau = stalled(hp.Choice("factor", [0.25, 0.5]))
        return super().fit(hp, model, *arguments, callbacks=[plateau, *callbacks], **keywords)


def attach(model):
    stalled().attach(model)


def search(tuner, *callbacks, **keywords):
    # KerasTuner keeps the best epoch of a trial: here the last one.
    callbacks = [Metric([3.0, 2.0, 1.0]), *callbacks]
    tuner.search(*data(), batch_size=BATCH_SIZE, verbose=0, callbacks=callbacks, **keywords)


def hyperband(hypermodel, directory):
    """Three trials of one epoch, of which one is promoted to three, and two of three."""
    settings = {"max_epochs": 3, "factor": 3, "seed": 0, "directory": directory}
    search(keras_tuner.Hyperband(hypermodel, "val_loss", **settings), stalled())


def test_a_promoted_trial_goes_on_where_it_was_with_attach_in_build(tmp_path):
    """Schedule and plateau, though KerasTuner loads the weights before `fit`."""
    hypermodel = Search(attach)
    hyperband(hypermodel, tmp_path)
    for values, history in hypermodel.trials:
        expected = rates_by_hand(values["rate"], 0.5, history.epoch)
        np.testing.assert_allclose(history.history["learning_rate"], expected, rtol=1e-6)
    epochs = [history.epoch for _, history in hypermodel.trials]
    assert epochs == [[0], [0], [0], [1, 2], [0, 1, 2], [0, 1, 2]]


def test_a_promoted_trial_without_attach_is_in_the_epoch_of_fit_and_starts_a_plateau(tmp_path):
    """Keras says that it loads nothing into the optimizer, which has no variables yet."""
    hypermodel = Search(lambda model: None)
    with pytest.warns(UserWarning, match="Skipping variable loading for optimizer"):
        hyperband(hypermodel, tmp_path)
    values, promoted = hypermodel.trials[3]
    assert promoted.epoch == [1, 2]
    expected = [values["rate"] * 0.5**epoch for epoch in promoted.epoch]
    np.testing.assert_allclose(promoted.history["learning_rate"], expected, rtol=1e-6)


def test_a_promoted_trial_whose_optimizer_alone_was_built_is_warned_of(tmp_path):
    """The schedule goes on, and the plateau does not."""
    with pytest.warns(UserWarning, match=r"Call `attach\(model\)` before `load_weights`"):
        hyperband(Search(lambda model: model.optimizer.build(model.trainable_variables)), tmp_path)


def test_each_trial_of_a_random_search_has_its_rate_and_factor(tmp_path):
    """As `build` and `fit` are told."""
    hypermodel = SearchFactors(attach)
    settings = {"max_trials": 4, "seed": 0, "directory": tmp_path}
    search(keras_tuner.RandomSearch(hypermodel, "val_loss", **settings), epochs=3)
    for values, history in hypermodel.trials:
        expected = rates_by_hand(values["rate"], values["factor"], range(3))
        np.testing.assert_allclose(history.history["learning_rate"], expected, rtol=1e-6)
    assert {values["factor"] for values, _ in hypermodel.trials} == {0.25, 0.5}
    assert len({values["rate"] for values, _ in hypermodel.trials}) == 4


# Optuna


def train(learning_rate, *callbacks):
    x, y = data()
    model = network(learning_rate)
    fit = {"batch_size": BATCH_SIZE, "epochs": 3, "verbose": 0, "callbacks": callbacks}
    return model.fit(x, y, **fit).history["learning_rate"]


class Begin(keras.callbacks.Callback):
    """Does something when the first epoch begins."""

    def __init__(self, action):
        super().__init__()
        self.action = action

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self.action()


def test_trials_at_once_with_a_callback_each_have_their_own_rates():
    """Two are in `fit` at the same time, twice."""
    both = threading.Barrier(2, timeout=60)

    def objective(trial):
        rate = trial.suggest_float("rate", 0.01, 0.1)
        factor = trial.suggest_categorical("factor", [0.25, 0.5])
        rates = train(StepDecay(rate, 0.5), stalled(factor), Begin(both.wait))
        trial.set_user_attr("rates", rates)
        return rates[-1]

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=4, n_jobs=2)
    for trial in study.trials:
        expected = rates_by_hand(trial.params["rate"], trial.params["factor"], range(3))
        np.testing.assert_allclose(trial.user_attrs["rates"], expected, rtol=1e-6)
    assert len(study.trials) == 4


def test_one_callback_in_two_trials_at_once_fails_one_and_not_the_other():
    """The second begins while the first trains, which is told so at its next event."""
    shared = stalled()
    training, taken = threading.Event(), threading.Event()

    def meanwhile():
        training.set()
        assert taken.wait(60)

    def objective(trial):
        if trial.number == 0:
            train(StepDecay(0.1, 0.5), shared, Begin(meanwhile))
        assert training.wait(60)
        try:
            rates = train(StepDecay(0.1, 0.5), shared)
        finally:
            taken.set()
        trial.set_user_attr("rates", rates)
        return rates[-1]

    study = optuna.create_study()
    study.optimize(objective, n_trials=2, n_jobs=2, catch=ValueError)
    first, second = study.trials
    assert first.state == optuna.trial.TrialState.FAIL
    np.testing.assert_allclose(
        second.user_attrs["rates"], rates_by_hand(0.1, 0.5, range(3)), rtol=1e-6
    )


# scikeras


def classes():
    x, y = data()
    return x, (y[:, 0] > 0).astype("int64")


def uncompiled():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])


def classifier(**arguments):
    return KerasClassifier(
        uncompiled,
        loss="binary_crossentropy",
        optimizer=keras.optimizers.SGD,
        batch_size=BATCH_SIZE,
        epochs=3,
        verbose=0,
        **arguments,
    )


def both():
    """A schedule and a plateau."""
    return classifier(optimizer__learning_rate=StepDecay(0.1, 0.5), callbacks=[stalled()])


COPIES = pytest.mark.parametrize(
    "copied",
    [clone, copy.deepcopy, lambda estimator: pickle.loads(pickle.dumps(estimator))],
    ids=["clone", "deepcopy", "pickle"],
)


def assert_rates(estimator, rates):
    np.testing.assert_allclose(estimator.history_["learning_rate"], rates, rtol=1e-6)


@COPIES
def test_a_classifier_and_its_copy_begin_with_the_schedule_and_a_fresh_plateau(copied):
    """At every `fit`, also of one that was copied after it was trained; they share nothing."""
    expected = rates_by_hand(0.1, 0.5, range(3))
    original = both().fit(*classes())
    assert_rates(original, expected)
    other = copied(original)
    assert other.callbacks[0] is not original.callbacks[0]
    assert other.optimizer__learning_rate is not original.optimizer__learning_rate
    assert_rates(other.fit(*classes()), expected)
    assert_rates(original.fit(*classes()), expected)


@COPIES
def test_a_trained_copy_goes_on_in_partial_fit_and_leaves_the_original_alone(copied):
    """With schedule and plateau, both in what scikeras saves; but for `clone`, which copies none
    of that."""
    original = both().fit(*classes())
    other = copied(original)
    if copied is not clone:
        np.testing.assert_allclose(
            other.predict_proba(classes()[0]), original.predict_proba(classes()[0]), rtol=1e-6
        )
        other.partial_fit(*classes())
        assert_rates(other, rates_by_hand(0.1, 0.5, range(4)))
    assert number(original.model_.optimizer.learning_rate) == pytest.approx(
        *rates_by_hand(0.1, 0.5, [3])
    )
    original.partial_fit(*classes())
    assert_rates(original, rates_by_hand(0.1, 0.5, range(4)))


def last_rate(estimator, x, y):
    return estimator.history_["learning_rate"][-1]


def last_rates(estimator, grid):
    """The last rate of each candidate, the same one in both folds; and the best estimator."""
    grid_search = GridSearchCV(estimator, grid, scoring=last_rate, cv=2, error_score="raise")
    grid_search.fit(*classes())
    results = grid_search.cv_results_
    np.testing.assert_array_equal(results["split0_test_score"], results["split1_test_score"])
    return results["split0_test_score"], grid_search.best_estimator_


def test_a_grid_of_learning_rates_trains_each_fold_at_its_own():
    """A fold has two batches and all data have four: a schedule learns it for each of them."""
    grid = {"optimizer__learning_rate": [StepDecay(0.1, 0.5), InverseTimeDecay(0.2, 1.0), 0.1]}
    rates, best = last_rates(classifier(callbacks=[stalled()]), grid)
    # The last step of the third epoch of a fold is at 2.5 epochs.
    np.testing.assert_allclose(rates, [0.1 / 4 / 2, 0.2 / 3.5 / 2, 0.1 / 2], rtol=1e-6)
    assert_rates(best, [0.1, 0.1, 0.05])


@pytest.mark.parametrize(
    ("arguments", "grid"),
    [
        ({}, {"callbacks": [[stalled(0.25)], [stalled(0.5)]]}),
        (
            {
                "fit__callbacks": PlateauDecay,
                "fit__callbacks__monitor": "loss",
                "fit__callbacks__factor": 0.1,
                "fit__callbacks__patience": 1,
                "fit__callbacks__min_delta": 1e6,
            },
            {"fit__callbacks__factor": [0.25, 0.5]},
        ),
    ],
    ids=["callbacks", "factors"],
)
def test_a_grid_of_plateaus_trains_each_fold_with_its_own(arguments, grid):
    """As lists of callbacks, or by the arguments of the class."""
    rates, best = last_rates(classifier(optimizer__learning_rate=0.1, **arguments), grid)
    np.testing.assert_allclose(rates, [0.1 * 0.25, 0.1 * 0.5], rtol=1e-6)
    assert_rates(best, [0.1, 0.1, 0.05])
