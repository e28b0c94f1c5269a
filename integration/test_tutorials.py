"""Each tutorial of the documentation does what it says: all of its commands are run, on a machine of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from integration.lab import Docker, Lab, Podman
from integration.lab.engine import busybox_archive
from integration.runtimes.machine import Machine
from integration.tutorials import Reader, reading

PAGES = sorted((Path(__file__).parents[1] / "docs/tutorials").glob("*.md"))


def engines(machine: Machine, page: str, folder: Path) -> Path:
    """A folder with the container engines of the page under their names, each with the image `busybox`."""
    programs = folder / "bin"
    programs.mkdir()
    for kind in (Docker, Podman):
        if f"# {kind.name} " in page:
            engine = kind(folder / kind.name, machine.box)
            busybox_archive(folder / "busybox.tar")
            engine.import_image("docker.io/library/busybox:latest", folder / "busybox.tar")
            command, flags = (" ".join(map(str, words)) for words in (engine.cli(), engine.run_flags))
            program = programs / kind.name
            inserted = f'[ "$1" != run ] || {{ shift; set -- run {flags} "$@"; }}'
            program.write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]}\n{inserted}\nexec {command} "$@"\n')
            program.chmod(0o755)
    return programs


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_a_tutorial_prints_what_it_says(lab: Lab, page: Path, tmp_path: Path) -> None:
    """Every command of the page, in one shell, prints what the page shows."""
    text = page.read_text()
    machine = reading(lab, tmp_path / "machine")
    try:
        reader = Reader(machine, engines(machine, text, tmp_path))
        try:
            for _ in reader.follow(text):
                pass
        finally:
            reader.close()
    finally:
        machine.close()
