"""rtnetlink messages packed by hand, for the hot path of ADD and DEL (rtnetlink(7), netlink(7)).

An ADD is a handful of messages in three sends: packing them here costs a tenth of what pyroute2's message classes
cost. What is rare is left to pyroute2 (`library`). This module knows octets only; `links`, `addresses` and the others
know what a message means, and `uapi` has the numbers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from bgpcni.kernel import uapi

MAKE = uapi.NLM_F_CREATE | uapi.NLM_F_EXCL
"""Make an object; one that is there is an error (EEXIST)."""
PUT = uapi.NLM_F_CREATE | uapi.NLM_F_REPLACE
"""Make an object, or replace the one that is there."""


class NetlinkError(OSError):
    """The kernel refused one message: `errno`, and its own words if it sent some (extended ACK)."""

    def __init__(self, code: int, words: str) -> None:
        text = f"{os.strerror(code)} ({words})" if words else os.strerror(code)
        super().__init__(code, text)


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute, padded to four octets. str: NUL-terminated; int: u32 in host order."""
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    return uapi.NLATTR.pack(len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | uapi.NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes, at: int) -> dict[int, bytes]:
    """The attributes from offset `at` on, without their nested flag. Of several of one type the last one counts."""
    return dict(each_attribute(data, at))


def each_attribute(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """As `attributes`, but one after the other: some attributes are lists of one type."""
    end = len(data)
    while at + 4 <= end:
        length, kind = uapi.NLATTR.unpack_from(data, at)
        if length < 4:
            break
        yield kind & uapi.NLA_TYPE_MASK, data[at + 4 : at + length]
        at += (length + 3) & ~3


def u32(value: bytes) -> int:
    return int(struct.unpack("=I", value)[0])


def text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


class Message(NamedTuple):
    """One request: type, flags beyond NLM_F_REQUEST and NLM_F_ACK, body (family header and attributes)."""

    kind: int
    flags: int
    body: bytes


class Netlink:
    """One NETLINK_ROUTE socket, bound to the namespace it was opened in. For one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._sequence = 0
        sock.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_EXT_ACK, 1)
        sock.setsockopt(uapi.SOL_NETLINK, uapi.NETLINK_GET_STRICT_CHK, 1)

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
        """Send all in one system call. Returns for each the object that came back (b"" if none did), or its error.

        The kernel runs every message, even after one that failed: send only those together that may run regardless.
        """
        packed, first = [], self._sequence + 1
        for message in messages:
            flags = uapi.NLM_F_REQUEST if _is_get(message) else uapi.NLM_F_REQUEST | uapi.NLM_F_ACK
            packed.append(self._packed(message, flags))
        self.socket.send(b"".join(packed))
        results: list[bytes | NetlinkError] = [b""] * len(messages)
        waiting = len(messages)
        while waiting:
            for kind, flags, sequence, data in split(self.socket.recv(1 << 16)):
                slot = sequence - first
                if not 0 <= slot < len(messages):
                    continue  # a late answer to a request that was given up
                if kind == uapi.NLMSG_ERROR:
                    waiting -= 1
                    if error := _error(data, flags):
                        results[slot] = error
                else:
                    results[slot] = data
                    waiting -= _is_get(messages[slot])
        return results

    def send_all(self, messages: Sequence[Message], portion: int) -> list[bytes | NetlinkError]:
        """As `send`, so many at a time: the kernel answers all of a send before we read any, and the answers must fit
        the socket's buffer."""
        answers: list[bytes | NetlinkError] = []
        for start in range(0, len(messages), portion):
            answers += self.send(*messages[start : start + portion])
        return answers

    def _packed(self, message: Message, flags: int) -> bytes:
        """With the next sequence number."""
        self._sequence = self._sequence + 1 & 0x7FFFFFFF
        length = uapi.NLMSGHDR.size + len(message.body)
        return uapi.NLMSGHDR.pack(length, message.kind, message.flags | flags, self._sequence, 0) + message.body

    def run(self, *messages: Message) -> list[bytes]:
        """As `send`, but the first error is raised."""
        answers = self.send(*messages)
        for answer in answers:
            if isinstance(answer, NetlinkError):
                raise answer
        return [answer for answer in answers if isinstance(answer, bytes)]

    def dump(self, message: Message) -> list[bytes]:
        """Every object of a dump. The dump is repeated if the kernel says that it was interrupted."""
        for _ in range(10):
            self.socket.send(self._packed(message, uapi.NLM_F_REQUEST | uapi.NLM_F_DUMP))
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
                interrupted |= bool(flags & uapi.NLM_F_DUMP_INTR)
                if kind == uapi.NLMSG_DONE:
                    return found, interrupted
                if kind == uapi.NLMSG_ERROR:
                    if error := _error(data, flags):
                        raise error
                    return found, interrupted
                found.append(data)


def open_socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _is_get(message: Message) -> bool:
    """A question is answered by the object or by an error, so it needs no acknowledgement. Its type says what it is."""
    return message.kind % 4 == 2


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages in what was received: type, flags, sequence number, body."""
    at = 0
    while at + 16 <= len(data):
        length, kind, flags, sequence, _ = uapi.NLMSGHDR.unpack_from(data, at)
        yield kind, flags, sequence, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _error(data: bytes, flags: int) -> NetlinkError | None:
    code = -int(struct.unpack_from("=i", data)[0])
    if not code:
        return None
    words = ""
    if flags & uapi.NLM_F_ACK_TLVS:
        # struct nlmsgerr: error, then the request's header, and its body unless NLM_F_CAPPED
        request = struct.unpack_from("=I", data, 4)[0]
        at = 20 if flags & uapi.NLM_F_CAPPED else 4 + ((request + 3) & ~3)
        words = text(attributes(data, at).get(uapi.NLMSGERR_ATTR_MSG, b""))
    return NetlinkError(code, words)
