"""What the decisions are worth: `python -m tests.benchmarks.decisions`, on JAX.

Prints tables of all methods, and writes a CSV file with a line for each training run.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

import keras

from tests.benchmarks.decisions import report, scores
from tests.benchmarks.decisions.methods import Method, methods
from tests.benchmarks.decisions.tasks import FINE_TUNING, RATES, TASKS, Data, Task, make_optimizer


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.decisions", description=__doc__
    )
    parser.add_argument("--full", action="store_true", help="all tasks, not the first four only")
    parser.add_argument("--long", action="store_true", help="100 epochs too, where a task has them")
    parser.add_argument("--forms", action="store_true", help="all forms that were tried")
    parser.add_argument("--tuning", action="store_true", help="only the tasks of fine-tuning")
    parser.add_argument("--task", help="only the tasks with this in their name")
    parser.add_argument("--optimizer", help="only this one, such as sgd")
    parser.add_argument("--methods", help="only those whose name a regular expression finds")
    parser.add_argument("--seeds", type=int, default=3, help="how many (%(default)s)")
    folder = Path(tempfile.gettempdir())
    parser.add_argument(
        "--csv",
        type=Path,
        default=folder / "keras-decay-decisions.csv",
        help="where to write the runs (%(default)s)",
    )
    parser.add_argument("--read", action="store_true", help="read that file, and train nothing")
    parser.add_argument("--picture", type=Path, help="where to draw the ratios over the rates")
    parser.add_argument("--markdown", action="store_true", help="print tables of the guide's page")
    parser.add_argument(
        "--check",
        action="store_true",
        help="instead: train a sample in `fit`, on each installed backend, and compare",
    )
    parser.add_argument(
        "--restores", action="store_true", help="in that sample, `restore_best_weights=True` too"
    )
    arguments = parser.parse_args()
    if keras.backend.backend() != "jax" and not arguments.read:
        parser.error("the runs are JAX's: set KERAS_BACKEND=jax")
    if arguments.check:
        from tests.benchmarks.decisions import check

        check.main(arguments.csv.with_suffix(".npz"), arguments.restores)
        return
    if arguments.read:
        rows = scores.read(arguments.csv)
    else:
        tasks = list(FINE_TUNING if arguments.tuning else TASKS)
        if not (arguments.full or arguments.tuning or arguments.task):
            tasks = tasks[:4]
        tasks = [task for task in tasks if (arguments.task or "") in task.name]
        rows = train_all(tasks, arguments)
    report.print_all(rows, arguments.markdown)
    if arguments.picture:
        from tests.benchmarks.decisions.picture import draw

        draw(rows, report.SHOWN).savefig(arguments.picture, dpi=150)
    print(f"{len(rows):,} training runs are in {arguments.csv}")


def train_all(tasks: list[Task], arguments: argparse.Namespace) -> list[scores.Row]:
    """Trains everything, seed after seed, and writes what there is after each task."""
    from tests.benchmarks.decisions.training import Trainer

    found: list[scores.Row] = []
    trainers = {
        (task, name): Trainer(task, name)
        for task in tasks
        for name in ("sgd", task.optimizer)
        if name == (arguments.optimizer or name)
    }
    compared = [
        method
        for method in methods(arguments.forms)
        if re.search(arguments.methods or "", method.name)
    ]
    started = time.perf_counter()
    for seed in range(arguments.seeds):
        for (task, name), trainer in trainers.items():
            data = task.load(seed)
            lengths = task.epochs if arguments.long else task.epochs[:1]
            suggestion = suggested_rate(task, name, data, seed)
            rates = [*RATES[name], *([] if suggestion is None else [suggestion])]
            free = [method for method in compared if not method.known_length]
            found += rows_of(trainer, data, seed, free, rates, lengths)
            for length in lengths:
                known = [method for method in compared if method.known_length]
                found += rows_of(trainer, data, seed, known, rates, (length,))
            scores.write(arguments.csv, found)
            seconds = time.perf_counter() - started
            print(f"{seconds:6.0f} s  seed {seed}, {task.name}, {name}", flush=True)
    return found


def rows_of(
    trainer, data: Data, seed: int, compared: list[Method], rates: list[float], lengths
) -> list[scores.Row]:
    if not compared:
        return []
    configurations = [(method, rate) for method in compared for rate in rates]
    runs = trainer.train(data, seed, configurations, lengths)
    peaks = {
        length: (runs.above_first(length), runs.above_best(length), runs.continued(length))
        for length in lengths
    }
    return [
        scores.Row(
            task=trainer.task.name,
            optimizer=trainer.optimizer_name,
            epochs=length,
            seed=seed,
            method=method.name,
            rate=rate,
            suggested=rate not in RATES[trainer.optimizer_name],
            test=float(runs.test[length][i]),
            best_test=float(runs.best_test[length][i]),
            reductions=int(runs.reductions[length][i]),
            above_first=peaks[length][0][i],
            above_best=peaks[length][1][i],
            continued=peaks[length][2][i],
        )
        for length in lengths
        for i, (method, rate) in enumerate(configurations)
    ]


def suggested_rate(task: Task, optimizer: str, data: Data, seed: int) -> float | None:
    """What a real `find_learning_rate` suggests; nothing where the curve has no descent."""
    import keras_decay

    model = task.model(data, seed)
    model.compile(make_optimizer(optimizer), task.loss)
    test = keras_decay.find_learning_rate(
        model, data.x, data.t, batch_size=task.batch_size, verbose=0
    )
    try:
        return test.suggestion
    except ValueError as error:
        print(f"No suggestion for {task.name}, {optimizer}, seed {seed}: {error}")
        return None


if __name__ == "__main__":
    main()
