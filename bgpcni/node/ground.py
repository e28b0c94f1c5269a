"""What the kernel has for the blocks of the cluster's pools: blackholes, and the gateways' addresses on bridges."""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Network

from bgpcni.errors import IoFailure
from bgpcni.kernel import routes
from bgpcni.kernel.library import iproute
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError

Net = IPv4Network | IPv6Network


class Ground:
    """The node's own table and links. Its methods open a socket each: they are called seldom."""

    def cover(self, covered: Collection[Net]) -> None:
        """Have a blackhole for each of these blocks, and for no other one: what nobody has must not travel in circles.

        The subnet of a bridge comes before it. Raises IoFailure.
        """
        wanted = {str(block) for block in covered}
        with Netlink.open() as netlink:
            present = set(routes.blackholes(netlink))
            self._run(netlink, (routes.blackhole_message(prefix, make=True) for prefix in wanted - present))
            self._run(netlink, (routes.blackhole_message(prefix, make=False) for prefix in present - wanted))

    def let_go(self, block: Net) -> None:
        """Take the gateway's address of a block from the links that have it. Raises OSError."""
        gateway = f"{block.network_address + 1}/{block.prefixlen}"
        with Netlink.open() as netlink:
            found = [device for address, subnet, device in routes.connected(netlink)
                     if subnet == block and f"{address}/{subnet.prefixlen}" == gateway]  # fmt: skip
        if found:
            with iproute() as library:
                for device in found:
                    library.addr("del", index=device, address=gateway)

    def _run(self, netlink: Netlink, messages: Iterable[Message]) -> None:
        for answer in netlink.send_all(list(messages), 64):
            if isinstance(answer, NetlinkError) and answer.errno not in (errno.ESRCH, errno.EEXIST):
                raise IoFailure(f"a blackhole: {answer.strerror}")
