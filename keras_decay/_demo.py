"""`python -m keras_decay demo`: handwritten digits, learnt at five learning rates."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from keras_decay._logger import LearningRateLogger
from keras_decay._plateau import PlateauDecay
from keras_decay._schedules import InverseTimeDecay, StepDecay
from keras_decay._steps import steps_per_epoch

RATE = 0.1
BATCH = 32
PATIENCE = 3
# Black, green, blue, pink and vermilion of Okabe and Ito, which colour-blind people can tell apart.
COLOURS = ("#000000", "#009E73", "#0072B2", "#CC79A7", "#D55E00")
LINES: tuple[Any, ...] = ("-", "--", "-.", "-", (0, (1, 1)))


@dataclass
class Run:
    """One training: what it is, and then what was measured."""

    name: str
    description: str
    learning_rate: Any
    plateau: PlateauDecay | None = None
    model: Any = None
    history: dict[str, list[float]] = field(default_factory=dict)
    reduced: list[int] = field(default_factory=list)
    first_rate: float = math.nan
    seconds: float = math.nan

    def row(self) -> dict[str, Any]:
        loss, accuracy = self.history["val_loss"], self.history["val_accuracy"]
        return {
            "run": self.name,
            "final_val_loss": loss[-1],
            "best_val_loss": min(loss),
            "final_val_accuracy": accuracy[-1],
            "best_val_accuracy": max(accuracy),
            "first_learning_rate": self.first_rate,
            "last_learning_rate": self.history["learning_rate"][-1],
            "plateau_reductions": len(self.reduced),
            "seconds": self.seconds,
        }


def run(epochs: int, seed: int, out: Path) -> bool:
    """Trains, prints, draws and saves into the folder `out`.

    Returns:
        Whether the saved model, loaded again, goes on as the one in memory does.
    """
    data = _digits(seed)
    train, validation = len(data[0]), len(data[2])
    print(
        f"Keras {keras.__version__} on {keras.config.backend()}: {train} handwritten digits to "
        f"train on, {validation} to validate on, {epochs} epochs, seed {seed}."
    )
    runs = _runs(epochs, steps_per_epoch(data[0], BATCH))
    weights = None
    for each in runs:
        print(f"\n{each.name}: {each.description}")
        each.model = _model(each.learning_rate, seed)
        if weights is None:
            weights = each.model.get_weights()
        each.model.set_weights(weights)
        _train(each, data, epochs, seed)
    best = min(runs, key=lambda each: each.history["val_loss"][-1])
    best.model.save(out / "demo.keras")
    _print_table(runs)
    _write_csv(runs, out / "demo.csv")
    _draw(runs, out / "demo.png")
    goes_on = _compare_loaded(best, out / "demo.keras", data, seed)
    print(f"\nIn {out}: demo.png (picture), demo.csv (table), demo.keras (model of {best.name})")
    return goes_on


def _digits(seed: int) -> tuple[Any, Any, Any, Any]:
    """Images and labels to train on, images and labels to validate on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    x, x_validation, y, y_validation = train_test_split(
        (digits.data / 16).astype("float32"),
        digits.target.astype("int32"),
        test_size=0.25,
        stratify=digits.target,
        random_state=seed,
    )
    return x, y, x_validation, y_validation


def _runs(epochs: int, steps: int) -> list[Run]:
    fifth = max(1, epochs // 5)
    step = StepDecay(RATE, 0.5, fifth, steps_per_epoch=steps)
    inverse = InverseTimeDecay(RATE, 0.5, steps_per_epoch=steps)

    floor = RATE / 100

    def plateau() -> PlateauDecay:
        return PlateauDecay(factor=0.5, patience=PATIENCE, min_learning_rate=floor)

    every = "epoch" if fifth == 1 else f"{fifth} epochs"
    stalls = f"after {PATIENCE} epochs without a better validation loss, down to {floor:g}"
    return [
        Run("constant", f"{RATE} throughout", RATE),
        Run("StepDecay", f"halved every {every}", step),
        Run("InverseTimeDecay", f"{RATE} / (1 + 0.5 * epoch)", inverse),
        Run("PlateauDecay", f"halved {stalls}", RATE, plateau()),
        Run("PlateauDecay over StepDecay", f"halved every {every}, and {stalls}", step, plateau()),
    ]


def _model(learning_rate: Any, seed: int) -> Any:
    # The seed also is that of the dropout layers.
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.SGD(learning_rate, momentum=0.9),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def _rate(model: Any) -> float:
    """The rate of the next step."""
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


def _train(run: Run, data: tuple[Any, Any, Any, Any], epochs: int, seed: int) -> None:
    run.first_rate = _rate(run.model)
    callbacks = [run.plateau or LearningRateLogger(), _recorder(run, epochs)]
    start = time.perf_counter()
    run.history = _fit(run.model, data, epochs, seed, callbacks)
    run.seconds = time.perf_counter() - start


def _fit(
    model: Any, data: tuple[Any, Any, Any, Any], epochs: int, seed: int, callbacks: list[Any]
) -> dict[str, list[float]]:
    # The same order of the data in every run.
    keras.utils.set_random_seed(seed)
    x, y, *validation = data
    history: dict[str, list[float]] = model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=epochs,
        validation_data=tuple(validation),
        callbacks=callbacks,
        verbose=0,
    ).history
    return history


