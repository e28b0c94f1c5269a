"""A stranger begins an exporter: the package that `bgpcni new-exporter` makes can be installed and passes the suite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bgpcni.operator.cli import main

PYTHON = [sys.executable, "-P"]


def make(folder: Path, name: str = "fabricd") -> Path:
    done = CliRunner().invoke(main, ["new-exporter", name, "--into", str(folder)])
    assert done.exit_code == 0, done.output
    return folder / f"bgpcni-{name}"


def test_the_new_package_is_installed_and_found_by_its_name(tmp_path: Path) -> None:
    """pip installs it; then a network may name it, and its own options are checked."""
    package, there = make(tmp_path), tmp_path / "there"
    pip = [*PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(there), "."]
    done = subprocess.run(pip, cwd=package, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    asks = (
        "from bgpcni.convergence import catalog; kind = catalog.load('fabricd'); "
        "print(kind.__name__, kind.Config(socket='/run/a').socket, catalog.unfit(kind))"
    )
    environment = os.environ | {"PYTHONPATH": str(there)}
    done = subprocess.run(
        [*PYTHON, "-c", asks], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.stdout == "Fabricd /run/a \n", done.stderr


def test_the_new_package_passes_the_suite(tmp_path: Path) -> None:
    """All tests that every exporter must pass, against the toy speaker that comes with it."""
    package = make(tmp_path)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTHONPATH": str(package)}
    command = [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(package / "pyproject.toml"), "tests"]
    done = subprocess.run(
        command, cwd=package, env=environment, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_nothing_of_the_example_is_left(tmp_path: Path) -> None:
    """Neither in names of files nor in their text."""
    for path in make(tmp_path).rglob("*"):
        assert "example" not in path.name
        assert path.is_dir() or "example" not in path.read_text().lower()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../etc", "is not a name for an exporter"),
        ("Fabric", "is not a name for an exporter"),
        ("class", "is not a name for an exporter"),
        ("a", "is not a name for an exporter"),
        ("kernel", "is installed already"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str, why: str) -> None:
    """And nothing is written."""
    done = CliRunner().invoke(main, ["new-exporter", name, "--into", str(tmp_path)])
    assert done.exit_code == 1
    assert why in done.output
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (make(tmp_path) / "README.md").write_text("mine")
    done = CliRunner().invoke(main, ["new-exporter", "fabricd", "--into", str(tmp_path)])
    assert (done.exit_code, "exists already" in done.output) == (1, True)
    assert (tmp_path / "bgpcni-fabricd/README.md").read_text() == "mine"
