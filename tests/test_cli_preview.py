"""`python -m keras_decay preview`: schedules from the shell."""

from __future__ import annotations

import re

import pytest

from keras_decay._cli import main


def rows(text):
    """The tables' rows of three numbers."""
    found = re.findall(r"^ *(\d+) +(\d+) +([\d.e-]+) *$", text, re.MULTILINE)
    return [(int(epoch), int(step), float(rate)) for epoch, step, rate in found]


def test_the_table_holds_the_epochs_where_the_rate_changes(capsys):
    """With the first step of each, and nothing between."""
    options = "--initial-learning-rate 0.1 --decay-rate 0.5 --decay-epochs 10 --epochs 30"
    assert main(["preview", "step", *options.split()]) == 0
    assert rows(capsys.readouterr().out) == [(0, 0, 0.1), (10, 1000, 0.05), (20, 2000, 0.025)]


def test_milestones_floor_and_steps_per_epoch(capsys):
    """Several numbers of epochs are milestones."""
    options = "--decay-epochs 3 5 --min-learning-rate 0.005 --epochs 9 --steps-per-epoch 7"
    assert main(["preview", "step", *options.split()]) == 0
    assert rows(capsys.readouterr().out) == [(0, 0, 0.1), (3, 21, 0.01), (5, 35, 0.005)]


def test_several_schedules_are_compared_in_one_picture(capsys, tmp_path):
    """With + between them; options of the whole stand anywhere before or after."""
    path = tmp_path / "rates.png"
    command = (
        f"preview --epochs 4 step --decay-rate 0.5 + inverse-time --staircase + constant "
        f"--warmup-epochs 2 --out {path}"
    )
    assert main(command.split()) == 0
    out = capsys.readouterr().out
    expected = [0.1, 0.05, 0.025, 0.0125, 0.1, 0.05, 0.1 / 3, 0.025, 0.0, 0.05, 0.1]
    assert [rate for _, _, rate in rows(out)] == pytest.approx(expected, rel=1e-5)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert str(path) in out


def test_a_rate_that_always_changes_is_thinned(capsys):
    """First and last epoch are there, and a line says how many there are."""
    assert main(["preview", "inverse-time", "--epochs", "500"]) == 0
    out = capsys.readouterr().out
    epochs = [epoch for epoch, _, _ in rows(out)]
    assert len(epochs) == 40
    assert (epochs[0], epochs[-1]) == (0, 499)
    assert "(40 of 500 epochs" in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("step --decay-rate 1.5", "`decay_rate` must be a number in (0, 1). Received:"),
        ("step --decay-epochs 0", "`decay_epochs` must be an int >= 1 or a strictly"),
        ("step --decay-epochs 5 3", "`decay_epochs` must be an int >= 1 or a strictly"),
        ("step --staircase", "staircase"),
        ("constant --decay-rate 0.5", "a constant rate has no `decay_rate`"),
        ("constant --min-learning-rate 0.5 --warmup-epochs 2", "has no `min_learning_rate`"),
        ("inverse-time --decay-epochs 5", "decay_epochs"),
        ("step --warmup-epochs -1", "`warmup_epochs` must be an int >= 0. Received:"),
        ("step --out no/such/folder/x.png", "cannot write there"),
        ("step --out rates.xyz", "the name must end in one of"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(command, message, capsys):
    """Exit status 1, no table, no traceback."""
    assert main(["preview", *command.split()]) == 1
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("command", ["", "cosine", "step --decay", "step --epochs 0"])
def test_a_command_that_does_not_parse_ends_with_status_2(command, capsys):
    """As always with argparse."""
    with pytest.raises(SystemExit) as ended:
        main(["preview", *command.split()])
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_help_shows_examples_and_the_options_of_a_schedule(capsys):
    """All on one page."""
    with pytest.raises(SystemExit) as ended:
        main(["preview", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for word in ("examples:", "--epochs", "+ SCHEDULE", "--warmup-epochs", "inverse-time"):
        assert word in out
