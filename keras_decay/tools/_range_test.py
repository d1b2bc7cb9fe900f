"""The learning-rate range test, which suggests the rate to start from."""

from __future__ import annotations

import contextlib
import itertools
import math
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks, _keras
from keras_decay._backend import sync_variables, to_number, variable_scope
from keras_decay.optimizer._rates import steps_done
from keras_decay.optimizer._restore import (
    preserve_attributes,
    preserve_random_states,
    preserve_variables,
)
from keras_decay.schedules._compose import JoinedSchedule
from keras_decay.schedules._decay import EpochSchedule
from keras_decay.tools._first_loss import FirstLoss
from keras_decay.tools._records import Columns

NO_BATCH = "`x` must give at least one batch. Received: data without a batch"


@dataclass(frozen=True, eq=False, repr=False)
class RangeTest(Columns):
    """The result of `find_learning_rate`, with one entry per batch, up to where it stopped.

    Args:
        learning_rate: Array, the rate at which each batch was trained.
        loss: Array, the loss of each batch before its step. All are finite.
        smoothed: Array, the loss of a typical batch, with only the change that the rates have
            made. It is flat while they change nothing, however much the batches differ.
            `find_learning_rate` has the formula.

    Example:

    >>> rate = 10.0 ** np.arange(-6, 2)
    >>> loss = np.array([2.3, 2.3, 2.2, 1.9, 1.2, 0.8, 2.5, 9.0])
    >>> test = keras_decay.RangeTest(rate, loss, smoothed=loss)
    >>> round(test.suggestion, 4)
    0.01
    """

    learning_rate: NDArray[np.float64]
    loss: NDArray[np.float64]
    smoothed: NDArray[np.float64]

    COLUMNS = ("learning_rate", "loss", "smoothed")

    @property
    def suggestion(self) -> float:
        """A tenth of the rate at which the smoothed loss has made nine tenths of its fall.

        ```
        fall       = smoothed[0] - min(smoothed)
        end        = the first i with smoothed[i] <= smoothed[0] - 0.9 * fall
        suggestion = learning_rate[end] / 10
        ```

        Steps at this rate are large enough for the loss to fall fast, and far below the rate at
        which it rises again. Start a decay from it, but look at the curve with `keras_decay.plot`
        first: no rule sees all that a curve shows.

        Raises:
            ValueError: the smoothed loss does not fall, or by no more than a rounding error.

        Source: a tenth of the rate at the minimum is the rule `minimum` of fastai's `lr_find`
        (Howard and Gugger, "fastai: A Layered API for Deep Learning", Information 11(2), 2020).
        The minimum itself is poorly determined: once a task is nearly solved, the loss stays low
        while the rate grows a hundredfold.
        """
        smoothed = np.asarray(self.smoothed)
        fall = smoothed[0] - smoothed.min()
        # A smaller fall can be a rounding error of float32.
        if fall <= 1e-5 * abs(smoothed[0]):
            raise ValueError(
                "`smoothed` must fall below its first value somewhere to suggest a rate. Test "
                "other rates (`lowest=`, `highest=`) or more `steps`, or see whether the model "
                f"learns at all. Received: smoothed={smoothed}"
            )
        end = int(np.argmax(smoothed <= smoothed[0] - 0.9 * fall))
        return float(self.learning_rate[end]) / 10

    def __repr__(self) -> str:
        rates = f"{self.learning_rate[0]:.4g} to {self.learning_rate[-1]:.4g}"
        return f"<RangeTest of {len(self.loss)} batches, learning rates {rates}>"


