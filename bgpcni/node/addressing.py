"""Where an attachment's addresses come from and how they are released: host-local runs in this process, any other
IPAM plugin is executed.

This module knows records and networks; lease files and executables are the business of `bgpcni.ipam`.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from bgpcni.cni.result import Dns, Result, Route
from bgpcni.errors import CniError, Degraded, InvalidConfiguration, TryAgain, Unavailable
from bgpcni.ipam.boot import Reclaimer
from bgpcni.ipam.config import DEFAULT_DATA_DIR, requested_addresses
from bgpcni.ipam.delegate import Delegate, find_plugin
from bgpcni.ipam.host_local import AddressTaken, HostLocal, PoolExhausted
from bgpcni.ipam.leases import Entry, Leases, Owner, bare, is_among
from bgpcni.kernel import guests
from bgpcni.kernel.namespace import boot_id
from bgpcni.kernel.netlink import Netlink
from bgpcni.model import Address, Attachment, AttachmentKey, Ipam, State
from bgpcni.node.request import Request, host_local_of
from bgpcni.steps import step
from bgpcni.store import Store

log = logging.getLogger(__name__)
BUILT_IN = "host-local"
VALID_ATTACHMENTS = "cni.dev/valid-attachments"
DELEGATE_SECONDS = 30.0
HELD_SECONDS = 1.0
"""How long an ADD waits for an address when each one that is not in use is held."""
HAND_BACK_SECONDS = 3.0
"""How long we wait for the lock of an attachment: longer than a DEL waits for its withdrawals."""
_MILLISECOND = 1_000_000
Holder = tuple[str, str]
"""Container ID and interface name."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the IPAM plugin gave for one attachment."""

    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)


