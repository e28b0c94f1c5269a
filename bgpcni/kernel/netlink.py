"""rtnetlink messages packed by hand: the hot path of ADD and DEL (rtnetlink(7), netlink(7)).

Ours, not pyroute2's, because an ADD is a handful of messages in three sends: packing them here costs a tenth of
building them from message classes. What is not on that path stays with pyroute2. Knows octets only; what a
message means is said in `links` and `addresses`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29
RTM_NEWNSID, RTM_DELNSID, RTM_GETNSID = 88, 89, 90
RTM_GETVLAN = 114

REQUEST, ACK, ECHO = 0x001, 0x004, 0x008
DUMP = 0x300
EXCL, CREATE, APPEND = 0x200, 0x400, 0x800

NLMSG_ERROR, NLMSG_DONE = 2, 3
DUMP_INTERRUPTED = 0x10
_ACK_TLVS = 0x200
_EXTACK_MESSAGE = 1
_NESTED = 0x8000
NETNSA_NSID, NETNSA_FD = 1, 3

SOL_NETLINK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 11, 12

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")


class NetlinkError(OSError):
    """The kernel refused one message: `errno`, and its own words where it has some (extended ACK)."""

    def __init__(self, code: int, words: str) -> None:
        text = f"{os.strerror(code)} ({words})" if words else os.strerror(code)
        super().__init__(code, text)


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute, padded to four octets. str: NUL-terminated; int: u32 in host order."""
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    return ATTRIBUTE.pack(len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes, at: int) -> dict[int, bytes]:
    """The attributes from offset `at` on, nested flag removed; of several of one type the last."""
    return dict(each_attribute(data, at))


def each_attribute(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """The same one after the other, for lists of attributes of one type."""
    end = len(data)
    while at + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += (length + 3) & ~3


def u32(value: bytes) -> int:
    return int(struct.unpack("=I", value)[0])


def text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Message:
    """One request: type, flags beyond REQUEST and ACK, body (family header and attributes)."""

    kind: int
    flags: int
    body: bytes


class Netlink:
    """One NETLINK_ROUTE socket, bound to the namespace it was opened in. For one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._sequence = 0
        sock.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)

    @classmethod
    def open(cls) -> Netlink:
        """A socket of the calling thread's network namespace."""
        return cls(open_socket())

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, *messages: Message) -> list[bytes | NetlinkError]:
        """Send all in one system call; for each the object it returned (b"" if none), or its error.

        The kernel runs every message, also behind one that failed: batch only what may run regardless.
        """
        packed, first = [], self._sequence + 1
        for message in messages:
            self._sequence = self._sequence + 1 & 0x7FFFFFFF
            flags = REQUEST if _is_get(message) else REQUEST | ACK
            packed.append(HEADER.pack(len(message.body) + 16, message.kind, message.flags | flags, self._sequence, 0))
            packed.append(message.body)
        self.socket.send(b"".join(packed))
        results: list[bytes | NetlinkError] = [b""] * len(messages)
        waiting = len(messages)
        while waiting:
            for kind, flags, sequence, data in split(self.socket.recv(1 << 16)):
                slot = sequence - first
                if not 0 <= slot < len(messages):
                    continue  # a late answer to a request that was given up
                if kind == NLMSG_ERROR:
                    waiting -= 1
                    if error := _error(data, flags):
                        results[slot] = error
                else:
                    results[slot] = data
                    waiting -= _is_get(messages[slot])
        return results

    def run(self, *messages: Message) -> list[bytes]:
        """As `send`, but the first error is raised."""
        answers = self.send(*messages)
        for answer in answers:
            if isinstance(answer, NetlinkError):
                raise answer
        return [answer for answer in answers if isinstance(answer, bytes)]

    def dump(self, message: Message) -> list[bytes]:
        """Every object of a dump; asked again when the kernel says it was interrupted."""
        for _ in range(10):
            self._sequence = self._sequence + 1 & 0x7FFFFFFF
            head = HEADER.pack(len(message.body) + 16, message.kind, message.flags | 1 | DUMP, self._sequence, 0)
            self.socket.send(head + message.body)
            found, interrupted = self._collect(self._sequence)
            if not interrupted:
                return found
        raise NetlinkError(errno.EINTR, "the table kept changing during ten dumps")

    def _collect(self, wanted: int) -> tuple[list[bytes], bool]:
        found: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, data in split(self.socket.recv(1 << 18)):
                if sequence != wanted:
                    continue
                interrupted |= bool(flags & DUMP_INTERRUPTED)
                if kind == NLMSG_DONE:
                    return found, interrupted
                if kind == NLMSG_ERROR:
                    if error := _error(data, flags):
                        raise error
                    return found, interrupted
                found.append(data)


def open_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _is_get(message: Message) -> bool:
    """A question is answered by the object or by an error: no acknowledgement is needed. The types say which is one."""
    return message.kind % 4 == 2


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages in what was received: type, flags, sequence number, body."""
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
        yield kind, flags, sequence, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _error(data: bytes, flags: int) -> NetlinkError | None:
    code = -int(struct.unpack_from("=i", data)[0])
    if not code:
        return None
    words = ""
    if flags & _ACK_TLVS:
        # struct nlmsgerr: error, then the request's header, and its body unless NLM_F_CAPPED (0x100)
        request = struct.unpack_from("=I", data, 4)[0]
        at = 20 if flags & 0x100 else 4 + ((request + 3) & ~3)
        words = text(attributes(data, at).get(_EXTACK_MESSAGE, b""))
    return NetlinkError(code, words)
