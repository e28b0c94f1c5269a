"""What every exporter promises, as tests against its real speaker.

    class TestMine(ExporterSuite, without=["foreign"]):
        @pytest.fixture
        def speaker(self) -> Iterator[Speaker]:
            ...

`without` names the situations that cannot occur with this speaker; their tests are removed, not skipped.
"""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from bgpcni.exporter import Exporter, NotThereYet, Outcome, Reach
from bgpcni.model import Announcement
from bgpcni.testing.speaker import BOUND, Speaker, Woken, difference, until

MANY = 10_000
GARBAGE = (
    b"",
    b"\0\xff\xfe\x80" * 512,
    b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnot json",
    b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
    b"9" * 100_000,
)
"""Answers of an impostor. Not only HTTP, so that for every speaker some are not of its protocol."""


Verb = Callable[[Sequence[Announcement], float], list[Outcome]]


class Life:
    """One instance of the exporter, called as the agent does: what failed or was not finished is asked again."""

    def __init__(self, speaker: Speaker) -> None:
        self.wake = Woken()
        self.exporter: Exporter = speaker.exporter(self.wake)
        self._speaker = speaker

    def announce(self, *routes: Announcement) -> list[Outcome]:
        return self._ask(self.exporter.announce, routes)

    def withdraw(self, *routes: Announcement) -> list[Outcome]:
        return self._ask(self.exporter.withdraw, routes)

    def prune(self, *keep: Announcement, spare: Sequence[str] = ()) -> None:
        self._again(lambda: self._speaker.call(self.exporter.prune, keep, spare, time.monotonic() + BOUND))
        self.exporter.replayed()

    def reach(self, route: Announcement, *, withdrawn: bool = True) -> Reach:
        """How far a route has got by now. An exporter without `progress` is called with the route again."""
        if type(self.exporter).progress is Exporter.progress:
            (outcome,) = self.withdraw(route) if withdrawn else self.announce(route)
        else:
            (outcome,) = self.exporter.progress([route])
        return outcome.reach

    def look(self) -> None:
        """Call `look` once, and ignore `NotThereYet`."""
        try:
            self._speaker.call(self.exporter.look, time.monotonic() + BOUND)
        except NotThereYet:
            pass

    def _ask(self, verb: Verb, routes: Sequence[Announcement]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        while len(outcomes) < len(routes):
            left = routes[len(outcomes) :]
            got = self._again(lambda left=left: self._speaker.call(verb, left, time.monotonic() + 10))  # type: ignore[misc]
            assert 0 < len(got) <= len(left), f"{len(got)} outcomes for {len(left)} routes"
            assert all(isinstance(outcome, Outcome) for outcome in got)
            outcomes += got
        return outcomes

    def _again(self, call: Callable[[], list[Outcome] | None]) -> list[Outcome]:
        end = time.monotonic() + BOUND
        while True:
            try:
                return call() or []
            except NotThereYet:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


SITUATIONS = {
    "unwanted": ["test_a_bad_route_fails_alone"],
    "foreign": ["test_what_others_announce_is_left_alone"],
    "empty": ["test_a_speaker_that_forgot_is_told_again"],
    "down": ["test_a_speaker_that_is_down_is_not_there_yet"],
    "hang": ["test_a_speaker_that_hangs_holds_nobody", "test_closing_ends_a_verb_that_hangs"],
    "impostor": ["test_garbage_is_no_success"],
    "deaf": ["test_what_the_peers_did_not_acknowledge_is_not_confirmed"],
}
"""Situations that may be impossible with a speaker, and the tests that need them."""


FURTHEST = {"accepted": Reach.ACCEPTED, "sent": Reach.SENT, "acked": Reach.ACKED}


class ExporterSuite(abc.ABC):
    """Inherit this class and define the fixture `speaker`."""

    def __init_subclass__(cls, without: Sequence[str] = (), **more: object) -> None:
        super().__init_subclass__(**more)
        for situation in without:
            for test in SITUATIONS[situation]:
                setattr(cls, test, None)

    @pytest.fixture
    @abc.abstractmethod
    def speaker(self) -> Iterator[Speaker] | Speaker:
        """The real speaker, a new one for each test."""

    @pytest.fixture
    def lives(self, speaker: Speaker) -> Iterator[Callable[[], Life]]:
        """Makes instances of the exporter, which are closed at the end of the test."""
        made: list[Life] = []

        def make() -> Life:
            made.append(Life(speaker))
            return made[-1]

        yield make
        for life in made:
            life.exporter.close()

    @pytest.fixture
    def life(self, lives: Callable[[], Life]) -> Life:
        return lives()

    # ---------------------------------------------------------------- the table

    def test_exactly_what_is_wanted_is_announced(self, speaker: Speaker, life: Life) -> None:
        """The table has exactly the routes that are announced and not withdrawn."""
        first, second, third = (speaker.route(number) for number in range(3))
        reached(life.announce(first, second, third))
        life.prune(first, second, third)
        shows(speaker, first, second, third)
        life.withdraw(second)
        shows(speaker, first, third)

    def test_asking_twice_changes_nothing(self, speaker: Speaker, life: Life) -> None:
        """Announcing what is announced and withdrawing what is withdrawn both succeed."""
        route, other = speaker.route(0), speaker.route(1)
        for _ in range(2):
            reached(life.announce(route, other))
        life.prune(route, other)
        shows(speaker, route, other)
        for _ in range(2):
            never_refused(life.withdraw(route))
        shows(speaker, other)

    def test_withdrawing_the_unknown_succeeds(self, speaker: Speaker, life: Life) -> None:
        """A route that nobody ever announced can be withdrawn."""
        never_refused(life.withdraw(speaker.route(7)))
        life.prune()
        shows(speaker)

    def test_a_withdrawal_is_confirmed_in_the_end(self, speaker: Speaker, life: Life) -> None:
        """A withdrawal gets as far as `acks` says, so that its address can be released; that of an unknown route,
        too."""
        route, other = speaker.route(0), speaker.route(1)
        reached(life.announce(route, other))
        life.prune(route, other)
        shows(speaker, route, other)
        for gone in (route, speaker.route(7)):
            life.withdraw(gone)
            until(lambda gone=gone: life.reach(gone) >= FURTHEST[life.exporter.acks], "the confirmation")  # type: ignore[misc]
        shows(speaker, other)

    def test_what_the_peers_did_not_acknowledge_is_not_confirmed(self, speaker: Speaker, life: Life) -> None:
        """A withdrawal that no peer has acknowledged is `SENT` and no more. Only if `acks` is `acked`."""
        route = speaker.route(0)
        reached(life.announce(route))
        life.prune(route)
        shows(speaker, route)
        if life.exporter.acks != "acked":
            return  # the exporter cannot know
        until(lambda: life.reach(route, withdrawn=False) is Reach.ACKED, "the acknowledgement of the route")
        with speaker.deaf():
            life.withdraw(route)
            until(lambda: life.reach(route) >= Reach.SENT, "that the withdrawal is in the sockets")
            assert life.reach(route) is Reach.SENT
            shows(speaker, route)
        until(lambda: life.reach(route) is Reach.ACKED, "the acknowledgement")
        shows(speaker)

    def test_a_bad_route_fails_alone(self, speaker: Speaker, life: Life) -> None:
        """Only the bad route of a batch is refused, with a reason, and it can be withdrawn."""
        bad = speaker.unwanted()
        assert bad is not None, "the speaker names no route that must be refused; see `without`"
        good, better = speaker.route(0), speaker.route(1)
        outcomes = life.announce(good, bad, better)
        assert [outcome.reach is Reach.REFUSED for outcome in outcomes] == [False, True, False]
        assert outcomes[1].reason
        life.prune(good, better)
        shows(speaker, good, better)
        never_refused(life.withdraw(bad, good))
        shows(speaker, better)

    def test_ten_thousand_routes(self, speaker: Speaker, life: Life) -> None:
        """Ten thousand routes are all announced, and then all withdrawn."""
        routes = [speaker.route(number) for number in range(MANY)]
        for start in range(0, MANY, 2000):
            reached(life.announce(*routes[start : start + 2000]))
        life.prune(*routes)
        shows(speaker, *routes)
        for start in range(0, MANY, 2000):
            never_refused(life.withdraw(*routes[start : start + 2000]))
        shows(speaker)

    # ---------------------------------------------------------------- restarts

    def test_closing_leaves_the_routes(self, speaker: Speaker, lives: Callable[[], Life]) -> None:
        """When an agent ends, no peer loses a route."""
        route = speaker.route(0)
        first = lives()
        reached(first.announce(route))
        first.prune(route)
        shows(speaker, route)
        first.exporter.close()
        shows(speaker, route)
        second = lives()
        reached(second.announce(route))
        second.prune(route)
        shows(speaker, route)

    def test_what_an_earlier_life_left_is_pruned(self, speaker: Speaker, lives: Callable[[], Life]) -> None:
        """A later instance withdraws what an earlier one has announced and nobody wants now: by `withdraw`, or by
        `prune`."""
        kept, left, named = (speaker.route(number) for number in range(3))
        first = lives()
        reached(first.announce(kept, left, named))
        first.prune(kept, left, named)
        shows(speaker, kept, left, named)
        first.exporter.close()
        second = lives()
        never_refused(second.withdraw(named))
        reached(second.announce(kept))
        second.prune(kept)
        shows(speaker, kept)

    def test_spared_networks_are_not_pruned(self, speaker: Speaker, lives: Callable[[], Life]) -> None:
        """Routes of a network with a record that cannot be read stay until the record is gone."""
        kept, spared = speaker.route(0), speaker.route(1, "spared")
        first = lives()
        reached(first.announce(kept, spared))
        first.prune(kept, spared)
        first.exporter.close()
        second = lives()
        reached(second.announce(kept))
        second.prune(kept, spare=["spared"])
        shows(speaker, kept, spared)
        second.prune(kept)
        shows(speaker, kept)

    def test_what_others_announce_is_left_alone(self, speaker: Speaker, life: Life) -> None:
        """Neither `withdraw` nor `prune` touches a route that is not ours."""
        foreign = speaker.foreign()
        assert foreign is not None, "the speaker has nobody else announce anything; see `without`"
        route = speaker.route(0)
        reached(life.announce(route))
        life.prune(route)
        shows(speaker, route, besides=[foreign])
        life.withdraw(route)
        life.prune()
        shows(speaker, besides=[foreign])

    # ---------------------------------------------------------------- a speaker in trouble

    def test_a_speaker_that_forgot_is_told_again(self, speaker: Speaker, life: Life) -> None:
        """When the speaker has lost its routes, the exporter notices by itself, and all are announced again."""
        route, other = speaker.route(0), speaker.route(1)
        reached(life.announce(route, other))
        life.prune(route, other)
        shows(speaker, route, other)
        before = life.wake.emptied
        speaker.empty()

        def noticed() -> bool:
            life.look()
            return life.wake.emptied > before

        until(noticed, "that the exporter reports that its speaker has lost the routes")
        reached(life.announce(route, other))
        life.prune(route, other)
        shows(speaker, route, other)

    def test_a_speaker_that_is_down_is_not_there_yet(self, speaker: Speaker, life: Life) -> None:
        """While the speaker is down, methods raise `NotThereYet` or report `WANTED`; when it is back, all works."""
        route = speaker.route(0)
        speaker.stop()
        for verb in (life.exporter.announce, life.exporter.withdraw):
            not_there(lambda verb=verb: speaker.call(verb, [route], time.monotonic() + 1))  # type: ignore[misc]
        speaker.start()
        reached(life.announce(route))
        life.prune(route)
        shows(speaker, route)

    def test_a_speaker_that_hangs_holds_nobody(self, speaker: Speaker, life: Life) -> None:
        """Methods return at their deadline, `close` at once. When the speaker continues, the routes are announced."""
        route, other = speaker.route(0), speaker.route(1)
        reached(life.announce(route))
        life.prune(route)
        shows(speaker, route)
        speaker.pause()
        try:
            for verb in (life.exporter.announce, life.exporter.withdraw):
                returns(lambda verb=verb: speaker.call(verb, [other], time.monotonic() + 1))  # type: ignore[misc]
        finally:
            speaker.resume()
        told = -1
        while told != life.wake.emptied:  # what was sent before may still take effect, and then all is asked for again
            told = life.wake.emptied
            reached(life.announce(route, other))
        life.prune(route, other)
        shows(speaker, route, other)

    def test_closing_ends_a_verb_that_hangs(self, speaker: Speaker, life: Life) -> None:
        """`close` from another thread does not wait for the speaker, and the running method returns soon."""
        route = speaker.route(0)
        reached(life.announce(route))
        speaker.pause()
        try:
            deadline = time.monotonic() + 10 * BOUND
            asking = threading.Thread(
                target=lambda: not_there(lambda: speaker.call(life.exporter.announce, [route], deadline))
            )
            asking.start()
            life.exporter.close()
            asking.join(BOUND)
            assert not asking.is_alive(), "the verb goes on after `close`"
        finally:
            speaker.resume()

    @pytest.mark.parametrize("answer", GARBAGE, ids=range(len(GARBAGE)))
    def test_garbage_is_no_success(self, speaker: Speaker, lives: Callable[[], Life], answer: bytes) -> None:
        """Whatever answers in place of the speaker, no route is reported as announced, and no other exception is
        raised."""
        route = speaker.route(0)
        with speaker.impostor(answer):
            life = lives()
            for verb in (life.exporter.announce, life.exporter.withdraw):
                not_there(lambda verb=verb: speaker.call(verb, [route], time.monotonic() + 2))  # type: ignore[misc]
            with pytest.raises(NotThereYet):
                speaker.call(life.exporter.prune, [route], [], time.monotonic() + 2)


def shows(speaker: Speaker, *routes: Announcement, besides: Sequence[str] = ()) -> None:
    """Wait until the table has exactly these routes."""
    wanted = [*map(speaker.key, routes), *besides]
    try:
        until(lambda: speaker.table() == set(wanted), "the table")
    except AssertionError:
        raise AssertionError(f"the table is not what it should be: {difference(speaker, wanted)}") from None


def reached(outcomes: Sequence[Outcome]) -> None:
    refused = [outcome.reason for outcome in outcomes if outcome.reach is Reach.REFUSED]
    assert not refused, f"refused: {refused[:3]}"


def never_refused(outcomes: Sequence[Outcome]) -> None:
    assert all(outcome.reach is not Reach.REFUSED for outcome in outcomes), "a withdrawal was refused"


def returns(call: Callable[[], list[Outcome]]) -> list[Outcome]:
    """The method returns outcomes or raises `NotThereYet`, in time."""
    found: list[list[Outcome]] = []

    def run() -> None:
        try:
            found.append(call())
        except NotThereYet:
            found.append([])

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(BOUND)
    assert not thread.is_alive(), "a method did not return at its deadline"
    assert found, "a method raised something other than NotThereYet"
    return found[0]


def not_there(call: Callable[[], list[Outcome]]) -> None:
    """The method returns in time, and reports no success."""
    for outcome in returns(call):
        assert outcome.reach <= Reach.WANTED, f"{outcome} although there is no speaker"
