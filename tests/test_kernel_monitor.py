"""What the kernel's events say is gone."""

from __future__ import annotations

import socket
import struct

from bgpcni.kernel import uapi
from bgpcni.kernel.monitor import gone


def event(kind: int, body: bytes) -> bytes:
    return uapi.NLMSGHDR.pack(len(body) + 16, kind, 0, 0, 0) + body


def link_event(kind: int, index: int, family: int = socket.AF_UNSPEC) -> bytes:
    """struct ifinfomsg, and the link's name (IFLA_IFNAME)."""
    name = struct.pack("=HH5s3x", 9, 3, b"eth0")
    return event(kind, struct.pack("=BxHiII", family, 1, index, 0, 0) + name)


def nsid_event(kind: int, nsid: int) -> bytes:
    """struct rtgenmsg, padded, and NETNSA_NSID."""
    return event(kind, bytes(4) + struct.pack("=HHi", 8, 1, nsid))


def test_links_and_namespaces_that_are_gone_are_told_of() -> None:
    """All in one datagram; not what is new, and not a port that left its bridge."""
    data = (
        link_event(uapi.RTM_NEWLINK, 5) + link_event(uapi.RTM_DELLINK, 7)
        + link_event(uapi.RTM_DELLINK, 8, uapi.AF_BRIDGE)
        + nsid_event(uapi.RTM_NEWNSID, 3) + nsid_event(uapi.RTM_DELNSID, 0) + nsid_event(uapi.RTM_DELNSID, 70000)
    )  # fmt: skip
    assert list(gone(data)) == [(uapi.RTM_DELLINK, 7), (uapi.RTM_DELNSID, 0), (uapi.RTM_DELNSID, 70000)]
    assert list(gone(b"")) == []
