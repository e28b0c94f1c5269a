"""Each tutorial of the documentation does what it says: all of its commands are run, on a machine of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from integration.lab import Lab
from integration.lab.node import BGPCNI
from integration.runtimes.machine import SETUP, Machine
from integration.tutorials import Reader

PAGES = sorted((Path(__file__).parents[1] / "docs/tutorials").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_tutorial_prints_what_it_says(lab: Lab, page: Path, tmp_path: Path) -> None:
    """Every command of the page, in one shell, prints what the page shows."""
    machine = Machine(lab.namespace("reader"), tmp_path / "machine", "mount -t tmpfs tmpfs /var/tmp\n" + SETUP)
    reader = Reader(machine, f"{BGPCNI.parent}:{os.environ['PATH']}")
    try:
        reader.follow(page.read_text())
    finally:
        reader.close()
        machine.close()
