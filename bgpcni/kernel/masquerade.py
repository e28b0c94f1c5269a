"""Masquerading: what a container sends beyond its own subnet, but not to a multicast group, has the node's address.

It does what the stock bridge plugin does. With nftables one table has a map from each container's address to the chain
of its subnet, so a container is one element of the map; table and chains stay. With iptables, if the host has only
that, each container has a chain of its own. Every value was parsed as an address before it is used here.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from ipaddress import ip_interface
from typing import Any, Literal

from bgpcni.errors import CheckFailed, KernelRefused, Unsupported
from bgpcni.kernel import iptables, nftables, uapi
from bgpcni.kernel.nftables import TABLE, Element

Backend = Literal["nftables", "iptables"]
_FAMILIES: dict[int, tuple[str, str, str]] = {
    4: ("ip", "ipv4_addr", "224.0.0.0/4"),
    6: ("ip6", "ipv6_addr", "ff00::/8"),
}
"""IP version → nft's name of the protocol, nft's name of the address type, the multicast prefix."""


def choose(asked: Backend | None) -> Backend:
    """The back end: what was asked for, else nftables, else iptables. Raises Unsupported if there is none."""
    if asked != "iptables" and nftables.available():
        return "nftables"
    if asked != "nftables" and shutil.which("iptables"):
        return "iptables"
    raise Unsupported(f"{asked or 'nft or iptables'} is not installed on this node")


def install(backend: Backend, owner: str, addresses: Sequence[str]) -> None:
    """Masquerade `addresses` (`10.1.2.3/24`). `owner`: whose they are, in text. Idempotent. Raises KernelRefused."""
    if backend == "iptables":
        _remove_iptables(owner, addresses)
        _install_iptables(owner, addresses)
        return
    elements = _elements(owner, addresses)
    try:
        nftables.add(elements)
    except FileNotFoundError:  # the first of this node or of its subnet
        nftables.apply(table_commands(addresses))
        nftables.add(elements)


def remove(backend: Backend, owner: str, addresses: Sequence[str]) -> None:
    """Undo `install`, as far as it is still `owner`'s. It is no error if nothing is there."""
    if backend == "iptables":
        _remove_iptables(owner, addresses)
    else:
        nftables.remove(_elements(owner, addresses))


def remove_of(is_owner: Callable[[str], bool]) -> None:
    """Undo `install` (nftables alone) for the owners for which `is_owner` is true."""
    for version in _FAMILIES:
        found = nftables.elements(uapi.NFPROTO_INET, f"masquerade{version}")
        nftables.remove([element for element in found if element.comment.count("/") == 2 and is_owner(element.comment)])


def remove_found(owner: str, addresses: Sequence[str]) -> None:
    """Undo `install` if it was done at all, with whichever back end. Raises KernelRefused."""
    if nftables.available():
        nftables.remove(_elements(owner, addresses))
    for version in _versions(addresses):
        if shutil.which(iptables.PROGRAMS[version]) and not iptables.run(version, "-S", _chain(owner)).returncode:
            _remove_iptables(owner, [one for one in addresses if ip_interface(one).version == version])


def check(backend: Backend, owner: str, addresses: Sequence[str]) -> None:
    """Raises CheckFailed if an address is not masqueraded any more."""
    if backend == "iptables":
        for version in _versions(addresses):
            for argv in _iptables_rules(owner, addresses, version):
                if iptables.run(version, "-C", *argv).returncode:
                    raise CheckFailed(f"the {iptables.PROGRAMS[version]} rule '{' '.join(argv)}' is missing")
        return
    for element, address in zip(_elements(owner, addresses), addresses, strict=True):
        found = nftables.get(element)
        if found is None or found.goto != element.goto:
            raise CheckFailed(f"{address} is not in map {element.name} of nftables table inet {TABLE}")
        for chain in ("postrouting", str(element.goto)):
            if not nftables.rules("inet", chain):
                raise CheckFailed(f"chain {chain} of nftables table inet {TABLE} is empty or missing")


# ---------------------------------------------------------------- nftables


