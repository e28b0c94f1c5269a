"""The frames that announce a moved address, octet for octet."""

from __future__ import annotations

import struct
import threading
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.kernel import frames
from bgpcni.testing.patience import SECONDS

MAC = bytes.fromhex("020000000001")


def test_gratuitous_arp_is_what_rfc_5227_says() -> None:
    """Broadcast; sender and target protocol address are one's own, the target MAC is zero."""
    frame = frames.gratuitous_arp(MAC, IPv4Address("10.1.2.3"))
    assert frame.hex() == (
        "ffffffffffff" "020000000001" "0806"
        "0001" "0800" "06" "04" "0001"
        "020000000001" "0a010203" "000000000000" "0a010203"
    )  # fmt: skip


def test_the_unsolicited_advertisement_is_what_rfc_4861_says() -> None:
    """To all nodes, hop limit 255, override set, not solicited, with the target link-layer address option."""
    frame = frames.unsolicited_advertisement(MAC, IPv6Address("2001:db8::3"))
    assert frame[:14].hex() == "33330000000102000000000186dd"
    assert frame[14:22].hex() == "6000000000203aff"
    assert frame[22:38] == IPv6Address("2001:db8::3").packed
    assert frame[38:54] == IPv6Address("ff02::1").packed
    assert frame[54:56].hex() == "8800"
    assert frame[58:62].hex() == "20000000"
    assert frame[62:78] == IPv6Address("2001:db8::3").packed
    assert frame[78:].hex() == "0201020000000001"


@given(st.binary(min_size=6, max_size=6), st.ip_addresses(v=6))
def test_the_checksum_adds_up(mac: bytes, address: IPv6Address) -> None:
    """RFC 4443 section 2.3: over pseudo header and message the sum is all ones."""
    packet = frames.unsolicited_advertisement(mac, address)[14:]
    data = packet[8:40] + struct.pack("!II", len(packet) - 40, 58) + packet[40:]
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


def test_two_first_announcements_at_once_open_one_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a packet socket takes the kernel milliseconds, so none is opened that is not kept."""
    opened: list[object] = []

    class Packet:
        def __init__(self, *_: object) -> None:
            opened.append(self)
            if len(opened) == 1:
                other.start()
                other.join(0.2)  # were it not kept waiting, it would be through by then, with a socket of its own

        def sendto(self, frame: bytes, to: tuple[str, int]) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(frames.socket, "socket", Packet)
    with frames.Herald() as herald:
        other = threading.Thread(target=herald.announce, args=("br0", "02:00:00:00:00:01", ["10.1.2.4"]))
        herald.announce("br0", "02:00:00:00:00:01", ["10.1.2.3"])
        other.join(SECONDS)
    assert not other.is_alive()
    assert len(opened) == 1
