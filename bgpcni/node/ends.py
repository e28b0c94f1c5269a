"""Finds the other ends of neighbours that are configured without an address: on an interface, or at the gateway.

What was found on a link stays until something else is found there: that the kernel has dropped an entry since says
nothing of the session.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address

from bgpcni.config.agent import NeighborTable
from bgpcni.kernel import routers
from bgpcni.kernel.netlink import Netlink

FIRST, EVERY = 1.0, 10.0
"""Seconds between two router advertisements on a link: until its router is known, and from then on."""
GATEWAY = 5.0
"""Seconds between two looks at the default gateway."""


def look(name: str) -> routers.Ends | str:
    """The ends of a link now, or why it has none."""
    with Netlink.open() as netlink:
        return routers.ends(netlink, name)


def advertise(name: str) -> None:
    """Send one router advertisement. Raises OSError."""
    with Netlink.open() as netlink:
        routers.advertise(netlink, name)


class Ends:
    """`gateway`: the router of the default route of an IP version, `fe80::1%eth0` where it is link-local."""

    def __init__(
        self,
        gateway: Callable[[int], str | None],
        look: Callable[[str], routers.Ends | str] = look,
        advertise: Callable[[str], None] = advertise,
    ) -> None:
        self._gateway, self._look, self._advertise = gateway, look, advertise
        self._heard: dict[str, tuple[str, str]] = {}
        self._links: dict[str, tuple[str, str] | str] = {}
        """What was answered for each link that is asked for: the address here and there, or why they are not known."""
        self._gateways: dict[int, str | None] = {}
        self._due: dict[str, float] = {}
        self._gateway_due = 0.0

    def begin(self) -> None:
        """From now on only what is asked for again counts."""
        self._links, self._gateways = {}, {}

    def find(self, item: NeighborTable, local_address: str) -> NeighborTable | str:
        """The neighbour with the addresses of both ends, or why they are not known."""
        if item.gateway:
            version = ip_address(item.local_address or local_address).version
            gateway = self._gateways[version] = self._gateway(version)
            if gateway is None:
                return f"gateway: this node has no default route of IPv{version} by a gateway"
            address, _, interface = gateway.partition("%")
            found = {"interface": interface} if interface else {"address": address}
            item = item.model_copy(update=found | {"gateway": False})
        if item.interface is None:
            return item
        ends = self._links[item.interface] = self._ends(item.interface)
        if isinstance(ends, str):
            return f"interface: {item.interface}: {ends}"
        return item.model_copy(update={"local_address": ends[0], "address": ends[1]})

    def _ends(self, name: str) -> tuple[str, str] | str:
        seen, heard = self._look(name), self._heard.get(name)
        if isinstance(seen, str):
            return heard or seen
        theirs = seen.theirs or (heard[1] if heard is not None else None)
        if theirs is None:
            return "no router was heard there yet"
        self._heard[name] = seen.ours, theirs
        return seen.ours, theirs

    def moved(self) -> bool:
        """Whether something that was asked for would be answered otherwise now."""
        if any(self._ends(name) != before for name, before in list(self._links.items())):
            return True
        now = time.monotonic()
        if not self._gateways or now < self._gateway_due:
            return False
        self._gateway_due = now + GATEWAY
        return any(self._gateway(version) != before for version, before in list(self._gateways.items()))

    def advertise(self) -> None:
        """Send the router advertisements that are due on the links that are asked for. Raises OSError."""
        now = time.monotonic()
        for name in list(self._links):
            if now >= self._due.get(name, 0.0):
                self._due[name] = now + (EVERY if name in self._heard else FIRST)
                self._advertise(name)