def find_learning_rate(
    model: Any,
    x: Any = None,
    y: Any = None,
    *,
    batch_size: int | None = None,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    stop_at: float = 4.0,
    smoothing: float = 0.9,
    verbose: int | str = "auto",
    sample_weight: Any = None,
    class_weight: dict[int, float] | None = None,
) -> RangeTest:
    """The learning-rate range test: trains at rising rates, and puts everything back.

    ```
    learning_rate[i] = lowest * (highest / lowest) ** (i / (steps - 1))      i = 0, ..., steps - 1
    change[i]        = f(loss[i]) - f(first_loss[i])
    average          = smoothing * average + (1 - smoothing) * change[i]
    smoothed[i]      = f_inverse(mean(f(first_loss)) + average / (1 - smoothing ** (i + 1)))
    ```

    A rate that is too low leaves the loss where it is, a good rate lowers it, and a rate that is
    too high makes it rise. One short test shows all three, and the `suggestion` in its result is a
    rate to start a decay from.

    Each batch is compared with itself. `first_loss[i]` is the loss of batch i at the first weights,
    in training mode and with the random numbers of its step, such as Dropout's. So the change is
    zero as long as the rate has no effect, whatever the batch. If all losses are positive, f is the
    logarithm, and the change is that of a ratio. Otherwise f is `arcsinh(loss / size)`, where
    `size` is the median of the absolute losses, zeros left out. That is a difference for losses of
    about that size, and a logarithm for much larger ones, so that no single batch decides.

    The test ends after `steps` batches, or earlier: when the average change would raise a loss of
    `size` (or any positive loss) to more than `stop_at` times itself, or before the first loss that
    is not finite. The comparison costs a forward pass in each step, or a second whole step if the
    model has its own `train_step` on TensorFlow or torch. It needs the memory of the weights twice.

    It trains through `model.fit`, so anything that trains can be tested: any data, loss, training
    step, mixed precision, gradient accumulation. The learning rate of the optimizer, of whatever
    kind, is set aside for the test; all optimizers inside a `MultiOptimizer` train at the same
    rate. No callback runs.

    Afterwards, even after an interruption or an error, everything is as it was, to the bit: the
    weights and all other variables of the model, its metrics and all optimizers that it holds, the
    learning rate or schedule, compiled steps, `history`, and the random states of Python, NumPy,
    torch and Keras. A model, metric or optimizer that was not built before the test is built after
    it, as `fit` would have built it (on torch and JAX, a `fit` that builds metrics draws more
    random numbers than one that does not). Data that was read stays read: a generator has used up
    its batches, and a `tf.data` pipeline that shuffles has shuffled.

    Args:
        model: A compiled model.
        x: The training data, of any kind that `fit` takes. Data with fewer than `steps` batches is
            repeated; to repeat a generator, its batches are kept while the test runs.
        y: The targets, as `fit` takes them.
        batch_size: Int >= 1 or `None`, as in `fit`. Use that of the training run: which rates work
            depends on it.
        lowest: Float > 0, the first rate.
        highest: Float above `lowest`, the last rate.
        steps: Int >= 2, the number of batches, one rate each.
        stop_at: Float > 1, the factor by which the loss may rise before the test ends.
        smoothing: Float in [0, 1), the weight of the past in the smoothed loss; 0 for none.
        verbose: 0 for no output, "auto" or 1 for a progress bar, 2 for a line at the end.
        sample_weight: As in `fit`.
        class_weight: As in `fit`.

    Returns:
        A `RangeTest`: the arrays `learning_rate`, `loss` and `smoothed`, and `suggestion`.
        `keras_decay.plot` draws it.

    Raises:
        TypeError: an argument of the wrong type; an optimizer that takes its rate from another.
        ValueError: an argument out of its range; a model that is not compiled, or whose training
            step returns no `loss` or does not use `model.optimizer`; data without a batch; a loss
            that is not finite in the first batch.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    >>> x = np.random.default_rng(0).normal(size=(256, 8))
    >>> test = keras_decay.find_learning_rate(model, x, x.sum(1), verbose=0)
    >>> 1e-4 < test.suggestion < 1
    True

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", 2015
    (arXiv:1506.01186), section 3.3; the exponential rise, the smoothed loss and the early stop
    are from fastai's `lr_find`.
    """
    if not getattr(model, "compiled", False) or getattr(model, "optimizer", None) is None:
        raise ValueError(
            "`model` must be compiled with an optimizer and a loss. Call "
            f"`model.compile(optimizer=..., loss=...)` first. Received: model={model!r}"
        )
    lowest = _checks.learning_rate("lowest", lowest)
    highest = _checks.learning_rate("highest", highest)
    if highest <= lowest:
        _checks.fail("highest", highest, f"above `lowest`, {lowest}")
    steps = _checks.integer("steps", steps, 2)
    stop_at = _checks.real("stop_at", stop_at, "a finite number > 1", above=1.0)
    smoothing = _checks.real("smoothing", smoothing, "a number in [0, 1)", at_least=0.0, below=1.0)
    if verbose not in ("auto", 0, 1, 2):
        _checks.fail("verbose", verbose, 'one of "auto", 0, 1, 2')
    if batch_size is not None:
        batch_size = _checks.integer("batch_size", batch_size, 1)

    rates = np.geomspace(lowest, highest, steps)
    trial = _Trial(rates, stop_at, smoothing, verbose, _keras.trains_as_keras_does(model))
    data = {
        "x": _repeated(x) if isinstance(x, types.GeneratorType) else x,
        "y": y,
        "batch_size": batch_size,
        "sample_weight": sample_weight,
        "verbose": 0,
    }
    try:
        with warnings.catch_warnings(), preserve_random_states(), preserve_attributes(model):
            # Data of unknown length is read to its end on purpose.
            warnings.filterwarnings("ignore", "Your input ran out of data")
            # `shuffle=True` is the default of `fit`; the user did not pass it.
            warnings.filterwarnings("ignore", "`shuffle=True` was passed")
            _build(model, data)
            with preserve_variables(model), trial.rates_set(model):
                # Short data is repeated in further epochs; `trial` stops after `steps` batches.
                model.fit(**data, class_weight=class_weight, epochs=steps, callbacks=[trial])
    except (StopIteration, UnboundLocalError) as error:
        # Keras on JAX raises these for data without a batch.
        if trial.batches:
            raise
        raise ValueError(NO_BATCH) from error
    return trial.result()


def _repeated(generator: Iterator[Any]) -> Iterator[Any]:
    # A generator, because `fit` does not take other iterators.
    yield from itertools.cycle(generator)


