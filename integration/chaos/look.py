"""Compares what exists with what should exist, and returns each contradiction as a line of text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from integration.chaos.calls import Slot, State
from integration.chaos.site import NETWORK, Host, Peer, Site
from integration.seen import links_in

BRIDGE = "cni0"


def contradictions(site: Site, slots: Sequence[Slot]) -> list[str]:
    """All that is wrong once everything works again and no call runs."""
    found = [*_twice(slots)]
    for host in site.hosts:
        up = [slot for slot in slots if slot.host is host and slot.state is State.UP]
        found += _records(host, up)
        found += _leases(host, up)
        found += _links(host, up)
        found += _filters(host, up)
        found += _kernel_table(host, up)
        found += _processes(host)
    for slot in slots:
        inside = links_in(slot.space)
        if inside != (["eth0"] if slot.state is State.UP else []):
            found.append(f"{slot.id} is {slot.state.value}, and its namespace has {inside or 'no link'}")
    for peer in site.peers:
        found += _routes(site, peer, slots)
    if found:
        return found  # a command takes a hundred times as long as a look
    for host in site.hosts:
        found += _said(host, [slot for slot in slots if slot.host is host and slot.state is State.UP], site)
    return found


def _twice(slots: Sequence[Slot]) -> Iterator[str]:
    owner: dict[str, str] = {}
    for slot in slots:
        for ip in slot.ips if slot.state is State.UP else ():
            if ip in owner:
                yield f"{ip} is {owner[ip]}'s and {slot.id}'s"
            owner[ip] = slot.id


def _records(host: Host, up: Sequence[Slot]) -> Iterator[str]:
    wanted = {slot.id: set(slot.ips) for slot in up}
    found = {}
    for file in host.node.records():
        state, record = file.relative_to(host.node.data_dir).parts[1], json.loads(file.read_text())
        ident = record["container_id"]
        if state != "up":
            yield f"{host.name} has a record of {ident} that is {state}"
        else:
            found[ident] = {address["address"].partition("/")[0] for address in record["addresses"]}
    if found != wanted:
        yield f"{host.name} has records {_difference(found, wanted)}"


def _leases(host: Host, up: Sequence[Slot]) -> Iterator[str]:
    wanted = {ip: slot.id for slot in up for ip in slot.ips}
    folder = host.node.leases / NETWORK
    found = {ip: (folder / ip).read_text().splitlines()[0] for ip in host.node.lease_files(NETWORK)}
    if found != wanted:
        yield f"{host.name} has leases {_difference(found, wanted)}"


def _links(host: Host, up: Sequence[Slot]) -> Iterator[str]:
    wanted = {slot.veth for slot in up}
    found = host.node.links() - {BRIDGE}
    if found != wanted:
        yield f"{host.name} has links {_difference(dict.fromkeys(found), dict.fromkeys(wanted))}"


def _filters(host: Host, up: Sequence[Slot]) -> Iterator[str]:
    """Masquerading and macspoofchk: an element for each address, two for each port."""
    said = host.node.namespace.run("nft", "-j", "list", "ruleset").stdout
    found: dict[str, int] = {}
    for entry in json.loads(said)["nftables"]:
        for kind in ("set", "map"):
            for element in entry.get(kind, {}).get("elem", ()):
                note = str(_comment(element))
                found[note] = found.get(note, 0) + 1
    wanted = {slot.id: 2 + len(slot.ips) for slot in up}
    for note, count in found.items():
        ident = next((name for name in wanted if f" {name} " in f" {note.replace('/', ' ')} "), None)
        if ident is None:
            yield f"{host.name} has {count} nftables elements of `{note}`, which is not there"
        else:
            wanted[ident] -= count
    if left := {ident: count for ident, count in wanted.items() if count}:
        yield f"{host.name} lacks nftables elements: {left}"


def _comment(element: Any) -> object:
    """An element's comment, in whatever way nft nests it: alone, or as the key of a map."""
    if isinstance(element, list):
        element = element[0]
    return element.get("elem", {}).get("comment") if isinstance(element, dict) else None


def _kernel_table(host: Host, up: Sequence[Slot]) -> Iterator[str]:
    there = {
        str(route["dst"]).partition("/")[0]
        for version in ("-4", "-6")
        for route in host.node.namespace.ip_json(version, "route", "show", "table", "100")
    }
    wanted = {ip for slot in up for ip in slot.ips} if "kernel" in host.exporters else set()
    if there != wanted:
        yield f"{host.name}'s table 100 has {_difference(dict.fromkeys(there), dict.fromkeys(wanted))}"


def _processes(host: Host) -> Iterator[str]:
    for name, pids in host.processes().items():
        if len(pids) != 1:
            yield f"{host.name} has {len(pids)} processes of kind {name}: {pids}"


def _said(host: Host, up: Sequence[Slot], site: Site) -> Iterator[str]:
    """What the operator is told."""
    status = host.node.operator("status")
    if status.code or not status.document.get("healthy"):
        yield f"{host.name}'s status: {status.document}"
    routes = host.node.operator("routes")
    told = {route["prefix"].partition("/")[0]: route["containerID"] for route in routes.document.get("routes", ())}
    wanted = {ip: slot.id for slot in up for ip in slot.ips}
    if routes.code or told != wanted:
        yield f"{host.name}'s routes ({routes.code}) say {_difference(told, wanted)}"
    peers = host.node.operator("peers")
    if peers.code or len(peers.document.get("peers", ())) != len(site.peers):
        yield f"{host.name}'s peers: {peers.document}"


def _routes(site: Site, peer: Peer, slots: Sequence[Slot]) -> Iterator[str]:
    wanted: dict[str, tuple[str, frozenset[str]]] = {}
    for slot in slots:
        for ip in slot.ips if slot.state is State.UP else ():
            node = slot.host.node
            hop = node.address6 if ":" in ip else node.address
            wanted[f"{ip}/{128 if ':' in ip else 32}"] = (hop, frozenset({f"64512:{slot.number}"}))
    found = {prefix: (shown.next_hop, shown.route_targets) for prefix, shown in peer.routes().items()}
    if found != wanted:
        yield f"{peer.name} has routes {_difference(found, wanted)}"
    for host in site.hosts:
        if not peer.frr.established(host.node.address):
            yield f"{peer.name} has no session with {host.name}"


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """What exists but should not, what should exist but does not, and what differs."""
    more = {key: found[key] for key in found.keys() - wanted.keys()}
    less = {key: wanted[key] for key in wanted.keys() - found.keys()}
    other = {key: (found[key], wanted[key]) for key in found.keys() & wanted.keys() if found[key] != wanted[key]}
    parts = (("too much", more), ("missing", less), ("found, wanted", other))
    return "; ".join(f"{what}: {_words(which)}" for what, which in parts if which)


def _words(which: dict[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, frozenset | set):
            return sorted(value)
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    return str({key: plain(value) for key, value in sorted(which.items())})