def table_commands(addresses: Sequence[str]) -> list[dict[str, Any]]:
    """Table, maps, base chain and the chains of these addresses' subnets, for libnftables-json(5).

    Idempotent: what exists stays, and a chain is emptied and filled in one transaction.
    """
    table = {"family": "inet", "table": TABLE}
    base = table | {"name": "postrouting"}
    commands: list[dict[str, Any]] = [
        {"add": {"table": {"family": "inet", "name": TABLE}}},
        {"add": {"chain": base | {"type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept"}}},
        {"flush": {"chain": base}},
    ]
    for version, (protocol, kind, _) in _FAMILIES.items():
        name = f"masquerade{version}"
        commands.append({"add": {"map": table | {"name": name, "type": kind, "map": "verdict"}}})
        vmap = {"vmap": {"key": {"payload": {"protocol": protocol, "field": "saddr"}}, "data": f"@{name}"}}
        commands.append({"add": {"rule": table | {"chain": "postrouting", "expr": [vmap]}}})
    subnets = {chain_of(address): ip_interface(address).network for address in addresses}
    for chain, subnet in subnets.items():
        protocol, _, multicast = _FAMILIES[subnet.version]
        beyond = [_beyond(protocol, multicast)]
        if subnet.prefixlen < subnet.max_prefixlen:
            beyond.append(_beyond(protocol, str(subnet)))
        commands += [
            {"add": {"chain": table | {"name": chain}}},
            {"flush": {"chain": table | {"name": chain}}},
            {"add": {"rule": table | {"chain": chain, "expr": [*beyond, {"masquerade": None}]}}},
        ]
    return commands


def chain_of(address: str) -> str:
    """The chain of an address's subnet: `outside-10.1.2.0/24`; nft's names have no colon.

    One that is its own subnet (/32, /128) needs no exception, so all of these share a chain.
    """
    subnet = ip_interface(address).network
    if subnet.prefixlen == subnet.max_prefixlen:
        return f"outside{subnet.version}"
    return f"outside-{subnet}".replace(":", "_")


def _beyond(protocol: str, prefix: str) -> dict[str, Any]:
    address, _, length = prefix.partition("/")
    subnet = {"prefix": {"addr": address, "len": int(length)}}
    return {"match": {"op": "!=", "left": {"payload": {"protocol": protocol, "field": "daddr"}}, "right": subnet}}


def _elements(owner: str, addresses: Sequence[str]) -> list[Element]:
    return [
        Element(uapi.NFPROTO_INET, f"masquerade{one.version}", one.ip.packed, chain_of(str(one)), owner[:100])
        for one in map(ip_interface, addresses)
    ]


# ---------------------------------------------------------------- iptables


def _versions(addresses: Sequence[str]) -> list[int]:
    return sorted({ip_interface(address).version for address in addresses})


def _chain(owner: str) -> str:
    return f"BGPCNI-{hashlib.sha256(owner.encode()).hexdigest()[:20]}"


def _iptables_rules(owner: str, addresses: Sequence[str], version: int) -> list[list[str]]:
    """Chain and match of each rule, in order: those of the chain, then the jumps into it."""
    chain, multicast = _chain(owner), _FAMILIES[version][2]
    mine = [one for one in map(ip_interface, addresses) if one.version == version]
    subnets = dict.fromkeys(str(one.network) for one in mine)
    return [
        *([chain, "-d", subnet, "-j", "ACCEPT"] for subnet in subnets),
        [chain, "!", "-d", multicast, "-j", "MASQUERADE"],
        *(["POSTROUTING", "-s", str(one.ip), "-j", chain] for one in mine),
    ]


def _install_iptables(owner: str, addresses: Sequence[str]) -> None:
    for version in _versions(addresses):
        steps = [["-N", _chain(owner)], *(["-A", *rule] for rule in _iptables_rules(owner, addresses, version))]
        for argv in steps:
            done = iptables.run(version, *argv)
            if done.returncode:
                raise KernelRefused(f"{iptables.PROGRAMS[version]} {' '.join(argv)}: {done.stderr.strip()}")


def _remove_iptables(owner: str, addresses: Sequence[str]) -> None:
    for version in _versions(addresses):
        for rule in _iptables_rules(owner, addresses, version):
            if rule[0] == "POSTROUTING":
                while not iptables.run(version, "-D", *rule).returncode:
                    pass  # until it is not there any more
        iptables.run(version, "-F", _chain(owner))
        iptables.run(version, "-X", _chain(owner))
