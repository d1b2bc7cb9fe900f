"""The data and the networks: small, real, and all of it inside of packages."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import keras
import numpy as np

RATES = {
    "sgd": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "adam": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
    "adamw": (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
}
"""Six first rates over two and a half decades."""


class Data(NamedTuple):
    """Inputs and targets of training, validation and test."""

    x: np.ndarray
    t: np.ndarray
    x_val: np.ndarray
    t_val: np.ndarray
    x_test: np.ndarray
    t_test: np.ndarray


@dataclass(frozen=True)
class Task:
    """A data set with a network.

    Attributes:
        data: The name of the data set.
        noise: The fraction of labels that are drawn anew, in all three parts.
        hidden: The units of the hidden layers.
        convolution: Whether a convolution of eight 3 x 3 filters comes first.
        dropout: The rate of dropout after each hidden layer.
        optimizer: A key of `RATES`, beside SGD with momentum.
        epochs: The lengths of a training run.
        batch_size: As in `fit`.
        pretrained: A key of `PRETRAINED`, where training goes on from trained weights.
    """

    data: str
    noise: float = 0.0
    hidden: tuple[int, ...] = (32,)
    convolution: bool = False
    dropout: float = 0.0
    optimizer: str = "adam"
    epochs: tuple[int, ...] = (30, 100)
    batch_size: int = 32
    pretrained: str = ""

    @property
    def name(self) -> str:
        noise = f" + {self.noise:.0%} noise" if self.noise else ""
        layers = [*(["convolution"] if self.convolution else []), *map(str, self.hidden)]
        dropout = f", dropout {self.dropout:g}" if self.dropout else ""
        pretrained = f", pretrained on {self.pretrained}" if self.pretrained else ""
        return f"{self.data}{noise}, {'-'.join(layers)}{dropout}{pretrained}"

    @property
    def classes(self) -> int:
        return {"digits": 10, "cancer": 2}.get(self.data, 0)

    @property
    def loss(self) -> keras.losses.Loss:
        if self.classes:
            return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return keras.losses.MeanSquaredError()

    def load(self, seed: int) -> Data:
        """The data, in parts that the seed draws."""
        rng = np.random.default_rng(100 + seed)
        x, t = LOADERS[self.data]()
        order = rng.permutation(len(t))[:6400]
        x, t = x[order].astype("float32"), t[order]
        n, m = len(t) * 45 // 100, len(t) * 70 // 100
        if self.data == "digits":
            x = x / 16
        else:
            x = (x - x[:n].mean(0)) / np.maximum(x[:n].std(0), 1e-6)
        if self.classes:
            drawn = rng.random(len(t)) < self.noise
            t = np.where(drawn, rng.integers(0, self.classes, len(t)), t).astype("int32")
        else:
            t = ((t - t[:n].mean()) / t[:n].std()).astype("float32")[:, None]
        if self.convolution:
            x = _patches(x.reshape(-1, 8, 8))
        data = Data(x[:n], t[:n], x[n:m], t[n:m], x[m:], t[m:])
        if self.pretrained == "the other half":
            data = data._replace(x=data.x[n // 2 :], t=data.t[n // 2 :])
        return data

    def model(self, data: Data, seed: int) -> Any:
        """The network, with the weights that the seed draws."""
        keras.utils.set_random_seed(seed)
        layers: list[Any] = [keras.layers.Input(data.x.shape[1:])]
        if self.convolution:
            # A dense layer over the patches is a convolution, and far faster where one program
            # trains hundreds of networks with weights of their own.
            layers += [keras.layers.Dense(8, "relu"), keras.layers.Flatten()]
        for units in self.hidden:
            layers.append(keras.layers.Dense(units, "relu"))
            if self.dropout:
                layers.append(keras.layers.Dropout(self.dropout))
        model = keras.Sequential([*layers, keras.layers.Dense(self.classes or 1)])
        if self.pretrained:
            model.set_weights(pretrained_weights(self, seed))
        return model

    def batches(self, data: Data, seed: int, epochs: int) -> np.ndarray:
        """The rows of each batch, of shape (epochs, steps, batch size)."""
        rng = np.random.default_rng(seed)
        steps = len(data.x) // self.batch_size
        order = np.arange if self.pretrained == "the first half" else rng.permutation
        orders = [order(len(data.x))[: steps * self.batch_size] for _ in range(epochs)]
        return np.stack(orders).reshape(epochs, steps, self.batch_size)


TASKS = (
    Task("digits"),
    Task("digits", noise=0.2),
    Task("cancer", noise=0.1),
    Task("diabetes"),
    Task("digits", convolution=True, epochs=(30,)),
    Task("digits", noise=0.2, hidden=(64, 64), dropout=0.3, optimizer="adamw", epochs=(30,)),
    Task("diamonds", hidden=(64, 64), epochs=(30,), batch_size=64),
)


PRETRAINED = {
    "the other half": "Trained on with rows that it has not seen.",
    "the same rows": "Trained on as if it had been interrupted.",
    "digits 0-4": "Trained on with all ten digits.",
    "the first half": "Its rows are learnt by heart, noise included, and all rows come in the "
    "order of a file: the first batch is far easier than the mean of an epoch.",
}
"""What a network is trained on beforehand, and how training goes on."""

FINE_TUNING = (
    *(
        Task("digits", noise=0.2, epochs=(30,), pretrained=kind)
        for kind in ("the other half", "the same rows", "the first half")
    ),
    Task("digits", epochs=(30,), pretrained="digits 0-4"),
)


@functools.lru_cache
def pretrained_weights(task: Task, seed: int) -> list[np.ndarray]:
    """What training goes on from: Adam for 30 epochs, or until the rows are learnt by heart."""
    kind, task = task.pretrained, replace(task, pretrained="")
    data = task.load(seed)
    rows = np.arange(len(data.x) // (1 if kind == "the same rows" else 2))
    if kind == "digits 0-4":
        rows = np.flatnonzero(data.t < 5)
    by_heart = kind == "the first half"
    model = task.model(data, seed)
    model.compile(keras.optimizers.Adam(0.003 if by_heart else 0.001), task.loss)
    epochs = 300 if by_heart else 30
    model.fit(data.x[rows], data.t[rows], batch_size=task.batch_size, epochs=epochs, verbose=0)
    return model.get_weights()


def make_optimizer(name: str, rate: float = 0.01) -> Any:
    if name == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    return {"adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW}[name](rate)


def _patches(images: np.ndarray) -> np.ndarray:
    """The 3 x 3 neighbourhoods, of shape (images, 36, 9)."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(1, 2))
    return np.ascontiguousarray(windows.reshape(len(images), 36, 9))


def _sklearn(name: str) -> Any:
    def load() -> tuple[np.ndarray, np.ndarray]:
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(return_X_y=True)

    return load


def _diamonds() -> tuple[np.ndarray, np.ndarray]:
    from plotnine.data import diamonds

    categories = [diamonds[name].cat.codes for name in ("cut", "color", "clarity")]
    numbers = [diamonds[name] for name in ("carat", "depth", "table", "x", "y", "z")]
    x = np.stack([np.asarray(each, "float64") for each in (*numbers, *categories)], 1)
    return x, np.log(np.asarray(diamonds["price"], "float64"))


LOADERS = {
    "digits": _sklearn("digits"),
    "cancer": _sklearn("breast_cancer"),
    "diabetes": _sklearn("diabetes"),
    "diamonds": _diamonds,
}
