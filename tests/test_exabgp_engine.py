"""The Adj-RIB-Out that replaces ExaBGP's, and the check that this ExaBGP is the one known."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from exabgp.bgp.message import Action, Message
from exabgp.bgp.message.open.capability import Capability
from exabgp.bgp.message.open.capability.refresh import REFRESH
from exabgp.bgp.message.update.attribute.nexthop import NextHop
from exabgp.environment import getenv
from exabgp.logger import log
from exabgp.protocol.family import AFI, SAFI
from exabgp.rib.change import Change
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.testing.patience import SECONDS, until
from bgpcni_exabgp import protocol
from bgpcni_exabgp.engine import check, longlived, watch
from bgpcni_exabgp.engine.claims import Claims
from bgpcni_exabgp.engine.command import Engine
from bgpcni_exabgp.engine.rib import GroupingRIB, RawAttributes, RawNLRI

FAMILY = (AFI.ipv4, SAFI.unicast)
HOP = NextHop("192.0.2.1")


class Negotiated:
    families = (FAMILY,)
    msg_size = 4096
    asn4 = True
    sent_open = SimpleNamespace(capabilities={})
    local_as = peer_as = 64512
    nexthop: tuple[object, ...] = ()


@pytest.fixture(scope="module", autouse=True)
def logger():
    log.init(getenv())


def change(key: int, value: int | None, network: str = "") -> Change:
    action = Action.WITHDRAW if value is None else Action.ANNOUNCE
    wire = bytes([16, 10, key])
    return Change(RawNLRI(FAMILY, action, HOP, wire, wire, network), RawAttributes(bytes([value or 0])))


def flush(rib: GroupingRIB, table: dict[bytes, int]) -> int:
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
    check.check()


def test_another_exabgp_is_refused_aloud(monkeypatch):
    """A version beyond the known ones ends the start, with words."""
    monkeypatch.setattr(check, "version", lambda name: "6.0.0")
    with pytest.raises(check.Mismatch, match=r"ExaBGP 6\.0\.0"):
        check.check()


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(1, 5)), max_size=20), max_size=6))
def test_the_last_state_is_what_the_peer_gets(bursts):
    """However often a route changes within a flush, its newest state is what arrives."""
    rib = GroupingRIB(True, [FAMILY])
    table, wanted = {}, {}
    for burst in bursts:
        for key, value in burst:
            rib.add_to_rib(change(key, value))
            wanted[bytes([16, 10, key])] = value
        flush(rib, table)
        assert table == {wire: value for wire, value in wanted.items() if value is not None}


def test_ten_thousand_routes_fill_their_updates():
    """Routes with the same attributes share UPDATEs of up to 4096 octets."""
    rib = GroupingRIB(True, [FAMILY])
    for n in range(10_000):
        wire = bytes([32, 10, n >> 16, n >> 8 & 255, n & 255])
        nlri = RawNLRI(FAMILY, Action.ANNOUNCE, HOP, wire, wire)
        rib.add_to_rib(Change(nlri, RawAttributes(b"")))
    messages = [m for update in rib.updates(True) for m in update.messages(Negotiated)]
    assert len(messages) == 13
    assert max(map(len, messages)) <= 4096


class Reactor:
    """What the command asks of ExaBGP's reactor: two neighbours of different kinds, and where answers go."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.processes = SimpleNamespace(
            write=lambda service, text: self.answers.append(text),
            answer_done=lambda service: self.answers.append("done"),
            answer_error=lambda service: self.answers.append("error"),
        )
        self.neighbors = {}
        for name, peer_as in (("internal", 64512), ("external", 64513)):
            neighbor = Neighbor(f"192.0.2.{len(self.neighbors) + 1}")
            neighbor |= {"local-as": 64512, "peer-as": peer_as, "hold-time": 90}
            neighbor.families = lambda: [FAMILY]
            self.neighbors[name] = neighbor
        self.configuration = SimpleNamespace(neighbors=self.neighbors)
        self._peers = {
            name: SimpleNamespace(
                neighbor=neighbor,
                fsm=SimpleNamespace(name=lambda: "IDLE"),
                stats={"complete": 0, "reset": 7.5},
            )
            for name, neighbor in self.neighbors.items()
        }

    def peers(self, service: str) -> list[str]:
        return list(self.neighbors)

    def held(self, name: str) -> dict[bytes, str]:
        """Attributes by NLRI, as announced to a neighbour."""
        rib = self.neighbors[name].rib.outgoing
        list(rib.updates(True))
        return {change.nlri.wire: change.attributes.wire.hex() for change in rib.held(FAMILY).values()}