def _build(model: Any, data: dict[str, Any]) -> None:
    """Makes the variables that `fit` would make, so that their first values can be restored."""
    if not model.built:
        # On TensorFlow the first batch makes the variables of the model.
        model.evaluate(**data, steps=1)
    if not model.optimizer.built:
        with variable_scope(model):
            model.optimizer.build(model.trainable_variables)


@dataclass(eq=False)
class _Trial(keras.callbacks.Callback):
    """Notes the rate and the losses of each batch, and ends the test."""

    rates: NDArray[np.float64]
    stop_at: float
    smoothing: float
    verbose: int | str
    forward: bool

    def __post_init__(self) -> None:
        super().__init__()
        # The rate, the loss and the first loss of each batch.
        self.batches: list[tuple[float, float, float]] = []
        # The index of the rate of the present batch.
        self.position = 0
        self.bar = keras.utils.Progbar(
            len(self.rates),
            verbose=1 if self.verbose == "auto" else self.verbose,
            stateful_metrics=["learning_rate", "loss"],
        )

    @contextlib.contextmanager
    def rates_set(self, model: Any) -> Iterator[None]:
        """Within the block, the model's optimizers train at the rates of the test."""
        inner = _keras.inner_optimizers(model.optimizer)
        own = [_keras.learning_rate(each) for each in inner]
        self.first_steps = [(each, steps_done(each)) for each in inner]
        try:
            for each, first_step in self.first_steps:
                _keras.set_learning_rate(each, self._rising(first_step))
                rate = each.learning_rate
                if rate is None or to_number(rate) != np.float32(self.rates[0]):
                    must = "an optimizer with a learning rate of its own, not that of another"
                    _checks.fail("model.optimizer", each, must, TypeError)
            yield
        finally:
            for each, rate in zip(inner, own, strict=True):
                _keras.set_learning_rate(each, rate)

    def _rising(self, first_step: int) -> JoinedSchedule:
        """The rates of the test, one per step, from a step of the optimizer on."""
        first, *later = self.rates.tolist()
        rates = [first, EpochSchedule(later, steps_per_epoch=1)]
        return JoinedSchedule(rates, [first_step + 1], steps_per_epoch=1)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.first = FirstLoss(self.model, self.forward)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Not the number of batches: a `LossScaleOptimizer` skips steps whose gradients overflow,
        # and in a `MultiOptimizer`, an optimizer without variables takes no steps.
        taken = max(steps_done(each) - first_step for each, first_step in self.first_steps)
        self.position = min(taken, len(self.rates) - 1)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        sync_variables(self.model)
        if not logs or "loss" not in logs:
            _checks.fail("model", self.model, "a model whose training step returns its `loss`")
        loss, first_loss = to_number(logs["loss"]), to_number(self.first.loss)
        # Keras logs the mean since the last reset.
        self.model.reset_metrics()
        if not (math.isfinite(loss) and math.isfinite(first_loss)):
            if not self.batches:
                must = "finite at the first rate: look for NaN in the data, or lower `lowest`"
                _checks.fail("loss", loss, must)
            self.model.stop_training = True
            return
        rate = float(self.rates[self.position])
        self.batches.append((rate, loss, first_loss))
        count = len(self.batches)
        self.bar.update(count, [("learning_rate", rate), ("loss", loss)])
        if max(self.position + 1, count) >= len(self.rates) or self._risen():
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self.batches:  # Data without a batch will have none in the next epoch either.
            self.model.stop_training = True

    def _risen(self) -> bool:
        """Whether a loss of typical size has, on average, risen more than `stop_at` times."""
        _, loss, first_loss = np.transpose(self.batches)
        f, _, size = _scale(loss, first_loss)
        change = _average(f(loss) - f(first_loss), self.smoothing)
        return bool(change > f(self.stop_at * size) - f(size))

    def result(self) -> RangeTest:
        if not self.batches:
            raise ValueError(NO_BATCH)
        if not self.position:
            must = "a model whose training step uses `model.optimizer`; it took no step"
            _checks.fail("model", self.model, must)
        self.bar.update(len(self.batches), finalize=True)
        rates, loss, first_loss = np.transpose(self.batches)
        f, f_inverse, _ = _scale(loss, first_loss)
        change = f(loss) - f(first_loss)
        averages = [_average(change[: i + 1], self.smoothing) for i in range(len(change))]
        return RangeTest(rates, loss, f_inverse(f(first_loss).mean() + averages))


Scale = Callable[[Any], Any]


def _scale(loss: NDArray[Any], first_loss: NDArray[Any]) -> tuple[Scale, Scale, float]:
    """The scale f on which losses are compared, its inverse, and the size of a typical loss."""
    if min(loss.min(), first_loss.min()) > 0:
        return np.log, np.exp, 1.0
    # The median, which a few very large losses do not change.
    sizes = np.maximum(np.abs(loss), np.abs(first_loss))
    size = float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
    return lambda loss: np.arcsinh(loss / size), lambda scaled: size * np.sinh(scaled), size


def _average(changes: NDArray[Any], smoothing: float) -> float:
    """The moving average of all changes, without the bias of its start."""
    weights = smoothing ** np.arange(len(changes))[::-1]
    return float(weights @ changes / weights.sum())
