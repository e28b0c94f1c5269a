"""What every place can do, and what the places of a node share.

A `Place` imports routes from the RIB into its `Program`, and makes the kernel do what the program says. Nobody else
needs to know which kind of place it is. All methods are called with the lock of the data path held.
"""

from __future__ import annotations

import abc
import errno
import logging
import threading
from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Self

from bgpcni.bgp import router_mac
from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane.program import At, Change, Key, Program, Value
from bgpcni.dataplane.rib import Bounds, Own, Rib
from bgpcni.errors import InvalidConfiguration, KernelRefused
from bgpcni.kernel import links, routes, vxlan
from bgpcni.kernel.frames import Herald
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError
from bgpcni.model import ROUTES, Attachment, AttachmentKey, Family, NodeFacts

log = logging.getLogger(__name__)

BATCH = 256
"""How many changes are made at a time."""
_GONE = {errno.ENOENT, errno.ESRCH, errno.ENODEV}
_ANYWHERE = "0.0.0.0"
_FAR = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Addresses that nobody has (RFC 5737, RFC 3849): the way there is the default route, if there is one."""


class Surroundings:
    """What all places need: the RIB, the kernel, what the node is, and the other places.

    `held`: the families in which some peer has not told all its routes since the agent started. Until then, what an
    earlier run of the agent left in the kernel stays.
    """

    def __init__(self, facts: NodeFacts, policy: PolicyTable) -> None:
        self.rib = Rib(facts.graceful_restart)
        self.places: dict[str, Place] = {}
        self.held = set(ROUTES)
        self.herald = Herald()
        self._sockets = threading.local()
        self.configure(facts, policy)

    def configure(self, facts: NodeFacts, policy: PolicyTable) -> None:
        self.facts = facts
        self.rib.restart_time = facts.graceful_restart
        addresses = {facts.local_address, facts.next_hop, facts.next_hop6}
        addresses |= {hop for n in facts.neighbors for hop in (n.export.next_hop, n.export.next_hop6)}
        asns = {facts.asn, *(neighbor.local_asn for neighbor in facts.neighbors)}
        self.own = Own(frozenset(filter(None, asns)), facts.router_id, frozenset(filter(None, addresses)))
        prefixes = None if policy.prefixes is None else tuple(ip_network(prefix) for prefix in policy.prefixes)
        self.bounds = Bounds(prefixes, policy.maximum_prefix, facts.paths)
        self.forget_ways()

    @property
    def netlink(self) -> Netlink:
        """Each thread has a socket of its own."""
        found: Netlink | None = getattr(self._sockets, "netlink", None)
        if found is None:
            found = self._sockets.netlink = Netlink.open()
        return found

    # ---------------------------------------------------------------- the underlay

    def forget_ways(self) -> None:
        """Look at the underlay again when it matters next."""
        self._mtu: int | None = None

    def payload(self, family: str = "evpn") -> int:
        """The largest MTU (octets) of containers whose packets fit the underlay: in a tunnel, with a label or plain.

        The underlay is the way to our neighbours. If another speaker has them all, it is the default route.
        """
        local = ip_address(self.facts.local_address or _ANYWHERE)
        if self._mtu is None:
            uplinks = self.uplinks() if self.facts.neighbors else self._ways([_FAR[local.version]])
            found = [links.find(self.netlink, index=index) for index in uplinks]
            self._mtu = min((link.mtu for link in found if link), default=1500)
        return self._mtu - {"unicast": 0, "vpn": 4}.get(family, vxlan.OVERHEAD[local.version])

    def uplinks(self) -> set[int]:
        """The links by which the neighbours are reached."""
        linked = [n.interface for n in self.facts.neighbors if n.interface is not None]
        found = (links.find(self.netlink, name=name) for name in linked)
        return {link.index for link in found if link is not None} | self._ways(
            neighbor.address for neighbor in self.facts.neighbors if neighbor.interface is None
        )

    def _ways(self, hosts: Iterable[str]) -> set[int]:
        ways = [routes.way_to(self.netlink, host) for host in hosts]
        return {way[1] for way in ways if way}

    # ---------------------------------------------------------------- VXLAN devices

    def has(self, index: int) -> bool:
        """Whether there is a link with this index; 0: no."""
        return bool(index) and links.find(self.netlink, index=index) is not None

    def make_device(self, key: str, vni: int, master: int, mtu: int, *, routed: bool = False) -> int:
        """Make the VXLAN device of a VNI, or adopt it with all that it has. Returns its index.

        `key`: what needs it in the network configuration. `routed`: it is no port of a bridge, but routes in the VRF
        `master`. Raises InvalidConfiguration, KernelRefused.
        """
        local = self.facts.local_address
        if local is None:
            raise InvalidConfiguration(f"{key} needs [bgp] local_address in agent.toml, the VTEP")
        device = vxlan.Device(vni, local, master, mtu, router_mac=router_mac(local) if routed else None)
        try:
            return vxlan.ensure(self.netlink, device)
        except NetlinkError as error:
            raise KernelRefused(f"VXLAN device of VNI {vni}: {error.strerror}") from None

    def remove_device(self, index: int) -> None:
        """Remove a VXLAN device if it is ours. One that is gone already is no error."""
        link = links.find(self.netlink, index=index) if index else None
        if link is not None and vxlan.is_ours(link):
            links.remove(self.netlink, index)


class Place(abc.ABC):
    """Where learned routes go. Its table in the RIB has the same `name`."""

    name: str
    program: Program
    around: Surroundings

    @classmethod
    @abc.abstractmethod
    def of(cls, attachment: Attachment, around: Surroundings) -> Self | None:
        """The place of this kind that an attachment belongs to, a new one if need be; None: it belongs to none."""

    @classmethod
    def sweep(cls, around: Surroundings) -> None:
        """Remove what is ours in the kernel, but belongs to no place of this kind any more."""

    # ---------------------------------------------------------------- what is in it

    @property
    @abc.abstractmethod
    def used(self) -> bool:
        """Whether anybody needs it."""

    @property
    @abc.abstractmethod
    def families(self) -> Collection[Family]:
        """The families of the routes that it imports."""

    @property
    def links(self) -> set[int]:
        """The indices of the links that carry its entries."""
        return set()

    @abc.abstractmethod
    def attach(self, attachment: Attachment) -> None:
        """Add an attachment. Its entries are in the kernel when this returns. Raises CniError."""

    @abc.abstractmethod
    def detach(self, key: AttachmentKey) -> None:
        """Remove an attachment. If it is unknown, nothing happens."""

    @abc.abstractmethod
    def configure(self) -> None:
        """Import what its attachments ask for, as far as this node may take it."""

    @abc.abstractmethod
    def refresh(self) -> None:
        """Want what follows from the routes that changed. The kernel is only asked for the ways to next hops."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """(code, text) of what an operator should look at."""
        if self.program.failures:
            first = next(iter(self.program.failures.values()))
            yield "datapath", f"{self.name}: the kernel refused {len(self.program.failures)}, such as {first}"

    # ---------------------------------------------------------------- the kernel

    def open(self) -> None:
        """Make its devices, or adopt those that are there with all that they have. Raises CniError."""

    def present(self) -> Iterator[tuple[Key, Value]]:
        """The entries that the kernel has for it."""
        return iter(())

    def messages(self, change: Change) -> Iterator[Message]:
        """The messages that make a change. If the change adds something, the last message adds it."""
        return iter(())

    def look(self) -> None:
        """Find out what only the kernel knows: whether its devices are there, and by which ways hosts are reached.

        Raises CniError.
        """

    def close(self) -> None:
        """It is not used any more: remove its devices, and import nothing."""
        self.around.rib.drop(self.name)

    def read(self) -> None:
        """Read from the kernel what is present, whatever was known before."""
        self.program.lost()
        for key, value in self.present():
            self.program.adopt(key, value)
        self.release()

    def release(self) -> None:
        """Remove what an earlier run of the agent left and nobody wants, once all peers have told all their routes."""
        if self.around.held.isdisjoint(self.families):
            self.program.release()

    def apply(self, only: Collection[Key] | None = None) -> list[Change]:
        """Make one batch of changes, or those of these keys; returns those that were made.

        What the kernel refuses stays as it was; the program knows the reason.
        """
        sending: list[Message] = []
        spans: list[tuple[Change, int, int]] = []
        for change in self.program.take(BATCH if only is None else len(only), only):
            start = len(sending)
            sending += self.messages(change)
            spans.append((change, start, len(sending)))
        answers = vxlan.send(self.around.netlink, sending) if sending else []
        made = []
        for change, start, end in spans:
            reason = _refusal(change, answers[start:end])
            if reason:
                self.program.failed(change, f"{change.key.what} {change.key.name}: {reason}")
                log.warning("%s: %s", self.name, self.program.failures[change.key], extra={"link": self.name})
            else:
                self.program.done(change)
                made.append(change)
        return made


def _refusal(change: Change, answers: list[bytes | NetlinkError]) -> str:
    """Why the change was not made, "" if it was. It is no error if what is to be removed is gone already."""
    for position, answer in enumerate(answers):
        makes = change.new is not None and position == len(answers) - 1
        if isinstance(answer, NetlinkError) and (makes or answer.errno not in _GONE):
            return str(answer.strerror)
    return ""


def neighbour_message(change: Change, link: int) -> Message:
    """The message that adds or removes a neighbour on this link."""
    if isinstance(change.new, At):
        return vxlan.neighbour_message(link, change.key.name, change.new.mac)
    return vxlan.forget_neighbour_message(link, change.key.name)
