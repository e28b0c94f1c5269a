"""The Adj-RIB-Out that replaces ExaBGP's, and the check that this ExaBGP is the one known."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from exabgp.bgp.message import Action
from exabgp.bgp.message.update.attribute.nexthop import NextHop
from exabgp.environment import getenv
from exabgp.logger import log
from exabgp.protocol.family import AFI, SAFI
from exabgp.rib.change import Change
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.testing.patience import SECONDS
from bgpcni_exabgp import engine

FAMILY = (AFI.ipv4, SAFI.unicast)
HOP = NextHop("192.0.2.1")


class Negotiated:
    families = (FAMILY,)
    msg_size = 4096
    asn4 = True


@pytest.fixture(scope="module", autouse=True)
def logger():
    log.init(getenv())


def change(key: int, value: int | None, tag: str = "-") -> Change:
    action = Action.WITHDRAW if value is None else Action.ANNOUNCE
    wire = bytes([16, 10, key])
    return Change(engine.RawNLRI(FAMILY, action, HOP, wire, wire, tag), engine.RawAttributes(bytes([value or 0])))


def flush(rib: engine.GroupingRIB, table: dict[bytes, int]) -> int:
    """What a peer makes of what is sent; the number of UPDATEs."""
    count = 0
    for update in rib.updates(True):
        for message in update.messages(Negotiated):
            count += 1
            body = message[19:]
            gone = int.from_bytes(body[:2], "big")
            attributes = int.from_bytes(body[2 + gone : 4 + gone], "big")
            for at in range(2, 2 + gone, 3):
                table.pop(body[at : at + 3], None)
            rest = body[4 + gone + attributes :]
            for at in range(0, len(rest), 3):
                table[rest[at : at + 3]] = body[3 + gone + attributes]
    return count


def test_this_exabgp_is_the_one_known():
    """The self-check passes on the ExaBGP that is installed."""
    engine.check()


def test_another_exabgp_is_refused_aloud(monkeypatch):
    """A version beyond the known ones ends the start, with words."""
    monkeypatch.setattr(engine, "version", lambda name: "6.0.0")
    with pytest.raises(engine.Mismatch, match=r"ExaBGP 6\.0\.0"):
        engine.check()


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(1, 5)), max_size=20), max_size=6))
def test_the_last_state_is_what_the_peer_gets(bursts):
    """However often a route changes within a flush, its newest state is what arrives."""
    rib = engine.GroupingRIB(True, [FAMILY])
    table, wanted = {}, {}
    for burst in bursts:
        for key, value in burst:
            rib.add_to_rib(change(key, value))
            wanted[bytes([16, 10, key])] = value
        flush(rib, table)
        assert table == {wire: value for wire, value in wanted.items() if value is not None}


def test_ten_thousand_routes_fill_their_updates():
    """Routes with the same attributes share UPDATEs of up to 4096 octets."""
    rib = engine.GroupingRIB(True, [FAMILY])
    for n in range(10_000):
        wire = bytes([32, 10, n >> 16, n >> 8 & 255, n & 255])
        nlri = engine.RawNLRI(FAMILY, Action.ANNOUNCE, HOP, wire, wire)
        rib.add_to_rib(Change(nlri, engine.RawAttributes(b"")))
    messages = [m for update in rib.updates(True) for m in update.messages(Negotiated)]
    assert len(messages) == 13
    assert max(map(len, messages)) <= 4096


def test_mark_keep_spare_and_sweep():
    """What is neither kept by key nor spared by tag is withdrawn."""
    rib = engine.GroupingRIB(True, [FAMILY])
    table: dict[bytes, int] = {}
    for key, tag in enumerate(["aa", "aa", "bb", "cc"]):
        rib.add_to_rib(change(key, 1, tag))
    flush(rib, table)
    rib.mark()
    rib.keep(FAMILY, [bytes([16, 10, 0])])
    rib.spare(frozenset({"bb"}))
    rib.sweep()
    flush(rib, table)
    assert {wire[2] for wire in table} == {0, 2}


@pytest.mark.parametrize(
    ("octets", "family"),
    [
        ("00000000", (1, 1)),
        ("00000006 800f03 001946", (25, 70)),
        ("00000007 900f0003 000280", (2, 128)),
        ("00000006 800e03 001946", None),
        ("00000009 800f06 001946 020000", None),
        ("0000000441020304", None),
        ("", None),
    ],
)
def test_end_of_rib_is_recognised(octets, family):
    """RFC 4724 section 2, of any family and with any flags; nothing else is taken for one."""
    assert engine.end_of_rib(bytes.fromhex(octets)) == family


def test_a_second_engine_on_one_configuration_ends(tmp_path):
    """Two speakers never run on one configuration; the file says who the one is."""
    configuration = tmp_path / "exabgp.conf"
    held = engine.claim(configuration)
    assert held is not None
    try:
        assert f'"pid": {os.getpid()}' in (tmp_path / "exabgp.pid").read_text()
        command = [sys.executable, "-I", "-m", "bgpcni_exabgp.engine", str(configuration)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 4
        assert "another one runs" in done.stderr
    finally:
        os.close(held)
