"""Which neighbours a node has by the cluster's objects. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from typing import NamedTuple

from bgpcni.cluster.objects import BGPNode, BGPPeer, BGPPeerSpec, Object
from bgpcni.cluster.selectors import Selector
from bgpcni.config.agent import NeighborTable

Gateway = Callable[[int], str | None]
"""The address of the default gateway of an IP version, None if there is none."""


class Password(NamedTuple):
    """The file that a Secret was written to, or the reason why there is none."""

    file: str | None
    reason: str = ""


def no_secrets(name: str) -> Password:
    """Where Kubernetes is not the store."""
    return Password(None, "Secrets are there with store kubernetes alone: use passwordFile")


class Wish(NamedTuple):
    """A neighbour by the object `place`, or the reason why this node cannot have it."""

    place: str
    neighbor: NeighborTable | None
    reason: str = ""


def selects(selector: Selector | None, labels: Mapping[str, str]) -> bool:
    """A selector that is absent selects every node."""
    return selector is None or selector.matches(labels)


def wishes(
    objects: Iterable[Object], me: BGPNode, gateway: Gateway, secrets: Callable[[str], Password] = no_secrets
) -> list[Wish]:
    """The neighbours of the node `me`, in order of the objects' names."""
    objects = sorted(objects, key=lambda item: item.path)
    others = [item for item in objects if isinstance(item, BGPNode) and item.path != me.path]
    return [
        wish
        for item in objects
        if isinstance(item, BGPPeer)
        for wish in _with_password(item, secrets, _of(item, me, others, gateway))
    ]


def _with_password(peer: BGPPeer, secrets: Callable[[str], Password], found: Iterable[Wish]) -> Iterator[Wish]:
    """The same neighbours with the password of the Secret that the object names."""
    name = peer.spec.password_secret
    for wish in found:
        if name is None or wish.neighbor is None:
            yield wish
        elif (password := secrets(name)).file is None:
            yield Wish(wish.place, None, f"spec.passwordSecret: {password.reason}")
        else:
            yield Wish(wish.place, wish.neighbor.model_copy(update={"password_file": password.file}))


def _of(peer: BGPPeer, me: BGPNode, others: list[BGPNode], gateway: Gateway) -> Iterator[Wish]:
    place, spec = " ".join(peer.path), peer.spec
    ends = [other for other in others if _meet(spec, me, other)]
    if not ends and (spec.peer_selector is not None or not selects(spec.node_selector, me.metadata.labels)):
        return
    local = spec.local_address or next(iter(me.spec.addresses), None)
    if local is None or me.spec.asn is None:
        yield Wish(place, None, "this node has no [bgp] in agent.toml, which says its own ASN and address")
        return
    version = ip_address(local).version
    if spec.interface is not None:
        yield Wish(place, _neighbor(spec, None, spec.asn or me.spec.asn, interface=spec.interface))
    elif spec.address is not None:
        yield Wish(place, _neighbor(spec, spec.address, spec.asn or me.spec.asn, passive=spec.passive))
    elif spec.gateway:
        found = gateway(version)
        if found is None:
            yield Wish(place, None, f"spec.gateway: this node has no default route of IPv{version} by a gateway")
        elif "%" in found:  # link-local: the router on that link
            yield Wish(place, _neighbor(spec, None, spec.asn or me.spec.asn, interface=found.partition("%")[2]))
        else:
            yield Wish(place, _neighbor(spec, found, spec.asn or me.spec.asn, passive=spec.passive))
    for other in ends:
        address = next((one for one in other.spec.addresses if ip_address(one).version == version), None)
        if address is None:
            yield Wish(place, None, f"spec.peerSelector: {' '.join(other.path)} has no address of IPv{version}")
        else:  # of two agents one has to wait for the other, or each would be called by nobody who listens
            passive = int(ip_address(local)) > int(ip_address(address))
            asn = other.spec.asn or spec.asn or me.spec.asn
            yield Wish(place, _neighbor(spec, address, asn, passive=passive))


def _meet(spec: BGPPeerSpec, me: BGPNode, other: BGPNode) -> bool:
    """A session has two ends: both nodes have it, whichever of them `nodeSelector` selects."""
    if spec.peer_selector is None:
        return False
    mine, its = me.metadata.labels, other.metadata.labels
    return any(
        selects(spec.node_selector, one) and selects(spec.peer_selector, two) for one, two in ((mine, its), (its, mine))
    )


def _neighbor(
    spec: BGPPeerSpec, address: str | None, asn: int, *, passive: bool = False, interface: str | None = None
) -> NeighborTable:
    return NeighborTable.model_validate(
        {
            "address": address,
            "interface": interface,
            "asn": asn,
            "families": spec.families,
            "password_file": spec.password_file,
            "hold_time": spec.hold_time,
            "ttl_security": spec.ttl_security,
            "passive": passive,
            "exporter": spec.exporter,
            "port": spec.port,
            "local_address": spec.local_address,
            "local_asn": spec.local_asn,
            "multihop": spec.multihop,
            "export": spec.export.model_dump() if spec.export else {},
            "import": spec.import_.model_dump() if spec.import_ else {},
        }
    )
