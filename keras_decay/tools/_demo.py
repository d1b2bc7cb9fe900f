"""`python -m keras_decay demo`: handwritten digits, learnt at five learning rates."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_decay._logger import LearningRateLogger
from keras_decay._plateau import PlateauDecay
from keras_decay._schedules import InverseTimeDecay, StepDecay

RATE = 0.1
PATIENCE = 3
# Black, green, blue, pink and vermilion of Okabe and Ito, which colour-blind people can tell apart.
COLOURS = ("#000000", "#009E73", "#0072B2", "#CC79A7", "#D55E00")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, or 1 where one line says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_decay",
        description="Trains a small network on handwritten digits five times, from the same "
        "weights: with a constant rate, StepDecay, InverseTimeDecay, PlateauDecay, and "
        "PlateauDecay over StepDecay. Prints a table, draws a picture, saves the best model, and "
        "checks that it goes on, once loaded, where it was. The environment variable "
        "KERAS_BACKEND chooses the backend.",
    )
    parser.add_argument("command", choices=["demo"])
    parser.add_argument("--epochs", type=int, default=40, help="of each training (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("keras-decay-demo"), help="folder (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    missing = [name for name in ("sklearn", "matplotlib") if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        print(f"Not installed: {names}. pip install 'keras-decay[demo]'", file=sys.stderr)
        return 1
    arguments.out.mkdir(parents=True, exist_ok=True)
    from threadpoolctl import threadpool_limits  # Which scikit-learn brings.

    # On so small a network torch's threads mostly wait for each other.
    with threadpool_limits(1):
        goes_on = run(arguments.epochs, arguments.seed, arguments.out)
    if not goes_on:
        print("The loaded model does not go on as the saved one.", file=sys.stderr)
        return 1
    return 0


def run(epochs: int, seed: int, out: Path) -> bool:
    """Trains, prints, draws and saves; returns whether the saved model goes on once loaded."""
    data = digits(seed)
    print(
        f"Keras {keras.__version__} on {keras.config.backend()}: {len(data[0])} handwritten "
        f"digits to train on, {len(data[2])} to validate on, {epochs} epochs, seed {seed}."
    )
    models, histories, rows = {}, {}, []
    for name, rate, callback in trainings(epochs):
        model = models[name] = digit_model(rate, seed)
        history = histories[name] = train(model, data, epochs, seed, name, callback)
        plateau = isinstance(callback, PlateauDecay)
        rows.append(
            {
                "run": name,
                "final val loss": history["val_loss"][-1],
                "best val loss": min(history["val_loss"]),
                "final val accuracy": history["val_accuracy"][-1],
                "last rate": history["learning_rate"][-1],
                "reductions": callback.state["reductions"] if plateau else 0,
            }
        )
    best = min(rows, key=lambda row: row["final val loss"])["run"]
    models[best].save(out / "demo.keras")
    print_table(rows)
    with (out / "demo.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    draw(histories, out / "demo.png")
    goes_on = compare_loaded(models[best], out / "demo.keras", data, seed)
    print(f"In {out}: demo.png (picture), demo.csv (table), demo.keras (model of {best}).")
    return goes_on


def digits(seed: int) -> tuple[Any, Any, Any, Any]:
    """Images and labels to train on, images and labels to validate on."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    x, y = (data.data[order] / 16).astype("float32"), data.target[order].astype("int32")
    return x[:1347], y[:1347], x[1347:], y[1347:]


def trainings(epochs: int) -> list[tuple[str, Any, Any]]:
    """The name of each training, its learning rate, and its callback."""
    fifth = max(1, epochs // 5)

    def plateau() -> PlateauDecay:
        return PlateauDecay(factor=0.5, patience=PATIENCE, min_learning_rate=RATE / 100)

    return [
        ("constant", RATE, LearningRateLogger()),
        ("StepDecay", StepDecay(RATE, 0.5, fifth), LearningRateLogger()),
        ("InverseTimeDecay", InverseTimeDecay(RATE, 0.5), LearningRateLogger()),
        ("PlateauDecay", RATE, plateau()),
        ("PlateauDecay over StepDecay", StepDecay(RATE, 0.5, fifth), plateau()),
    ]


def digit_model(learning_rate: Any, seed: int) -> Any:
    # The seed is that of the initial weights and of the dropout.
    keras.utils.set_random_seed(seed)
    layers: list[Any] = [keras.Input((64,))]
    for _ in range(2):
        layers += [keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.3)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(model: Any, data: Any, epochs: int, seed: int, name: str, callback: Any) -> Any:
    """The history of a training, with one progress bar for all of its epochs."""
    shown = ("loss", "val_loss", "val_accuracy", "learning_rate")
    bar = keras.utils.Progbar(epochs, stateful_metrics=shown, unit_name="epoch")
    print(f"\n{name}")
    show = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: bar.update(epoch + 1, [(key, logs[key]) for key in shown])
    )
    keras.utils.set_random_seed(seed)  # The same order of the data in every training.
    x, y, *validation = data
    return model.fit(
        x,
        y,
        epochs=epochs,
        validation_data=tuple(validation),
        callbacks=[callback, show],
        verbose=0,
    ).history


def print_table(rows: list[dict[str, Any]]) -> None:
    print("\n" + " " * 28 + "".join(f"{name:>20}" for name in rows[0] if name != "run"))
    for row in rows:
        numbers = [format(number, ".4g") for name, number in row.items() if name != "run"]
        print(f"{row['run']:<28}" + "".join(f"{number:>20}" for number in numbers))


def compare_loaded(model: Any, path: Path, data: Any, seed: int) -> bool:
    """Loads the model, trains both on for an epoch, and tells how they compare."""
    loaded = keras.models.load_model(path)
    # Keras does not save where the random numbers of the dropout stand.
    for layer, twin in zip(model.layers, loaded.layers, strict=True):
        if isinstance(layer, keras.layers.Dropout):
            state = keras.ops.convert_to_numpy(layer.seed_generator.state)
            twin.seed_generator.state.assign(state)
    numbers = []
    for each in (model, loaded):
        before = each.evaluate(*data[2:], verbose=0)[0]
        keras.utils.set_random_seed(seed)
        each.fit(*data[:2], verbose=0)
        rate = float(keras.ops.convert_to_numpy(each.optimizer.learning_rate))
        numbers.append([before, each.evaluate(*data[2:], verbose=0)[0], rate])
    print("\nThe best model                      in memory    saved and loaded")
    for name, *pair in zip(("val loss", "after an epoch more", "next rate"), *numbers, strict=True):
        print(f"  {name:<24}{pair[0]:>20.6g}{pair[1]:>20.6g}")
    # Sums on several threads may differ in the last bits.
    return bool(np.allclose(numbers[0], numbers[1], rtol=1e-3))


def draw(histories: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), dpi=150, layout="constrained")
    figure.suptitle("Handwritten digits, learnt at five learning rates from the same weights")
    panels = figure.subplots(2, 1, sharex=True)
    for panel, key, label in zip(
        panels, ("learning_rate", "val_loss"), ("learning rate", "validation loss"), strict=True
    ):
        for (name, history), colour in zip(histories.items(), COLOURS, strict=True):
            style = "-" if "over" not in name else (0, (1, 1))
            steps = key == "learning_rate" and name != "InverseTimeDecay"
            panel.plot(
                np.arange(1, len(history[key]) + 1),
                history[key],
                color=colour,
                linestyle=style,
                drawstyle="steps-mid" if steps else "default",
                label=name,
            )
        panel.set_yscale("log")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[1].set_xlabel("epoch")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
