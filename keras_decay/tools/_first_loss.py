"""The loss of each batch of a `fit` at the weights with which the `fit` began."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

from keras_decay import _backend, _keras
from keras_decay._backend import PURE_STEP, STEP_TAKES_ITERATOR
from keras_decay.optimizer._restore import optimizer_variables, preserve_torch_states


class FirstLoss:
    """Wraps the compiled training step of a model in `fit`, and notes the batch's first loss.

    The first loss is that of the batch at the first weights, in training mode and with the random
    numbers that the step is about to draw, such as Dropout's.

    It takes a forward pass if the model trains with Keras's own step. A custom step has to run a
    second time, because only that step knows its loss. All that this changes, such as the
    statistics of a BatchNormalization, is put back before the real step. Each batch is read from
    the data once, and is freed before the next one.

    Args:
        model: A model in `fit`.
        forward: Whether a forward pass is enough, from `_keras.trains_as_keras_does`.
    """

    def __init__(self, model: Any, forward: bool):
        self.loss: Any = None
        self._model = model
        self._forward = forward
        self._first: Any = None
        step = model.train_function
        if PURE_STEP:
            self._step = step
            model.train_function = self._pure_step
            # XLA removes the gradients, on which the loss does not depend.
            self._loss = _backend.compiled_for(model, self._loss_of_state)
        else:
            self._step = (lambda data: step(iter(data))) if STEP_TAKES_ITERATOR else step
            model.train_function = self._step_on_data
            self._loss = _backend.compiled_for(model, partial(_keras.training_loss, model))

    def _pure_step(self, state: Any, iterator: Any) -> Any:
        # Old versions of Keras pass a list with one batch instead of an iterator.
        listed = isinstance(iterator, list)
        data = iterator[0] if listed else next(iterator)
        if self._first is None:
            # The step donates the memory of the state that it gets.
            self._first = [[_backend.device_copy(each) for each in group] for group in state]
        trainable, non_trainable, optimizer, _ = self._first
        _, now, _, metrics = state
        non_trainable = [
            first if _backend.is_float(first) else seed
            for first, seed in zip(non_trainable, now, strict=True)
        ]
        first_state = trainable, non_trainable, optimizer, metrics
        self.loss = self._loss(first_state, data)
        return self._step(state, iterator if listed else iter([data]))

    def _loss_of_state(self, state: Any, data: Any) -> Any:
        return _loss_in(self._model.train_step(state, data)[0])

    def _step_on_data(self, data: Any) -> Any:
        if STEP_TAKES_ITERATOR:  # Its step runs even past the end of the data.
            data = [next(data)]
        if self._first is None:
            # Only floats: the seeds, which are ints, must stay those of the step.
            first = [each for each in self._model.variables if _backend.is_float(each)]
            if not self._forward:  # It may update twice: its loss depends on the optimizer.
                first += optimizer_variables(self._model)
            self._first = _copies(first)
            logs = self._step(data)
            self.loss = _loss_in(logs)
            return logs
        with self._at_first_weights():
            if self._forward:
                with _backend.without_gradients():
                    self.loss = self._loss(data[0])
            else:
                self.loss = _loss_in(self._step(data))
        return self._step(data)

    @contextlib.contextmanager
    def _at_first_weights(self) -> Iterator[None]:
        generator = _keras.global_seed_generator()
        variables = [*self._model.variables, *self._model.metrics_variables]
        if not self._forward:
            variables += optimizer_variables(self._model)
        if generator is not None:
            variables.append(generator.state)
        now = _copies(variables)
        try:
            with preserve_torch_states():
                _assign(self._first)
                yield
        finally:
            _assign(now)


def _loss_in(logs: dict[str, Any]) -> Any:
    # Without a loss, the range test ends with an error elsewhere.
    return logs.get("loss", float("nan"))


def _copies(variables: list[Any]) -> list[tuple[Any, Any]]:
    return [(each, _backend.device_copy(each)) for each in variables]


def _assign(values: list[tuple[Any, Any]]) -> None:
    for variable, value in values:
        variable.assign(value)
