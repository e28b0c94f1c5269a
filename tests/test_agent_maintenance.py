"""Who asked for maintenance, and that a restart of the agent forgets nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from bgpcni import atomic
from bgpcni.agent.maintenance import FILE, Maintenance
from bgpcni.errors import IoFailure


def test_it_lasts_until_everybody_has_taken_it_back(tmp_path: Path) -> None:
    """Over restarts too; to ask again does not change since when."""
    Maintenance(tmp_path, "boot").ask("operator", on=True)
    asked = Maintenance(tmp_path, "boot")
    since = asked.asked["operator"]
    asked.ask("annotation", on=True)
    asked.ask("operator", on=True)
    assert asked.asked["operator"] == since
    asked.ask("operator", on=False)
    assert list(Maintenance(tmp_path, "another boot").asked) == ["annotation"]
    asked.ask("annotation", on=False)
    assert asked.asked == Maintenance(tmp_path, "boot").asked == {}


def test_one_for_a_shutdown_ends_with_the_boot(tmp_path: Path) -> None:
    """The operator who asks for more afterwards gets it."""
    asked = Maintenance(tmp_path, "boot")
    asked.ask("operator", on=True, until_reboot=True)
    assert list(Maintenance(tmp_path, "boot").asked) == ["operator"]
    assert Maintenance(tmp_path, "next boot").asked == {}
    asked.ask("operator", on=True)
    assert list(Maintenance(tmp_path, "next boot").asked) == ["operator"]


def test_what_cannot_be_kept_is_not_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    asked = Maintenance(tmp_path, "boot")
    monkeypatch.setattr(atomic, "put", full)
    with pytest.raises(IoFailure, match=f"{FILE}: No space left on device"):
        asked.ask("operator", on=True)
    assert asked.asked == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"asked": {"operator": {"when": 1}}}', '{"asked": []}'])
def test_a_broken_file_is_said_and_survived(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_text(text)
    assert Maintenance(tmp_path, "boot").asked == {}
    assert "cannot be read" in caplog.text
