"""The learning-rate range test, which suggests the rate to start from."""

from __future__ import annotations

import contextlib
import itertools
import math
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_decay import _checks, _keras
from keras_decay.optimizer._restore import (
    preserve_attributes,
    preserve_random_states,
    preserve_variables,
)
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
    arguments = {
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
            _build(model, arguments)
            with preserve_variables(model), trial.rates_set(model):
                # Short data is repeated in further epochs; `trial` stops after `steps` batches.
                arguments["class_weight"] = class_weight
                model.fit(**arguments, epochs=steps, callbacks=[trial])
    except (StopIteration, UnboundLocalError) as error:
        # Keras on JAX raises these for data without a batch.
        if trial.begun:
            raise
        raise ValueError(NO_BATCH) from error
    return trial.result()


def _repeated(generator: Iterator[Any]) -> Iterator[Any]:
    # A generator, because `fit` does not take other iterators.
    yield from itertools.cycle(generator)


class _Exponential(keras.optimizers.schedules.LearningRateSchedule):
    """The rates of the test, one per step, from the optimizer's present step on."""

    def __init__(self, rates: NDArray[np.float64], first_step: int):
        self.rates = rates.astype("float32")
        self.first_step = first_step

    def __call__(self, step: Any) -> Any:
        ops = keras.ops
        index = ops.clip(ops.subtract(step, self.first_step), 0, len(self.rates) - 1)
        return ops.take(ops.convert_to_tensor(self.rates, "float32"), index)


class _Trial(keras.callbacks.Callback):
    """Notes the rate and the losses of each batch, and ends the test."""

    def __init__(
        self,
        rates: NDArray[np.float64],
        stop_at: float,
        smoothing: float,
        verbose: int | str,
        forward: bool,
    ):
        super().__init__()
        self._rates = rates
        self._stop_at = stop_at
        self._smoothing = smoothing
        self._forward = forward
        self._first: FirstLoss | None = None
        self._trained: list[float] = []
        self._loss: list[float] = []
        self._first_loss: list[float] = []
        self._first_steps: list[tuple[Any, int]] = []
        self._position = 0
        self._bar = None
        if verbose != 0:
            self._bar = keras.utils.Progbar(
                len(rates),
                verbose=1 if verbose == "auto" else verbose,
                stateful_metrics=["learning_rate", "loss"],
            )

    @property
    def begun(self) -> bool:
        """Whether a batch has been trained on."""
        return bool(self._loss)

    @contextlib.contextmanager
    def rates_set(self, model: Any) -> Iterator[None]:
        """Within the block, the model's optimizers train at the rates of the test."""
        inner = _keras.inner_optimizers(model.optimizer)
        self._first_steps = [(each, _step(each)) for each in inner]
        own = [(each, _keras.learning_rate(each)) for each in inner]
        try:
            for each, first_step in self._first_steps:
                rate = _Exponential(self._rates, first_step)
                _keras.set_learning_rate(each, rate)
                if each.learning_rate is None or _number(each.learning_rate) != rate.rates[0]:
                    must = "an optimizer with a learning rate of its own, not that of another"
                    _checks.fail("model.optimizer", each, must, TypeError)
            yield
        finally:
            for each, rate in own:
                _keras.set_learning_rate(each, rate)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._first = FirstLoss(self.model, self._forward)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Not the number of batches: a `LossScaleOptimizer` skips steps whose gradients overflow.
        self._position = min(self._steps_taken(), len(self._rates) - 1)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if hasattr(self.model, "jax_state_sync"):
            # During an epoch, `fit` on JAX does not update the step counter and the metrics.
            self.model.jax_state_sync()
        if not logs or "loss" not in logs:
            _checks.fail("model", self.model, "a model whose training step returns its `loss`")
        assert self._first is not None
        self._take_down(_number(logs["loss"]), self._first.value)
        # Keras logs the mean since the last reset.
        self.model.reset_metrics()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._loss:  # Data without a batch will have none in the next epoch either.
            self.model.stop_training = True

    def _take_down(self, loss: float, first_loss: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(first_loss)):
            if not self._loss:
                must = "finite at the first rate: look for NaN in the data, or lower `lowest`"
                _checks.fail("loss", loss, must)
            self.model.stop_training = True
            return
        rate = float(self._rates[self._position])
        self._trained.append(rate)
        self._loss.append(loss)
        self._first_loss.append(first_loss)
        if self._bar is not None:
            self._bar.update(len(self._loss), [("learning_rate", rate), ("loss", loss)])
        last = max(self._position + 1, len(self._loss)) >= len(self._rates)
        comparison = _Comparison(self._loss, self._first_loss)
        if last or comparison.risen(self._stop_at, self._smoothing):
            self.model.stop_training = True

    def _steps_taken(self) -> int:
        # In a `MultiOptimizer`, an optimizer without variables takes no steps.
        return max(_step(each) - first for each, first in self._first_steps)

    def result(self) -> RangeTest:
        if not self._loss:
            raise ValueError(NO_BATCH)
        if not self._position:
            must = "a model whose training step uses `model.optimizer`; it took no step"
            _checks.fail("model", self.model, must)
        if self._bar is not None:
            self._bar.update(len(self._loss), finalize=True)
        comparison = _Comparison(self._loss, self._first_loss)
        return RangeTest(
            np.array(self._trained), np.array(self._loss), comparison.smoothed(self._smoothing)
        )


class _Comparison:
    """Compares each loss with the first loss of the same batch.

    The scale is logarithmic if all losses are positive, else only for large losses.
    """

    def __init__(self, loss: list[float], first_loss: list[float]):
        both = np.array([loss, first_loss])
        self._size = 0.0
        if both.min() <= 0:
            # The median, which a few very large losses do not change.
            sizes = np.abs(both).max(axis=0)
            self._size = float(np.median(sizes[sizes > 0])) if sizes.any() else 1.0
        trained, first = self._scaled(both)
        self._change = trained - first
        self._typical = first.mean()

    def _scaled(self, loss: Any) -> Any:
        return np.arcsinh(loss / self._size) if self._size else np.log(loss)

    def risen(self, stop_at: float, smoothing: float) -> bool:
        """Whether a loss of typical size has, on average, risen more than `stop_at` times."""
        weights = smoothing ** np.arange(len(self._change))[::-1]
        size = self._size or 1.0
        limit = self._scaled(stop_at * size) - self._scaled(size)
        return bool(weights @ self._change / weights.sum() > limit)

    def smoothed(self, smoothing: float) -> NDArray[np.float64]:
        """The first loss of a typical batch plus the moving average of the changes."""
        average, averages = 0.0, []
        for change in self._change:
            average = smoothing * average + (1 - smoothing) * change
            averages.append(average)
        unbiased = np.array(averages) / (1 - smoothing ** np.arange(1, len(averages) + 1))
        scaled = self._typical + unbiased
        return np.asarray(self._size * np.sinh(scaled) if self._size else np.exp(scaled))


def _step(optimizer: Any) -> int:
    return int(keras.ops.convert_to_numpy(_keras.step_counter(optimizer)))


def _number(value: Any) -> float:
    return float(keras.ops.convert_to_numpy(value))


def _build(model: Any, arguments: dict[str, Any]) -> None:
    """Makes the variables that `fit` would make, so that their first values can be restored."""
    if not model.built:
        # On TensorFlow the first batch makes the variables of the model.
        model.evaluate(**arguments, callbacks=[_OneBatch()])
    if not model.optimizer.built:
        strategy = getattr(model, "distribute_strategy", None)
        with strategy.scope() if strategy else contextlib.nullcontext():
            model.optimizer.build(model.trainable_variables)


class _OneBatch(keras.callbacks.Callback):
    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.stop_evaluating = True
