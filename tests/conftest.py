"""One run, one backend: the one that `KERAS_BACKEND` names, or the run fails."""

from __future__ import annotations

import importlib
import os

import pytest
from hypothesis import settings

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_configure(config):
    """Fails the run if tests would be skipped or would silently use another backend."""
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    os.environ["KERAS_BACKEND"] = backend
    if backend not in ("tensorflow", "jax", "torch"):
        raise pytest.UsageError(
            f"KERAS_BACKEND must be tensorflow, jax or torch. Received: KERAS_BACKEND={backend}"
        )
    if distributes(config):
        return
    try:
        importlib.import_module(backend)
    except ImportError as error:
        raise pytest.UsageError(
            f"The tests are to run on {backend} (KERAS_BACKEND), which cannot be imported: "
            f"{error}. Install it, or set KERAS_BACKEND to a backend that is installed."
        ) from error

    import keras

    if keras.backend.backend() != backend:
        raise pytest.UsageError(
            f"The tests are to run on {backend} (KERAS_BACKEND), but Keras uses "
            f"{keras.backend.backend()}."
        )
    if backend == "tensorflow":
        leave_data_pipelines_untuned()


def leave_data_pipelines_untuned():
    """Switches off TensorFlow's tuning of data pipelines, which Keras makes anew in each epoch.

    To optimize a pipeline takes longer than an epoch of a few steps. Options that are set before
    TensorFlow starts apply to pipelines; those set later apply to compiled functions, so training
    steps are optimized as usual. Garbage collection of a pipeline can also wait for its tuning
    thread, for seconds if the thread is old.
    """
    import tensorflow as tf

    for disabled in (True, False):
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": disabled})
        tf.config.list_logical_devices()
    options = tf.data.Options()
    options.autotune.enabled = False
    iterate = tf.data.Dataset.__iter__
    tf.data.Dataset.__iter__ = lambda dataset: iterate(dataset.with_options(options))


def pytest_report_header(config):
    if distributes(config):
        return None
    import keras

    return f"keras: {keras.__version__} on {keras.backend.backend()}"


def distributes(config):
    """Whether this process only hands out the tests (`-n`), and need not wait for the imports."""
    return bool(getattr(config.option, "numprocesses", None))


@pytest.fixture(autouse=True)
def seed():
    """Each test starts from the same random state, whichever tests ran before it."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture
def set_floatx():
    """`keras.config.set_floatx`, for one test."""
    import keras

    floatx = keras.config.floatx()
    yield keras.config.set_floatx
    keras.config.set_floatx(floatx)
