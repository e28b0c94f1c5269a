"""Refuses a gateway whose subnet would take the route to a BGP peer away from the node."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable

from bgpcni.errors import InvalidConfiguration
from bgpcni.ip import ip_address, ip_interface
from bgpcni.kernel import routes
from bgpcni.kernel.netlink import Netlink


def refuse_peers(netlink: Netlink, gateways: Iterable[str], device: str, peers: Collection[str]) -> None:
    """Raises InvalidConfiguration if the subnet of a gateway would attract the traffic to a peer that is elsewhere.

    `gateways`: the addresses of `device` with their lengths. The kernel is asked only if a peer is in such a subnet.
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
    """Whether a subnet of this prefix length on the device would win over the route that leads to the peer now."""
    now = routes.reached_by(netlink, peer)
    if now is not None and now > length:
        return False
    way = routes.way_to(netlink, peer)
    try:
        return way is None or socket.if_indextoname(way[1]) != device
    except OSError:  # the device was removed meanwhile
        return True
