"""Keeps the packets of an anycast gateway on its node, with one nftables table (family netdev) for each VXLAN device.

Every node has a gateway with the same MAC and addresses. So its ARP and neighbour discovery must not leave by the VXLAN
port, nor come in there. `neigh_suppress` does that for the questions of containers, but not for what the gateway itself
sends (its own questions, MLD, IGMP). Only checked values go into the script for `nft`.
"""

from __future__ import annotations

from collections.abc import Iterable

from bgpcni.ip import ip_address
from bgpcni.kernel import nftables
from bgpcni.kernel.links import mac_bytes

_PREFIX = "bgpcni_"


def table_of(device: str) -> str:
    return _PREFIX + device


def rules(device: str, mac: str, addresses: Iterable[str]) -> str:
    """A script for nft(8) that makes the table, or replaces it."""
    mac = mac_bytes(mac).hex(":")
    found = sorted((ip_address(address) for address in addresses), key=lambda item: (item.version, int(item)))
    four = ", ".join(str(item) for item in found if item.version == 4)
    six = ", ".join(str(item) for item in found if item.version == 6)
    both: list[str] = []
    if four:
        both += [f"arp daddr ip {{ {four} }} drop", f"arp saddr ip {{ {four} }} drop"]
    if six:
        both += [f"icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} icmpv6 taddr {{ {six} }} drop"]
    out = [f"ether saddr {mac} ether daddr & 01:00:00:00:00:00 == 01:00:00:00:00:00 drop"]
    out += [f"ether saddr {mac} ether type arp drop", *both]
    come = [f"ether saddr {mac} ether type arp drop"]
    come += [f"ether saddr {mac} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} drop", *both]
    name = table_of(device)
    lines = [f"table netdev {name} {{}}", f"delete table netdev {name}", f"table netdev {name} {{"]
    for hook, body in (("egress", out), ("ingress", come)):
        lines += [f"\tchain {hook} {{", f'\t\ttype filter hook {hook} device "{device}" priority 0; policy accept;']
        lines += [f"\t\t{rule}" for rule in body]
        lines += ["\t}"]
    return "\n".join([*lines, "}", ""])


def keep_local(device: str, mac: str, addresses: Iterable[str]) -> None:
    """Put the table of one VXLAN device in place. Raises KernelRefused."""
    nftables.load(rules(device, mac, addresses))


def forget(device: str) -> None:
    """Remove the table. It is no error if there is none. Raises KernelRefused."""
    name = table_of(device)
    nftables.load(f"table netdev {name} {{}}\ndelete table netdev {name}\n")


def tables() -> list[str]:
    """The devices that have a table of ours."""
    return [name.removeprefix(_PREFIX) for name in nftables.tables("netdev") if name.startswith(f"{_PREFIX}vxlan")]
