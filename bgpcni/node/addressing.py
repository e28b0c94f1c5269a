"""Where an attachment's addresses come from and how they go back: host-local in process, any other plugin run.

Knows records and networks; the files and the running are `bgpcni.ipam`'s.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bgpcni.cni.result import Dns, Result, Route
from bgpcni.errors import CniError, TryAgain
from bgpcni.ipam.boot import Reclaimer
from bgpcni.ipam.config import requested_addresses
from bgpcni.ipam.delegate import Delegate, find_plugin
from bgpcni.ipam.host_local import AddressTaken, HostLocal, PoolExhausted
from bgpcni.ipam.leases import Leases, bare
from bgpcni.model import Address, Attachment, Ipam, KernelRoute, State
from bgpcni.node.request import Request, host_local_of
from bgpcni.store import Store
from bgpcni.undo import Undo

log = logging.getLogger(__name__)
BUILT_IN = "host-local"
DELEGATE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Given:
    """What IPAM gave."""

    addresses: tuple[Address, ...] = ()
    routes: tuple[KernelRoute, ...] = ()
    dns: Dns = field(default_factory=Dns)


class Addressing:
    """IPAM for one node's attachments. Safe for threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reclaimer = Reclaimer(str(_leases_dir(store)))
        self._reclaimed: set[str] = set()

    def plan(self, request: Request) -> Ipam | None:
        """How the addresses will be given back, known before any is taken. None: layer 2 only."""
        kind = request.settings.ipam_type
        if not kind:
            return None
        if kind == BUILT_IN:
            return Ipam(type=kind, data_dir=host_local_of(request).data_dir)
        find_plugin(kind, request.environment.path)
        return Ipam(type=kind, stdin=request.stdin.decode(), environment=dict(request.variables))

    def allocate(
        self,
        request: Request,
        ipam: Ipam | None,
        undo: Undo,
        *,
        own: Sequence[Address] = (),
        leaving: Callable[[], bool] = lambda: False,
    ) -> Given:
        """Take the addresses, and register how to give them back. Raises the IPAM's own error.

        `own`: what is still held for this very container, which gets it again. `leaving`: asked when all is undone;
        while its withdrawal is not confirmed an address is kept.
        """
        if ipam is None:
            return Given()
        if ipam.type != BUILT_IN:
            # a plugin that failed halfway may hold an address: its DEL runs in any case
            undo.push("the IPAM plugin's ADD", lambda: self._delegate(ipam).delete(_deadline()))
            return _given(self._delegate(ipam).add(_deadline()))
        config = host_local_of(request)
        leases = HostLocal(config, request.name)
        self._reclaim(leases)
        container_id, ifname = request.environment.container_id, request.environment.ifname
        owner = container_id, ifname
        requested = requested_addresses(request.document, request.environment.args)
        mine = {bare(item.address): owner for item in own}
        if mine and requested and {bare(text) for text in requested} != mine.keys():
            raise TryAgain(f"ipam: {', '.join(mine)} is still held for {container_id}: not withdrawn yet")
        try:
            taken = leases.add(container_id, ifname, tuple(mine) or requested, mine)
        except (PoolExhausted, AddressTaken):
            held = self._held(request.name, config.data_dir)
            if not held:
                raise
            taken = leases.add(container_id, ifname, requested, held)
        addresses = tuple(Address(address=lease.address, gateway=lease.gateway) for lease in taken)
        undo.push("the leases", lambda: None if leaving() else leases.give_back(taken, owner))
        return Given(addresses, tuple(map(_kernel_route, config.routes)), leases.dns())

    def release(self, attachment: Attachment) -> None:
        """Give the addresses of a record back. Gone already is success."""
        ipam = attachment.ipam
        if ipam is None:
            return
        if ipam.type != BUILT_IN:
            self._delegate(ipam).delete(_deadline())
            return
        known = [item.address for item in attachment.addresses] or None
        Leases(ipam.data_dir, attachment.network).release(attachment.container_id, attachment.ifname, known)

    def release_unrecorded(self, request: Request, warnings: list[str]) -> None:
        """DEL without a record: what (container ID, interface name) holds in this network goes."""
        ipam = request.document.get("ipam")
        section: Mapping[str, object] = ipam if isinstance(ipam, dict) else {}
        folded = {key.lower(): value for key, value in section.items()}
        kind, data_dir = folded.get("type"), folded.get("datadir")
        try:
            if kind == BUILT_IN or not isinstance(kind, str):
                leases = Leases(data_dir if isinstance(data_dir, str) else None, request.name)
                leases.release(request.environment.container_id, request.environment.ifname)
            elif (kind and request.prev_result is None) or request.config is not None:
                Delegate(kind, request.variables, request.stdin).delete(_deadline())
        except CniError as error:
            warnings.append(f"ipam: {error.msg}")

    def check(self, attachment: Attachment) -> None:
        """CHECK of the IPAM. Raises CniError."""
        ipam = attachment.ipam
        if ipam is None:
            return
        if ipam.type != BUILT_IN:
            self._delegate(ipam).check(_deadline())
            return
        addresses = [item.address for item in attachment.addresses]
        Leases(ipam.data_dir, attachment.network).check(attachment.container_id, attachment.ifname, addresses)

    def collect(self, request: Request, valid: Collection[tuple[str, str]]) -> list[str]:
        """GC: leases of this network whose owner is not in `valid` go; a delegated plugin is asked to do its part."""
        kind = request.config.ipam_type if request.config else ""
        if kind == BUILT_IN:
            return Leases(host_local_of(request).data_dir, request.name).gc(valid)
        if kind:
            Delegate(kind, request.variables, request.stdin).gc(_deadline())
        return []

    def status(self, request: Request) -> None:
        """STATUS: raises CniError where addresses could not be given."""
        kind = request.settings.ipam_type
        if kind == BUILT_IN:
            host_local_of(request)
        elif kind:
            Delegate(kind, request.variables, request.stdin).status(_deadline())

    def _delegate(self, ipam: Ipam) -> Delegate:
        return Delegate(ipam.type, ipam.environment, (ipam.stdin or "").encode())

    def _reclaim(self, leases: HostLocal) -> None:
        """Rule 13: what a reboot left in this network's folder, once per boot."""
        if leases.folder in self._reclaimed:
            return
        if self._reclaimer.done(leases):
            self._reclaimed.add(leases.folder)
            return
        recorded = {
            (stored.attachment.container_id, stored.attachment.ifname)
            for stored in self._store.all()
            if stored.attachment is not None and stored.network == leases.network
        }
        for address in self._reclaimer.run(leases, recorded):
            log.info("network %s: lease of %s was left by an earlier boot; reclaimed", leases.network, address)
        self._reclaimed.add(leases.folder)

    def _held(self, network: str, data_dir: str) -> dict[str, tuple[str, str]]:
        """Addresses of attachments that are gone but not confirmed withdrawn, the oldest first (rule 2).

        Unicast and vpn only, whose NLRI and next hop stay the same on this node: EVPN's key has the MAC.
        """
        gone = [
            stored.attachment
            for stored in self._store.all()
            if stored.state is State.LEAVING
            and stored.attachment is not None
            and stored.network == network
            and stored.attachment.bgp.family != "evpn"
            and stored.attachment.ipam is not None
            and stored.attachment.ipam.data_dir == data_dir
        ]
        return {
            bare(address.address): (attachment.container_id, attachment.ifname)
            for attachment in sorted(gone, key=lambda item: item.since)
            for address in attachment.addresses
        }


def _leases_dir(store: Store) -> Path:
    folder = store.run_path / "leases"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _deadline() -> float:
    return time.monotonic() + DELEGATE_SECONDS


def _kernel_route(route: Route) -> KernelRoute:
    return KernelRoute(
        dst=route.dst,
        gw=route.gw,
        mtu=route.mtu,
        advmss=route.advmss,
        priority=route.priority,
        table=route.table,
        scope=route.scope,
    )


def _given(result: Result) -> Given:
    addresses = tuple(Address(address=item.address, gateway=item.gateway) for item in result.ips)
    return Given(addresses, tuple(map(_kernel_route, result.routes)), result.dns)
