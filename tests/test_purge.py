"""`bgpcni uninstall --purge`: it takes what nobody uses, and says who uses the rest. (What it takes from the kernel is
tested on a node: integration/test_deploy.py.)"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from bgpcni import locks
from bgpcni.errors import TryAgain
from bgpcni.operator import purge as purging
from bgpcni.operator.purge import purge


@pytest.fixture(autouse=True)
def other_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's links and tables are none of the test's."""
    monkeypatch.setattr(purging, "_links", lambda *_: iter(()))
    monkeypatch.setattr(purging, "_tables", lambda: iter(()))
    monkeypatch.setattr(purging, "_blackholes", lambda *_: iter(()))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """run_dir and data_dir as an agent left them."""
    run_dir, data_dir = tmp_path / "run", tmp_path / "data"
    for folder in (run_dir, data_dir):
        folder.mkdir()
        (folder / locks.WriterLocks.AGENT).touch()
    (data_dir / "attachments/up").mkdir(parents=True)
    (run_dir / "exabgp.pid").touch()
    (run_dir / "exabgp.speaker").touch()
    return run_dir, data_dir


def network(leases: Path) -> dict[str, Any]:
    return {"name": "pods", "ipam": {"type": "host-local", "dataDir": str(leases)}}


def test_all_that_is_kept_goes_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Doing it again finds nothing."""
    leases = tmp_path / "networks/pods"
    leases.mkdir(parents=True)
    (leases / "last_reserved_ip.0").touch()
    (leases / "lock").touch()
    run_dir, data_dir = folders
    assert purge(run_dir, data_dir, network(leases.parent)) == [str(leases), str(data_dir), str(run_dir)]
    assert sorted(tmp_path.iterdir()) == [leases.parent]
    assert purge(run_dir, data_dir, None) == []


def test_a_lease_of_somebodys_keeps_its_folder(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "networks/pods").mkdir(parents=True)
    (tmp_path / "networks/pods/10.1.2.3").touch()
    purge(*folders, network(tmp_path / "networks"))
    assert (tmp_path / "networks/pods/10.1.2.3").exists()


@pytest.mark.parametrize("where", [0, 1])
def test_not_while_an_agent_runs(folders: tuple[Path, Path], where: int) -> None:
    with (folders[where] / locks.WriterLocks.AGENT).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TryAgain, match="an agent runs on this node: stop it first"):
            purge(*folders, None)
    assert os.path.exists(folders[where])


@pytest.mark.parametrize("name", ["exabgp.pid", "exabgp.speaker"])
def test_not_while_the_speaker_runs(folders: tuple[Path, Path], name: str) -> None:
    with (folders[0] / name).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TryAgain, match="the speaker exabgp still runs"):
            purge(*folders, None)


@pytest.mark.parametrize("state", ["adding", "up", "leaving"])
def test_not_while_a_container_is_attached(folders: tuple[Path, Path], state: str) -> None:
    """Also one whose withdrawal is not confirmed yet: a peer may still have its route."""
    record = folders[1] / "attachments" / state / "pods@1.json"
    record.parent.mkdir(exist_ok=True)
    record.touch()
    with pytest.raises(TryAgain, match="1 interfaces of containers still have a record"):
        purge(*folders, None)
    assert record.exists()


def test_not_while_another_plugins_container_has_an_address_of_the_cluster(folders: tuple[Path, Path]) -> None:
    """macvlan's, for which there is a lease and no record."""
    leases = folders[1] / "ipam/leases"
    leases.mkdir(parents=True)
    (leases / "lock").touch()
    (leases / "10.64.0.2").write_bytes(b"c1\r\neth0\r\nlan")
    with pytest.raises(TryAgain, match="1 addresses of the cluster are leased to containers"):
        purge(*folders, None)
    (leases / "10.64.0.2").unlink()
    assert purge(*folders, None) == [str(folders[1]), str(folders[0])]
