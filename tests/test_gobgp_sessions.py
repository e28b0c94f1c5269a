"""Who may still hold a route that was withdrawn, by what gobgpd lists of its sessions."""

from __future__ import annotations

import pytest

pytest.importorskip("google.protobuf", reason="protobuf is not installed: pip install bgpcni[gobgp]")
pytest.importorskip("grpc", reason="grpcio is not installed: pip install bgpcni[gobgp]")

from bgpcni_gobgp import gobgp_pb2 as api
from bgpcni_gobgp.sessions import Sessions

PEER, PATIENCE = "198.18.1.1", 100.0


def listed(*, up: bool, came_up: int = 0) -> api.Peer:
    """As gobgpd lists a peer: `came_up` is the time of its last session, 0 if it had none."""
    peer = api.Peer()
    peer.state.neighbor_address = PEER
    peer.state.session_state = api.PeerState.ESTABLISHED if up else api.PeerState.ACTIVE
    peer.timers.state.uptime.seconds = came_up
    return peer


def test_a_peer_that_never_was_up_holds_nothing() -> None:
    """Nobody can hold what was told to nobody."""
    sessions = Sessions(PATIENCE)
    assert sessions.note([listed(up=False)], 0)
    assert sessions.holding() == ""


def test_a_session_that_ended_before_the_first_look() -> None:
    """It may hold what an earlier life announced, for as long as any peer may, and is counted once."""
    sessions = Sessions(PATIENCE)
    sessions.note([listed(up=False, came_up=1000)], 50)
    assert PEER in sessions.holding()
    assert not sessions.note([listed(up=False, came_up=1000)], 149)
    assert PEER in sessions.holding()
    assert sessions.note([listed(up=False, came_up=1000)], 150)
    assert sessions.holding() == ""
    assert not sessions.note([listed(up=False, came_up=1000)], 151)


def test_a_session_that_came_and_went_between_two_looks() -> None:
    """It was never seen, and may hold a route all the same."""
    sessions = Sessions(PATIENCE)
    sessions.note([listed(up=False)], 0)
    sessions.note([listed(up=False, came_up=1000)], 1)
    assert PEER in sessions.holding()
    sessions.note([listed(up=True, came_up=1002)], 2)
    assert sessions.holding() == ""
    sessions.note([listed(up=False, came_up=1002)], 3)
    assert PEER in sessions.holding()


def test_a_daemon_that_ended_and_a_peer_that_was_removed() -> None:
    """Their sessions ended as well."""
    sessions = Sessions(PATIENCE)
    sessions.note([listed(up=True, came_up=1000)], 0)
    sessions.lost(1)
    assert PEER in sessions.holding()
    sessions = Sessions(PATIENCE)
    sessions.note([listed(up=True, came_up=1000)], 0)
    sessions.note([], 1)
    assert PEER in sessions.holding()
