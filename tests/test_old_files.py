"""Files of version 0.1.0 load as they did then: memory, rates and the optimizer's own slots."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from support import fit

FILES = Path(__file__).parent / "files"
sys.path.insert(0, str(FILES))
from make import network, plateau, what_is  # noqa: E402

EXPECTED = json.loads((FILES / "expected.json").read_text())
pytestmark = pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="written by a later Keras"
)


def names(pattern):
    return pytest.mark.parametrize(
        "name", sorted(path.name.partition(".")[0] for path in FILES.glob(pattern))
    )


def assert_is(actual, expected):
    """What the file was said to hold when it was made."""
    for key, value in expected.items():
        if key in ("rates", "slots"):
            for one, other in zip(actual[key], value, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)
        else:
            assert actual[key] == value, key


@names("*.weights.h5")
def test_a_weights_file_of_version_0_1_loads(name):
    """Into a model that a plateau has taken hold of."""
    restored, callback = network(name, seed=1), plateau(restore_best_weights="best" in name)
    callback.attach(restored)
    restored.load_weights(FILES / f"{name}.weights.h5")
    assert_is(what_is(restored, callback), EXPECTED[name])


def test_the_best_weights_of_a_file_of_version_0_1_are_restored():
    """They are in weights files and backups."""
    restored, callback = network("schedule_best", seed=1), plateau(restore_best_weights=True)
    callback.attach(restored)
    restored.load_weights(FILES / "schedule_best.weights.h5")
    before = restored.get_weights()
    assert callback.reduce()
    after = restored.get_weights()
    assert any(not np.array_equal(*pair) for pair in zip(before, after, strict=True))


@names("*.keras")
def test_a_model_file_of_version_0_1_loads(name):
    """Of a float rate it has the rate alone, as then."""
    loaded, callback = keras.models.load_model(FILES / f"{name}.keras"), plateau()
    callback.attach(loaded)
    expected = dict(EXPECTED[name])
    if "float" in name:
        expected = {key: expected[key] for key in ("rates", "slots")}
    assert_is(what_is(loaded, callback), expected)


@pytest.mark.parametrize("name", [name for name in EXPECTED if (FILES / name).is_dir()])
def test_a_backup_folder_of_version_0_1_goes_on(name, tmp_path):
    """At the epoch after its last one, whose observation it has."""
    for file in (FILES / name).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    restored, callback, seen = network(name, seed=1), plateau(), []

    class See(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append((epoch, what_is(self.model, callback)))

    backup = keras.callbacks.BackupAndRestore(tmp_path)
    fit(restored, [callback, backup, See()], epochs=6, values=[9.0] * 6)
    ((epoch, actual),) = seen
    assert epoch == 5
    assert_is(actual, EXPECTED[name])
