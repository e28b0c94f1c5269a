"""The lines between agent and ExaBGP: commands and events survive them, and what is malformed is said clearly."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni_exabgp import protocol
from bgpcni_exabgp.protocol import Answer, Malformed, decode_command, decode_event, encode_command, encode_event

WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789/.:-", min_size=1, max_size=20)
ANY = st.text(st.characters(), max_size=30)
OCTETS = st.binary(min_size=1, max_size=40)
NUMBER = st.integers(0, 1 << 70)


def listed(one: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(one, max_size=5).map(tuple)


WORDS = {
    "str": WORD,
    "Name": ANY,
    "int": NUMBER,
    "bool": st.booleans(),
    "Attributes": st.tuples(st.none() | st.binary(max_size=40), st.none() | st.binary(max_size=40)),
    "tuple[EncodedRoute, ...]": listed(st.tuples(OCTETS, OCTETS) | OCTETS.map(lambda nlri: (nlri, nlri))),
    "tuple[bytes, ...]": listed(OCTETS),
    "tuple[Name, ...]": listed(ANY),
    "tuple[str, ...]": listed(WORD),
}
VALUES = {
    "str": ANY,
    "int": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False) | st.integers(),
    "bool": st.booleans(),
    "bytes": st.binary(max_size=40),
    "tuple[str, ...]": listed(ANY),
    "dict[str, int]": st.dictionaries(ANY, st.integers(), max_size=3),
    "dict[str, tuple[str, ...]]": st.dictionaries(ANY, listed(ANY), max_size=3),
}


def made(kind: type, by_type: dict[str, st.SearchStrategy]) -> st.SearchStrategy:
    """Any value of a command or event."""
    values = {one.name: WORD if one.name == "peer" else by_type[str(one.type)] for one in fields(kind)}
    return st.builds(kind, **values)


VALUES["tuple[NeighborState, ...]"] = listed(made(protocol.NeighborState, VALUES))


@pytest.mark.parametrize("kind", protocol.COMMANDS.values(), ids=lambda kind: kind.verb)
@given(data=st.data(), number=NUMBER)
def test_every_command_survives_its_line(kind, data, number):
    """Whatever is in its fields: names of networks have any character. The line is one, and ASCII."""
    command = data.draw(made(kind, WORDS))
    line = encode_command(command, number)
    assert line.isascii()
    assert line.isprintable()
    assert decode_command(line) == (0 if kind is protocol.AskState else number, command)


@pytest.mark.parametrize(
    "kind", [*protocol.EVENTS.values(), protocol.Hello, protocol.Negotiated], ids=lambda k: k.__name__
)
@given(data=st.data())
def test_every_event_survives_its_line(kind, data):
    """Whatever is in its fields; and a newer version may have added to it."""
    event = data.draw(made(kind, VALUES))
    line = encode_event(event)
    assert line.isascii()
    assert "\n" not in line
    assert decode_event(line.encode()) == event
    if kind in protocol.EVENTS.values():
        assert decode_event(json.dumps(json.loads(line) | {"more": 1}).encode()) == event


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no such command: ''"),
        ("announce route 10.0.0.0/8", "no such command"),
        ("bgpcni", "the verb is missing"),
        ("bgpcni conquer 7", "no such command: 'bgpcni conquer 7'"),
        ("neighbor", "the address of the neighbour is missing"),
        ("bgpcni mark", "mark: the number is missing"),
        ("bgpcni mark x", "mark: the number is not a number: 'x'"),
        ("bgpcni mark -1", "mark: the number is not a number: '-1'"),
        ("bgpcni mark 7 8", "mark: there is more than a command: '8'"),
        ("bgpcni eor 7", "eor: family is missing"),
        ("bgpcni listen 7 perhaps", "listen: wanted is neither yes nor no: 'perhaps'"),
        ("bgpcni keep 7 ipv4/unicast 0g", "keep: keys: not hexadecimal: '0g'"),
        ("bgpcni spare 7 ff", "spare: networks: not UTF-8: 'ff'"),
        ("bgpcni withdraw 7 ipv4/unicast 08:xx", "withdraw: routes: neither NLRI nor NLRI:KEY in hexadecimal: '08:xx'"),
        ("bgpcni announce 7 ipv4/unicast - 192.0.2.1 40", "announce: attributes: not IBGP/EBGP: '40'"),
        ("bgpcni announce 7 ipv4/unicast - 192.0.2.1 40/4", "announce: attributes: not hexadecimal: '4'"),
        ("bgpcni announce 7 ipv4/unicast", "announce: network is missing"),
    ],
)
def test_a_malformed_command_says_what_is_wrong(line, words):
    """The verb, the field and the word."""
    with pytest.raises(Malformed) as error:
        decode_command(line)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"bgpcni": "sent", "peer": "a"}', "event sent: seq is missing"),
        ('{"bgpcni": "sent", "peer": "a", "seq": "7"}', "event sent: seq: '7' is not int"),
        ('{"bgpcni": "sent", "peer": "a", "seq": true}', "event sent: seq: True is not int"),
        ('{"bgpcni": "update", "peer": "a", "octets": "0g"}', "event update: octets: non-hexadecimal"),
        ('{"bgpcni": "up", "peer": "a", "families": "x"}', "event up: families: 'x' is not list"),
        ('{"relay": 7}', "event of the relay: peer is missing"),
        (
            '{"bgpcni": "state", "protocol": 3, "seq": 1, "digest": "", "neighbors": [{}]}',
            "event state: neighbors: neighbour: peer is missing",
        ),
    ],
)
def test_a_malformed_event_says_what_is_wrong(line, words):
    """The event, the field and the value."""
    with pytest.raises(Malformed) as error:
        decode_event(line.encode())
    assert words in str(error.value)


STATE = {"type": "state", "neighbor": {"address": {"peer": "192.0.2.1"}, "asn": {"peer": 7}, "state": "down"}}


def test_what_every_exabgp_tells():
    """Answers, sessions and states; anything else is no event, and no error either."""
    assert decode_event(b"done") == Answer(True)
    assert decode_event(b"error") == Answer(False)
    assert decode_event(json.dumps(STATE).encode()) == protocol.SessionChanged("192.0.2.1", False, 7, "")
    fsm = STATE | {"type": "fsm"}
    assert decode_event(json.dumps(fsm).encode()) == protocol.FsmChanged("192.0.2.1", "down")
    for line in (b"", b"\xff", b"7", b"[]", b'{"type": "state"}', b'{"bgpcni": "of a newer version"}', b"{}"):
        assert decode_event(line) is None


def test_an_engine_one_version_older_or_newer_is_understood():
    """An older one takes no command for several neighbours; a newer one may tell more."""
    older = {"peer": "a", "asn": 1, "configured": [], "hold": 9, "state": "IDLE", "since": 1, "families": [], "eor": []}
    older |= {"sent": -1, "acked": -1, "started": -1}
    line = {"bgpcni": "state", "protocol": 3, "seq": 1, "digest": "", "neighbors": [older], "news": "from the future"}
    state = decode_event(json.dumps(line).encode())
    assert isinstance(state, protocol.EngineState)
    assert state.neighbors[0].ended == ()
    assert list(protocol.ACCEPTED) == [protocol.PROTOCOL - 1, protocol.PROTOCOL, protocol.PROTOCOL + 1]
