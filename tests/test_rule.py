"""The decision rule: beside the peers' own code on random sequences, and case by case."""

from __future__ import annotations

import functools
import math
from contextlib import nullcontext as no_warning
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from internals import PlateauState, Rule
from support import BACKEND, number

from keras_decay import PlateauDecay, PlateauScale

# Peers say nothing of a floor at the rate; `test_never_silent` has what we say.
pytestmark = [
    pytest.mark.any_keras,
    pytest.mark.filterwarnings("ignore:A reduction is due:UserWarning"),
]

# Multiples of 1/8 are exact in every float type, so no peer decides by its rounding.
eighths = st.integers(-40, 40).map(lambda n: n / 8)
positive_eighths = st.integers(1, 80).map(lambda n: n / 8)
deltas = st.integers(0, 8).map(lambda n: n / 8)
patiences = st.integers(1, 5)
cooldowns = st.integers(0, 4)
modes = st.sampled_from(["min", "max"])
floors = st.sampled_from([0.0, 0.004, 0.1, 1.0])

FACTOR = 0.5
RATE = 0.1


def with_optimizer():
    """The part of a model that a plateau needs: an object with an optimizer."""
    return SimpleNamespace(optimizer=keras.optimizers.SGD(RATE))


def our_rates(values, **arguments):
    """The rate after each of the values."""
    model = with_optimizer()
    plateau = PlateauDecay(factor=FACTOR, **arguments)
    plateau.attach(model)
    rates = []
    for epoch, value in enumerate(values):
        plateau.update(value, epoch)
        rates.append(number(model.optimizer.learning_rate))
    return rates


def rates_of_keras(values, **arguments):
    model = with_optimizer()
    peer = keras.callbacks.ReduceLROnPlateau(factor=FACTOR, **arguments)
    peer.set_model(model)
    peer.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        peer.on_epoch_end(epoch, {"val_loss": value})
        rates.append(number(model.optimizer.learning_rate))
    return rates


@given(st.lists(eighths, max_size=40), patiences, cooldowns, deltas, modes, floors)
def test_decides_as_keras_does(values, patience, cooldown, min_delta, mode, floor):
    """`ReduceLROnPlateau` of Keras, whose cooldown of c ignores c - 1 observations."""
    ours = our_rates(
        values,
        patience=patience,
        cooldown=cooldown,
        min_delta=min_delta,
        mode=mode,
        min_learning_rate=floor,
    )
    theirs = rates_of_keras(
        values,
        patience=patience,
        cooldown=cooldown + 1 if cooldown else 0,
        min_delta=min_delta,
        mode=mode,
        min_lr=floor,
    )
    if floor <= RATE:
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    else:  # Keras reduces nothing either, where its floor is above the rate.
        assert set(ours) | set(theirs) <= {np.float32(RATE)}


