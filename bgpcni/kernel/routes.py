"""Routes learned by BGP, in the main table or in that of a VRF. They have our protocol number.

Only our own routes are replaced or deleted. A new route is made with NLM_F_EXCL, so it never replaces somebody else's.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from bgpcni.kernel import sysctl, uapi
from bgpcni.kernel.addresses import each_hop, family_of, way_message, way_of
from bgpcni.kernel.netlink import MAKE, PUT, Message, Netlink, NetlinkError, attribute, attributes, nested, u32
from bgpcni.kernel.vxlan import PROTOCOL

log = logging.getLogger(__name__)
MAIN = uapi.RT_TABLE_MAIN
METRIC = 20182
"""The priority of our routes. Those of the kernel and of administrators are lower numbers, and win."""
SHARED_METRIC = 20181
"""The priority of routes to addresses that containers of this node share: they win over learned ones."""
LAST_METRIC = 4278198272
"""The priority of a VRF's unreachable default route: it comes last, and keeps packets out of the main table."""
_BOTTOM = 0x100
"""The bottom of a label stack, RFC 3032 section 2.1; the label is in the upper 20 bits."""


class Path(NamedTuple):
    """One way of a route: `gateway` None: on the link. `device`: an index. `label`: the MPLS label put on packets."""

    gateway: str | None
    device: int
    label: int | None = None


def _body(prefix: str, paths: Sequence[Path], table: int, metric: int = METRIC) -> bytes:
    """In a VRF's table the device may be outside of the VRF: its gateway is taken as on the link."""
    network = ip_network(prefix)
    first = paths[0]
    several = len(paths) > 1
    scope = uapi.RT_SCOPE_UNIVERSE if several or first.gateway or network.version == 6 else uapi.RT_SCOPE_LINK
    flags = 0 if several else _flags(first, table)
    body = _head(network.version, network.prefixlen, table, scope, uapi.RTN_UNICAST, flags)
    body += attribute(uapi.RTA_DST, network.network_address.packed) if network.prefixlen else b""
    body += attribute(uapi.RTA_PRIORITY, metric)
    if several:
        return body + attribute(uapi.RTA_MULTIPATH, b"".join(_hop(path, network.version, table) for path in paths))
    return body + attribute(uapi.RTA_OIF, first.device) + _way(first, network.version)


def _flags(path: Path, table: int) -> int:
    return uapi.RTNH_F_ONLINK if path.gateway and table != MAIN else 0


def _hop(path: Path, version: int, table: int) -> bytes:
    """One of several paths: struct rtnexthop, and its attributes. All have the same weight."""
    way = _way(path, version)
    return uapi.RTNEXTHOP.pack(uapi.RTNEXTHOP.size + len(way), _flags(path, table), 0, path.device) + way


def _way(path: Path, version: int) -> bytes:
    """The gateway and the label of a path to a prefix of this IP version."""
    found = b""
    if path.gateway:
        gateway = ip_address(path.gateway)
        if gateway.version == version:
            found += attribute(uapi.RTA_GATEWAY, gateway.packed)
        else:  # RFC 8950
            found += attribute(uapi.RTA_VIA, struct.pack("=H", family_of(gateway.version)) + gateway.packed)
    if path.label is not None:
        found += attribute(uapi.RTA_ENCAP_TYPE, struct.pack("=H", uapi.LWTUNNEL_ENCAP_MPLS))
        found += nested(uapi.RTA_ENCAP, attribute(uapi.MPLS_IPTUNNEL_DST, _stack(path.label)))
    return found


def _head(version: int, length: int, table: int, scope: int, kind: int, flags: int = 0) -> bytes:
    low = table if table < 256 else 0
    head = uapi.RTMSG.pack(family_of(version), length, 0, 0, low, PROTOCOL, scope, kind, flags)
    return head + (attribute(uapi.RTA_TABLE, table) if table > 255 else b"")


def _stack(label: int) -> bytes:
    return struct.pack("!I", label << 12 | _BOTTOM)


def add_message(prefix: str, paths: Sequence[Path], table: int = MAIN) -> Message:
    """Add a route. EEXIST: somebody has a route with this prefix and metric, and it stays."""
    return Message(uapi.RTM_NEWROUTE, MAKE, _body(prefix, paths, table))


def replace_message(prefix: str, paths: Sequence[Path], table: int = MAIN) -> Message:
    """Change the route of a prefix. The caller knows that the one with this metric is ours."""
    return Message(uapi.RTM_NEWROUTE, PUT, _body(prefix, paths, table))


def delete_message(prefix: str, paths: Sequence[Path], table: int = MAIN) -> Message:
    """Delete exactly this route. ESRCH: it was not there."""
    return Message(uapi.RTM_DELROUTE, 0, _body(prefix, paths, table))


