"""Decides when an attachment may get addresses, and when they are released. `bgpcni.ipam` then does it.

This module knows records and networks. Nobody else gets an address before the withdrawal of its routes is confirmed.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bgpcni.errors import CniError, TryAgain
from bgpcni.ipam.boot import Reclaimer
from bgpcni.ipam.contract import AddressTaken, Configuration, Given, Ipam, NoneFree, NotInstalled, Terms, Wish
from bgpcni.ipam.kinds import open_ipam
from bgpcni.ipam.leases import CLUSTER, Entry, Holder, Leases, Owner, bare, folder_for, is_among
from bgpcni.kernel import guests
from bgpcni.kernel.namespace import boot_id
from bgpcni.kernel.netlink import Netlink
from bgpcni.model import Address, Attachment, AttachmentKey, IpamRecord, State
from bgpcni.node.plan import family_of
from bgpcni.node.request import Request
from bgpcni.steps import step
from bgpcni.store import Store

if TYPE_CHECKING:
    from bgpcni.cluster.pools import Pools

log = logging.getLogger(__name__)
HELD_SECONDS = 1.0
"""Seconds that an ADD waits for an address if all addresses are in use or held."""
HAND_BACK_SECONDS = 3.0
"""Seconds to wait for the lock of an attachment; a DEL that waits for its withdrawals takes less."""
_MILLISECOND = 1_000_000


class Addressing:
    """The addresses of one node's attachments. Safe for threads."""

    def __init__(self, store: Store, *, resident: bool, pools: Pools | None = None) -> None:
        """`resident`: we are in the agent, which releases held addresses while an ADD waits for one. `pools`: the
        cluster's, None where there is no cluster."""
        self._store = store
        self._shared = pools
        self._resident = resident
        self._change = threading.Condition()
        self._released = 0
        self._reclaimer = Reclaimer(str(_leases_dir(store)), boot_id())
        self._reclaimed: set[str] = set()
        self._taken: dict[tuple[str, str], tuple[Holder, Holder]] = {}
        """(folder, address) → (taker, holder): held addresses that a new container took because nothing else was
        free."""
        self.pools: dict[str, Ipam] = {}
        """Of each network whose ADD has come since the agent's start: where its last one took addresses from."""

    # ---------------------------------------------------------------- ADD

    def plan(self, request: Request) -> IpamRecord | None:
        """How the addresses will be released. The record has it before an address is taken. None: layer 2 only."""
        ipam = self._asked(request)
        return None if ipam is None else ipam.record()

    @step("addresses")
    def allocate(self, request: Request, held: Attachment | None = None) -> Given:
        """Take the addresses. The caller has written the record before, so that `release` can undo this.

        `held`: an earlier attachment of the same container whose withdrawal is not confirmed. The container gets the
        same addresses again, or an error. Raises the error of the IPAM.
        """
        ipam = self._asked(request)
        before = None if held is None else self._recorded(held)
        if before is not None and not _is_same_pool(before, ipam):
            raise TryAgain(f"{request.key}: its earlier addresses are held until their withdrawal is confirmed")
        if ipam is None:
            return Given()
        self.pools[request.name] = ipam
        owner = _holder(request)
        if ipam.leases is None:
            return ipam.add(owner, Wish(ips=request.annotations.ips))
        folder = ipam.leases.folder
        self.reclaim(ipam)
        own = {} if held is None else {bare(item.address): owner for item in held.addresses}
        deadline = time.monotonic() + HELD_SECONDS
        while True:
            released = self._released
            try:
                given = ipam.add(owner, Wish(own, lambda: self._held(folder, request.name), request.annotations.ips))
                break
            except (NoneFree, AddressTaken):
                if not self._comes_free(folder, released, deadline):
                    raise
        for address, holder in given.taken_from.items():
            if holder != owner:
                self._taken[folder, address] = owner, holder
        return given

    def has_given(self, leases: Leases) -> bool:
        """Whether an ADD of ours has looked for an address there in this boot. Raises IoFailure."""
        return leases.scope in self._reclaimed or self._reclaimer.done(leases)

    def is_leased_elsewhere(self, attachment: Attachment) -> bool:
        """Whether another network in the same `dataDir` has a lease of one of its addresses, on whatever bridge."""
        ipam = self._recorded(attachment)
        if ipam is None or ipam.leases is None:
            return False
        return ipam.leases.is_leased_elsewhere([bare(item.address) for item in attachment.addresses])

    # ---------------------------------------------------------------- the end of a record

    @step("release")
    def release(self, attachment: Attachment) -> None:
        """Release the addresses of a record. It is no error if they were released before."""
        ipam = self._recorded(attachment)
        if ipam is None:
            return
        owner = (attachment.container_id, attachment.ifname)
        if ipam.leases is not None:
            self._hand_back(ipam.leases, owner)
        try:
            ipam.release(owner, [item.address for item in attachment.addresses] or None, _Remade(attachment))
        except NotInstalled as error:  # if this failed, the DEL could never succeed
            key = attachment.key
            log.warning("%s: its addresses were not given back: %s", key, error.msg, extra=key.fields)
        with self._change:
            self._released += 1
            self._change.notify_all()

    def _hand_back(self, leases: Leases, owner: Holder) -> None:
        """Return the addresses that `owner` took from attachments whose withdrawal is still not confirmed."""
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
                pass  # an ADD or DEL of it is at work: the next ADD may have the address, as this one might

    def still_leased(self, attachment: Attachment) -> bool | None:
        """Whether it still holds one of the leases that its ADD took. None: another plugin has them, we cannot know."""
        ipam = self._recorded(attachment)
        if ipam is None or ipam.leases is None or not attachment.addresses:
            return None
        owners = ((attachment.container_id, attachment.ifname), (attachment.container_id, None))
        entries = ipam.leases.entries([item.address for item in attachment.addresses])
        remade = _Remade(attachment)
        return any(entry.owner in owners and not remade.is_doubtful(entry) for entry in entries.values())

    # ---------------------------------------------------------------- DEL without a record

    def is_asked_for(self, request: Request) -> bool:
        """Whether the configuration of a call has an `ipam` section, even if something else in it is wrong.

        Without one, as behind another plugin, that plugin owns the leases of (container ID, interface name).
        """
        return self._asked(request) is not None

    def leases_of(self, request: Request, warnings: list[str]) -> list[str]:
        """The addresses that (container ID, interface name) holds, as far as they are known."""
        try:
            leases = self._leases(request)
            return [] if leases is None else leases.held(*_holder(request))
        except CniError as error:
            warnings.append(f"ipam: {error.msg}")
            return []

    def is_leased_to_another(self, request: Request, addresses: Sequence[str]) -> bool:
        """Whether another container has a lease of one of these addresses in this network. Raises CniError."""
        leases = self._leases(request)
        entries = {} if leases is None else leases.entries(addresses)
        return any(entry.owner[0] != request.environment.container_id for entry in entries.values())

    def release_unrecorded(self, request: Request, leases: Sequence[str], warnings: list[str]) -> None:
        """Release what (container ID, interface name) holds. `leases`: the answer of `leases_of`."""
        ipam = self._asked(request)
        if ipam is None or (ipam.leases is not None and not leases):
            return
        try:
            ipam.release(_holder(request), leases)
        except CniError as error:
            warnings.append(f"ipam: {error.msg}")

    # ---------------------------------------------------------------- GC, CHECK, STATUS

    def unlisted(self, request: Request, valid: Collection[Holder]) -> dict[Owner, set[str]]:
        """GC: whose leases are going to be released, and which. Raises CniError."""
        leases = self._leases(request)
        owners: dict[Owner, set[str]] = {}
        for address, entry in ({} if leases is None else leases.entries()).items():
            if not is_among(entry.owner, valid):
                owners.setdefault(entry.owner, set()).add(address)
        return owners

    def collect(self, request: Request, valid: Collection[Holder], stay: Collection[Owner] = ()) -> None:
        """GC: release what neither `valid` nor `stay` hold in this network; another plugin does so by its own GC."""
        if (ipam := self._asked(request)) is not None:
            ipam.gc(valid, stay)

    def check(self, request: Request, attachment: Attachment) -> None:
        """CHECK of the IPAM in the record; another plugin gets this call's configuration, which has prevResult.

        Raises CniError.
        """
        if (ipam := self._recorded(attachment, request)) is not None:
            ipam.check((attachment.container_id, attachment.ifname), [item.address for item in attachment.addresses])

    def status(self, request: Request) -> None:
        """STATUS: raises CniError where addresses could not be given."""
        if (ipam := self._asked(request)) is None:
            return
        try:
            ipam.status()
        except NoneFree:
            if ipam.leases is None or not self._held(ipam.leases.folder, request.name):
                raise

    def examples(self, request: Request) -> tuple[Address, ...]:
        """STATUS: an address of each family that an ADD would get, as far as that is known."""
        ipam = self._asked(request)
        return () if ipam is None else ipam.example()

    # ---------------------------------------------------------------- which IPAM

    def _asked(self, request: Request) -> Ipam | None:
        """The IPAM that a call's configuration names, however broken the rest of it is. None: it names none."""
        kind, data_dir = request.body.part(_section)
        if not kind:
            return None
        if kind == CLUSTER:
            data_dir = str(self._shared.leases) if self._shared is not None else None
        return open_ipam(
            Terms(
                network=request.name,
                type=kind,
                data_dir=data_dir,
                stdin=request.stdin,
                environment=request.variables,
                recorded=functools.partial(self._in_use, kind, data_dir, request.name),
                asked=request.body,
                args=request.environment.args,
                pools=self._shared,
                flat=request.config is not None and family_of(request.config) == "evpn",
            )
        )

    def lender(
        self, network: str, variables: Mapping[str, str], stdin: bytes, asked: Configuration, args: Mapping[str, str]
    ) -> Ipam:
        """The cluster's addresses for a call of another plugin."""
        data_dir = str(self._shared.leases) if self._shared is not None else None
        recorded = functools.partial(self._in_use, CLUSTER, data_dir, network)
        return open_ipam(
            Terms(network, CLUSTER, data_dir, stdin, variables, recorded, asked, args, self._shared, lent=True)
        )

    def _recorded(self, attachment: Attachment, call: Request | None = None) -> Ipam | None:
        """The IPAM in a record. `call`: another plugin gets its configuration and environment, not the record's."""
        kept = attachment.ipam
        if kept is None:
            return None
        return open_ipam(
            Terms(
                network=attachment.network,
                type=kept.type,
                data_dir=kept.data_dir,
                stdin=(kept.stdin or "").encode() if call is None else call.stdin,
                environment=kept.environment if call is None else call.variables,
                recorded=functools.partial(self._in_use, kept.type, kept.data_dir, attachment.network),
                pools=self._shared,
            )
        )

    def _leases(self, request: Request) -> Leases | None:
        ipam = self._asked(request)
        return None if ipam is None else ipam.leases

    # ---------------------------------------------------------------- what the records say

    def reclaim(self, ipam: Ipam) -> None:
        """Release what a reboot left of this network's leases, once per boot."""
        leases = ipam.leases
        if leases is None:
            return
        if leases.scope in self._reclaimed:
            return
        if self._reclaimer.done(leases):
            self._reclaimed.add(leases.scope)
            return
        recorded = {
            (stored.attachment.container_id, stored.attachment.ifname)
            for stored in self._store.all()
            if stored.attachment is not None and stored.network == leases.network
        }
        for address in self._reclaimer.run(leases, recorded):
            log.info("network %s: lease of %s was left by an earlier boot; reclaimed", leases.network, address,
                     extra={"network": leases.network})  # fmt: skip
        self._reclaimed.add(leases.scope)

    def _in_use(self, kind: str, data_dir: str | None, network: str) -> dict[str, Holder]:
        """The addresses that records have from a folder, with their owners."""
        return _holders(attachment for _, attachment in self._of_folder(folder_for(kind, data_dir, network)))

    def _comes_free(self, folder: str, released: int, deadline: float) -> bool:
        """Wait until an address is released, if some are held. `released`: the count when nothing was free.

        With EVPN nobody can have a held address before; usually the peers are about to acknowledge its withdrawal.
        """
        held = self._resident and any(state is State.LEAVING for state, _ in self._of_folder(folder))
        with self._change:  # asked after the records: an address is released before its record goes
            left = deadline - time.monotonic()
            return left > 0 and self._change.wait_for(lambda: self._released != released, left if held else 0)

    def _held(self, folder: str, network: str) -> dict[str, Holder]:
        """The held addresses that another container of this network may have, the oldest first.

        Unicast and vpn only, because their NLRI and next hop stay the same on this node. The NLRI of EVPN has the MAC.
        """
        gone = [
            item
            for state, item in self._of_folder(folder)
            if state is State.LEAVING and item.network == network and item.bgp.family != "evpn"
        ]
        return _holders(sorted(gone, key=lambda item: item.since))

    def _of_folder(self, folder: str) -> Iterator[tuple[State, Attachment]]:
        """The attachments whose leases are in one folder, with their state."""
        for stored in self._store.all():
            item = stored.attachment
            if item is None or item.ipam is None or item.ipam.data_dir is None:
                continue
            if folder_for(item.ipam.type, item.ipam.data_dir, item.network) == folder:
                yield stored.state, item