@pytest.mark.skipif(BACKEND != "torch", reason="the peer is PyTorch's own scheduler")
@given(
    st.lists(eighths | st.just(math.nan) | st.just(math.inf), max_size=40),
    patiences,
    cooldowns,
    deltas,
    st.booleans(),
    st.sampled_from([0.0, 0.004, 0.1]),
)
def test_decides_as_pytorch_does(values, patience, cooldown, min_delta, relative, floor):
    """`ReduceLROnPlateau` of PyTorch, whose patience of p waits for p + 1 observations."""
    import torch

    if relative:
        # PyTorch's relative threshold moves the wrong way below zero; and at 1 it takes nothing
        # for better, not even the first value.
        values, min_delta = [abs(value) for value in values], min_delta * 7 / 8
    ours = our_rates(
        values,
        patience=patience + 1,
        cooldown=cooldown,
        min_delta=min_delta,
        relative=relative,
        mode="min",
        min_learning_rate=floor,
    )
    peer_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(
        peer_optimizer,
        mode="min",
        factor=FACTOR,
        patience=patience,
        cooldown=cooldown,
        threshold=min_delta,
        threshold_mode="rel" if relative else "abs",
        min_lr=floor,
        eps=0.0,
    )
    theirs = []
    for value in values:
        peer.step(value)
        theirs.append(peer_optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.skipif(BACKEND != "jax", reason="the peer is JAX's")
@given(
    st.lists(eighths | st.just(math.nan) | st.just(math.inf), max_size=40),
    patiences,
    cooldowns,
    st.sampled_from([0.125, 0.5]),
    st.booleans(),
)
def test_decides_as_optax_does(values, patience, cooldown, min_delta, relative):
    """`reduce_on_plateau` of optax: the same patience, the same cooldown."""
    if relative:
        values = [abs(value) for value in values]
    ours = our_rates(
        values,
        patience=patience,
        cooldown=cooldown,
        min_delta=min_delta,
        relative=relative,
        mode="min",
    )
    state, theirs = None, []
    for value in values:
        state = step_of_optax(min_delta, relative)(state, value, patience, cooldown)
        theirs.append(RATE * float(state.scale))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@functools.cache
def step_of_optax(min_delta, relative):
    import jax
    from optax.contrib import reduce_on_plateau

    rtol, atol = (min_delta, 0.0) if relative else (0.0, min_delta)

    @jax.jit
    def step(state, value, patience, cooldown):
        peer = reduce_on_plateau(FACTOR, patience, rtol, atol, cooldown)
        return peer.update(1.0, state or peer.init(0.0), value=value)[1]

    return step


def reductions(values, mode="min", memory=None, **arguments):
    """The indices of the values at which a reduction was made, and the memory in the end."""
    defaults = {
        "factor": FACTOR,
        "patience": 1,
        "min_delta": 0.0,
        "relative": False,
        "cooldown": 0,
        "reduce_on": "plateau",
        "smoothing": 0.0,
        "max_reductions": None,
    }
    rule = Rule(**{**defaults, **arguments})
    memory = memory or PlateauState()
    at = []
    for index, value in enumerate(values):
        memory, due = rule.observe(memory, value, mode)
        if due:
            memory = rule.reduce(memory)
            at.append(index)
    return at, memory


def test_waits_for_patience_observations_in_a_row():
    """A better value starts the count anew."""
    at, memory = reductions([5, 6, 6, 4, 5, 5, 5, 5], patience=3)
    assert at == [6]
    assert memory == PlateauState(best=4, wait=1, scale=0.5, reductions=1)


@pytest.mark.parametrize("cooldown", [0, 1, 2, 3])
def test_exactly_cooldown_observations_are_not_counted(cooldown):
    """With patience 1 on a flat metric, a reduction comes every cooldown + 1 observations."""
    at, _ = reductions([1.0] * 12, cooldown=cooldown)
    assert at == list(range(1, 12, cooldown + 1))


def test_a_better_value_during_cooldown_becomes_best_and_uses_it_up():
    """The cooldown passes by observations, whatever they are."""
    at, memory = reductions([5, 5, 3, 4, 4], cooldown=2)
    assert at == [1, 4]
    assert memory.best == 3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_not_finite_is_never_better_and_never_best(bad, mode):
    """First, in the middle, or all the way."""
    assert reductions([bad, 5, bad, 5], mode, patience=3)[1] == PlateauState(best=5, wait=2)
    at, memory = reductions([bad] * 4, mode, patience=2)
    assert at == [1, 3]
    assert memory.best is None


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_a_relative_delta_works_for_either_sign_of_the_metric(mode, scale):
    """A change of 10% counts and one of 5% does not, above zero and below it."""
    best = 100.0 * scale
    better = -1 if mode == "min" else 1
    for change, counts in [(5.0, False), (10.0, False), (11.0, True)]:
        _, memory = reductions(
            [best, best + better * change], mode, patience=9, min_delta=0.1, relative=True
        )
        assert (memory.wait == 0) is counts


def test_an_absolute_delta_has_to_be_exceeded():
    """A value better by exactly `min_delta` is not better."""
    assert reductions([1.0, 0.5], patience=9, min_delta=0.5)[1].wait == 1
    assert reductions([1.0, 0.375], patience=9, min_delta=0.5)[1].wait == 0


def test_on_improvement_reduces_at_every_improvement_but_the_first_value():
    """The second technique of the lecture notes, taken literally."""
    at, memory = reductions([5, 4, 4, 6, 3, 2], reduce_on="improvement")
    assert at == [1, 4, 5]
    assert memory == PlateauState(best=2, scale=0.125, reductions=3)


def test_on_improvement_counts_improvements_across_other_values():
    """With patience 2, every second improvement, however far apart; none in a cooldown."""
    assert reductions([5, 4, 9, 3, 9, 2, 1], reduce_on="improvement", patience=2)[0] == [3, 6]
    assert reductions([5, 4, 3, 2, 1], reduce_on="improvement", cooldown=1)[0] == [1, 3]


def test_a_lower_patience_than_before_takes_effect_at_the_next_bad_value():
    """A memory that has waited longer than the new patience is not stuck."""
    memory = PlateauState(best=1.0, wait=7)
    assert reductions([0.5, 0.5], memory=memory, patience=3)[0] == []
    assert reductions([1.0], memory=memory, patience=3)[0] == [0]


fractions = st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.999])
finite_or_not = st.lists(eighths | st.just(math.nan) | st.just(math.inf), max_size=40)