def test_a_command_is_for_the_neighbour_that_it_names():
    """Each kind of neighbour gets the attributes for its kind; one address in front chooses one neighbour."""
    reactor, engine = Reactor(), Engine(Path("/nowhere"), watch.News())
    route = (b"\x08\x0a", b"\x08\x0a")
    announce = protocol.Announce("ipv4/unicast", "net", "192.0.2.9", (b"\1", b"\2"), (route,))
    assert engine.run(reactor, "relay", protocol.encode_command(announce, 5))
    assert reactor.held("internal") == {b"\x08\x0a": "01"}
    assert reactor.held("external") == {b"\x08\x0a": "02"}
    for number, command in enumerate((protocol.Mark(peers=("192.0.2.2",)), protocol.Sweep(peers=("192.0.2.2",))), 6):
        assert engine.run(reactor, "relay", protocol.encode_command(command, number))
    assert reactor.held("internal")
    assert not reactor.held("external")
    assert engine.run(reactor, "relay", "bgpcni state")
    state = protocol.decode_event(reactor.answers[-2].encode())
    assert isinstance(state, protocol.EngineState)
    assert (state.protocol, state.seq, [n.asn for n in state.neighbors]) == (protocol.PROTOCOL, 7, [64512, 64513])
    assert reactor.answers[-1] == "done"


@pytest.mark.parametrize(
    "line",
    [
        "bgpcni announce 5 ipv4/unicast - 192.0.2.9 01/- 080a",
        "bgpcni announce 5 ipv4/nothing - 192.0.2.9 01/02 080a",
        "bgpcni announce 5 ipv4/unicast - nowhere 01/02 080a",
        "bgpcni withdraw 5 ipv4/unicast 0g",
        "bgpcni 5",
    ],
)
def test_a_command_that_is_wrong_is_refused(line):
    """Answered by `error`, with nothing in doubt: the number is not counted."""
    reactor, engine = Reactor(), Engine(Path("/nowhere"), watch.News())
    assert not engine.run(reactor, "relay", line)
    assert reactor.answers == ["error"]
    assert all(neighbor.rib.outgoing.sequence == 0 for neighbor in reactor.neighbors.values())


def test_mark_keep_spare_and_sweep():
    """What is neither kept by key nor spared by network is withdrawn."""
    rib = GroupingRIB(True, [FAMILY])
    table: dict[bytes, int] = {}
    for key, network in enumerate(["a", "a", "b", "c"]):
        rib.add_to_rib(change(key, 1, network))
    flush(rib, table)
    rib.mark()
    rib.keep(FAMILY, [bytes([16, 10, 0])])
    rib.spare(frozenset({"b"}))
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
    assert watch.end_of_rib(bytes.fromhex(octets)) == family


