"""A BGP peer written by hand: it accepts one session in a namespace and says whatever a test wants, right or wrong."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address
from struct import pack

from bgpcni.model import Family
from bgpcni.testing.patience import SECONDS
from integration.lab import Inside, Lab, Namespace, until

MARKER = b"\xff" * 16
OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = range(1, 6)
AFI_SAFI = {
    Family.IPV4_UNICAST: (1, 1),
    Family.IPV6_UNICAST: (2, 1),
    Family.IPV4_VPN: (1, 128),
    Family.IPV6_VPN: (2, 128),
    Family.L2VPN_EVPN: (25, 70),
}
PLAIN = bytes.fromhex("40010100 400200 40030401020304 400504 00000064")
"""Path attributes of a good IPv4 route over iBGP: ORIGIN, AS_PATH, NEXT_HOP 1.2.3.4, LOCAL_PREF."""


def message(kind: int, body: bytes = b"") -> bytes:
    return MARKER + pack("!HB", 19 + len(body), kind) + body


def update(attributes: bytes = PLAIN, new: bytes = b"", gone: bytes = b"") -> bytes:
    """An UPDATE of IPv4 routes, whole."""
    return message(UPDATE, pack("!H", len(gone)) + gone + pack("!H", len(attributes)) + attributes + new)


def prefix(text: str) -> bytes:
    address, _, bits = text.partition("/")
    return bytes([int(bits)]) + ip_address(address).packed[: (int(bits) + 7) // 8]


class HandPeer:
    """`graceful`: families in its graceful restart capability, None: it has none. `got`: what came, by type."""

    def __init__(
        self,
        lab: Lab,
        place: Namespace,
        address: str,
        asn: int,
        *,
        families: Sequence[Family] = (Family.IPV4_UNICAST, Family.L2VPN_EVPN),
        refresh: bool = True,
        graceful: Sequence[Family] | None = None,
    ) -> None:
        self.got: list[tuple[int, bytes]] = []
        self.sessions = 0
        self._open = self._my_open(address, asn, families, refresh, graceful)
        inside = Inside(place)
        self._listener = inside.call(socket.create_server, (address, 179))
        inside.close()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        lab.callback(self.close)

    @staticmethod
    def _my_open(
        address: str, asn: int, families: Sequence[Family], refresh: bool, graceful: Sequence[Family] | None
    ) -> bytes:
        capabilities = b"".join(pack("!BBHBB", 1, 4, AFI_SAFI[f][0], 0, AFI_SAFI[f][1]) for f in families)
        capabilities += pack("!BBI", 65, 4, asn)
        if refresh:
            capabilities += bytes([2, 0])
        if graceful is not None:
            body = pack("!H", 120) + b"".join(pack("!HBB", *AFI_SAFI[f], 0x80) for f in graceful)
            capabilities += bytes([64, len(body)]) + body
        parameter = bytes([2, len(capabilities)]) + capabilities
        head = pack("!BHH", 4, asn if asn < 1 << 16 else 23456, 90) + ip_address(address).packed
        return message(OPEN, head + bytes([len(parameter)]) + parameter)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._talk(connection)
            except OSError:
                pass
            self._connection = None
            connection.close()

    def _talk(self, connection: socket.socket) -> None:
        connection.sendall(self._open)
        rest = b""
        while octets := connection.recv(1 << 16):
            rest += octets
            while len(rest) >= 19 and len(rest) >= (size := int.from_bytes(rest[16:18], "big")):
                kind, body, rest = rest[18], rest[19:size], rest[size:]
                self.got.append((kind, body))
                if kind == OPEN:
                    connection.sendall(message(KEEPALIVE))
                elif kind == KEEPALIVE:
                    if self._connection is None:
                        self._connection = connection
                        self.sessions += 1
                    connection.sendall(message(KEEPALIVE))

    @property
    def established(self) -> bool:
        return self._connection is not None

    def say(self, *octets: bytes) -> None:
        """Send as it is, once a session is established."""
        until(lambda: self._connection is not None, "a session with the peer written by hand")
        assert self._connection is not None
        self._connection.sendall(b"".join(octets))

    def wait_asked(self, families: int, seconds: float = 10.0) -> None:
        """Until it is asked again for so many families, which it does not answer: what is said from then on is heard.

        A speaker that listened before the session came up does not ask; so it is not waited for any longer.
        """
        ends = time.monotonic() + seconds
        pause = threading.Event()
        while sum(kind == ROUTE_REFRESH for kind, _ in list(self.got)) < families and time.monotonic() < ends:
            pause.wait(0.01)

    def hang_up(self) -> None:
        """Close the connection without a word."""
        assert self._connection is not None
        self._connection.shutdown(socket.SHUT_RDWR)

    def notifications(self) -> list[tuple[int, int]]:
        return [(body[0], body[1]) for kind, body in list(self.got) if kind == NOTIFICATION]

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        if self._connection is not None:
            self.hang_up()
        self._thread.join(SECONDS)
