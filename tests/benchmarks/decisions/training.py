"""Training runs by the hundred: one program, with the networks and optimizers of Keras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks.decisions.methods import Action, Losses, Method
from tests.benchmarks.decisions.tasks import Data, Task, make_optimizer

Arrays = list[jax.Array]


@dataclass(frozen=True)
class Runs:
    """What became of the runs; arrays of shape (epochs, runs), or of (runs,) for each length.

    Attributes:
        value: The validation loss.
        training: The training loss, the mean of the batches, as `fit` logs it.
        rate: The rate of the last step.
        firsts: The training loss of the first batch of each epoch.
        reductions: How many they were, for each length.
        test: The test loss of the last epoch, for each length.
        best_test: That of the epoch of the best validation loss.
    """

    value: np.ndarray
    training: np.ndarray
    rate: np.ndarray
    firsts: np.ndarray
    reductions: dict[int, np.ndarray]
    test: dict[int, np.ndarray]
    best_test: dict[int, np.ndarray]

    def above_first(self, length: int) -> list[float]:
        """The highest training loss, as a multiple of the first batch's."""
        return _highest(self.training[:length] / self.firsts[0])

    def above_best(self, length: int) -> list[float]:
        """The highest loss, as a multiple of the lowest before it; 1 where none was above."""
        multiples = []
        for losses in (self.value[:length], self.training[:length]):
            lowest = np.fmin.accumulate(losses, 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                multiples.append(_highest(losses[1:] / lowest[:-1]))
        return np.maximum(1.0, np.max(multiples, 0)).tolist()

    def continued(self, length: int) -> list[float]:
        """The training loss of the last epoch, as a multiple of its first batch's."""
        with np.errstate(divide="ignore", invalid="ignore"):  # A loss can be 0.
            return _highest(self.training[length - 1 : length] / self.firsts[length - 1])


def _highest(multiples: np.ndarray) -> list[float]:
    return np.where(np.isfinite(multiples), multiples, np.inf).max(0).tolist()


class Trainer:
    """Trains a task with an optimizer."""

    def __init__(self, task: Task, optimizer: str):
        self.task, self.optimizer_name = task, optimizer
        self._model = task.model(task.load(0), 0)
        self._optimizer = make_optimizer(optimizer)
        self._optimizer.build(self._model.trainable_variables)
        names = [variable.name for variable in self._optimizer.variables]
        self._momentum = [name.endswith("_momentum") for name in names]
        self._second = [name.endswith("_velocity") for name in names]
        self._rate = names.index("learning_rate")
        self._counter = names.index("iteration" if "iteration" in names else "iterations")
        self._epoch = jax.jit(self._train_epoch)
        self._evaluate = jax.jit(jax.vmap(self._loss_of, (0, None, None)))

    def train(
        self,
        data: Data,
        seed: int,
        configurations: list[tuple[Method, float]],
        lengths: tuple[int, ...],
    ) -> Runs:
        """Trains one network for each pair of a method and a first rate."""
        epochs, count = max(lengths), len(configurations)
        orders = self.task.batches(data, seed, epochs)
        steps = orders.shape[1]
        deciders = [method.make(rate, epochs, steps) for method, rate in configurations]
        model = self.task.model(data, seed)

        def repeated(variables: list[Any]) -> Arrays:
            return [jnp.repeat(variable.value[None], count, 0) for variable in variables]

        weights = repeated(model.trainable_variables)
        state = repeated(self._optimizer.variables)
        fixed = [variable.value for variable in model.non_trainable_variables]
        lowest, best_weights = np.full(count, np.inf), weights
        rule_best = last_good = (weights, state)
        history = np.zeros((4, epochs, count))
        reductions, test, best_test = {}, {}, {}
        for epoch in range(epochs):
            rates = np.stack([decider.rates(epoch) for decider in deciders]).astype("float32")
            rows = orders[epoch]
            weights, state, fixed, losses = self._epoch(
                weights, state, fixed, rates.T, data.x[rows], data.t[rows]
            )
            losses = np.asarray(losses, "float64")
            value = np.asarray(self._evaluate(weights, data.x_val, data.t_val), "float64")
            training = losses.mean(0)
            history[:, epoch] = value, training, rates[:, -1], losses[0]
            lower = value < lowest
            lowest = np.where(lower, value, lowest)
            best_weights = _pick(lower, weights, best_weights)
            actions = [
                decider.observe(epoch, Losses(*map(float, losses)))
                for decider, *losses in zip(deciders, value, training, history[3, 0], strict=True)
            ]
            if (epoch + 1) in lengths:
                # Before anything goes back: what `fit` leaves after its last epoch is decided
                # by the callback, which goes back at a reduction of the last epoch too.
                best_test[epoch + 1] = self._test(best_weights, data)
                reductions[epoch + 1] = np.array([each.reductions for each in deciders])
            better = np.array([action.better for action in actions])
            rule_best = tuple(map(_pick, (better, better), (weights, state), rule_best))
            weights, state = self._go_back(actions, weights, state, rule_best, last_good)
            good = np.array([action.good for action in actions])
            last_good = tuple(map(_pick, (good, good), (weights, state), last_good))
            if (epoch + 1) in lengths:
                test[epoch + 1] = self._test(weights, data)
        return Runs(*history, reductions, test, best_test)

    def _go_back(
        self,
        actions: list[Action],
        weights: Arrays,
        state: Arrays,
        best: tuple[Arrays, Arrays],
        last_good: tuple[Arrays, Arrays],
    ) -> tuple[Arrays, Arrays]:
        recover = np.array([action.recover for action in actions])
        weights = _pick(recover, last_good[0], weights)
        moments = [a or b for a, b in zip(self._momentum, self._second, strict=True)]
        state = _pick(recover, last_good[1], state, moments)
        forms = np.array([action.restore for action in actions])
        if (forms != "").any():
            weights = _pick(forms != "", best[0], weights)
            # (form, of the best epoch?) for the first and the second moment.
            first = forms == "restore + state"
            zero = np.char.startswith(forms, "restore + zero")
            corrected = forms == "restore + zero + corrected"
            second = first | (forms == "restore + zero + second") | corrected
            nothing = [jnp.zeros_like(array) for array in state]
            state = _pick(first, best[1], state, self._momentum)
            state = _pick(zero, nothing, state, self._momentum)
            state = _pick(second, best[1], state, self._second)
            scaled = [self._corrected(array, state, best[1]) for array in state]
            state = _pick(corrected, scaled, state, self._second)
        return weights, state

    def _corrected(self, moment: jax.Array, now: Arrays, best: Arrays) -> jax.Array:
        """A second moment of the best epoch, for the counter that has gone on since."""
        if not any(self._second) or moment.ndim < 2:
            return moment
        share = [
            1 - self._optimizer.beta_2 ** each[self._counter].astype("float32")
            for each in (now, best)
        ]
        scale = jnp.where(share[1] > 0, share[0] / share[1], 1.0)
        return moment * scale.reshape((-1,) + (1,) * (moment.ndim - 1))

    def _test(self, weights: Arrays, data: Data) -> np.ndarray:
        return np.asarray(self._evaluate(weights, data.x_test, data.t_test), "float64")

    def _train_epoch(
        self, weights: Arrays, state: Arrays, fixed: Arrays, rates: Any, xs: Any, ts: Any
    ) -> Any:
        step = jax.vmap(self._step, (0, 0, None, 0, None, None), (0, 0, None, 0))

        def body(carry: Any, batch: Any) -> Any:
            *carry, loss = step(*carry, *batch)
            return tuple(carry), loss

        carry, losses = jax.lax.scan(body, (weights, state, fixed), (rates, xs, ts))
        return *carry, losses

    def _step(
        self, weights: Arrays, state: Arrays, fixed: Arrays, rate: Any, x: Any, t: Any
    ) -> Any:
        def loss(weights: Arrays) -> Any:
            y, new = self._model.stateless_call(weights, fixed, x, training=True)
            return self.task.loss(t, y), new

        (value, fixed), gradients = jax.value_and_grad(loss, has_aux=True)(weights)
        state = [*state]
        state[self._rate] = rate
        weights, state = self._optimizer.stateless_apply(state, gradients, weights)
        return weights, state, fixed, value

    def _loss_of(self, weights: Arrays, x: Any, t: Any) -> Any:
        fixed = [variable.value for variable in self._model.non_trainable_variables]
        y, _ = self._model.stateless_call(weights, fixed, x, training=False)
        return self.task.loss(t, y)


@jax.jit
def _where(mask: Any, yes: Any, no: Any) -> Any:
    return jnp.where(mask.reshape((-1,) + (1,) * (no.ndim - 1)), yes, no)


def _pick(mask: np.ndarray, yes: Arrays, no: Arrays, which: list[bool] | None = None) -> Arrays:
    """Of each run, the arrays of `yes` where the mask says so, else those of `no`."""
    if not mask.any():
        return no
    which = which or [True] * len(no)
    return [
        _where(mask, a, b) if picked else b for a, b, picked in zip(yes, no, which, strict=True)
    ]
