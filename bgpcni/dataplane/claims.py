"""Refuses an ADD that would use for a second purpose what can have only one.

A bridge has one VNI and a VNI one bridge; a VRF and its VNI likewise. A MAC in a VNI, and an address on a bridge,
belong to one container. A bridge is in one VRF or in none. Two networks may share a bridge, a VNI or a VRF.

All of it is in memory. It is read from the records when it is first needed; there is no other I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import NamedTuple

from bgpcni import bgp
from bgpcni.errors import InvalidConfiguration
from bgpcni.ip import ip_interface
from bgpcni.model import Attachment, AttachmentKey


class Claim(NamedTuple):
    """`thing` is used by an attachment as `what` says, and no other may use it differently.

    `refusal`: the message for that, given who uses it differently, and how.
    """

    thing: Hashable
    what: str
    refusal: Callable[[AttachmentKey, str], str]


class Claims:
    """Safe for threads. `recorded` returns all attachments that have a record; it is called when first needed."""

    def __init__(self, recorded: Callable[[], Iterable[Attachment]]) -> None:
        self._recorded: Callable[[], Iterable[Attachment]] | None = recorded
        self._lock = threading.Lock()
        self._claims: dict[AttachmentKey, dict[str, tuple[Claim, ...]]] = {}
        """What `take` and `settle` claimed, each by its name."""
        self._users: dict[Hashable, dict[AttachmentKey, str]] = {}

    def take(self, attachment: Attachment) -> None:
        """Claim what it uses. Raises InvalidConfiguration. Claims of the same attachment are replaced.

        An ADD calls this twice: a MAC that the kernel chooses is known only when the link has been made.
        """
        vni, mac = attachment.bgp.vni, attachment.mac
        if vni is not None and mac == bgp.gateway_mac(vni):
            raise InvalidConfiguration(
                f"mac: {mac} is that of the anycast gateway of VNI {vni}, the same on every node"
            )
        self._claim("take", attachment, tuple(_uses(attachment)))

    def settle(self, attachment: Attachment) -> None:
        """Claim its addresses on its bridge, announced or not. Raises InvalidConfiguration. Can be repeated."""
        self._claim("settle", attachment, (*_addresses(attachment), *_shared(attachment)))

    def _claim(self, name: str, attachment: Attachment, claims: tuple[Claim, ...]) -> None:
        if not claims:
            return
        with self._lock:
            self._load(attachment.key)
            for claim in claims:
                for key, what in self._users.get(claim.thing, {}).items():
                    if what != claim.what and key != attachment.key:
                        raise InvalidConfiguration(claim.refusal(key, what))
            self._put(attachment.key, name, claims)

    def load(self) -> None:
        """Read the records now instead of in the first ADD."""
        with self._lock:
            self._load(None)

    def keys(self) -> frozenset[AttachmentKey]:
        """The attachments that claim something."""
        with self._lock:
            return frozenset(key for key, claims in self._claims.items() if any(claims.values()))

    def drop_digest(self, digest: str) -> None:
        """Like `drop`, for an attachment whose record cannot be read: only the digest of its key is known."""
        with self._lock:
            keys = list(self._claims)
        for key in keys:
            if key.digest == digest:
                self.drop(key)

    def drop(self, key: AttachmentKey) -> None:
        with self._lock:
            for name in self._claims.get(key, {}):
                self._put(key, name, ())
            self._claims.pop(key, None)

    def _load(self, asking: AttachmentKey | None) -> None:
        for attachment in self._recorded() if self._recorded is not None else ():
            if attachment.key != asking:
                self._put(attachment.key, "take", tuple(_uses(attachment)))
                self._put(attachment.key, "settle", (*_addresses(attachment), *_shared(attachment)))
        self._recorded = None

    def _put(self, key: AttachmentKey, name: str, claims: tuple[Claim, ...]) -> None:
        kept = self._claims.setdefault(key, {})
        for claim in kept.get(name, ()):
            users = self._users[claim.thing]
            users.pop(key, None)
            if not users:
                del self._users[claim.thing]
        kept[name] = claims
        for claim in claims:
            self._users.setdefault(claim.thing, {})[key] = claim.what


def _addresses(attachment: Attachment) -> Iterator[Claim]:
    """Its addresses on its bridge. An interface of another plugin may be in a VLAN that we do not know: none then."""
    bridge, vni = attachment.bridge, attachment.bgp.vni if attachment.bgp.family == "evpn" else None
    if bridge and not (attachment.chained and attachment.vlan_filtering):
        for item in attachment.addresses:
            address = str(ip_interface(item.address).ip)

            def refusal(key: AttachmentKey, what: str, address: str = address) -> str:
                use = f"{bgp.host_prefix(address)} leads to {key} on this node"
                if vni is not None:
                    use = f"{address} is that of {key} in VNI {vni}"
                return f"ipam: {use} already; give the networks of bridge {bridge} ranges that do not overlap"

            yield Claim((bridge, attachment.vlan, address), str(attachment.key), refusal)


def _shared(attachment: Attachment) -> Iterator[Claim]:
    """Its addresses where they are announced: each is shared by whoever has it, or is one container's own."""
    intent = attachment.bgp
    scope = intent.vrf or ("" if intent.family == "unicast" else attachment.network)
    for item in attachment.addresses if attachment.exporters else ():
        own = item.address.partition("/")[0]
        yield Claim(
            ("anycast", scope, own), "own",
            lambda key, what, own=own: f"ipam: {own} is a shared address (anycast) of {key} on this node",  # type: ignore[misc]
        )  # fmt: skip
    for one in attachment.anycast.addresses if attachment.anycast else ():
        yield Claim(
            ("anycast", scope, one), "shared",
            lambda key, what, one=one: f"anycast: {one} is the own address of {key} on this node",  # type: ignore[misc]
        )  # fmt: skip


