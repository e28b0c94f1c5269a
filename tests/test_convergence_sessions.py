"""Which sessions came and went, judged by two looks at the peers."""

from __future__ import annotations

from bgpcni.convergence.sessions import UNSEEN, Change, Sessions
from bgpcni.events import Kind
from bgpcni.exporter import Peer

BORN, EARLIER = "2026-01-31T12:00:00.000Z", "2026-01-31T11:00:00Z"
PEER = "192.0.2.1"


def up(since: str, address: str = PEER, error: str = "") -> Peer:
    return Peer(address, 64512, "Established", since, last_error=error)


def down(error: str = "", state: str = "Active") -> Peer:
    return Peer(PEER, 64512, state, BORN, last_error=error)


def test_a_session_that_was_up_before_the_agent_is_no_news() -> None:
    sessions = Sessions(BORN)
    assert sessions.compare([up(EARLIER)]) == []
    assert sessions.compare([up(EARLIER)]) == []


def test_a_session_comes_and_goes_with_its_reason() -> None:
    sessions = Sessions(BORN)
    assert sessions.compare([down()]) == []
    assert sessions.compare([up("2026-01-31T12:00:05Z")]) == [Change(Kind.SESSION_UP, PEER)]
    lost = sessions.compare([down("NOTIFICATION 6/2 (administrative shutdown)")])
    assert lost == [Change(Kind.SESSION_DOWN, PEER, "NOTIFICATION 6/2 (administrative shutdown)")]
    assert sessions.compare([down("another reason", "Connect")]) == []


def test_a_session_without_a_reason_says_its_state() -> None:
    sessions = Sessions(BORN)
    sessions.compare([up(EARLIER)])
    assert sessions.compare([down()]) == [Change(Kind.SESSION_DOWN, PEER, "it is Active")]


def test_a_session_that_came_back_between_two_looks_has_been_down() -> None:
    sessions = Sessions(BORN)
    sessions.compare([up("2026-01-31T12:00:05Z")])
    changes = sessions.compare([up("2026-01-31T12:01:05Z")])
    assert changes == [Change(Kind.SESSION_DOWN, PEER, UNSEEN), Change(Kind.SESSION_UP, PEER)]


def test_a_speaker_that_counts_in_seconds_does_not_seem_to_flap() -> None:
    """FRR tells for how long a session has been up, and that is a second off now and then."""
    sessions = Sessions(BORN)
    sessions.compare([up("2026-01-31T12:00:05Z")])
    assert sessions.compare([up("2026-01-31T12:00:06Z")]) == []
    assert sessions.compare([up("")]) == []


def test_a_peer_that_is_not_configured_any_more_is_down() -> None:
    sessions = Sessions(BORN)
    sessions.compare([up(EARLIER), up(EARLIER, "2001:db8::1")])
    changes = sessions.compare([up(EARLIER)])
    assert changes == [Change(Kind.SESSION_DOWN, "2001:db8::1", "it is not configured any more")]