@pytest.mark.parametrize("wiped", [False, True])
def test_a_second_engine_on_one_configuration_ends(tmp_path, wiped):
    """Two speakers never run on one configuration, though run_dir was wiped; the file says who the one is."""
    configuration, lasting = tmp_path / "exabgp.conf", tmp_path / "lasting.pid"
    claims = Claims(configuration, lasting, "")
    assert claims.take()
    for path in (tmp_path / "exabgp.pid", lasting):
        assert f'"pid": {os.getpid()}' in path.read_text()
    if wiped:
        (tmp_path / "exabgp.pid").unlink()
    command = [sys.executable, "-I", "-m", "bgpcni_exabgp.engine", str(configuration), str(lasting)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 4
    assert "another one runs" in done.stderr
    claims.keep()
    assert f'"pid": {os.getpid()}' in (tmp_path / "exabgp.pid").read_text()
    claims.release()
    assert Claims(configuration, lasting, "").take()


class Neighbor(dict):  # type: ignore[type-arg]
    """What a session's watch asks of ExaBGP's neighbour."""

    def __init__(self, address: str = "192.0.2.1") -> None:
        super().__init__({"peer-address": address, "source-interface": None})
        self.rib = SimpleNamespace(outgoing=GroupingRIB(True, [FAMILY]))
        self.api = {"neighbor-changes": ["relay"]}
        self.refresh: deque[object] = deque()


class Session:
    """A watched session over a connection of this machine, and a clock that the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, graceful: bool, refresh: int) -> None:
        self.now = 1000.0
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.told: list[protocol.Event | None] = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.peer_side = socket.create_connection(listener.getsockname())
        self.io, _ = listener.accept()
        listener.close()
        negotiated = SimpleNamespace(
            families=[FAMILY], asn4=True, refresh=refresh, peer_as=64512, nexthop=(),
            received_open=SimpleNamespace(capabilities={Capability.CODE.GRACEFUL_RESTART: {}} if graceful else {}),
        )  # fmt: skip
        processes = SimpleNamespace(write=lambda service, text: self.told.append(protocol.decode_event(text.encode())))
        peer = SimpleNamespace(
            neighbor=Neighbor(), reactor=SimpleNamespace(processes=processes),
            proto=SimpleNamespace(negotiated=negotiated, connection=SimpleNamespace(io=self.io)),
        )  # fmt: skip
        news = watch.News()
        news.listening = True
        self.watch = watch.Watch(peer, news)

    def after(self, seconds: float) -> list[str]:
        """What is told of the end once so many seconds have passed."""
        self.now += seconds
        before = len(self.told)
        self.watch.look()
        return [event.family for event in self.told[before:] if isinstance(event, protocol.ToldAll)]

    def route(self) -> None:
        self.watch.received(Message.CODE.UPDATE, bytes.fromhex("0000000040" + "0102"))

    def end_of_answer(self) -> None:
        self.watch.received(Message.CODE.ROUTE_REFRESH, b"\0\1\2\1")

    def close(self) -> None:
        self.peer_side.close()
        self.io.close()


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Session]:
    made = Session(monkeypatch, **request.param)
    yield made
    made.close()


@pytest.mark.parametrize("session", [{"graceful": True, "refresh": REFRESH.NORMAL}], indirect=True)
def test_a_new_session_whose_peer_says_end_of_rib_is_not_ended_by_a_pause(session: Session) -> None:
    """The peer is slow: ten seconds between two of its UPDATEs are no end. It says itself when it has told all."""
    for _ in range(5):
        session.route()
        assert session.after(10) == []
    session.watch.received(Message.CODE.UPDATE, bytes(4))
    assert not session.watch.awaited
    assert session.after(1000) == []  # it is in the UPDATE that was passed on


@pytest.mark.parametrize("session", [{"graceful": False, "refresh": REFRESH.ENHANCED}], indirect=True)
def test_a_long_answer_whose_end_is_marked_is_not_ended_by_a_pause(session: Session) -> None:
    """However long the answer to a refresh takes: its end is the peer's marker."""
    assert session.after(3) == ["ipv4/unicast"]  # the session's own first routes, whose end it does not mark
    session.watch.refresh([FAMILY])
    for _ in range(10):
        session.route()
        assert session.after(20) == []
    session.end_of_answer()
    assert isinstance(session.told[-1], protocol.ToldAll)
    assert not session.watch.awaited


@pytest.mark.parametrize("session", [{"graceful": True, "refresh": REFRESH.ENHANCED}], indirect=True)
def test_a_marker_that_never_comes_is_not_waited_for_for_ever(session: Session) -> None:
    """A peer that announces the capability and says no End-of-RIB of a family."""
    session.route()
    assert session.after(watch.MARKED - 1) == []
    assert session.after(1) == ["ipv4/unicast"]


@pytest.mark.parametrize("session", [{"graceful": False, "refresh": REFRESH.NORMAL}], indirect=True)
def test_what_waits_to_be_read_is_no_silence(session: Session) -> None:
    """ExaBGP itself was held up: what the peer said meanwhile is read first."""
    session.peer_side.sendall(b"octets of an UPDATE")
    session.io.recv(1, socket.MSG_PEEK)  # they are here
    assert session.after(60) == []
    session.io.recv(100)
    session.route()
    assert session.after(1) == []
    assert session.after(2) == ["ipv4/unicast"]


@pytest.mark.parametrize("session", [{"graceful": True, "refresh": REFRESH.NORMAL}], indirect=True)
def test_end_of_rib_counts_once_it_is_acknowledged(session: Session) -> None:
    """In the socket is one thing, acknowledged by the peer's TCP another."""
    session.io.sendall(b"End-of-RIB")
    session.watch.end_of_rib_sent("ipv4/unicast")
    assert session.told[-1] == protocol.EndOfRibSent("192.0.2.1", "ipv4/unicast")
    session.peer_side.recv(100)

    def acknowledged() -> bool:
        session.watch.look()
        return protocol.EndOfRibAcked("192.0.2.1", "ipv4/unicast") in session.told

    until(acknowledged)
    assert session.watch.ended == {"ipv4/unicast"}


def test_the_capability_of_rfc_9494_is_read_as_it_is_written():
    """AFI, SAFI, flags and 24 bits of seconds for each family. A malformed one counts as none."""
    families = [(AFI.ipv4, SAFI.unicast), (AFI.l2vpn, SAFI.evpn)]
    (octets,) = longlived.LongLived(families, 70000).extract()
    assert octets.hex() == "00010180011170" + "00194680011170"
    read = lambda data: longlived.received({longlived.CODE: SimpleNamespace(data=data)})  # noqa: E731
    assert read(octets) == {"ipv4/unicast": 70000, "l2vpn/evpn": 70000}
    assert read(octets[:-1]) == {}
    assert read(b"") == longlived.received({}) == {}


def test_our_open_has_that_capability_only_with_graceful_restart():
    """And only if the configuration has a stale time."""
    graceful = Capability.CODE.GRACEFUL_RESTART

    def made(description: str, *codes: int) -> dict[int, object]:
        neighbor = Neighbor("192.0.2.1")
        neighbor["description"] = description
        neighbor.families = lambda: [FAMILY]
        return longlived.offering(lambda capabilities, neighbor: dict.fromkeys(codes, ""))({}, neighbor)

    assert longlived.CODE in made("long-lived graceful restart 600", graceful)
    assert longlived.CODE in made('"long-lived graceful restart 600"', graceful)
    assert longlived.CODE not in made("long-lived graceful restart 600")
    assert longlived.CODE not in made("", graceful)
    assert longlived.CODE not in made("an operator's words 7", graceful)


def test_a_neighbour_of_any_as_gets_the_attributes_of_its_kind():
    """Which of the two is known in its session alone. An IPv4 route goes by IPv6 only where that was negotiated."""
    reactor, engine = Reactor(), Engine(Path("/nowhere"), watch.News())
    reactor.neighbors["external"]["peer-as"] = None
    route = (b"\x08\x0a", b"\x08\x0a")
    inner, outer = bytes.fromhex("40010100"), bytes.fromhex("40010101")
    announce = protocol.Announce("ipv4/unicast", "net", "fe80::1", (inner, outer), (route,))
    assert engine.run(reactor, "relay", protocol.encode_command(announce, 5))
    rib = reactor.neighbors["external"].rib.outgoing
    (update,) = rib.updates(True)

    def sent(**fields: object) -> list[str]:
        session = SimpleNamespace(**{**{name: getattr(Negotiated, name) for name in FIELDS}, **fields})
        return [message[23:].hex() for message in update.messages(session)]

    assert sent() == []
    reach = "900e0017" + "000101" + "10" + ipaddress.IPv6Address("fe80::1").packed.hex() + "00" + "080a"
    extended = {"nexthop": [(*FAMILY, AFI.ipv6)]}
    assert sent(**extended) == [reach + inner.hex()]
    assert sent(**extended, peer_as=64513) == [reach + outer.hex()]
    own = SimpleNamespace(capabilities={Capability.CODE.FOUR_BYTES_ASN: 4200000000})
    assert sent(**extended, sent_open=own, local_as=23456, peer_as=4200000000) == [reach + inner.hex()]
    only = protocol.Announce("ipv4/unicast", "net", "fe80::1", (inner, None), (route,))
    assert not engine.run(reactor, "relay", protocol.encode_command(only, 6))


FIELDS = ("families", "msg_size", "asn4", "sent_open", "local_as", "peer_as", "nexthop")