class _Remade:
    """Tells which leases of a record another plugin took again for the same container, and its interface uses.

    A lease of ours is as old as its ADD. We look at the interfaces of the node only if a lease is not.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._used: frozenset[str] | None = None

    def __call__(self, address: str, entry: Entry) -> bool:
        return self.is_doubtful(entry) and address in self._in_use()

    def is_doubtful(self, entry: Entry) -> bool:
        """Whether it was written after the ADD that took the addresses, or before an ADD that took none yet."""
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
    """A time of RFC 3339 in nanoseconds since the epoch, as the times of files are."""
    return int(datetime.fromisoformat(time_of).timestamp() * 1000) * _MILLISECOND


def _leases_dir(store: Store) -> Path:
    folder = store.run_path / "leases"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _holder(request: Request) -> Holder:
    return request.environment.container_id, request.environment.ifname


def _holders(attachments: Iterator[Attachment] | Sequence[Attachment]) -> dict[str, Holder]:
    return {
        bare(address.address): (item.container_id, item.ifname) for item in attachments for address in item.addresses
    }


def _is_same_pool(held: Ipam, wanted: Ipam | None) -> bool:
    """Whether an address that is held can be had again: from our own leases, in the same folder."""
    if wanted is None or wanted.leases is None or held.leases is None:
        return False
    return held.leases.folder == wanted.leases.folder


def _section(document: Mapping[str, Any]) -> tuple[str, str | None]:
    """Type ("": there is none) and dataDir of `ipam`, read as far as a broken configuration lets it be read."""
    ipam = _fold(document).get("ipam")
    section = _fold(ipam) if isinstance(ipam, dict) else {}
    kind, data_dir = section.get("type"), section.get("datadir")
    return kind if isinstance(kind, str) else "", data_dir if isinstance(data_dir, str) and data_dir else None


def _fold(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): value for key, value in section.items()}
