"""What this node is to its BGP neighbours: `[bgp]` of agent.toml, its next hops found in the kernel."""

from __future__ import annotations

import hashlib
import socket
from ipaddress import ip_address

from bgpcni.config.agent import AgentConfig, BgpTable
from bgpcni.config.secret import read_secret
from bgpcni.errors import InvalidConfiguration
from bgpcni.kernel import addresses
from bgpcni.kernel.library import iproute
from bgpcni.kernel.netlink import Netlink
from bgpcni.model import Neighbor, NodeFacts


def refuse_passwords(config: AgentConfig) -> None:
    """Raises InvalidConfiguration for a password file that cannot be used: a session would never come up again."""
    for neighbor in config.bgp.neighbors if config.bgp else ():
        if neighbor.password_file is not None:
            try:
                read_secret(neighbor.password_file)
            except ValueError as error:
                raise InvalidConfiguration(f"bgp.neighbors: password_file of {neighbor.address}: {error}") from None


def _mark(path: str | None) -> str:
    """Another one for another password in the same file, "" where there is none to be read."""
    try:
        return hashlib.sha256(read_secret(path).encode()).hexdigest() if path is not None else ""
    except ValueError:
        return ""


def absent(netlink: Netlink, known: NodeFacts) -> str:
    """That `local_address` is not on this node, "" if it is: no session begins from it then, but it may come."""
    if known.local_address is None or addresses.is_local(netlink, known.local_address):
        return ""
    return f"bgp.local_address: {known.local_address} is on no interface of this node: no session begins until it is"


def hops_to_come(netlink: Netlink, config: AgentConfig, known: NodeFacts) -> bool:
    """Whether a next hop that this node had none of could be found now."""
    if config.bgp is None or not known.has_bgp or not addresses.is_local(netlink, config.bgp.local_address):
        return False
    if known.next_hop is None and _next_hop(config.bgp, 4):
        return True
    return known.next_hop6 is None and bool(_next_hop(config.bgp, 6))


def resolve(config: AgentConfig) -> NodeFacts:
    """`next_hop` and `next_hop6`: as configured, else local_address, else its interface's first global address.

    None where that interface has none of the family, or local_address is on no interface (yet).
    """
    table = config.bgp
    if table is None:
        return NodeFacts(run_dir=config.run_dir, data_dir=config.data_dir)
    neighbors = tuple(
        Neighbor(
            address=item.address,
            asn=item.asn,
            families=item.families,
            hold_time=item.hold_time or table.hold_time,
            password_file=item.password_file,
            ttl_security=item.ttl_security,
            passive=item.passive,
            password=_mark(item.password_file),
        )
        for item in table.neighbors
    )
    return NodeFacts(
        run_dir=config.run_dir,
        data_dir=config.data_dir,
        asn=table.asn,
        router_id=table.router_id,
        local_address=table.local_address,
        next_hop=_next_hop(table, 4),
        next_hop6=_next_hop(table, 6),
        hold_time=table.hold_time,
        graceful_restart=table.graceful_restart,
        neighbors=neighbors,
        has_bgp=True,
        maximum_prefix=config.policy.maximum_prefix,
    )


def _next_hop(table: BgpTable, version: int) -> str | None:
    configured = table.next_hop if version == 4 else table.next_hop6
    local = ip_address(table.local_address)
    return configured or (str(local) if local.version == version else _neighbouring(str(local), version))


def _neighbouring(local: str, version: int) -> str | None:
    """The first global address of the other family on the interface that has `local`."""
    with iproute() as library:
        index = next((item["index"] for item in library.get_addr(address=local)), None)
        if index is None:
            return None
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        for item in library.get_addr(index=index, family=family):
            address = ip_address(item.get_attr("IFA_LOCAL") or item.get_attr("IFA_ADDRESS"))
            if not address.is_link_local and not address.is_loopback:
                return str(address)
    return None
