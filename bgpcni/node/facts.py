"""What this node is to its BGP neighbours: `[bgp]` of agent.toml, its next hops found in the kernel.

It also checks which exporter has which neighbour, since only the exporters know whether they take neighbours.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any

from bgpcni.config.agent import AgentConfig, BgpTable, NeighborTable
from bgpcni.config.secret import read_secret
from bgpcni.convergence import catalog
from bgpcni.errors import InvalidConfiguration
from bgpcni.kernel import addresses
from bgpcni.kernel.library import iproute
from bgpcni.kernel.netlink import Netlink
from bgpcni.model import ExportPolicy, ImportPolicy, Neighbor, NodeFacts
from bgpcni.node import plan


def refuse_passwords(config: AgentConfig) -> None:
    """Raises InvalidConfiguration for a password file that cannot be used: a session would never come up again."""
    for neighbor in config.bgp.neighbors if config.bgp else ():
        if neighbor.password_file is not None:
            try:
                read_secret(neighbor.password_file)
            except ValueError as error:
                raise InvalidConfiguration(f"bgp.neighbors: password_file of {neighbor.place}: {error}") from None


def _mark(path: str | None) -> str:
    """Another one for another password in the same file, "" where there is none to be read."""
    try:
        return hashlib.sha256(read_secret(path).encode()).hexdigest() if path is not None else ""
    except ValueError:
        return ""


def absent(netlink: Netlink, local_address: str | None, place: str = "bgp") -> str:
    """That this `local_address` is not on this node, "" if it is: no session begins from it then, but it may come.

    `place`: the table of agent.toml that has it.
    """
    if local_address is None or addresses.is_local(netlink, local_address):
        return ""
    return f"{place}.local_address: {local_address} is on no interface of this node: no session begins until it is"


def own_sources(neighbors: Iterable[Neighbor]) -> list[tuple[str, str]]:
    """The addresses that single neighbours have for this node, each once, with its place in words."""
    found = {
        item.local_address: f"bgp.neighbors: {item.address}"
        for item in neighbors
        if item.local_address and item.interface is None  # that of a link goes and comes with it
    }
    return [(place, address) for address, place in found.items()]


def absent_everywhere(netlink: Netlink, config: AgentConfig, known: NodeFacts) -> str:
    """The same of `[bgp]` and of every exporter that has an address of its own."""
    reasons = [absent(netlink, known.local_address)]
    for name, address in _speakers(config).items():
        if address != known.local_address:
            reasons.append(absent(netlink, address, f"exporters.{name}"))
    for place, address in own_sources(known.neighbors):
        reasons.append(absent(netlink, address, place))
    return "; ".join(filter(None, reasons))


def hops_to_come(netlink: Netlink, config: AgentConfig, known: NodeFacts) -> bool:
    """Whether a next hop that this node had none of could be found now."""
    if config.bgp is None or not known.has_bgp or not addresses.is_local(netlink, config.bgp.local_address):
        return False
    if known.next_hop is None and _next_hop(config.bgp, 4):
        return True
    return known.next_hop6 is None and bool(_next_hop(config.bgp, 6))


def acceptable(
    config: AgentConfig, offers: Iterable[tuple[str, NeighborTable]]
) -> tuple[tuple[NeighborTable, ...], list[str]]:
    """Which neighbours from elsewhere this node can have beside those of agent.toml, and why not the others.

    Each offer has the place that it comes from, for the reasons. agent.toml's own neighbours win for the same address,
    and of several offers the first.
    """
    table = config.bgp
    if table is None:
        return (), [f"{place}: agent.toml has no [bgp]" for place, _ in offers]
    speakers = _speakers(config)
    only = next(iter(speakers), None) if len(speakers) == 1 else None
    found: dict[tuple[str, str], tuple[str, NeighborTable]] = {}
    reasons = []
    own = {item.place for item in table.neighbors}
    for place, offer in offers:
        if offer.place in own:
            continue
        session = offer.place, offer.exporter or only or ""
        first, earlier = found.get(session, ("", offer))
        if earlier != offer:
            reasons.append(f"{place}: {offer.place} is a neighbour by {first} already, in another way")
            continue
        try:
            taken = [item for _, item in found.values() if item is not earlier]
            _refuse_neighbors(config, table, [*table.neighbors, *taken, offer], speakers)
            if offer.password_file is not None:
                read_secret(offer.password_file)
        except InvalidConfiguration as error:
            reasons.append(f"{place}: {error.msg.partition(': ')[2]}")
        except ValueError as error:
            reasons.append(f"{place}: the password file of {offer.place}: {error}")
        else:
            found.setdefault(session, (place, offer))
    return tuple(found[session][1] for session in sorted(found)), reasons


def default_gateway(version: int) -> str | None:
    """The router of this node's default route of an IP version, of several the one that the kernel prefers.

    A link-local address comes with its interface: `fe80::1%eth0`.
    """
    with iproute() as library:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        found = [
            (route.get_attr("RTA_PRIORITY") or 0, gateway)
            for route in library.get_default_routes(family=family)
            if (gateway := _router(route)) is not None
        ]
    return min(found)[1] if found else None


def _router(route: Any) -> str | None:
    hops = [route, *(route.get_attr("RTA_MULTIPATH") or ())]
    for hop in hops:
        if gateway := hop.get_attr("RTA_GATEWAY"):
            index = hop.get_attr("RTA_OIF") or (hop.get("oif") if hop is not route else None)
            return (
                f"{gateway}%{socket.if_indextoname(index)}" if ip_address(gateway).is_link_local and index else gateway
            )
    return None


def resolve(config: AgentConfig, others: Sequence[NeighborTable] = ()) -> NodeFacts:
    """The node with the neighbours of agent.toml and `others`, which are `acceptable`.

    `next_hop` and `next_hop6`: as configured, else local_address, else its interface's first global address.

    None where that interface has none of the family, or local_address is on no interface (yet). Raises
    InvalidConfiguration for a neighbour that belongs to no exporter, or cannot belong to the one that it names.
    """
    table = config.bgp
    if table is None or table.asn is None or table.router_id is None:
        return NodeFacts(run_dir=config.run_dir, data_dir=config.data_dir)
    speakers = _speakers(config)
    _refuse_neighbors(config, table, table.neighbors, speakers)
    neighbors = tuple(
        Neighbor(
            address=item.address,
            asn=item.asn or 0,
            families=item.families,
            hold_time=item.hold_time or table.hold_time,
            password_file=item.password_file,
            ttl_security=item.ttl_security,
            passive=item.passive,
            password=_mark(item.password_file),
            exporter=item.exporter,
            port=item.port,
            local_address=item.local_address,
            local_asn=item.local_asn,
            multihop=item.multihop,
            export=_export(item),
            accept=ImportPolicy(**item.import_.model_dump()),
            interface=item.interface,
        )
        for item in (*table.neighbors, *others)
        if item.address is not None
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
        long_lived_graceful_restart=table.long_lived_graceful_restart,
        neighbors=neighbors,
        has_bgp=True,
        maximum_prefix=config.policy.maximum_prefix,
        paths=table.paths,
        speakers=tuple(speakers),
    )


def _export(item: NeighborTable) -> ExportPolicy:
    """On a link without addresses the next hop is our link-local address there (RFC 8950)."""
    link_local = item.local_address if item.interface is not None else None
    hops = item.next_hop or link_local, item.next_hop6 or link_local
    return ExportPolicy(**item.export.model_dump(), next_hop=hops[0], next_hop6=hops[1])


def _speakers(config: AgentConfig) -> dict[str, str]:
    """The exporters that take neighbours of `[[bgp.neighbors]]`, and the address of each. Broken ones take none."""
    found: dict[str, str] = {}
    local_address = config.bgp.local_address if config.bgp else None
    for use in plan.configured(config):
        try:
            address = catalog.source(use, local_address)
        except InvalidConfiguration:
            continue
        if address is not None:
            found[use.name] = address
    return found


def _refuse_neighbors(
    config: AgentConfig, table: BgpTable, neighbors: Sequence[NeighborTable], speakers: dict[str, str]
) -> None:
    listening: dict[tuple[str, int], str] = {}
    for at, item in enumerate(neighbors):
        place, name = f"bgp.neighbors[{at}]", item.exporter
        if name is None and len(speakers) > 1:
            raise InvalidConfiguration(
                f"{place}.exporter: missing: say which of {', '.join(speakers)} has the session with {item.place}"
            )
        if name is not None and name not in speakers:
            raise InvalidConfiguration(f"{place}.exporter: {_why_no_speaker(name, config, table)}")
        owner = name or next(iter(speakers), "")
        local = item.local_address or speakers.get(owner, table.local_address)
        if item.address is None or item.interface is not None:
            continue
        if item.address == local:
            raise InvalidConfiguration(f"{place}.address: {item.address} is our own local_address")
        if ip_address(item.address).version != ip_address(local).version:
            raise InvalidConfiguration(
                f"{place}.address: {item.address} is not of the family of {local}, its local_address"
            )
        if item.passive and listening.setdefault((local, item.port), owner) != owner:
            raise InvalidConfiguration(
                f"{place}.passive: {owner} cannot wait for connections to {local}, because "
                f"{listening[local, item.port]} does: give [exporters.{owner}] a local_address of its own"
            )


def _why_no_speaker(name: str, config: AgentConfig, table: BgpTable) -> str:
    for use in plan.configured(config):
        if use.name == name:
            catalog.source(use, table.local_address)  # a broken one says what is wrong with it
            return f"{name} is of type {use.type} and takes no neighbours from agent.toml: its speaker has its own"
    return f"no exporter is called {name}: add a table [exporters.{name}]"


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
