"""What this node must not lose to a learned route: its containers, its addresses, its peers and next hops. Pure.

A learned route would win over the route that reaches one of them now if it is as specific, or more specific.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Hashable, Iterable
from ipaddress import ip_address, ip_interface, ip_network

from bgpcni.dataplane.prefixes import Address, Network
from bgpcni.model import Attachment

CONTAINERS = "it is within a subnet of containers on this node"
ADDRESS = "it is an address of this node"
SUBNET = "it is within a subnet of this node"
SAME = "it is a subnet of this node"
PEER = "it would take the way to a BGP peer"
HOP = "it would take the way to the next hop of a route"
SPECIAL = "it is loopback, link-local or multicast"
HARMFUL = (CONTAINERS, ADDRESS, SUBNET, PEER, HOP, SPECIAL)
"""The reasons that an operator is told. `SAME` is normal: a router announces the link that it shares with us."""


def subnets_of(attachment: Attachment, reason: str = CONTAINERS) -> set[tuple[Network, str]]:
    """The subnets of a container, as `Guard.cover` takes them."""
    return {(ip_interface(item.address).network, reason) for item in attachment.addresses}


def hosts_of(attachment: Attachment) -> set[tuple[Network, str]]:
    """Its addresses, and those of its gateways."""
    texts = [item.address.partition("/")[0] for item in attachment.addresses]
    texts += [item.gateway for item in attachment.addresses if item.gateway]
    return {(ip_network(ip_address(text)), CONTAINERS) for text in texts}


class Guard:
    """`hosts_pass`: host routes within a protected subnet are allowed. In a VRF, whose subnets may be on several nodes,
    each is the route to a container on another node.
    """

    def __init__(self, *, hosts_pass: bool = False) -> None:
        self._hosts_pass = hosts_pass
        self._owned: dict[Hashable, frozenset[tuple[Network, str]]] = {}
        self._held: Counter[tuple[Network, str]] = Counter()
        self._networks: dict[tuple[int, int], dict[int, list[str]]] = {}
        """By family and length, then by the bits of the prefix: the reasons to hold it."""
        self._watched: dict[tuple[Address, str], int] = {}
        self._points: dict[int, list[tuple[int, int, str]]] = {4: [], 6: []}

    def cover(self, owner: Hashable, networks: Iterable[tuple[Network, str]]) -> set[Network]:
        """Protect these networks, each for its reason, and nothing else for this owner. Returns those that changed."""
        before, now = self._owned.get(owner, frozenset()), frozenset(networks)
        if before == now:
            return set()
        if now:
            self._owned[owner] = now
        else:
            del self._owned[owner]
        changed = {network for network, reason in now - before if self.hold(network, reason)}
        return changed | {network for network, reason in before - now if self.release(network, reason)}

    def hold(self, network: Network, reason: str) -> bool:
        """Protect a network, counted. Returns whether it was not protected for this reason before."""
        self._held[network, reason] += 1
        if self._held[network, reason] > 1:
            return False
        kept = self._networks.setdefault((network.version, network.prefixlen), {})
        reasons = kept.setdefault(_bits(network), [])
        reasons.append(reason)
        reasons.sort(key=_ORDER.index)
        return True

    def release(self, network: Network, reason: str) -> bool:
        """The reverse of one `hold`. Returns whether it is not protected for this reason any more."""
        self._held[network, reason] -= 1
        if self._held[network, reason] > 0:
            return False
        del self._held[network, reason]
        place = (network.version, network.prefixlen)
        reasons = self._networks[place][_bits(network)]
        reasons.remove(reason)
        if not reasons:
            del self._networks[place][_bits(network)]
            if not self._networks[place]:
                del self._networks[place]
        return True

    def watch(self, address: Address, reason: str, length: int | None) -> bool:
        """Protect the way to an address. The route that reaches it has this prefix length; None: do not protect it.

        Returns whether that is a change.
        """
        before = self._watched.get((address, reason))
        if before == length:
            return False
        points = self._points[address.version]
        if before is not None:
            points.remove((int(address), before, reason))
            del self._watched[address, reason]
        if length is not None:
            insort(points, (int(address), length, reason))
            self._watched[address, reason] = length
        return True

    def objection(self, prefix: Network) -> str | None:
        """Why a route to this prefix would do harm, or None."""
        bits, found = _bits(prefix), list[str]()
        for (version, length), kept in self._networks.items():
            if version != prefix.version or length > prefix.prefixlen:
                continue
            reasons = kept.get(bits >> (prefix.prefixlen - length))
            if reasons is None:
                continue
            if self._hosts_pass and length < prefix.prefixlen == prefix.max_prefixlen:
                continue
            found.append(SAME if reasons[0] == SUBNET and length == prefix.prefixlen else reasons[0])
        if found:
            return min(found, key=_ORDER.index)
        points = self._points[prefix.version]
        if points:
            last = int(prefix.broadcast_address)
            for place in range(bisect_left(points, (int(prefix.network_address),)), len(points)):
                number, length, reason = points[place]
                if number > last:
                    break
                if length <= prefix.prefixlen:
                    return reason
        return None


_ORDER = (CONTAINERS, ADDRESS, SUBNET, SAME)


def _bits(network: Network) -> int:
    return int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
