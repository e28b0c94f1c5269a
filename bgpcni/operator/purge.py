"""`bgpcni uninstall --purge`: what bgpcni keeps on a node, taken away when nobody needs it any more.

That is run_dir and data_dir, what the kernel has of ours, and the bridge and the folder of leases of the network that
the agent put into net.d. Nothing is taken while an agent or its speaker runs, or while a container is still attached.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bgpcni import locks
from bgpcni.errors import IoFailure, TryAgain
from bgpcni.ipam.cluster import leased
from bgpcni.ipam.config import DEFAULT_DATA_DIR
from bgpcni.kernel import links, nftables, routes, vrf, vxlan
from bgpcni.kernel.netlink import Netlink

_LEFT_BY_LEASES = ("last_reserved_ip.", "lock")
"""What is in a folder of leases that has none."""


def purge(run_dir: Path, data_dir: Path, network: dict[str, Any] | None) -> list[str]:
    """Take it all away; what it was, for people. Doing it again finds nothing.

    `network`: our plugin's configuration that was in net.d, with its name; None if there was none. Raises TryAgain in
    words while something is still in use, and then nothing has changed; IoFailure, KernelRefused.
    """
    held: list[int] = []
    try:
        for folder in (data_dir, run_dir):
            if folder.is_dir():
                held.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        if held:
            _refuse_agent(held)
        _refuse_use(run_dir, data_dir)
        with Netlink.open() as netlink:
            gone = [*_links(netlink, network), *_tables(), *_blackholes(netlink)]
        return gone + [str(path) for path in (*_leases(network), *_folder(data_dir), *_folder(run_dir))]
    except OSError as error:
        raise IoFailure(f"{error.filename or 'purge'}: {error.strerror}") from error
    finally:
        for fd in held:
            os.close(fd)


def _refuse_agent(folders: list[int]) -> None:
    for folder in folders:
        try:
            os.close(locks.acquire(locks.WriterLocks.AGENT, folder))
        except locks.Busy:
            raise TryAgain("an agent runs on this node: stop it first") from None


def _refuse_use(run_dir: Path, data_dir: Path) -> None:
    records = sum(1 for _ in (data_dir / "attachments").rglob("*.json"))
    if records:
        raise TryAgain(f"{records} interfaces of containers still have a record: delete those containers first")
    if lent := list(leased(data_dir / "ipam" / "leases")):
        raise TryAgain(f"{len(lent)} addresses of the cluster are leased to containers: delete those containers first")
    for path in (*run_dir.glob("*.pid"), *run_dir.glob("*.speaker")):  # locked by the speaker for as long as it lives
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TryAgain(f"the speaker {path.stem} still runs: end it first, as bgpcni drain does") from None


def _links(netlink: Netlink, network: dict[str, Any] | None) -> Iterator[str]:
    found = links.dump(netlink)
    ports = {link.master for link in found if not (vxlan.is_ours(link) or vrf.is_ours(link))}
    bridge = str((network or {}).get("bridge") or "cni0")
    for link in found:
        unused = network is not None and link.kind == "bridge" and link.name == bridge and link.index not in ports
        if unused or vxlan.is_ours(link) or vrf.is_ours(link):
            links.remove(netlink, link.index)
            yield f"{link.kind} {link.name}"


def _tables() -> Iterator[str]:
    for family in ("inet", "bridge"):
        if nftables.TABLE in nftables.tables(family):
            nftables.apply([{"delete": {"table": {"family": family, "name": nftables.TABLE}}}])
            yield f"nftables table {family} {nftables.TABLE}"


def _blackholes(netlink: Netlink) -> Iterator[str]:
    """Those of blocks of the cluster's pools."""
    for prefix in list(routes.blackholes(netlink)):
        netlink.send(routes.blackhole_message(prefix, make=False))
        yield f"blackhole {prefix}"


def _leases(network: dict[str, Any] | None) -> Iterator[Path]:
    ipam = (network or {}).get("ipam")
    if network is None or not isinstance(ipam, dict):
        return
    folder = Path(str(ipam.get("dataDir") or DEFAULT_DATA_DIR), str(network["name"]))
    if folder.is_dir() and all(name.startswith(_LEFT_BY_LEASES) for name in os.listdir(folder)):
        shutil.rmtree(folder)
        yield folder


def _folder(path: Path) -> Iterator[Path]:
    if path.is_dir():
        shutil.rmtree(path)
        yield path