@given(finite_or_not, fractions, st.lists(patiences, min_size=1, max_size=4), modes, deltas)
def test_smoothing_patiences_and_their_limit_are_those_of_a_plain_reference(
    values, smoothing, patience, mode, min_delta
):
    """The moving average as a sum with weights that add up to one; a patience by reduction."""
    limit = len(patience) + 1
    expected, finite, best, wait = [], [], None, 0
    for index, observed in enumerate(values):
        value = math.nan
        if math.isfinite(observed):
            finite.append(observed)
            weights = [smoothing**age for age in reversed(range(len(finite)))]
            value = float(np.average(finite, weights=weights))
        sign = 1 if mode == "min" else -1
        if value == value and (best is None or sign * (best - value) > min_delta + 1e-9):
            best, wait = value, 0
        else:
            wait += 1
        if wait == patience[min(len(expected), len(patience) - 1)]:
            wait = 0
            if len(expected) < limit:
                expected.append(index)
    # Off by 1e-9, for no decision to hang on the rounding of the average.
    arguments = {"min_delta": min_delta + 1e-9, "smoothing": smoothing, "mode": mode}
    plateau = PlateauDecay(factor=FACTOR, patience=patience, max_reductions=limit, **arguments)
    plateau.attach(with_optimizer())
    assert [i for i, value in enumerate(values) if plateau.update(value, i)] == expected


@pytest.mark.skipif(BACKEND != "jax", reason="the peer is JAX's")
@given(st.lists(positive_eighths, min_size=1, max_size=30), st.sampled_from([0.25, 0.5, 0.875]))
def test_smooths_as_optax_does(values, smoothing):
    """`optax.ema` with `debias`. (`reduce_on_plateau` itself takes means of separate runs of
    `accumulation_size` values, which are a moving average only for runs of one.)"""
    import optax

    peer = optax.ema(smoothing, debias=True)
    state = peer.init(np.float32(0.0))
    memory = PlateauState()
    best = math.inf
    for value in values:
        average, state = peer.update(np.float32(value), state)
        best = min(best, float(average))
        memory = reductions([value], memory=memory, smoothing=smoothing, patience=99)[1]
        assert memory.best == pytest.approx(best, rel=1e-5)


def test_one_lucky_value_does_not_spend_the_patience():
    """On a falling metric, where without smoothing all that follow are worse than it."""
    values = [10.0 - index / 2 - 4.0 * (index == 2) for index in range(10)]
    assert reductions(values, patience=5)[0] == [7]
    assert reductions(values, patience=5, smoothing=0.9)[0] == []


def test_values_that_are_not_finite_are_not_in_the_average():
    """It is that of the finite ones, though each of the others counts as not better."""
    _, plain = reductions([4.0, 2.0], smoothing=0.5, patience=9)
    _, memory = reductions([4.0, math.nan, math.inf, 2.0], smoothing=0.5, patience=9)
    assert memory == plain
    assert memory.best == pytest.approx((4.0 * 0.5 + 2.0) / 1.5)
    assert memory.observations == 2