class Addressing:
    """IPAM for one node's attachments. Safe for threads."""

    def __init__(self, store: Store, *, resident: bool) -> None:
        """`resident`: this process is the agent, where held addresses are released while an ADD waits for one."""
        self._store = store
        self._resident = resident
        self._change = threading.Condition()
        self._released = 0
        self._reclaimer = Reclaimer(str(_leases_dir(store)), boot_id())
        self._reclaimed: set[str] = set()
        self._taken: dict[tuple[str, str], tuple[Holder, Holder]] = {}
        """(folder, address) → (taker, holder): held addresses that a new container took because nothing else was
        free."""

    def plan(self, request: Request) -> Ipam | None:
        """How the addresses will be released; the record says so before any is taken. None: layer 2 only."""
        kind = request.settings.ipam_type
        if not kind:
            return None
        if kind == BUILT_IN:
            return Ipam(type=kind, data_dir=host_local_of(request).data_dir)
        find_plugin(kind, request.environment.path)  # if it is not installed, it could not release anything
        return Ipam(type=kind, stdin=request.stdin.decode(), environment=dict(request.variables))

    @step("addresses")
    def allocate(self, request: Request, ipam: Ipam | None, held: Attachment | None = None) -> Given:
        """Take the addresses. The caller has written the record by which `release` undoes this.

        `held`: this container's earlier attachment, whose withdrawal is not confirmed: the container gets the same
        addresses again or none. Raises the IPAM plugin's own error.
        """
        if held is not None and held.ipam is not None and not _same_pool(held.ipam, ipam):
            raise TryAgain(f"{request.key}: its earlier addresses are held until peers confirm their withdrawal")
        if ipam is None:
            return Given()
        if ipam.type != BUILT_IN:
            return _given(ipam.type, self._delegate(ipam).add(_deadline()))
        config = host_local_of(request)
        leases = HostLocal(config, request.name, self._recorded(request.name, config.data_dir))
        self._reclaim(leases)
        container_id, ifname = request.environment.container_id, request.environment.ifname
        requested = requested_addresses(request.document, request.environment.args)
        own: dict[str, tuple[str, str]] = {}
        if held is not None:
            own = {bare(item.address): (container_id, ifname) for item in held.addresses}
            requested = tuple(own)
        deadline = time.monotonic() + HELD_SECONDS
        while True:
            released = self._released
            try:
                taken = leases.add(
                    container_id, ifname, requested, own, lambda: self._held(request.name, config.data_dir)
                )
                break
            except (PoolExhausted, AddressTaken):
                if not self._comes_free(request.name, config.data_dir, released, deadline):
                    raise
        for lease in taken:
            if lease.taken_from is not None and lease.taken_from != (container_id, ifname):
                self._taken[leases.folder, bare(lease.address)] = (container_id, ifname), lease.taken_from
        addresses = tuple(Address(address=lease.address, gateway=lease.gateway) for lease in taken)
        return Given(addresses, config.routes, leases.dns())

    def is_leased_elsewhere(self, attachment: Attachment) -> bool:
        """Whether another network in the same folder of leases has leased one of its addresses, on whatever bridge."""
        if attachment.ipam is None or attachment.ipam.type != BUILT_IN:
            return False
        addresses = [bare(item.address) for item in attachment.addresses]
        return Leases(attachment.ipam.data_dir, attachment.network).is_leased_elsewhere(addresses)

    @step("release")
    def release(self, attachment: Attachment) -> None:
        """Release the addresses of a record. Addresses that are released already are no error."""
        ipam = attachment.ipam
        if ipam is None:
            return
        if ipam.type != BUILT_IN:
            try:
                self._delegate(ipam).delete(_deadline())
            except InvalidConfiguration as error:  # uninstalled; a DEL that always fails would help nobody
                log.warning("%s: its addresses were not released: %s", attachment.key, error.msg)
            return
        known = [item.address for item in attachment.addresses] or None
        leases = self._leases(ipam.data_dir, attachment.network)
        self._hand_back(leases, (attachment.container_id, attachment.ifname))
        leases.release(attachment.container_id, attachment.ifname, known, _Remade(attachment))
        with self._change:
            self._released += 1
            self._change.notify_all()

    def _hand_back(self, leases: Leases, owner: Holder) -> None:
        """Return addresses that were taken from an attachment whose withdrawal is still not confirmed to that
        attachment."""
        for (folder, address), (taker, holder) in list(self._taken.items()):
            if (folder, taker) != (leases.folder, owner):
                continue
            self._taken.pop((folder, address), None)
            key = AttachmentKey(leases.network, *holder)
            try:
                with self._store.locked(key, HAND_BACK_SECONDS):
                    stored = self._store.find(key)
                    if stored is None or stored.attachment is None or stored.state is not State.LEAVING:
                        continue
                    if address in (bare(item.address) for item in stored.attachment.addresses):
                        leases.hand_back(address, owner, holder)
            except TryAgain:
                pass  # the holder is being added again, or its DEL takes long: the next container may get the address

    def still_leased(self, attachment: Attachment) -> bool | None:
        """Whether it still has one of the leases that its ADD took. None: another IPAM plugin has the leases."""
        ipam = attachment.ipam
        if ipam is None or ipam.type != BUILT_IN or not attachment.addresses:
            return None
        owners = ((attachment.container_id, attachment.ifname), (attachment.container_id, None))
        entries = Leases(ipam.data_dir, attachment.network).entries([item.address for item in attachment.addresses])
        remade = _Remade(attachment)
        return any(entry.owner in owners and not remade.is_doubtful(entry) for entry in entries.values())

    def is_asked_for(self, request: Request) -> bool:
        """Whether the configuration of a call has an `ipam` section, even if something else in it is wrong.

        Without one, as behind another plugin, that plugin owns the leases of (container ID, interface name).
        """
        return bool(_ipam_of(request)[0])

    def leases_of(self, request: Request, warnings: list[str]) -> list[str]:
        """DEL without a record: the addresses that (container ID, interface name) has leased, as far as they are
        known."""
        kind, data_dir = _ipam_of(request)
        if kind != BUILT_IN:
            return []
        try:
            environment = request.environment
            return Leases(data_dir, request.name).held(environment.container_id, environment.ifname)
        except CniError as error:
            warnings.append(f"ipam: {error.msg}")
            return []

    def is_leased_to_another(self, request: Request, addresses: Sequence[str]) -> bool:
        """Whether another container of this network has leased one of these addresses. Raises CniError."""
        kind, data_dir = _ipam_of(request)
        if kind != BUILT_IN:
            return False
        entries = Leases(data_dir, request.name).entries(addresses)
        return any(entry.owner[0] != request.environment.container_id for entry in entries.values())

    def release_unrecorded(self, request: Request, leases: Sequence[str], warnings: list[str]) -> None:
        """DEL without a record: release what (container ID, interface name) has leased. `leases`: as from
        `leases_of`."""
        kind, data_dir = _ipam_of(request)
        if not kind or (kind == BUILT_IN and not leases):
            return
        try:
            if kind == BUILT_IN:
                environment = request.environment
                self._leases(data_dir, request.name).release(environment.container_id, environment.ifname, leases)
            else:
                Delegate(kind, request.variables, request.stdin).delete(_deadline())
        except CniError as error:
            warnings.append(f"ipam: {error.msg}")

    def unlisted(self, request: Request, valid: Collection[tuple[str, str]]) -> dict[Owner, set[str]]:
        """GC: the owners whose leases will be released, with their addresses. Raises CniError."""
        kind, data_dir = _ipam_of(request)
        owners: dict[Owner, set[str]] = {}
        entries = Leases(data_dir, request.name).entries() if kind == BUILT_IN else {}
        for address, entry in entries.items():
            if not is_among(entry.owner, valid):
                owners.setdefault(entry.owner, set()).add(address)
        return owners

    def check(self, request: Request, attachment: Attachment) -> None:
        """CHECK the addresses. Another IPAM plugin gets the configuration of this call, because that has prevResult.

        Raises CniError.
        """
        ipam = attachment.ipam
        if ipam is None:
            return
        if ipam.type != BUILT_IN:
            Delegate(ipam.type, request.variables, request.stdin).check(_deadline())
            return
        addresses = [item.address for item in attachment.addresses]
        Leases(ipam.data_dir, attachment.network).check(attachment.container_id, attachment.ifname, addresses)

    def collect(self, request: Request, valid: Collection[tuple[str, str]], stay: Collection[Owner] = ()) -> list[str]:
        """GC: release the leases of this network whose owner is not in `valid`; a delegated plugin is called with GC.

        `stay`: owners whose leases are kept although they are not in `valid`.
        """
        kind, data_dir = _ipam_of(request)
        if kind == BUILT_IN:
            return self._leases(data_dir, request.name).gc(valid, stay)
        if kind:
            Delegate(kind, request.variables, _with_valid(request.document, valid)).gc(_deadline())
        return []

    def status(self, request: Request) -> None:
        """STATUS: raises CniError if an ADD could get no address."""
        kind = request.settings.ipam_type
        if kind == BUILT_IN:
            config = host_local_of(request)
            full = HostLocal(config, request.name, self._recorded(request.name, config.data_dir)).exhausted()
            if full is not None and not self._held(request.name, config.data_dir):
                raise full
        elif kind:
            try:
                Delegate(kind, request.variables, request.stdin).status(_deadline())
            except CniError as error:
                kind_of = Degraded if error.code == Degraded.code else Unavailable
                raise kind_of(f"ipam: {error.msg}", error.details) from None

    def _delegate(self, ipam: Ipam) -> Delegate:
        return Delegate(ipam.type, ipam.environment, (ipam.stdin or "").encode())

    def _reclaim(self, leases: HostLocal) -> None:
        """Release the leases that a reboot left in this network's folder, once per boot."""
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
            log.info("network %s: released the lease of %s, which was left by an earlier boot", leases.network, address)
        self._reclaimed.add(leases.folder)

    def _leases(self, data_dir: str | None, network: str) -> Leases:
        return Leases(data_dir, network, self._recorded(network, data_dir))

    def _recorded(self, network: str, data_dir: str | None) -> Callable[[], dict[str, tuple[str, str]]]:
        """A function that reads from the records which addresses of this folder are in use, and by whom."""

        def look() -> dict[str, tuple[str, str]]:
            folder = os.path.join(data_dir or DEFAULT_DATA_DIR, network)
            return {
                bare(address.address): (attachment.container_id, attachment.ifname)
                for attachment in (stored.attachment for stored in self._store.all())
                if attachment is not None
                and attachment.ipam is not None
                and attachment.ipam.type == BUILT_IN
                and os.path.join(attachment.ipam.data_dir or DEFAULT_DATA_DIR, attachment.network) == folder
                for address in attachment.addresses
            }

        return look

    def _comes_free(self, network: str, data_dir: str, released: int, deadline: float) -> bool:
        """If some addresses are held, wait until one is released. `released`: the count when none was free.

        An EVPN address cannot be taken while it is held; usually the peers are about to acknowledge its withdrawal.
        """
        held = self._resident and any(self._leaving(network, data_dir))
        with self._change:  # read after the records: an address is released before its record is deleted
            left = deadline - time.monotonic()
            return left > 0 and self._change.wait_for(lambda: self._released != released, left if held else 0)

    def _held(self, network: str, data_dir: str) -> dict[str, tuple[str, str]]:
        """Addresses of attachments that have ended but whose withdrawal is not confirmed, the oldest first.

        Unicast and vpn only: there a new container has the same NLRI and next hop. An EVPN NLRI contains the MAC.
        """
        gone = [item for item in self._leaving(network, data_dir) if item.bgp.family != "evpn"]
        return {
            bare(address.address): (attachment.container_id, attachment.ifname)
            for attachment in sorted(gone, key=lambda item: item.since)
            for address in attachment.addresses
        }

    def _leaving(self, network: str, data_dir: str) -> Iterator[Attachment]:
        """The attachments of one folder of leases that have ended but whose withdrawal is not confirmed."""
        for stored in self._store.all():
            attachment = stored.attachment
            if (
                stored.state is State.LEAVING
                and stored.network == network
                and attachment is not None
                and attachment.ipam is not None
                and attachment.ipam.data_dir == data_dir
            ):
                yield attachment


