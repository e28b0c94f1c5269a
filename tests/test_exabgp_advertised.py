"""When a route counts as announced, and when its withdrawal counts as confirmed."""

from __future__ import annotations

import pytest

from bgpcni.exporter import Outcome, Reach
from bgpcni.model import Family, MulticastNlri, Neighbor, UnicastNlri
from bgpcni_exabgp.advertised import NEVER, Advertised, Session

V4, EVPN = Family.IPV4_UNICAST, Family.L2VPN_EVPN
ROUTE = UnicastNlri(V4, "10.1.2.3/32")
OTHER = MulticastNlri("1:1", "192.0.2.9")
A = Neighbor("192.0.2.1", 64512, (V4,), 90)
B = Neighbor("192.0.2.2", 64512, (V4,), 90)
SILENCE = 90 + 120 + 30


def advertised(*neighbors: Neighbor) -> Advertised:
    """Connected, everything that earlier lives announced known."""
    made = Advertised(neighbors or (A,), 120, now=0.0)
    made.connected()
    made.primed = True
    return made


def up(made: Advertised, address: str = A.address, number: int = 0) -> Session:
    session = made.sessions[address]
    made.up(session, frozenset({V4}), number, 0.0)
    return session


def sent() -> tuple[Advertised, Session]:
    """With one session, which has the route."""
    made = advertised()
    session = up(made)
    made.announced(ROUTE, 1)
    made.sent(session, 1)
    return made, session


def test_a_route_is_sent_and_acknowledged_when_every_session_has_it():
    """Wanted until all established sessions have it in their sockets; acknowledged when all peers' TCP has it."""
    made = advertised(A, B)
    a, b = up(made, A.address), up(made, B.address)
    made.announced(ROUTE, 5)
    assert made.outcome(ROUTE, 1) == Outcome(Reach.WANTED)
    made.sent(a, 5)
    assert made.outcome(ROUTE, 1) == Outcome(Reach.WANTED)
    made.sent(b, 7)
    assert made.outcome(ROUTE, 1).reach is Reach.SENT
    a.acked, b.acked = 5, 4
    assert made.outcome(ROUTE, 1).reach is Reach.SENT
    b.acked = 5
    assert made.outcome(ROUTE, 1).reach is Reach.ACKED


def test_a_session_that_is_down_holds_no_announcement_up():
    """With one of two sessions down, a route is announced once the other has it."""
    made = advertised(A, B)
    made.announced(ROUTE, 1)
    made.sent(up(made, A.address), 1)
    assert made.outcome(ROUTE, 1).reach is Reach.SENT


def test_why_a_route_is_not_announced():
    """The reason names what is missing: a neighbour, a family, a session, ExaBGP itself."""
    assert Advertised((), 120, 0.0).outcome(ROUTE, 0).reason == "no neighbour is configured"
    made = advertised()
    made.announced(ROUTE, 1)
    assert made.outcome(OTHER, 0).reason == "no neighbour has family l2vpn-evpn"
    assert made.outcome(ROUTE, 0).reason == "no session: 192.0.2.1 is Idle"
    session = up(made)
    made.down(session, "NOTIFICATION 6/2 received: Cease, Administrative Shutdown", 1.0, 1)
    assert made.outcome(ROUTE, 0).reason.endswith("is Idle (NOTIFICATION 6/2 received: Cease, Administrative Shutdown)")
    made.up(session, frozenset({EVPN}), 1, 0.0)
    assert made.outcome(ROUTE, 0).reason == "no session negotiated ipv4-unicast: 192.0.2.1 did not"
    made.disconnected("exabgp is not running: it ended", 2.0)
    assert made.outcome(ROUTE, 0).reason == "exabgp is not running: it ended"


def test_a_withdrawal_is_confirmed_by_the_session_that_had_the_route():
    """Confirmed as far as the session got: sent, then acknowledged."""
    made, session = sent()
    made.withdrawn(ROUTE, 2)
    assert made.outcome(ROUTE, 1) == Outcome(Reach.WANTED)
    made.sent(session, 2)
    assert made.outcome(ROUTE, 1).reach is Reach.SENT
    session.acked = 2
    assert made.outcome(ROUTE, 1).reach is Reach.ACKED


def test_a_route_that_no_session_ever_got_needs_no_withdrawal():
    """Announced and withdrawn while no session was up: confirmed at once."""
    made = advertised()
    made.announced(ROUTE, 1)
    made.withdrawn(ROUTE, 2)
    assert made.outcome(ROUTE, 1).reach is Reach.ACKED


def test_what_an_earlier_life_may_have_sent_is_taken_to_be_sent():
    """Of a route that is not known to be new, a withdrawal without a session is not confirmed."""
    made = advertised()
    made.withdrawn(ROUTE, 1)
    assert made.outcome(ROUTE, 1).reach is Reach.WANTED
    made = advertised()
    made.primed = False
    made.announced(ROUTE, 1)
    made.withdrawn(ROUTE, 2)
    assert made.outcome(ROUTE, 1).reach is Reach.WANTED