def shared_message(prefix: str, paths: Sequence[Path], table: int) -> Message:
    """Lead a shared address to these containers; without any, delete its route. ESRCH: it was not there."""
    if paths:
        return Message(uapi.RTM_NEWROUTE, PUT, _body(prefix, paths, table, SHARED_METRIC))
    network = ip_network(prefix)
    body = _head(network.version, network.prefixlen, table, uapi.RT_SCOPE_NOWHERE, uapi.RTN_UNICAST)
    body += attribute(uapi.RTA_DST, network.network_address.packed) + attribute(uapi.RTA_PRIORITY, SHARED_METRIC)
    return Message(uapi.RTM_DELROUTE, 0, body)


def last_messages(table: int, *, make: bool) -> Iterator[Message]:
    """A VRF's last route makes the rest unreachable. Without it the kernel would go on looking in the main table."""
    for version in (4, 6) if sysctl.exists("net/ipv6") else (4,):
        body = _head(version, 0, table, uapi.RT_SCOPE_UNIVERSE, uapi.RTN_UNREACHABLE)
        body += attribute(uapi.RTA_PRIORITY, LAST_METRIC)
        yield (Message(uapi.RTM_NEWROUTE, PUT, body) if make else Message(uapi.RTM_DELROUTE, 0, body))


def blackhole_message(prefix: str, *, make: bool) -> Message:
    """Drop what comes for a prefix and has no better route. It comes after every other route of the same prefix."""
    network = ip_network(prefix)
    body = _head(network.version, network.prefixlen, MAIN, uapi.RT_SCOPE_UNIVERSE, uapi.RTN_BLACKHOLE)
    body += attribute(uapi.RTA_DST, network.network_address.packed) + attribute(uapi.RTA_PRIORITY, LAST_METRIC)
    return Message(uapi.RTM_NEWROUTE, PUT, body) if make else Message(uapi.RTM_DELROUTE, 0, body)


def blackholes(netlink: Netlink) -> Iterator[str]:
    """The prefixes of our blackholes."""
    for version in (4, 6):
        for data in netlink.dump(Message(uapi.RTM_GETROUTE, 0, _head(version, 0, MAIN, 0, 0))):
            _, length, _, _, _, protocol, _, kind, _ = uapi.RTMSG.unpack_from(data)
            found = attributes(data, uapi.RTMSG.size)
            if protocol == PROTOCOL and kind == uapi.RTN_BLACKHOLE and uapi.RTA_DST in found:
                yield f"{ip_address(found[uapi.RTA_DST])}/{length}"


def host_message(address: str, device: int, table: int = MAIN, *, make: bool) -> Message:
    """A host on a link, whose subnet no address of the link says. ESRCH on removal: it was not there."""
    host = ip_address(address)
    scope = uapi.RT_SCOPE_UNIVERSE if host.version == 6 else uapi.RT_SCOPE_LINK
    body = _head(host.version, host.max_prefixlen, table, scope, uapi.RTN_UNICAST)
    body += attribute(uapi.RTA_DST, host.packed) + attribute(uapi.RTA_OIF, device)
    return Message(uapi.RTM_NEWROUTE, PUT, body) if make else Message(uapi.RTM_DELROUTE, 0, body)


def ours(netlink: Netlink, table: int = MAIN, metric: int = METRIC) -> Iterator[tuple[str, list[Path]]]:
    """Each route of a table with our protocol number and this metric: for the agent's start."""
    for version in (4, 6):
        try:
            found = netlink.dump(Message(uapi.RTM_GETROUTE, 0, _head(version, 0, table, 0, 0)))
        except NetlinkError as error:
            if error.errno != errno.ENOENT:  # no such table yet
                raise
            continue
        for data in found:
            if route := _read(data, version, table, metric):
                yield route


def _read(data: bytes, version: int, table: int, metric: int = METRIC) -> tuple[str, list[Path]] | None:
    _, length, _, _, low, protocol, _, kind, flags = uapi.RTMSG.unpack_from(data)
    found = attributes(data, uapi.RTMSG.size)
    there = u32(found[uapi.RTA_TABLE]) if uapi.RTA_TABLE in found else low
    is_ours = protocol == PROTOCOL and there == table and kind == uapi.RTN_UNICAST and not flags & uapi.RTM_F_CLONED
    if not is_ours or u32(found.get(uapi.RTA_PRIORITY, bytes(4))) != metric:
        return None
    paths = [_path(each, device) for device, each in each_hop(found.get(uapi.RTA_MULTIPATH, b""))]
    if uapi.RTA_OIF in found:
        paths.append(_path(found, u32(found[uapi.RTA_OIF])))
    address = ip_address(found.get(uapi.RTA_DST, bytes(4 if version == 4 else 16)))
    return (f"{address}/{length}", paths) if paths else None


