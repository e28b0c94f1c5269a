"""Packed rtnetlink: what we write is what pyroute2 reads, and what the kernel answers is understood."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.kernel import uapi
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError, attribute, attributes, nested, text, u32


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=6))
def test_attributes_survive_packing(pairs: list[tuple[int, bytes]]) -> None:
    """Padded to four octets, lengths without the padding."""
    packed = b"".join(attribute(kind, value) for kind, value in pairs)
    assert len(packed) % 4 == 0
    assert attributes(b"head" + packed, 4) == dict(pairs)
    outer = attributes(nested(7, packed), 0)
    assert attributes(outer[7], 0) == dict(pairs)


@given(st.binary(max_size=64))
def test_no_octets_keep_the_parser_busy_or_break_it(data: bytes) -> None:
    """A length of zero, or beyond the end, ends it."""
    for value in attributes(data, 0).values():
        assert len(value) <= len(data)


def test_numbers_and_names() -> None:
    """Known octets: rtnetlink(7)."""
    assert attribute(3, "eth0") == struct.pack("=HH", 9, 3) + b"eth0\0\0\0\0"
    assert attribute(4, 1500) == struct.pack("=HHI", 8, 4, 1500)
    assert u32(struct.pack("=I", 77)) == 77
    assert text(b"eth0\0") == "eth0"
    assert text(b"\xff\0") == "\ufffd"


class Kernel:
    """The other end of a socket pair, answering with given octets instead of a kernel."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.netlink = Netlink.__new__(Netlink)
        self.netlink.socket = self.ours
        self.netlink._sequence = 0

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()

    def says(self, *messages: tuple[int, int, int, bytes]) -> None:
        """(type, flags, sequence number, body) each, in one datagram."""
        data = b""
        for kind, flags, sequence, body in messages:
            data += uapi.NLMSGHDR.pack(16 + len(body), kind, flags, sequence, 0) + body + b"\0" * (-len(body) % 4)
        self.theirs.send(data)


def ack(sequence: int, code: int = 0, words: str = "", *, capped: bool = False) -> tuple[int, int, int, bytes]:
    """struct nlmsgerr, with the request (or its header only) behind it and the kernel's words."""
    request = uapi.NLMSGHDR.pack(16 + 8, 16, 5, sequence, 0) + (b"" if capped else b"\xaa" * 8)
    flags = (0x100 if capped else 0) | (0x200 if words else 0)
    return 2, flags, sequence, struct.pack("=i", -code) + request + (attribute(1, words) if words else b"")


def test_every_message_gets_its_own_answer() -> None:
    """Several in one send: objects, acknowledgements and errors are told apart by sequence number.

    A question asks for no acknowledgement: its answer is one.
    """
    with Kernel() as kernel:
        kernel.says((16, 0, 1, b"object"), ack(2, errno.EEXIST, "File exists already"))
        kernel.says((16, 0, 99, b"somebody else's"), ack(3))
        first, second, third = kernel.netlink.send(Message(18, 0, b""), Message(16, 0x600, b""), Message(17, 0, b""))
        assert (first, third) == (b"object", b"")
        assert isinstance(second, NetlinkError)
        assert second.errno == errno.EEXIST
        assert "File exists already" in str(second)
        sent = kernel.theirs.recv(1 << 16)
        heads = [uapi.NLMSGHDR.unpack_from(sent, at) for at in (0, 16, 32)]
        assert heads == [(16, 18, 1, 1, 0), (16, 16, 0x605, 2, 0), (16, 17, 5, 3, 0)]


@pytest.mark.parametrize("capped", [True, False])
def test_the_kernels_own_words_reach_the_reader(capped: bool) -> None:
    """Extended acknowledgements, with the request repeated or cut."""
    with Kernel() as kernel:
        kernel.says(ack(1, errno.EINVAL, "MTU greater than device maximum", capped=capped))
        with pytest.raises(NetlinkError, match=r"Invalid argument \(MTU greater than device maximum\)"):
            kernel.netlink.run(Message(16, 0, b""))


def test_a_late_answer_is_not_taken_for_the_present_one() -> None:
    """A request that was given up (a deadline) leaves its answer in the socket."""
    with Kernel() as kernel:
        kernel.netlink._sequence = 4
        kernel.says(ack(3, errno.EPERM))
        kernel.says((16, 0, 5, b"mine"))
        assert kernel.netlink.run(Message(18, 0, b"")) == [b"mine"]


def test_an_interrupted_dump_is_taken_again() -> None:
    """A table that changed meanwhile is not half a table."""
    done = struct.pack("=i", 0)
    with Kernel() as kernel:
        kernel.says((16, 0x10, 1, b"aaaa"), (3, 0, 1, done))
        kernel.says((16, 0, 2, b"bbbb"))
        kernel.says((16, 0, 2, b"cccc"), (3, 0, 2, done))
        assert kernel.netlink.dump(Message(18, 0, b"")) == [b"bbbb", b"cccc"]
    with Kernel() as kernel:
        for sequence in range(1, 11):
            kernel.says((3, 0x10, sequence, done))
        with pytest.raises(NetlinkError, match="kept changing"):
            kernel.netlink.dump(Message(18, 0, b""))
    with Kernel() as kernel:
        kernel.says(ack(1, errno.EOPNOTSUPP))
        with pytest.raises(NetlinkError, match="not supported"):
            kernel.netlink.dump(Message(18, 0, b""))


def test_the_real_kernel_answers() -> None:
    """The loopback link of this process's namespace, found by index (no rights needed)."""
    with Netlink.open() as kernel:
        body = struct.pack("=BxHiII", 0, 0, 1, 0, 0)
        (data,) = kernel.run(Message(uapi.RTM_GETLINK, 0, body))
        assert text(attributes(data, 16)[3]) == "lo"
        answers: list[Any] = kernel.send(Message(uapi.RTM_GETLINK, 0, struct.pack("=BxHiII", 0, 0, 1 << 30, 0, 0)))
        assert answers[0].errno == errno.ENODEV
