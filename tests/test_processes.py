"""One decision for several processes, with the other processes played: real ones are in the
`test_distributed` files."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_decay import PlateauDecay
from keras_decay.plateau import _processes

# What no version of Keras knows of.
pytestmark = pytest.mark.any_keras

finite = st.floats(-1e6, 1e6)


@pytest.fixture(scope="module")
def observed_beside():
    """The function that attaches a plateau and returns what it took for the value of the
    metric, beside processes with other values, and with other checksums if `drifted`."""
    with pytest.MonkeyPatch.context() as patch:

        def observe(own, *others, drifted=False):
            def gather(row):
                assert row.dtype == "float64"
                assert row.shape == (2,)
                rows = [[other, row[1] + drifted] for other in others]
                return np.array([row, *rows])

            patch.setattr(_processes, "all_gather", lambda variable: gather)
            plateau = PlateauDecay(mode="min", patience=1)
            plateau.attach(SimpleNamespace(optimizer=keras.optimizers.SGD(0.1)))
            plateau.update(own)
            return plateau.state["best"]

        yield observe


@given(value=finite, count=st.integers(1, 100))
def test_equal_values_are_taken_as_they_are(observed_beside, value, count):
    """To the last bit: the rates of n processes are those of one."""
    assert observed_beside(value, *[value] * (count - 1)) == value


@given(values=st.lists(finite, min_size=2, max_size=20))
def test_the_mean_is_the_same_on_every_process(observed_beside, values):
    """Whatever the order they are gathered in; it is the exact mean, rounded."""
    mean = observed_beside(*values)
    assert mean == observed_beside(*reversed(values))
    exact = sum(map(Fraction, values)) / len(values)
    assert math.isclose(mean, exact, rel_tol=1e-15, abs_tol=1e-300)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("own", [True, False])
def test_a_value_that_is_not_finite_spoils_the_observation(observed_beside, value, own):
    """On one process alone: none of them takes it, or the others', for the best."""
    assert observed_beside(*((value, 1.0) if own else (1.0, value))) is None


def test_opposite_infinities_are_not_finite(observed_beside):
    """Their sum is an error in Python."""
    assert observed_beside(math.inf, -math.inf) is None


def test_processes_that_have_drifted_apart_are_an_error(observed_beside):
    """It names the state and the rates of this one, for comparing with the others'."""
    with pytest.raises(RuntimeError, match=r"drift apart.*Here: PlateauState\(best=None.*0\.1"):
        observed_beside(1.0, 1.0, drifted=True)
