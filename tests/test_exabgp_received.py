"""What is kept of what neighbours tell: bounded, and taken back when a session or a family ends."""

from __future__ import annotations

from struct import pack

from bgpcni.exporter import EndOfRib, Gone, Learned, SessionDown
from bgpcni.model import Family, ImportPolicy, Neighbor, Nlri, UnicastNlri
from bgpcni_exabgp.received import AdjRibIn, Terms

PEER, V4, EVPN = "192.0.2.1", Family.IPV4_UNICAST, Family.L2VPN_EVPN
PLAIN = bytes.fromhex("40010100 400200 40030401020304")
END = bytes(4)


def update(*numbers: int, gone: bool = False) -> bytes:
    octets = b"".join(bytes([16, 10, number]) for number in numbers)
    if gone:
        return pack("!H", len(octets)) + octets + b"\0\0"
    return b"\0\0" + pack("!H", len(PLAIN)) + PLAIN + octets


def nlri(number: int) -> Nlri:
    return UnicastNlri(V4, f"10.{number}.0.0/16")


def routes(maximum: int | None = None, *families: Family, **terms: object) -> AdjRibIn:
    made = AdjRibIn(maximum)
    made.listen(families or (V4, EVPN))
    made.up(PEER, Terms(True, **terms))  # type: ignore[arg-type]
    return made


def told(made: AdjRibIn, *numbers: int, gone: bool = False) -> list[str]:
    """The events of an UPDATE, short: +10.1.0.0/16."""
    return [
        f"{'+' if isinstance(event, Learned) else '-'}{event.nlri.prefix}"
        for event in made.update(PEER, update(*numbers, gone=gone)).events
        if isinstance(event, Learned | Gone)
    ]


def test_routes_are_counted_by_what_identifies_them():
    """A route told twice is one; a withdrawal of what was never told says nothing."""
    made = routes()
    assert told(made, 1, 2) == ["+10.1.0.0/16", "+10.2.0.0/16"]
    assert told(made, 1) == ["+10.1.0.0/16"]
    assert made.received(PEER) == 2
    assert told(made, 1, 3, gone=True) == ["-10.1.0.0/16"]
    assert made.received(PEER) == 1


def test_nothing_is_told_of_families_that_nobody_asked_for():
    """Neither routes nor End-of-RIB, nor the end of the session; and no memory is spent."""
    made = routes(None, EVPN)
    assert told(made, 1) == []
    assert made.update(PEER, END).events == []
    assert made.received(PEER) == 0
    assert made.listen((V4, EVPN)) == {V4}
    made.listen(())
    assert made.down(PEER, True) == []


def test_the_maximum_and_its_warning():
    """From three quarters on it is said; beyond the maximum routes are left out; with room the peer is asked."""
    made = routes(4)
    told(made, 1, 2)
    assert made.words(PEER) == ""
    told(made, 3)
    assert made.words(PEER) == "3 routes received, maximum_prefix is 4"
    assert told(made, 4, 5, 6) == ["+10.4.0.0/16"]
    assert made.words(PEER) == "maximum_prefix 4 is reached: 2 routes are left out"
    assert told(made, 4) == ["+10.4.0.0/16"]  # a change of one that is there
    assert not made.update(PEER, update(6, gone=True)).ask
    assert made.update(PEER, update(1, gone=True)).ask == {V4, EVPN}
    assert told(made, 2, 3, 4, 5) == [f"+10.{n}.0.0/16" for n in (2, 3, 4, 5)]


def test_an_end_of_rib_while_the_answer_to_a_question_is_awaited():
    """It belongs to what was told before; the answer's own end counts."""
    made = routes()
    assert made.asked((V4,), [PEER]) == [PEER]
    assert made.update(PEER, END).events == []
    assert made.told(PEER, V4) == [EndOfRib(PEER, V4)]
    assert made.update(PEER, END).events == [EndOfRib(PEER, V4)]


def test_a_session_that_ends():
    """With graceful restart the families that it covers stay; a NOTIFICATION, or no such thing, ends all."""
    made = routes(graceful=frozenset({EVPN}))
    told(made, 1)
    assert made.down(PEER, False) == [Gone(PEER, nlri(1)), SessionDown(PEER, True)]
    assert made.down(PEER, False) == []
    for terms, notified in (({}, False), ({"graceful": frozenset({V4, EVPN})}, True)):
        made = routes(**terms)
        told(made, 1)
        assert made.down(PEER, notified) == [SessionDown(PEER, False)]
    made = routes()
    told(made, 1)
    assert made.lost() == [SessionDown(PEER, True)]
    assert made.received(PEER) == 0


def test_what_is_malformed_is_counted_and_said():
    """A family that cannot be read is taken back and ignored; an UPDATE of no use asks for the session's end."""
    made = routes()
    told(made, 1)
    bad = b"\0\0" + pack("!H", len(PLAIN)) + PLAIN + bytes([200, 10])
    assert made.update(PEER, bad).events == [Gone(PEER, nlri(1))]
    assert told(made, 2) == []
    assert "1 malformed UPDATE, the last: ipv4-unicast: an NLRI is cut short" in made.words(PEER)
    assert made.update(PEER, b"\0").end == "an UPDATE of 1 octets"
    assert "2 malformed UPDATEs" in made.words(PEER)


def test_what_the_import_policy_does_not_take_is_not_told():
    """Neither its end; it is counted for the operator. The lower of two maxima counts. Other peers are not bound."""
    policy = ImportPolicy(prefixes=("10.0.0.0/14", "2001:db8::/32"), maximum_prefix=2)
    made = AdjRibIn(3, {PEER: Neighbor(PEER, 64512, (V4,), 90, accept=policy)})
    made.listen((V4,))
    made.up(PEER, Terms(True))
    assert told(made, 1, 2, 9) == ["+10.1.0.0/16", "+10.2.0.0/16"]
    assert made.words(PEER) == "2 routes received, maximum_prefix is 2; 1 route outside import.prefixes"
    assert told(made, 9, gone=True) == []
    assert told(made, 3) == []
    assert "maximum_prefix 2 is reached" in made.words(PEER)
    made.up("192.0.2.9", Terms(True))
    assert [event.nlri.prefix for event in made.update("192.0.2.9", update(9)).events] == ["10.9.0.0/16"]