def test_a_peer_that_fell_before_the_withdraw_keeps_the_route_until_replay_and_end_of_rib():
    """Graceful restart: a peer may keep a route of a session that fell; a later session ends that with End-of-RIB."""
    made, session = sent()
    made.down(session, "gone", 10.0, 1)
    made.withdrawn(ROUTE, 2)
    outcome = made.outcome(ROUTE, 11.0)
    assert outcome.reach is Reach.WANTED
    assert f"it may hold the route for {SILENCE - 1} s" in outcome.reason
    up(made, number=2)
    made.sent(session, 2)
    assert made.outcome(ROUTE, 12.0) == Outcome(Reach.WANTED)
    session.acked = 2
    session.eor.add(V4)
    assert made.outcome(ROUTE, 12.0) == Outcome(Reach.SENT)
    session.ended.add(V4)  # and End-of-RIB is acknowledged
    assert made.outcome(ROUTE, 12.0) == Outcome(Reach.ACKED)


def test_silence_confirms_in_the_end():
    """Down for longer than hold time, graceful restart and a margin: no peer has the route any more."""
    made, session = sent()
    made.down(session, "gone", 10.0, 1)
    made.withdrawn(ROUTE, 2)
    assert made.outcome(ROUTE, 10.0 + SILENCE - 1).reach is Reach.WANTED
    assert made.outcome(ROUTE, 10.0 + SILENCE).reach is Reach.ACKED


@pytest.mark.parametrize("fell_first", [True, False])
def test_a_peer_that_is_down_may_keep_the_route_whatever_others_say(fell_first):
    """DEL may answer once the sessions that are up have the withdraw; the address is not free for their word alone."""
    made = advertised(A, B)
    a, b = up(made, A.address), up(made, B.address)
    made.announced(ROUTE, 1)
    made.sent(a, 1)
    made.sent(b, 1)
    if fell_first:
        made.down(b, "gone", 5.0, 1)
        made.withdrawn(ROUTE, 2)
    else:
        made.withdrawn(ROUTE, 2)
        made.down(b, "gone", 5.0, 2)
    assert made.outcome(ROUTE, 6.0) == Outcome(Reach.WANTED)  # under way to the one that is up: worth waiting for
    made.sent(a, 2)
    a.acked = 2
    outcome = made.outcome(ROUTE, 6.0)
    assert outcome.reach is Reach.SENT
    assert outcome.reason == f"no session: 192.0.2.2 is Idle (gone); it may hold the route for {SILENCE - 1} s"
    assert made.outcome(ROUTE, 5.0 + SILENCE) == Outcome(Reach.ACKED)


def test_a_peer_that_never_had_the_route_is_not_waited_for():
    """Its session was down since before the route was announced."""
    made = advertised(A, B)
    a, b = up(made, A.address), up(made, B.address)
    made.sent(b, 0)
    made.down(b, "gone", 0.0, 0)
    made.announced(ROUTE, 1)
    made.sent(a, 1)
    made.withdrawn(ROUTE, 2)
    made.sent(a, 2)
    a.acked = 2
    assert made.outcome(ROUTE, 1.0) == Outcome(Reach.ACKED)


def test_every_peer_has_to_acknowledge():
    """Not the first one: the slowest decides."""
    made = advertised(A, B)
    a, b = up(made, A.address), up(made, B.address)
    made.announced(ROUTE, 1)
    made.withdrawn(ROUTE, 2)
    for session in (a, b):
        made.sent(session, 2)
    a.acked, b.acked = 2, 1
    assert made.outcome(ROUTE, 1) == Outcome(Reach.SENT)
    b.acked = 2
    assert made.outcome(ROUTE, 1) == Outcome(Reach.ACKED)


def test_a_session_that_falls_in_the_middle_of_a_flush_may_have_the_route():
    """How much of it was in the socket nobody told: `sent` is told of what is wholly there."""
    made = advertised()
    session = up(made)
    made.sent(session, 1)
    made.announced(ROUTE, 2)
    made.down(session, "gone", 1.0, 2)
    made.withdrawn(ROUTE, 3)
    assert made.outcome(ROUTE, 2.0).reach is Reach.WANTED


def test_exabgp_that_dies_in_the_middle_of_a_flush_may_have_told_the_route():
    """The same where ExaBGP itself ended."""
    made = advertised()
    session = up(made)
    made.sent(session, 1)
    made.announced(ROUTE, 2)
    made.disconnected("exabgp is not running", 1.0)
    made.withdrawn(ROUTE, NEVER)
    assert made.outcome(ROUTE, 2.0).reach is Reach.WANTED


def test_a_withdrawal_that_was_sent_and_not_acknowledged_is_not_forgotten():
    """The address's next announcement and withdrawal still count with a peer that may have the first one."""
    made, session = sent()
    made.withdrawn(ROUTE, 2)
    made.sent(session, 2)
    assert made.outcome(ROUTE, 1).reach is Reach.SENT
    made.down(session, "gone", 2.0, 2)
    made.announced(ROUTE, 3)
    made.withdrawn(ROUTE, 4)
    assert made.outcome(ROUTE, 3.0).reach is Reach.WANTED


