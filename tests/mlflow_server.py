"""A model that is logged to MLflow is served where this package is not installed.

Not among the other tests, and not with those of the other tools, whose versions MLflow narrows:
`tox -e mlflow` names this file, and fails where MLflow is missing.
"""

from __future__ import annotations

import subprocess
import sys

import keras
import mlflow
import numpy as np
import pytest
from support import fit, model

from keras_decay import PlateauDecay

SERVER = """
import sys

sys.modules["keras_decay"] = None  # Not installed.
import mlflow
import numpy as np

print(mlflow.pyfunc.load_model(sys.argv[1]).predict(np.ones((4, 3), "float32"))[0].item())
"""


@pytest.mark.filterwarnings("default")  # MLflow's own are many.
def test_a_server_of_mlflow_predicts_without_this_package(tmp_path):
    """The model is logged uncompiled, over whatever rate it was trained."""
    trained = model(keras.optimizers.schedules.CosineDecay(0.1, 100))
    fit(trained, [PlateauDecay(patience=1)], epochs=3, values=[1.0] * 3)
    mlflow.keras.save_model(
        keras.Model(trained.inputs, trained.outputs),
        str(tmp_path / "model"),
        pip_requirements=[f"keras=={keras.__version__}", "jax"],
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SERVER, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    prediction = trained.predict(np.ones((4, 3), "float32"), verbose=0)[0].item()
    assert float(done.stdout.split()[-1]) == pytest.approx(prediction)
