"""Looks at links, addresses, ways to the peers, the firewall, and who has the port of BGP."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

from bgpcni.doctor.facts import Dropped, Gateway, Listener, Local, Unread, Way
from bgpcni.kernel import firewall, links, routes, uapi
from bgpcni.kernel.addresses import family_of
from bgpcni.kernel.library import iproute
from bgpcni.kernel.netlink import Message, Netlink

BGP_PORT = 179
_TCP_MD5SIG = 14
_LISTEN = "0A"


def all_links() -> tuple[links.Link, ...]:
    with Netlink.open() as netlink:
        return tuple(links.dump(netlink))


def local() -> tuple[Local, ...]:
    with Netlink.open() as netlink:
        names = {link.index: link.name for link in links.dump(netlink)}
        return tuple(
            Local(address, subnet, names.get(index, str(index))) for address, subnet, index in routes.connected(netlink)
        )


def ways(addresses: Iterable[str]) -> dict[str, Way | None]:
    found: dict[str, Way | None] = {}
    with Netlink.open() as netlink:
        for address in addresses:
            way = routes.way_to(netlink, address)
            found[address] = Way(way[0], _name(way[1])) if way else None
    return found


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def gateways() -> tuple[Gateway, ...]:
    found = []
    with iproute() as library:
        for version in (4, 6):
            for route in library.get_default_routes(family=family_of(version)):
                index = route.get_attr("RTA_OIF")
                if index is not None:
                    found.append(Gateway(version, _name(index), route["proto"] == uapi.RTPROT_RA))
    return tuple(found)


def outside(
    own: Sequence[str],
    ways: Mapping[str, Way | None] | Unread,
    gateways: Sequence[Gateway] | Unread,
    local: Sequence[Local] | Unread,
) -> list[str]:
    """The devices that lead out of the node, as far as they are known."""
    found = [] if isinstance(ways, Unread) else [way.device for way in ways.values() if way]
    found += [] if isinstance(local, Unread) else [item.device for item in local if item.address in own]
    found += [] if isinstance(gateways, Unread) else [gateway.device for gateway in gateways]
    return [name for name in dict.fromkeys(found) if name != "lo"]


def dropped(bridges: Sequence[str], devices: Sequence[str]) -> tuple[Dropped, ...]:
    """What the firewall certainly drops of a new connection to, from or within each bridge."""
    return tuple(_dropped(bridges, devices))


def _dropped(bridges: Sequence[str], devices: Sequence[str]) -> Iterator[Dropped]:
    bases = firewall.chains()
    uplink = devices[0] if devices else None
    for version in (4, 6):
        for bridge in bridges:
            for way, come, go in (("to", uplink, bridge), ("from", bridge, uplink), ("within", bridge, bridge)):
                if where := firewall.dropped(firewall.Packet(version, "new", come, go), bases):
                    yield Dropped(version, way, bridge, where)


def neighbours() -> dict[int, int]:
    with Netlink.open() as netlink:
        return {
            version: len(netlink.dump(Message(uapi.RTM_GETNEIGH, 0, uapi.NDMSG.pack(family_of(version), 0, 0, 0, 0))))
            for version in (4, 6)
        }


def md5() -> str:
    """Why the kernel refuses a key of TCP MD5 for a socket that is never connected; "" if it does not."""
    address = struct.pack("=H2x4s120x", socket.AF_INET, socket.inet_aton("192.0.2.1"))  # struct sockaddr_storage
    key = b"bgpcni"
    option = address + struct.pack("=BBHi", 0, 0, len(key), 0) + key.ljust(80, b"\0")
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)) as sock:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG, option)
        except OSError as error:
            return error.strerror or str(error)
    return ""


# ---------------------------------------------------------------- who listens


def listeners(run_dir: Path) -> tuple[Listener, ...]:
    """The sockets of this network namespace that wait for connections to the port of BGP, and whose they are."""
    found = [(address, inode) for name in ("tcp", "tcp6") for address, inode in _listening(name)]
    owners = _owners({inode for _, inode in found}) if found else {}
    ours = set(_speakers(run_dir))
    listening = []
    for address, inode in found:
        pid, program = owners.get(inode, (0, ""))
        listening.append(Listener(address, program, pid in ours))
    return tuple(listening)


def _listening(name: str) -> Iterator[tuple[str, str]]:
    try:
        lines = Path("/proc/thread-self/net", name).read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return  # this kernel has no IPv6
    for line in lines:
        words = line.split()
        host, _, port = words[1].partition(":")
        if words[3] == _LISTEN and int(port, 16) == BGP_PORT:
            yield _address(host), words[9]


def _address(text: str) -> str:
    """An address as /proc/net/tcp has it: words of four octets, each in the order of this machine."""
    octets = b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))
    return str(ip_address(octets))


def _owners(inodes: set[str]) -> dict[str, tuple[int, str]]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for fd in (process / "fd").iterdir():
                if (inode := wanted.get(os.readlink(fd))) is not None:
                    name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    found[inode] = (int(process.name), f"{name} (pid {process.name})")
        except OSError:
            continue  # it ended, or we may not look
    return found


def _speakers(run_dir: Path) -> Iterator[int]:
    """The processes that exporters of our agent have noted in run_dir."""
    for path in run_dir.glob("*.pid"):
        try:
            pid = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        pid = pid.get("pid") if isinstance(pid, dict) else pid
        if isinstance(pid, int):
            yield pid