def test_each_reduction_has_its_patience_and_the_last_one_stays():
    """Of a list or a tuple."""
    assert reductions([1.0] * 12, patience=(4, 1, 2))[0] == [4, 5, 7, 9, 11]
    for patience in ([4, 1, 2], (4, 1, 2), np.array([4, 1, 2]).tolist()):
        plateau = PlateauDecay(factor=FACTOR, patience=patience)
        plateau.attach(with_optimizer())
        assert [i for i in range(12) if plateau.update(1.0, i)] == [4, 5, 7, 9, 11]


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_a_state_of_a_run_without_smoothing_begins_the_average(smoothing):
    """`average` and `observations` are absent from its files, as all that is as at the start."""
    numbers = {"best": 3.0, "wait": 1, "scale": 0.5, "reductions": 1, "epochs": 5, "epoch": 4}
    scale = PlateauScale(RATE, state=numbers)
    assert scale.state.plateau == PlateauState(3.0, 1, 0, 0.5, 1)
    memory = reductions([2.0], memory=scale.state.plateau, smoothing=smoothing, patience=9)[1]
    assert memory.best == 2.0
    assert scale.get_config()["state"] == numbers


def plateau_with(**arguments):
    model = with_optimizer()
    plateau = PlateauDecay(factor=FACTOR, patience=9, **arguments)
    plateau.attach(model)
    return plateau, model


def test_reduces_by_hand():
    """With everything that a reduction does: `wait` is 0 again, and the cooldown begins."""
    plateau, model = plateau_with(cooldown=2)
    plateau.update(1.0)
    plateau.update(1.0)
    assert plateau.reduce() is True
    assert number(model.optimizer.learning_rate) == pytest.approx(RATE * FACTOR)
    assert plateau.state == {
        "best": 1.0,
        "wait": 0,
        "cooldown": 2,
        "scale": FACTOR,
        "reductions": 1,
    }


@pytest.mark.parametrize("limit", [{"min_learning_rate": RATE}, {"max_reductions": 0}])
def test_by_hand_too_nothing_is_reduced_where_nothing_may_be(limit):
    """It returns False; `stop_at_minimum` applies here too."""
    plateau, model = plateau_with(stop_at_minimum=True, **limit)
    model.stop_training = False
    with pytest.warns(UserWarning, match="floor") if "min_learning_rate" in limit else no_warning():
        assert plateau.reduce() is False
    assert number(model.optimizer.learning_rate) == pytest.approx(RATE)
    assert plateau.state["reductions"] == 0
    assert model.stop_training is True


def test_reduces_a_schedule_by_hand_and_says_so(capsys):
    """The scale is the plateau's; `verbose` has no epoch to name."""
    model = SimpleNamespace(optimizer=keras.optimizers.SGD(PlateauScale(RATE)))
    plateau = PlateauDecay(factor=FACTOR, verbose=1)
    plateau.attach(model)
    assert plateau.reduce()
    assert number(model.optimizer.learning_rate) == pytest.approx(RATE * FACTOR)
    assert capsys.readouterr().out == "\nPlateauDecay reduces the learning rate to 0.05.\n"


def test_before_it_is_attached_nothing_can_be_reduced():
    """The error says what to call."""
    with pytest.raises(RuntimeError, match=r"call `attach\(model\)` first"):
        PlateauDecay().reduce()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"patience": []}, ValueError, r"`patience` must be an int >= 1 or a non-empty sequence"),
        ({"patience": [3, 0]}, ValueError, r"`patience\[1\]` must be an int >= 1\. Received"),
        ({"patience": [3, True]}, TypeError, r"`patience\[1\]` must be an int >= 1\. Received"),
        ({"patience": 0}, ValueError, r"`patience` must be an int >= 1\. Received: patience=0"),
        ({"smoothing": 1.0}, ValueError, r"`smoothing` must be a number in \[0, 1\)"),
        ({"smoothing": -0.1}, ValueError, r"`smoothing` must be a number in \[0, 1\)"),
        ({"smoothing": "0"}, TypeError, r"`smoothing` must be a number in \[0, 1\)"),
        ({"max_reductions": -1}, ValueError, r"`max_reductions` must be an int >= 0"),
        ({"max_reductions": 1.0}, TypeError, r"`max_reductions` must be an int >= 0"),
        ({"recover": 1}, TypeError, r"`recover` must be True or False"),
        ({"optimizer": None}, TypeError, r"`optimizer` must be a"),
    ],
)
def test_a_bad_argument_of_these_is_a_clear_error(arguments, error, message):
    """In the constructor."""
    with pytest.raises(error, match=message):
        PlateauDecay(**arguments)
