"""Frames that tell neighbours of an address's new MAC: gratuitous ARP and unsolicited neighbour advertisements."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Self

from bgpcni.ip import ip_address
from bgpcni.kernel.links import mac_bytes

_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ALL_NODES = IPv6Address("ff02::1").packed


def gratuitous_arp(mac: bytes, address: IPv4Address) -> bytes:
    """An ARP request for one's own address (RFC 5227 section 2.3), as an Ethernet frame."""
    arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + address.packed + bytes(6) + address.packed
    return _BROADCAST + mac + b"\x08\x06" + arp


def unsolicited_advertisement(mac: bytes, address: IPv6Address) -> bytes:
    """An unsolicited neighbour advertisement to all nodes (RFC 4861 section 7.2.6), override flag set."""
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + address.packed + b"\x02\x01" + mac
    pseudo = address.packed + _ALL_NODES + struct.pack("!IxxxB", len(body), 58)
    checksum = _checksum(pseudo + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    header = struct.pack("!IHBB", 0x60000000, len(body), 58, 255) + address.packed + _ALL_NODES
    return _ALL_NODES_MAC + mac + b"\x86\xdd" + header + body


def _checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Herald:
    """Sends these frames out of a bridge, from the node's side, to every port of it.

    It keeps one packet socket open. The kernel takes several milliseconds to close one (an RCU grace period), so a
    socket for each ADD would cost more than the rest of the ADD.
    """

    def __init__(self) -> None:
        self._opening = threading.Lock()
        self._opened: socket.socket | None = None

    def _socket(self) -> socket.socket:
        """Opens it at the first announcement: it needs CAP_NET_RAW, and a DEL needs no such socket."""
        with self._opening:
            if self._opened is None:
                self._opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def announce(self, link: str, mac: str, addresses: Iterable[str]) -> None:
        """Tell the neighbours on `link` that `addresses` (without prefix length) are at `mac`. Raises OSError."""
        raw = mac_bytes(mac)
        for text in addresses:
            address = ip_address(text)
            if isinstance(address, IPv4Address):
                frame = gratuitous_arp(raw, address)
            else:
                frame = unsolicited_advertisement(raw, address)
            self._socket().sendto(frame, (link, 0))
