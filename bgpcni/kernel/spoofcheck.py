"""The MAC check: a container's port takes frames from that container's MAC address alone.

One nftables table (family bridge) has two sets: the ports that are checked, and the pairs of port and MAC that may
pass. A container is one element of each.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from bgpcni.errors import CheckFailed, KernelRefused, Unsupported
from bgpcni.kernel import nftables, uapi
from bgpcni.kernel.links import mac_bytes
from bgpcni.kernel.nftables import TABLE, Element

_NAME_OCTETS = 16
_OWNER_MAX = 100


def install(owner: str, port: str, mac: str) -> None:
    """Check `port`, the host end's name. Idempotent. Raises Unsupported where this node cannot."""
    if not nftables.available():
        raise Unsupported("it needs nftables, and the nft executable is not installed")
    elements = _elements(owner, port, mac)
    try:
        nftables.add(elements)
    except FileNotFoundError:
        try:
            nftables.apply(table_commands())
        except KernelRefused as error:
            raise Unsupported(f"this kernel's nftables cannot filter on a bridge: {error.msg}") from None
        nftables.add(elements)


def remove(owner: str, port: str, mac: str) -> None:
    """Stop checking a port. It is no error if nothing is there."""
    nftables.remove(_elements(owner, port, mac))


def remove_of(ports: Collection[str]) -> None:
    """Stop checking these ports, whatever their MACs are."""
    names = {port.encode().ljust(_NAME_OCTETS, b"\0") for port in ports}
    for set_name in ("allowed", "checked"):
        found = nftables.elements(uapi.NFPROTO_BRIDGE, set_name)
        nftables.remove([element for element in found if element.key[:_NAME_OCTETS] in names])


def remove_found(owner: str) -> None:
    """Stop checking an owner's ports, which are looked up. Raises KernelRefused."""
    if not nftables.available():
        return
    for element in nftables.listed_set("bridge", "allowed"):
        if element.get("comment") == owner[:_OWNER_MAX]:
            port, mac = element["val"]["concat"]
            remove(owner, port, mac)


def check(owner: str, port: str, mac: str) -> None:
    """Raises CheckFailed if the port is not checked any more."""
    for element in _elements(owner, port, mac):
        if nftables.get(element) is None:
            raise CheckFailed(f"{port} is not in set {element.name} of nftables table bridge {TABLE}")
    if not nftables.rules("bridge", "prerouting"):
        raise CheckFailed(f"chain prerouting of nftables table bridge {TABLE} is empty or missing")


def table_commands() -> list[dict[str, Any]]:
    """Table, sets, chain and its one rule, for libnftables-json(5). Idempotent."""
    table = {"family": "bridge", "table": TABLE}
    chain = table | {"name": "prerouting"}
    port: dict[str, Any] = {"meta": {"key": "iifname"}}
    source: dict[str, Any] = {"payload": {"protocol": "ether", "field": "saddr"}}
    expression: list[dict[str, Any]] = [
        {"match": {"op": "==", "left": port, "right": "@checked"}},
        {"match": {"op": "!=", "left": {"concat": [port, source]}, "right": "@allowed"}},
        {"drop": None},
    ]
    return [
        {"add": {"table": {"family": "bridge", "name": TABLE}}},
        {"add": {"set": table | {"name": "checked", "type": "ifname"}}},
        {"add": {"set": table | {"name": "allowed", "type": ["ifname", "ether_addr"]}}},
        {"add": {"chain": chain | {"type": "filter", "hook": "prerouting", "prio": -300, "policy": "accept"}}},
        {"flush": {"chain": chain}},
        {"add": {"rule": table | {"chain": "prerouting", "expr": expression}}},
    ]


def _elements(owner: str, port: str, mac: str) -> list[Element]:
    """The pair comes first, so that no port is checked before its MAC may pass."""
    name = port.encode().ljust(_NAME_OCTETS, b"\0")
    return [
        Element(uapi.NFPROTO_BRIDGE, "allowed", name + mac_bytes(mac) + b"\0\0", comment=owner[:_OWNER_MAX]),
        Element(uapi.NFPROTO_BRIDGE, "checked", name, comment=owner[:_OWNER_MAX]),
    ]
