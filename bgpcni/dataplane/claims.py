"""Refuses an ADD that would use for a second purpose what can have only one.

A bridge has one VNI and a VNI one bridge; a VRF and its VNI likewise. A MAC in a VNI, and an address on a bridge,
belong to one container. A bridge is in one VRF or in none. Two networks may share a bridge, a VNI or a VRF.

All of it is in memory. It is read from the records when it is first needed; there is no other I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from bgpcni import bgp
from bgpcni.errors import InvalidConfiguration
from bgpcni.ip import ip_interface
from bgpcni.model import Attachment, AttachmentKey


class Claim(NamedTuple):
    """`thing` is used by an attachment as `what` says, and no other may use it differently, because of `rule`.

    `field`: the key of the configuration that asks for it.
    """

    field: str
    thing: str
    what: str
    rule: str


Spot = tuple[str, int, str]
"""An address where it is used: bridge, VLAN and address."""


class Claims:
    """Safe for threads. `recorded` returns all attachments that have a record; it is called when first needed."""

    def __init__(self, recorded: Callable[[], Iterable[Attachment]]) -> None:
        self._recorded: Callable[[], Iterable[Attachment]] | None = recorded
        self._lock = threading.Lock()
        self._claims: dict[AttachmentKey, tuple[Claim, ...]] = {}
        self._said: dict[tuple[str, str], dict[AttachmentKey, str]] = {}
        self._spots: dict[AttachmentKey, tuple[Spot, ...]] = {}
        self._holders: dict[Spot, AttachmentKey] = {}

    def take(self, attachment: Attachment) -> None:
        """Claim what it uses. Raises InvalidConfiguration. Claims of the same attachment are replaced.

        An ADD calls this twice: a MAC that the kernel chooses is known only when the link has been made.
        """
        vni, mac = attachment.bgp.vni, attachment.mac
        if vni is not None and mac == bgp.gateway_mac(vni):
            raise InvalidConfiguration(
                f"mac: {mac} is that of the anycast gateway of VNI {vni}, the same on every node"
            )
        claims = tuple(_claims(attachment))
        if not claims:
            return
        with self._lock:
            self._load(attachment.key)
            for claim in claims:
                for key, other in self._said.get((claim.thing, claim.rule), {}).items():
                    if other != claim.what and key != attachment.key:
                        raise InvalidConfiguration(
                            f"{claim.field}: {claim.thing} {other} for network {key.network} on this node, "
                            f"and {claim.what} here: {claim.rule}"
                        )
            self._drop(attachment.key)
            self._put(attachment.key, claims)

    def settle(self, attachment: Attachment) -> None:
        """Claim its addresses on its bridge, announced or not. Raises InvalidConfiguration. Can be repeated."""
        with self._lock:
            self._load(attachment.key)
            for spot in _spots(attachment):
                other = self._holders.get(spot)
                if other is not None and other != attachment.key:
                    raise InvalidConfiguration(
                        f"{_taken(attachment, spot[2], other)}; "
                        f"give the networks of bridge {spot[0]} ranges that do not overlap"
                    )
            self._move_out(attachment.key)
            self._move_in(attachment)

    def load(self) -> None:
        """Read the records now instead of in the first ADD."""
        with self._lock:
            self._load(None)

    def drop_digest(self, digest: str) -> None:
        """Like `drop`, for an attachment whose record cannot be read: only the digest of its key is known."""
        with self._lock:
            keys = {*self._claims, *self._spots}
        for key in keys:
            if key.digest == digest:
                self.drop(key)

    def drop(self, key: AttachmentKey) -> None:
        with self._lock:
            self._drop(key)
            self._move_out(key)

    def _load(self, asking: AttachmentKey | None) -> None:
        if self._recorded is None:
            return
        for attachment in self._recorded():
            if attachment.key != asking:
                self._put(attachment.key, tuple(_claims(attachment)))
                self._move_in(attachment)
        self._recorded = None

    def _put(self, key: AttachmentKey, claims: tuple[Claim, ...]) -> None:
        self._claims[key] = claims
        for claim in claims:
            self._said.setdefault((claim.thing, claim.rule), {})[key] = claim.what

    def _move_in(self, attachment: Attachment) -> None:
        if spots := tuple(_spots(attachment)):
            self._spots[attachment.key] = spots
            for spot in spots:
                self._holders.setdefault(spot, attachment.key)

    def _move_out(self, key: AttachmentKey) -> None:
        for spot in self._spots.pop(key, ()):
            if self._holders.get(spot) == key:
                del self._holders[spot]

    def _drop(self, key: AttachmentKey) -> None:
        for claim in self._claims.pop(key, ()):
            said = self._said[claim.thing, claim.rule]
            said.pop(key, None)
            if not said:
                del self._said[claim.thing, claim.rule]


def _spots(attachment: Attachment) -> Iterator[Spot]:
    """Its addresses on its bridge. An interface of another plugin may be in a VLAN that we do not know: none then."""
    if attachment.bridge and not (attachment.chained and attachment.vlan_filtering):
        for item in attachment.addresses:
            yield attachment.bridge, attachment.vlan, str(ip_interface(item.address).ip)


def _taken(attachment: Attachment, address: str, other: AttachmentKey) -> str:
    if attachment.bgp.family == "evpn" and attachment.bgp.vni is not None:
        return f"ipam: {address} is that of {other} in VNI {attachment.bgp.vni} already"
    return f"ipam: {bgp.host_prefix(address)} leads to {other} on this node already"


def _claims(attachment: Attachment) -> Iterator[Claim]:
    intent, bridge = attachment.bgp, attachment.bridge
    if bridge and (intent.vni or intent.label):
        rule = "a bridge is in one VRF or in none"
        yield Claim("bgp.vrf", f"bridge {bridge}", f"is in VRF {intent.vrf}" if intent.vrf else "is in no VRF", rule)
    if intent.vni is not None and bridge:
        rule = "bridge and VNI are one to one"
        yield Claim("bgp.vni", f"bridge {bridge}", f"carries VNI {intent.vni}", rule)
        yield Claim("bgp.vni", f"VNI {intent.vni}", f"is on bridge {bridge}", rule)
    if intent.l3vni is not None:
        rule = "VRF and VNI are one to one"
        yield Claim("bgp.l3vni", f"VRF {intent.vrf}", f"has VNI {intent.l3vni}", rule)
        yield Claim("bgp.l3vni", f"VNI {intent.l3vni}", f"is of VRF {intent.vrf}", rule)
    if intent.vni is not None and attachment.mac:
        holder = f"is that of {attachment.container_id} {attachment.ifname}"
        yield Claim("mac", f"{attachment.mac} in VNI {intent.vni}", holder, "a MAC is that of one container")
    for vni, what in ((intent.vni, "a network's"), (intent.l3vni, "a VRF's")):
        if vni is not None:
            rule = "a VNI is a network's or a VRF's"
            yield Claim("bgp.vni" if vni == intent.vni else "bgp.l3vni", f"VNI {vni}", f"is {what}", rule)