def _recorder(run: Run, epochs: int) -> Any:
    """A callback that shows Keras's progress bar, one for a run instead of one for an epoch, and
    notes the rates and the reductions."""
    shown = ("loss", "val_loss", "val_accuracy", "learning_rate")
    bar = keras.utils.Progbar(epochs, stateful_metrics=shown, unit_name="epoch")

    def on_epoch_end(epoch: int, logs: dict[str, float]) -> None:
        if run.plateau is not None and run.plateau.state["reductions"] > len(run.reduced):
            run.reduced.append(epoch)
        bar.update(epoch + 1, [(name, logs[name]) for name in shown])

    return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)


def _print_table(runs: list[Run]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    columns = {
        "final\nval.\nloss": ".4f",
        "best\nval.\nloss": ".4f",
        "final\nval.\nacc.": ".1%",
        "best\nval.\nacc.": ".1%",
        "\nfirst\nrate": ".3g",
        "\nlast\nrate": ".3g",
        "plateau\nreduc-\ntions": "d",
        "\n\nsec.": ".1f",
    }
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("\n\nrun")
    for header in columns:
        table.add_column(header, justify="right")
    for each in runs:
        name, *numbers = each.row().values()
        texts = [format(*pair) for pair in zip(numbers, columns.values(), strict=True)]
        table.add_row(name.replace(" over", "\nover"), *texts)
    Console().print(table)


def _write_csv(runs: list[Run], path: Path) -> None:
    # Rates are float32: six digits are all that they have.
    rows = [
        {name: value if isinstance(value, str) else f"{value:.6g}" for name, value in row.items()}
        for row in (each.row() for each in runs)
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _compare_loaded(best: Run, path: Path, data: tuple[Any, Any, Any, Any], seed: int) -> bool:
    """Loads the model, trains both on for an epoch, and prints how they compare."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    loaded_model = keras.models.load_model(path)
    # Keras does not save where the random numbers of the dropout stand.
    for layer, twin in zip(best.model.layers, loaded_model.layers, strict=True):
        if isinstance(layer, keras.layers.Dropout):
            state = keras.ops.convert_to_numpy(layer.seed_generator.state)
            twin.seed_generator.state.assign(state)

    def measure(model: Any) -> dict[str, float]:
        measured = {}
        for when in ("", " after one more epoch"):
            if when:
                _fit(model, data, 1, seed, [])
            loss = model.evaluate(*data[2:], batch_size=BATCH, verbose=0, return_dict=True)["loss"]
            measured[f"validation loss{when}"] = float(loss)
            measured[f"rate of the next step{when}"] = _rate(model)
        return measured

    in_memory, loaded = measure(best.model), measure(loaded_model)
    table = Table("", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("in memory", justify="right")
    table.add_column("loaded", justify="right")
    for name, value in in_memory.items():
        table.add_row(name, f"{value:.6g}", f"{loaded[name]:.6g}")
    print(f"The model with the lowest final validation loss, {best.name}, saved and loaded again:")
    Console().print(table)
    # Sums on several threads may differ in the last bits.
    return all(math.isclose(loaded[name], in_memory[name], rel_tol=1e-3) for name in in_memory)


def _draw(runs: list[Run], path: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    figure = Figure(figsize=(8, 7), dpi=150, layout="constrained")
    figure.suptitle("Handwritten digits, learnt at five learning rates from the same weights")
    panels = figure.subplots(2, 1, sharex=True)
    for panel, name in zip(panels, ("learning_rate", "val_loss"), strict=True):
        for each, colour, line in zip(runs, COLOURS, LINES, strict=True):
            values = each.history[name]
            smooth = isinstance(each.learning_rate, InverseTimeDecay)
            panel.plot(
                range(1, len(values) + 1),
                values,
                color=colour,
                linestyle=line,
                linewidth=1.8,
                marker="o" if len(values) == 1 else None,
                drawstyle="default" if smooth or name == "val_loss" else "steps-mid",
                label=each.name,
            )
            panel.plot(
                [epoch + 1 for epoch in each.reduced],
                [values[epoch] for epoch in each.reduced],
                "v",
                color=colour,
                markersize=9,
                markeredgecolor="white",
                zorder=3,
            )
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("learning rate")
    panels[1].set_ylabel("validation loss")
    panels[1].set_xlabel("epoch")
    panels[1].set_xlim(0.5, len(runs[0].history["val_loss"]) + 0.5)
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    handles, labels = panels[0].get_legend_handles_labels()
    handles += panels[0].plot([], [], "v", color="#666666", markersize=9, markeredgecolor="white")
    labels.append("plateau: reduced after this epoch")
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