class _Remade:
    """Tells which leases of a record another plugin has taken again for the same container, whose interface uses them.

    A lease that we took is as old as its ADD. The interfaces of the node are read only if a lease is not.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._used: frozenset[str] | None = None

    def __call__(self, address: str, entry: Entry) -> bool:
        return self.is_doubtful(entry) and address in self._in_use()

    def is_doubtful(self, entry: Entry) -> bool:
        """Whether the lease was written after the ADD that took the addresses, or, if that has taken none yet, before
        it.

        Clocks may step.
        """
        item = self._attachment
        if not item.addresses:
            return not item.created or entry.mtime_ns < _nanoseconds(item.created)
        return bool(item.since) and entry.mtime_ns > _nanoseconds(item.since) + _MILLISECOND

    def _in_use(self) -> frozenset[str]:
        if self._used is None:
            with Netlink.open() as netlink:
                found = (guest.addresses for guest in guests.find(netlink) if guest.name == self._attachment.ifname)
                self._used = frozenset[str]().union(*found)
        return self._used


def _nanoseconds(time_of: str) -> int:
    """A time in RFC 3339 as nanoseconds since the epoch, as `st_mtime_ns` counts."""
    return int(datetime.fromisoformat(time_of).timestamp() * 1000) * _MILLISECOND


def _leases_dir(store: Store) -> Path:
    folder = store.run_path / "leases"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _deadline() -> float:
    return time.monotonic() + DELEGATE_SECONDS


def _same_pool(held: Ipam, wanted: Ipam | None) -> bool:
    """Whether a held address can be taken again: both are leases of our own, in the same folder."""
    return wanted is not None and held.type == wanted.type == BUILT_IN and held.data_dir == wanted.data_dir


def _ipam_of(request: Request) -> tuple[str, str | None]:
    """Type ("" if there is none) and dataDir of `ipam`, as far as they can be read in a broken configuration."""
    ipam = _fold(request.document).get("ipam")
    section = _fold(ipam) if isinstance(ipam, dict) else {}
    kind, data_dir = section.get("type"), section.get("datadir")
    return kind if isinstance(kind, str) else "", data_dir if isinstance(data_dir, str) and data_dir else None


def _fold(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in section.items()}


def _with_valid(document: Mapping[str, Any], valid: Collection[tuple[str, str]]) -> bytes:
    """The configuration of a GC that keeps `valid`: an address whose route is not withdrawn yet must not be
    released."""
    listed = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in sorted(valid)]
    kept = {key: value for key, value in document.items() if key.lower() != VALID_ATTACHMENTS}
    return json.dumps(kept | {VALID_ATTACHMENTS: listed}).encode()


def _given(kind: str, result: Result) -> Given:
    if not result.ips:
        raise InvalidConfiguration(f"ipam: {kind} gave no address")
    addresses = tuple(Address(address=item.address, gateway=item.gateway) for item in result.ips)
    return Given(addresses, result.routes, result.dns)