def test_a_new_exabgp_does_not_forget_what_the_old_one_sent():
    """After a crash a withdrawal waits for the new session's End-of-RIB, since peers keep routes over the restart."""
    made, session = sent()
    made.disconnected("exabgp is not running", 10.0)
    made.connected()
    made.withdrawn(ROUTE, 1)
    assert made.outcome(ROUTE, 11.0).reach is Reach.WANTED
    up(made, number=1)
    made.sent(session, 1)
    assert made.outcome(ROUTE, 11.0).reach is Reach.WANTED
    session.eor.add(V4)
    assert made.outcome(ROUTE, 11.0).reach is Reach.SENT


def test_a_family_that_the_new_session_lacks_holds_nothing():
    """A peer that came back without the family has dropped its routes."""
    made, session = sent()
    made.down(session, "gone", 1.0, 1)
    made.withdrawn(ROUTE, 2)
    made.up(session, frozenset(), 2, 0.0)
    assert made.outcome(ROUTE, 2.0).reach is Reach.ACKED


def test_a_refusal_stays_until_something_else_is_asked():
    """Refused with the reason; a new announcement is a new question."""
    made = advertised()
    made.refuse(ROUTE, "too odd")
    assert made.outcome(ROUTE, 1) == Outcome(Reach.REFUSED, "too odd")
    made.announced(ROUTE, 3)
    assert made.outcome(ROUTE, 1).reach is Reach.WANTED


def test_memory_of_withdrawn_routes_is_given_back():
    """Withdrawals that were confirmed, and said so, do not pile up."""
    made = advertised()
    for n in range(10_000):
        nlri = UnicastNlri(V4, f"10.{n >> 8}.{n & 255}.0/24")
        made.announced(nlri, n)
        made.withdrawn(nlri, n)
        made.outcome(nlri, 1)
        made.tidy()
    assert len(made.routes) < 5000


def test_a_route_that_nobody_may_hear_is_announced_and_says_so():
    """By export policy: it waits for nobody. Once it may be heard it is under way; its end needs who may have it."""
    made = advertised(A, B)
    a, b = up(made, A.address), up(made, B.address)
    assert made.withhold(ROUTE, frozenset({A.address, B.address})) == set()
    assert made.outcome(ROUTE, 1) == Outcome(Reach.ACKED, "withheld from every neighbour by export policy")
    made.withdrawn(ROUTE, 2)
    assert made.outcome(ROUTE, 1) == Outcome(Reach.ACKED)
    made.withhold(ROUTE, frozenset({B.address}))
    made.announced(ROUTE, 3)
    assert made.outcome(ROUTE, 1) == Outcome(Reach.WANTED)
    made.sent(a, 3)
    assert made.outcome(ROUTE, 1).reach is Reach.SENT
    made.sent(b, 3)
    made.down(b, "", 10.0, 3)
    made.withdrawn(ROUTE, 4)
    made.sent(a, 4)
    a.acked = 4
    assert made.outcome(ROUTE, 11) == Outcome(Reach.ACKED)


def test_a_neighbour_that_heard_a_route_gets_its_withdrawal():
    """Its policy changed, or the route is of another network now: it counts until it has the withdrawal."""
    made = advertised(A, B)
    a, b = up(made, A.address), up(made, B.address)
    made.withhold(ROUTE, frozenset())
    made.announced(ROUTE, 1)
    made.sent(a, 1)
    made.sent(b, 1)
    assert made.withhold(ROUTE, frozenset({B.address})) == {B.address}
    assert made.withhold(ROUTE, frozenset({B.address})) == set()
    made.down(b, "", 10.0, 3)
    made.withdrawn(ROUTE, 4)
    made.sent(a, 4)
    a.acked = 4
    assert "it may hold the route" in made.outcome(ROUTE, 11).reason


def test_a_peer_has_everything_once_it_has_acknowledged_the_end():
    """Its session, the End-of-RIB of each family, and every line up to the number: what is missing first is named."""
    made = advertised(A)
    assert made.lacking(A.address, 5) == "no session: 192.0.2.1 is Idle"
    session = up(made)
    assert made.lacking(A.address, 5) == "192.0.2.1 has not acknowledged the end of ipv4-unicast"
    session.ended.add(V4)
    session.acked = 4
    assert made.lacking(A.address, 5) == "192.0.2.1 has not acknowledged every route"
    session.acked = 5
    assert made.lacking(A.address, 5) == ""


def test_a_peer_that_knows_rfc_9494_holds_addresses_for_longer():
    """After the restart time for the stale time, in the families that it said; one that was never seen may know."""
    for known, longer in ((None, 600), (frozenset({V4}), 600), (frozenset(), 0)):
        made = Advertised((A,), 120, now=0.0, long_lived=600)
        made.connected()
        made.primed = True
        session = up(made)
        session.long_lived = known
        made.announced(ROUTE, 1)
        made.sent(session, 1)
        made.down(session, "", 0.0, 1)
        made.withdrawn(ROUTE, 2)
        assert made.outcome(ROUTE, SILENCE + longer - 1).reach is Reach.WANTED
        assert made.outcome(ROUTE, SILENCE + longer + 1).reach is Reach.ACKED
