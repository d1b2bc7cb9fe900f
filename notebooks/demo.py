"""Handwritten digits, learnt at five learning rates: a table, a picture, and a saved model.

`python notebooks/demo.py` trains a small network five times, from the same weights: with a constant
rate, StepDecay, InverseTimeDecay, PlateauDecay, and PlateauDecay over StepDecay. It prints a table,
draws a picture, saves the best model, and checks that the loaded model goes on where the saved one
was. The environment variable KERAS_BACKEND chooses the backend.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import sys
import tempfile
from pathlib import Path


@contextlib.contextmanager
def quiet_start():
    """Hides the start-up messages of TensorFlow: not all of them have a setting of their own."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


try:
    with quiet_start():
        import matplotlib.figure
        import matplotlib.ticker
        import numpy as np
        import rich.box
        import rich.progress
        import rich.table

        # Before Keras, since it says how to install a backend.
        from keras_decay import (  # isort: skip
            InverseTimeDecay,
            LearningRateLogger,
            PlateauDecay,
            StepDecay,
            preview,
            steps_per_epoch,
        )
        import keras  # isort: skip
        from sklearn.datasets import load_digits
        from threadpoolctl import threadpool_limits  # Which scikit-learn brings.
except ImportError as error:
    sys.exit(f"{error}\nThe demo needs: python -m pip install -e '.[demo]'")

RATE = 0.1
PATIENCE = 3
# Black, green, blue, pink and vermilion of Okabe and Ito, which colour-blind people can tell apart.
# Where rates are equal, the dashes of one line let the others through.
STYLES = {
    "constant": {"color": "#000000", "linestyle": "-", "linewidth": 1.2},
    "StepDecay": {"color": "#009E73", "linestyle": "-", "linewidth": 3.5},
    "InverseTimeDecay": {"color": "#0072B2", "linestyle": "-", "linewidth": 1.5},
    "PlateauDecay": {"color": "#CC79A7", "linestyle": (0, (4, 2)), "linewidth": 2},
    "PlateauDecay over StepDecay": {
        "color": "#D55E00",
        "linestyle": (0, (1, 1)),
        "linewidth": 2,
    },
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--epochs", type=int, default=40, help="of each run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument(
        "--out", type=Path, default=Path("keras-decay-demo"), help="folder (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    # On so small a network torch's threads mostly wait for each other.
    with threadpool_limits(1):
        goes_on = run(options.epochs, options.seed, options.out)
    if not goes_on:
        sys.exit("The loaded model does not go on as the saved one.")


def run(epochs, seed, out):
    """Trains, prints, draws and saves; returns whether the saved model goes on once loaded."""
    data = digits(seed)
    rich.print(
        f"Keras {keras.__version__} on {keras.config.backend()}: {len(data[0])} handwritten digits "
        f"to train on, {len(data[2])} to validate on, {epochs} epochs, seed {seed}.\n"
    )
    models, histories, rows = {}, {}, []
    with progress() as bars:
        for name, rate, callback in training_runs(epochs):
            model = models[name] = digit_model(rate, seed)
            history = histories[name] = train(model, data, epochs, seed, name, callback, bars)
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
    draw(histories, steps_per_epoch(data[0]), out / "demo.png")
    goes_on = compare_loaded(models[best], out / "demo.keras", data, seed)
    rich.print(f"In {out}: demo.png (picture), demo.csv (table), demo.keras (model of {best}).")
    return goes_on


def digits(seed):
    """Images and labels to train on, images and labels to validate on."""
    data = load_digits()
    order = np.random.default_rng(seed).permutation(len(data.target))
    x, y = (data.data[order] / 16).astype("float32"), data.target[order].astype("int32")
    return x[:1347], y[:1347], x[1347:], y[1347:]


def training_runs(epochs):
    """The name of each training run, its learning rate, and its callback."""
    fifth = max(1, epochs // 5)

    def plateau():
        return PlateauDecay(factor=0.5, patience=PATIENCE, min_learning_rate=RATE / 100)

    return [
        ("constant", RATE, LearningRateLogger()),
        ("StepDecay", StepDecay(RATE, 0.5, fifth), LearningRateLogger()),
        ("InverseTimeDecay", InverseTimeDecay(RATE, 0.5), LearningRateLogger()),
        ("PlateauDecay", RATE, plateau()),
        ("PlateauDecay over StepDecay", StepDecay(RATE, 0.5, fifth), plateau()),
    ]


def digit_model(learning_rate, seed):
    # The seed is that of the initial weights and of the dropout.
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((64,))]
    for _ in range(2):
        layers += [keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.3)]
    model = keras.Sequential([*layers, keras.layers.Dense(10, activation="softmax")])
    optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def progress():
    return rich.progress.Progress(
        "{task.description:<27}",
        rich.progress.BarColumn(bar_width=None),
        rich.progress.MofNCompleteColumn(),
        "val_loss {task.fields[loss]:.3f}  rate {task.fields[rate]:.4f}",
        expand=True,
    )


def train(model, data, epochs, seed, name, callback, bars):
    """The history of a training run, which moves a bar of its own."""
    bar = bars.add_task(name, total=epochs, loss=float("nan"), rate=RATE)
    show = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: bars.update(
            bar, completed=epoch + 1, loss=logs["val_loss"], rate=logs["learning_rate"]
        )
    )
    keras.utils.set_random_seed(seed)  # The same order of the data in every run.
    x, y, *validation = data
    return model.fit(
        x,
        y,
        validation_data=validation,
        epochs=epochs,
        callbacks=[callback, show],
        verbose=0,
    ).history


def print_table(rows):
    run, *columns = rows[0]
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column(run, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))
    for row in rows:
        run, *numbers = row.values()
        table.add_row(run, *(f"{number:.4g}" for number in numbers))
    rich.print(table)


def compare_loaded(model, path, data, seed):
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
    table = rich.table.Table("the best model", box=rich.box.SIMPLE_HEAD)
    table.add_column("in memory", justify="right")
    table.add_column("saved and loaded", justify="right")
    for name, *pair in zip(("val loss", "after an epoch more", "next rate"), *numbers, strict=True):
        table.add_row(name, *(f"{number:.6g}" for number in pair))
    rich.print(table)
    # Sums on several threads may differ in the last bits.
    return np.allclose(numbers[0], numbers[1], rtol=1e-3)


def draw(histories, steps, path):
    """Epoch k lies between k and k + 1, as `keras_decay.plot` has it."""
    figure = matplotlib.figure.Figure(figsize=(8, 7), dpi=150, layout="constrained")
    figure.suptitle("Handwritten digits, learnt at five learning rates from the same weights")
    rates, losses = figure.subplots(2, 1, sharex=True)
    for name, history in histories.items():
        epochs = len(history["val_loss"])
        if name == "InverseTimeDecay":  # It falls in every step, and the logs have the last one's.
            rates.plot(
                *preview(InverseTimeDecay(RATE, 0.5), epochs, steps_per_epoch=steps), **STYLES[name]
            )
        else:
            rates.stairs(history["learning_rate"], baseline=None, **STYLES[name])
        losses.plot(range(1, epochs + 1), history["val_loss"], label=name, **STYLES[name])
    for panel, label in ((rates, "learning rate"), (losses, "validation loss")):
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    losses.set_xlabel("epoch")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
