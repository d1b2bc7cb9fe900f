"""The decision rule: beside the peers' own code on random sequences, and case by case."""

from __future__ import annotations

import functools
import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import BACKEND, number

from keras_decay import PlateauDecay
from keras_decay._rule import Memory, Rule

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
    """As much of a model as a plateau needs: something with an optimizer."""
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
        "patience": (1,),
        "min_delta": 0.0,
        "relative": False,
        "cooldown": 0,
        "on_improvement": False,
        "smoothing": 0.0,
        "max_reductions": None,
    }
    if isinstance(arguments.get("patience"), int):
        arguments["patience"] = (arguments["patience"],)
    rule = Rule(**{**defaults, **arguments})
    memory = memory or Memory()
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
    assert memory == Memory(best=4, wait=1, scale=0.5, reductions=1)


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
    assert reductions([bad, 5, bad, 5], mode, patience=3)[1] == Memory(best=5, wait=2)
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
    at, memory = reductions([5, 4, 4, 6, 3, 2], on_improvement=True)
    assert at == [1, 4, 5]
    assert memory == Memory(best=2, scale=0.125, reductions=3)


def test_on_improvement_counts_improvements_across_other_values():
    """With patience 2, every second improvement, however far apart; none in a cooldown."""
    assert reductions([5, 4, 9, 3, 9, 2, 1], on_improvement=True, patience=2)[0] == [3, 6]
    assert reductions([5, 4, 3, 2, 1], on_improvement=True, cooldown=1)[0] == [1, 3]


def test_a_lower_patience_than_before_takes_effect_at_the_next_bad_value():
    """A memory that waited longer than a new callback would is not stuck."""
    memory = Memory(best=1.0, wait=7)
    assert reductions([0.5, 0.5], memory=memory, patience=3)[0] == []
    assert reductions([1.0], memory=memory, patience=3)[0] == [0]
