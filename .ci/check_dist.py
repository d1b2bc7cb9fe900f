"""Builds the sdist, and the wheel from it; installs the wheel alone and uses it from there."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SMOKE = """
import importlib.metadata
import pathlib
import sysconfig

import keras_decay

package = pathlib.Path(keras_decay.__file__).parent
assert package.parent == pathlib.Path(sysconfig.get_path("purelib")), package
assert (package / "py.typed").is_file()
assert importlib.metadata.version("keras-decay") == keras_decay.__version__
schedule = keras_decay.StepDecay(0.5, 0.5, steps_per_epoch=10)
assert [float(schedule(step)) for step in (9, 10, 20)] == [0.5, 0.25, 0.125]
print(f"keras-decay {keras_decay.__version__} works from {package}")
"""


def run(*command: str | Path, **arguments: object) -> None:
    subprocess.run([str(part) for part in command], check=True, **arguments)


def check_contents(sdist: Path, wheel: Path) -> None:
    """The wheel is the package and nothing else; from the sdist one can build and test."""
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
    tops = {name.split("/")[0] for name in files}
    metadata = {name for name in tops if name.endswith(".dist-info")}
    assert tops - metadata == {"keras_decay"}, tops
    sources = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("keras_decay/**/*.py")}
    assert sources | {"keras_decay/py.typed"} == files - {
        name for name in files if name.split("/")[0] in metadata
    }, files
    assert any(name.endswith("licenses/LICENSE") for name in files), files

    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    wanted = {"keras_decay", "tests", "notebooks", "README.md", "LICENSE", "pyproject.toml"}
    assert wanted <= tops <= wanted | {"PKG-INFO", ".gitignore", ".github"}, tops


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        dist, clean = Path(folder, "dist"), Path(folder, "clean")
        run(sys.executable, "-m", "build", "--outdir", dist, ROOT)
        (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
        check_contents(sdist, wheel)

        venv.create(clean, with_pip=True)
        python = clean / ("Scripts" if os.name == "nt" else "bin") / "python"
        # The smallest of the backends.
        run(python, "-m", "pip", "install", "--quiet", f"{wheel}[jax]")
        environment = {**os.environ, "KERAS_BACKEND": "jax"}
        run(python, "-I", "-c", SMOKE, cwd=folder, env=environment)
        run(python, "-I", "-m", "keras_decay", "--help", cwd=folder, env=environment)


if __name__ == "__main__":
    main()