def _path(found: Mapping[int, bytes], device: int) -> Path:
    packed = found.get(uapi.RTA_GATEWAY) or found.get(uapi.RTA_VIA, b"")[2:]
    stack = attributes(found.get(uapi.RTA_ENCAP, b""), 0).get(uapi.MPLS_IPTUNNEL_DST, b"")
    label = int.from_bytes(stack[:3], "big") >> 4 if len(stack) == 4 else None
    return Path(str(ip_address(packed)) if packed else None, device, label)


def label_message(label: int, device: int, *, make: bool) -> Message:
    """Packets that come with this label are routed behind `device`, a VRF. EEXIST: the label is somebody else's."""
    assert device > 0
    head = uapi.RTMSG.pack(uapi.AF_MPLS, 20, 0, 0, MAIN, PROTOCOL, uapi.RT_SCOPE_UNIVERSE, uapi.RTN_UNICAST, 0)
    body = head + attribute(uapi.RTA_DST, _stack(label)) + attribute(uapi.RTA_OIF, device)
    return Message(uapi.RTM_NEWROUTE, MAKE, body) if make else Message(uapi.RTM_DELROUTE, 0, body)


def labels(netlink: Netlink) -> Iterator[tuple[int, int]]:
    """(label, device) of each label of ours; none without MPLS."""
    if not sysctl.exists("net/mpls"):
        return
    question = uapi.RTMSG.pack(uapi.AF_MPLS, 0, 0, 0, 0, PROTOCOL, 0, 0, 0)
    for data in netlink.dump(Message(uapi.RTM_GETROUTE, 0, question)):
        protocol = uapi.RTMSG.unpack_from(data)[5]
        found = attributes(data, uapi.RTMSG.size)
        if protocol == PROTOCOL and uapi.RTA_DST in found and uapi.RTA_OIF in found:
            yield int.from_bytes(found[uapi.RTA_DST][:3], "big") >> 4, u32(found[uapi.RTA_OIF])


def forwards_mpls(netlink: Netlink) -> bool:
    """Whether this kernel can put labels on packets and take them off; loads its modules if it has them.

    What is asked for is the removal of a route that cannot be: the kernel says that, or that it knows no MPLS.
    """
    (answer,) = netlink.send(delete_message("240.0.0.0/32", [Path(None, 1, 0)]))
    known = not isinstance(answer, NetlinkError) or answer.errno in (errno.ESRCH, errno.ENODEV)
    return known and sysctl.exists("net/mpls")


def accept_labels(last: int) -> None:
    """Let the kernel use MPLS labels up to this one. Raises KernelRefused."""
    if int(sysctl.read("net/mpls/platform_labels")) <= last:
        sysctl.write("net/mpls/platform_labels", str(last + 1))


def accept_mpls(device: int) -> None:
    """Let the kernel accept MPLS packets that come in by this link."""
    try:
        name = f"net/mpls/conf/{socket.if_indextoname(device)}/input"
    except OSError:
        return
    if sysctl.exists(name) and sysctl.read(name) != "1" and sysctl.put(name, "1"):
        log.info("MPLS packets are taken: %s = 1", name)


def way_to(netlink: Netlink, address: str) -> tuple[str | None, int] | None:
    """(gateway, device) by which the node reaches an address; None if it does not, or the address is its own."""
    (answer,) = netlink.send(way_message(address))
    if isinstance(answer, NetlinkError):
        return None
    kind, found = way_of(answer)
    if kind != uapi.RTN_UNICAST or uapi.RTA_OIF not in found:
        return None
    return (str(ip_address(found[uapi.RTA_GATEWAY])) if uapi.RTA_GATEWAY in found else None), u32(found[uapi.RTA_OIF])


def reached_by(netlink: Netlink, address: str) -> int | None:
    """The prefix length of the route by which the node reaches an address, None: there is none, or it is ours."""
    question = way_message(address)
    head = bytearray(question.body)
    struct.pack_into("=I", head, uapi.RTMSG.size - 4, uapi.RTM_F_FIB_MATCH)
    (answer,) = netlink.send(Message(uapi.RTM_GETROUTE, 0, bytes(head)))
    if isinstance(answer, NetlinkError):
        return None
    _, length, _, _, _, protocol, *_ = uapi.RTMSG.unpack_from(answer)
    return None if protocol == PROTOCOL else int(length)


def connected(netlink: Netlink) -> Iterator[tuple[str, IPv4Network | IPv6Network, int]]:
    """(address, subnet, device) of each of the node's own addresses, of every interface."""
    for version in (4, 6):
        for data in netlink.dump(Message(uapi.RTM_GETADDR, 0, uapi.IFADDRMSG.pack(family_of(version), 0, 0, 0, 0))):
            _, length, _, _, index = uapi.IFADDRMSG.unpack_from(data)
            found = attributes(data, uapi.IFADDRMSG.size)
            own = found.get(uapi.IFA_LOCAL)
            other = found.get(uapi.IFA_ADDRESS) or own  # on a point-to-point link the subnet is the other end's
            if other:
                yield str(ip_address(own or other)), ip_network((ip_address(other), length), strict=False), index
