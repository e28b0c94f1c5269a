"""The reference of the commands: manual pages that `man` shows without a complaint, and docs/commands.md as it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bgpcni.operator import manual
from bgpcni.operator.cli import main

PAGES = {page.name: page for page in manual.pages()}


def test_the_document_is_what_the_command_line_says() -> None:
    """If not: `python -m bgpcni.operator.manual > docs/commands.md`."""
    assert (Path(__file__).parents[1] / "docs" / "commands.md").read_text() == manual.markdown()


def test_every_command_has_a_page(tmp_path: Path) -> None:
    shown = {f"bgpcni-{name}.1" for name, command in main.commands.items() if not command.hidden}
    assert {"bgpcni.1", *shown} <= {file.name for file in manual.write(tmp_path)}


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_groff_has_nothing_to_complain_about(tmp_path: Path) -> None:
    files = manual.write(tmp_path)
    shown = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-z", *files], capture_output=True, text=True, check=True)
    assert shown.stderr == ""


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_a_page_shows_what_help_says(tmp_path: Path) -> None:
    (file,) = [file for file in manual.write(tmp_path) if file.name == "bgpcni-routes.1"]
    shown = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-c", file], capture_output=True, text=True, check=True
    ).stdout
    text = " ".join(shown.replace("-\n", "-").split())
    for words in ("BGPCNI-ROUTES(1)", "--peer ADDRESS", "BGPCNI_SOCKET", "bgpcni(1)"):
        assert words.lower() in _plain(text).lower(), words


def _plain(text: str) -> str:
    """Without the overstrikes of bold text."""
    return "".join(text[at] for at in range(len(text)) if text[at] != "\b" and text[at + 1 : at + 2] != "\b")


@pytest.mark.parametrize("text", [".TH evil", "'br", "a\\fB", "-x", ""])
def test_no_text_is_a_request_of_roff(text: str) -> None:
    escaped = manual._roff(text)
    assert not escaped.startswith((".", "'"))
    assert "\\f" not in escaped.replace("\\e", "")
