"""`networks`: the networks of this node, and what they stand on: bridges, VNIs, VRFs, and how much of each is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bgpcni.commands import Document
from bgpcni.commands.answers.common import Resident, state_of
from bgpcni.commands.answers.steps import Look
from bgpcni.ip import ip_interface
from bgpcni.kernel import vxlan
from bgpcni.model import Attachment
from bgpcni.node.node import Node


def nodes(agent: Resident) -> tuple[Document, int]:
    """The nodes of the cluster; exit 0. None is there without a cluster's store."""
    return {"schema": 1, "nodes": agent.nodes()}, 0


@dataclass(slots=True)
class _Network:
    states: Counter[str] = field(default_factory=Counter)
    subnets: Counter[str] = field(default_factory=Counter)
    bridges: dict[str, None] = field(default_factory=dict)
    exporters: dict[str, None] = field(default_factory=dict)
    newest: Attachment | None = None

    def count(self, item: Attachment, state: str) -> None:
        self.states[state] += 1
        self.subnets.update(str(ip_interface(each.address).network) for each in item.addresses)
        self.bridges.update(dict.fromkeys(filter(None, (item.bridge,))))
        self.exporters.update(dict.fromkeys(use.name for use in item.exporters))
        self.newest = item


def networks(node: Node) -> tuple[Document, int]:
    """Each network that has an attachment here; exit 0. `size`: how many addresses a subnet has for containers."""
    found: dict[str, _Network] = {}
    for stored in node.store.all():
        if stored.attachment is not None:
            network = found.setdefault(stored.network, _Network())
            network.count(stored.attachment, state_of(node, stored.state, stored.attachment))
    look = Look(node)
    routes = {name: announcer.counts() for name, announcer in look.announcers.items()}
    return {
        "schema": 1,
        "networks": [_network(name, network) for name, network in sorted(found.items())],
        "devices": list(_devices(look, found.values())),
        "routes": routes,
    }, 0


def _network(name: str, network: _Network) -> Document:
    assert network.newest is not None
    intent = network.newest.bgp
    return {
        "network": name,
        "family": intent.family,
        "bridges": list(network.bridges),
        "vni": intent.vni,
        "vrf": intent.vrf,
        "l3vni": intent.l3vni,
        "exporters": list(network.exporters),
        "attachments": dict(network.states),
        "subnets": [
            {"subnet": subnet, "used": used, "size": _size(subnet)} for subnet, used in sorted(network.subnets.items())
        ],
    }


def _size(subnet: str) -> int:
    """Without the network's address, the gateway's and, in IPv4, the broadcast address, where a subnet has room."""
    network = ip_interface(subnet).network
    spare = network.max_prefixlen - network.prefixlen
    return network.num_addresses - (0 if spare < 2 else 3 if network.version == 4 else 2)


def _devices(look: Look, networks: Iterable[_Network]) -> Iterable[Document]:
    """The bridges, VXLANs and VRFs of the networks, each once, as they are in the kernel now."""
    wanted: dict[tuple[str, str], None] = {}
    vnis: dict[str, int] = {}
    for network in networks:
        intent = network.newest.bgp if network.newest is not None else None
        wanted.update(dict.fromkeys(("bridge", name) for name in network.bridges))
        if intent is None:
            continue
        if intent.vrf is not None and intent.table is not None:
            wanted["vrf", intent.vrf] = None
        for vni in (intent.vni if intent.forwarder == "agent" else None, intent.l3vni if intent.table else None):
            if vni is not None:
                wanted["vxlan", vxlan.name_of(vni)] = None
                vnis[vxlan.name_of(vni)] = vni
    for kind, name in wanted:
        link = look.link(name)
        yield {
            "kind": kind,
            "name": name,
            "vni": vnis.get(name),
            "state": "missing" if link is None else "up" if link.up else "down",
            "master": look.master_of(link) if link is not None else None,
            "mtu": link.mtu if link is not None else None,
        }
