"""What a bridge must not take from the node: the way to a BGP peer."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable

from bgpcni.errors import InvalidConfiguration
from bgpcni.ip import ip_address, ip_interface
from bgpcni.kernel import routes
from bgpcni.kernel.netlink import Netlink


def refuse_peers(netlink: Netlink, gateways: Iterable[str], device: str, peers: Collection[str]) -> None:
    """Raises InvalidConfiguration where the subnet of a gateway would win the way to a peer that is elsewhere.

    `gateways`: addresses with their lengths, of `device`. The kernel is asked only where a peer is in such a subnet.
    """
    for gateway in gateways:
        subnet = ip_interface(gateway).network
        for peer in peers:
            if ip_address(peer) in subnet and _loses(netlink, peer, subnet.prefixlen, device):
                raise InvalidConfiguration(
                    f"ipam: the gateway {gateway} would take the route to the BGP peer {peer} of this node: "
                    f"{subnet} would lead to {device}"
                )


def _loses(netlink: Netlink, peer: str, length: int, device: str) -> bool:
    """Whether a subnet of this prefix length on the device would take the peer from where it is reached now."""
    now = routes.reached_by(netlink, peer)
    if now is not None and now > length:
        return False
    way = routes.way_to(netlink, peer)
    try:
        return way is None or socket.if_indextoname(way[1]) != device
    except OSError:  # it went meanwhile
        return True