def _use(field: str, thing: str, what: str, rule: str) -> Claim:
    """`field`: the key of the configuration that asks for it. `rule`: why no other may use it differently."""

    def refusal(key: AttachmentKey, other: str) -> str:
        return f"{field}: {thing} {other} for network {key.network} on this node, and {what} here: {rule}"

    return Claim((thing, rule), what, refusal)


def _uses(attachment: Attachment) -> Iterator[Claim]:
    intent, bridge = attachment.bgp, attachment.bridge
    if bridge and (intent.vni or intent.label):
        rule = "a bridge is in one VRF or in none"
        yield _use("bgp.vrf", f"bridge {bridge}", f"is in VRF {intent.vrf}" if intent.vrf else "is in no VRF", rule)
    if intent.vni is not None and bridge:
        rule = "bridge and VNI are one to one"
        yield _use("bgp.vni", f"bridge {bridge}", f"carries VNI {intent.vni}", rule)
        yield _use("bgp.vni", f"VNI {intent.vni}", f"is on bridge {bridge}", rule)
    if intent.l3vni is not None:
        rule = "VRF and VNI are one to one"
        yield _use("bgp.l3vni", f"VRF {intent.vrf}", f"has VNI {intent.l3vni}", rule)
        yield _use("bgp.l3vni", f"VNI {intent.l3vni}", f"is of VRF {intent.vrf}", rule)
    if intent.vni is not None and attachment.mac:
        holder = f"is that of {attachment.container_id} {attachment.ifname}"
        yield _use("mac", f"{attachment.mac} in VNI {intent.vni}", holder, "a MAC is that of one container")
    for vni, what in ((intent.vni, "a network's"), (intent.l3vni, "a VRF's")):
        if vni is not None:
            rule = "a VNI is a network's or a VRF's"
            yield _use("bgp.vni" if vni == intent.vni else "bgp.l3vni", f"VNI {vni}", f"is {what}", rule)
