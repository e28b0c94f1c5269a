"""Writes ExaBGP's configuration from what the agent knows of the node, and reads its sessions from it again. Pure,
except for `read_passwords`.

Every value is validated by its type. Text, such as a password or a path, is refused if ExaBGP's parser could take it
for anything else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from bgpcni.config.secret import read_secret
from bgpcni.model import Family, Neighbor, NodeFacts
from bgpcni_exabgp.lines import NAMES
from bgpcni_exabgp.protocol import LONG_LIVED

PASSWORD = re.compile(r"[!-~]{1,80}")
BGP_PORT = 179
INTERFACE = re.compile(r"[A-Za-z0-9._@-]{1,15}")
PATH = re.compile(r"/[A-Za-z0-9._/+@%:=-]*")
Sessions = frozenset[tuple[str, str]]
"""BGP sessions by the addresses of peer and node. The latter is "auto" where the kernel chooses it."""
_SESSION = re.compile(r"^neighbor (\S+) {\s+router-id \S+;\s+local-address (\S+);", re.MULTILINE)
"""The beginning of each neighbour, as `_neighbor` writes it."""


class Misconfigured(ValueError):
    """A value that ExaBGP must not be given. The text names it for the operator."""


def configure(node: NodeFacts, command: Sequence[str], passwords: Mapping[str, str]) -> str:
    """The text of the configuration file. `command`: of the relay. `passwords`: by the address of the neighbour.

    Raises `Misconfigured`.
    """
    for word in command:
        if not PATH.fullmatch(word) and not re.fullmatch(r"[A-Za-z0-9._-]+", word):
            raise Misconfigured(f"{word!r}: has characters that ExaBGP's configuration cannot carry")
    head = f"process bgpcni {{\n\trun {' '.join(command)};\n\tencoder json;\n}}\n"
    return head + "".join("\n" + _neighbor(node, n, passwords.get(n.address)) for n in node.neighbors)


def sessions(node: NodeFacts) -> Sessions:
    """The sessions that `configure` gives to this node. Raises ValueError for what is no address."""
    return frozenset((str(ip_address(n.address)), str(_source(node, n) or "auto")) for n in node.neighbors)


def sessions_in(text: str) -> Sessions:
    """The sessions in a configuration that `configure` wrote."""
    return frozenset(_SESSION.findall(text))


def read_passwords(neighbors: Sequence[Neighbor]) -> dict[str, str]:
    """The TCP MD5 password of each neighbour that has one, by its address. Raises `Misconfigured`."""
    passwords = {}
    for neighbor in neighbors:
        if neighbor.password_file is not None:
            try:
                passwords[neighbor.address] = read_secret(neighbor.password_file)
            except ValueError as error:
                raise Misconfigured(f"password_file of {neighbor.address}: {error}") from None
    return passwords


def _neighbor(node: NodeFacts, neighbor: Neighbor, password: str | None) -> str:
    try:
        peer = ip_address(neighbor.address)
        local = _source(node, neighbor)
        router = IPv4Address(node.router_id) if node.router_id else None
    except ValueError as error:
        raise Misconfigured(str(error)) from None
    if router is None:
        raise Misconfigured("bgp.router_id is needed")
    if local is None and neighbor.passive:
        raise Misconfigured(f"neighbour {peer} is passive: bgp.local_address of its family is needed")
    if not neighbor.families:
        raise Misconfigured(f"neighbour {peer} has no families")
    hold = _number(f"hold_time of {peer}", neighbor.hold_time, 3, 65535)
    lines = [
        f"router-id {router};",
        f"local-address {local or 'auto'};",
        f"local-as {_number('bgp.asn', neighbor.own_asn(node.asn), 1, 0xFFFFFFFF)};",
        f"peer-as {_number(f'asn of {peer}', neighbor.asn, 1, 0xFFFFFFFF) if neighbor.asn else 'auto'};",
        f"hold-time {hold};",
        "manual-eor true;",  # the exporter sends End-of-RIB: only it knows when all routes are there
        "adj-rib-out true;",
        "adj-rib-in false;",
        "group-updates true;",
    ]
    if neighbor.interface is not None:
        if not INTERFACE.fullmatch(neighbor.interface):
            raise Misconfigured(
                f"{neighbor.interface!r}: ExaBGP's configuration cannot carry this name of an interface"
            )
        lines.append(f"source-interface {neighbor.interface};")
    if password is not None:
        if not PASSWORD.fullmatch(password) or set(password) & set("\"'\\"):
            raise Misconfigured(
                f"password of {peer}: up to 80 printable ASCII characters, no space, quote or backslash"
            )
        lines += [f'md5-password "{password}";', "md5-base64 false;"]
    if neighbor.ttl_security:
        lines += ["incoming-ttl 255;", "outgoing-ttl 255;"]  # RFC 5082
    elif neighbor.multihop is not None:
        lines.append(f"outgoing-ttl {_number(f'multihop of {peer}', neighbor.multihop, 1, 255)};")
    port = _number(f"port of {peer}", neighbor.port, 1, 65535)
    if neighbor.passive:
        lines += ["passive true;", f"listen {port};"]
    elif port != BGP_PORT:
        lines.append(f"connect {port};")
    if node.long_lived_graceful_restart:
        stale = _number("bgp.long_lived_graceful_restart", node.long_lived_graceful_restart, 1, 0xFFFFFF)
        lines.append(f'description "{LONG_LIVED} {stale}";')  # ExaBGP knows no such option: our engine reads it here
    families = [f"\t{NAMES[family].replace('/', ' ')};" for family in Family if family in neighbor.families]
    restart = _number("bgp.graceful_restart", node.graceful_restart, 0, 4095)
    capability = [
        "\tasn4 enable;",
        "\troute-refresh enable;",
        "\textended-message disable;",  # 4096 octets are enough, and ExaBGP 5.0.1 does longer ones wrong
        f"\tgraceful-restart {restart};" if restart else "\tgraceful-restart disable;",
    ]
    api = [
        "\tprocesses [ bgpcni ];",
        "\tneighbor-changes;",
        "\tnegotiated;",
        "\tfsm;",
    ]
    sections = [("family", families), ("capability", capability), ("api", api)]
    if neighbor.interface is not None and {Family.IPV4_UNICAST, Family.IPV6_UNICAST} <= set(neighbor.families):
        capability.append("\tnexthop enable;")  # RFC 8950
        sections.insert(1, ("nexthop", ["\tipv4 unicast ipv6;"]))
    for name, body in sections:
        lines.append("\n\t".join([f"{name} {{", *body, "}"]))
    return f"neighbor {peer} {{\n\t" + "\n\t".join(lines) + "\n}\n"


def _source(node: NodeFacts, neighbor: Neighbor) -> IPv4Address | IPv6Address | None:
    """The node's address in the session with a neighbour, None if the kernel has to choose it."""
    text = neighbor.local_address or node.local_address
    local = ip_address(text) if text else None
    return local if local is not None and local.version == ip_address(neighbor.address).version else None


def _number(what: str, value: int | None, first: int, last: int) -> int:
    if value is None or isinstance(value, bool) or not first <= value <= last:
        raise Misconfigured(f"{what}: {value} is not from {first} to {last}")
    return value
