"""Leases that a reboot left behind are reclaimed; a living container's never is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpcni.errors import IoFailure
from bgpcni.ipam.boot import Noted, Reclaimer, boot_time_ns, reclaimable
from bgpcni.ipam.leases import Entry, Leases
from bgpcni.kernel.namespace import boot_id
from bgpcni.testing.interleaving import Halt, Running

BOOT = 1_000_000
OLD, YOUNG = BOOT - 1, BOOT

ENTRIES = st.builds(
    Entry, st.integers(1, 3), st.sampled_from([OLD, YOUNG]), st.sampled_from(["a\r\neth0", "b\r\neth0", "a", "b"])
)
TABLES = st.dictionaries(st.sampled_from(["10.1.2.2", "10.1.2.3", "fd00::2"]), ENTRIES)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TABLES, TABLES, st.sets(st.sampled_from([("a", "eth0"), ("b", "eth0"), ("b", "net1")])))
def test_the_four_conditions(noted: dict[str, Entry], now: dict[str, Entry], recorded: set[tuple[str, str]]) -> None:
    """There at the first call, unchanged, older than the boot, and of no record: all four, or it stays."""
    notes = {address: Noted.of(entry) for address, entry in noted.items()}
    doomed = reclaimable(notes, now, BOOT, recorded)
    for address, entry in now.items():
        container_id, ifname = entry.owner
        ours = any(container_id == cid and ifname in (None, name) for cid, name in recorded)
        assert (address in doomed) == (noted.get(address) == entry and entry.mtime_ns < BOOT and not ours)


def lease(folder: Path, address: str, owner: str, mtime_ns: int) -> None:
    (folder / "blue").mkdir(parents=True, exist_ok=True)
    (folder / "blue" / address).write_bytes(owner.encode())
    os.utime(folder / "blue" / address, ns=(mtime_ns, mtime_ns))


def left(folder: Path) -> set[str]:
    return {path.name for path in (folder / "blue").iterdir() if path.name[0] in "1f"}


def test_the_first_call_of_a_boot_reclaims_and_later_ones_do_not(tmp_path: Path) -> None:
    """What other plugins leased since is theirs, however the clock was set in between."""
    leases = Leases(str(tmp_path), "blue")
    run_dir = str(tmp_path / "run")
    lease(tmp_path, "10.1.2.2", "stale\r\neth0", OLD)
    lease(tmp_path, "10.1.2.3", "ours\r\neth0", OLD)
    lease(tmp_path, "10.1.2.4", "started-before-us\r\neth0", YOUNG)
    reclaimer = Reclaimer(run_dir, "boot-1", BOOT)
    assert not reclaimer.done(leases)
    assert reclaimer.run(leases, {("ours", "eth0")}) == ["10.1.2.2"]
    assert left(tmp_path) == {"10.1.2.3", "10.1.2.4"}
    lease(tmp_path, "10.1.2.5", "live-but-the-clock-stepped\r\neth0", OLD)
    assert Reclaimer(run_dir, "boot-1", BOOT).done(leases)
    assert Reclaimer(run_dir, "boot-1", BOOT).run(leases, set()) == []
    assert "10.1.2.5" in left(tmp_path)
    assert sorted(Reclaimer(run_dir, "boot-2", YOUNG + 1).run(leases, set())) == ["10.1.2.3", "10.1.2.4", "10.1.2.5"]


def test_a_network_without_leases_at_the_first_call_is_done_with(tmp_path: Path) -> None:
    """All that appears later is of this boot."""
    leases = Leases(str(tmp_path), "blue")
    reclaimer = Reclaimer(str(tmp_path / "run"), "boot-1", BOOT)
    assert reclaimer.run(leases, set()) == []
    assert not (tmp_path / "blue").exists()
    lease(tmp_path, "10.1.2.2", "live\r\neth0", OLD)
    assert reclaimer.run(leases, set()) == []


def test_a_call_that_died_in_between_is_finished_with_the_set_it_noted(tmp_path: Path) -> None:
    """The set is written down before anything is released, and is not taken anew."""
    leases = Leases(str(tmp_path), "blue")
    lease(tmp_path, "10.1.2.2", "stale\r\neth0", OLD)
    lease(tmp_path, "10.1.2.3", "stale\r\nnet1", OLD)
    reclaimer = Reclaimer(str(tmp_path / "run"), "boot-1", BOOT)

    class Died(BaseException):
        pass

    class Dying(Leases):
        def _unlink(self, folder: int, name: str) -> bool:
            raise Died

    with pytest.raises(Died):
        reclaimer.run(Dying(str(tmp_path), "blue"), set())
    (tmp_path / "blue/10.1.2.3").unlink()
    lease(tmp_path, "10.1.2.3", "live\r\neth0", OLD)
    lease(tmp_path, "10.1.2.4", "live\r\neth0", OLD)
    assert reclaimer.run(leases, set()) == ["10.1.2.2"]
    assert left(tmp_path) == {"10.1.2.3", "10.1.2.4"}


def test_two_first_calls_at_once_reclaim_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One has released what the boot left, and has not noted that; what is leased since is not taken by the other."""
    leases = Leases(str(tmp_path), "blue")
    lease(tmp_path, "10.1.2.2", "stale\r\neth0", OLD)
    halt = Halt(monkeypatch, Leases, "reclaim", after=True)
    first = Running(lambda: Reclaimer(str(tmp_path / "run"), "boot-1", BOOT).run(leases, set()))
    halt.reached()
    lease(tmp_path, "10.1.2.2", "live\r\neth0", OLD)
    assert Reclaimer(str(tmp_path / "run"), "boot-1", BOOT).run(leases, set()) == []
    halt.go_on()
    assert first.result() == ["10.1.2.2"]
    assert left(tmp_path) == {"10.1.2.2"}


def test_a_torn_note_is_taken_anew_and_a_folder_that_is_none_is_error_5(tmp_path: Path) -> None:
    """Neither ends in a traceback."""
    leases = Leases(str(tmp_path), "blue")
    lease(tmp_path, "10.1.2.2", "stale\r\neth0", OLD)
    reclaimer = Reclaimer(str(tmp_path / "run"), "boot-1", BOOT)
    (tmp_path / "run").mkdir()
    for text in ("{", "[]", '{"boot_id": "boot-1", "leases": [1]}', '{"boot_id": "boot-1", "leases": {"a": [1]}}'):
        Path(reclaimer._path(leases)).write_text(text)
        assert not reclaimer.done(leases)
    assert reclaimer.run(leases, set()) == ["10.1.2.2"]
    (tmp_path / "file").touch()
    with pytest.raises(IoFailure, match="Not a directory"):
        Reclaimer(str(tmp_path / "file" / "run"), "boot-1", BOOT).run(leases, set())


def test_this_machines_boot(tmp_path: Path) -> None:
    """A lease written now is never older than the boot; one of 1970 is."""
    assert len(boot_id()) == 36
    leases = Leases(str(tmp_path), "blue")
    lease(tmp_path, "10.1.2.2", "stale\r\neth0", 1)
    (tmp_path / "blue/10.1.2.3").write_bytes(b"live\r\neth0")
    assert 1 < boot_time_ns() < (tmp_path / "blue/10.1.2.3").stat().st_mtime_ns
    assert Reclaimer(str(tmp_path / "run"), boot_id()).run(leases, set()) == ["10.1.2.2"]
