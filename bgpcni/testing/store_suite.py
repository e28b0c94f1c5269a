"""What every cluster store promises, as tests against a real one.

class TestMine(StoreSuite):
    @pytest.fixture
    def place(self) -> Iterator[StorePlace]:
        ...
"""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from queue import Empty, Queue
from typing import TypeVar

import pytest

from bgpcni.cluster.objects import Object, parse
from bgpcni.cluster.store import Change, Conflict, Kept, Store, TooOld, Trouble
from bgpcni.testing.patience import SECONDS

T = TypeVar("T")


class StorePlace(abc.ABC):
    """A real store, and what a test does to it."""

    @abc.abstractmethod
    def store(self) -> Store:
        """Another client."""

    @abc.abstractmethod
    def call(self, what: Callable[[], T]) -> T:
        """Call something where the store can be reached."""

    @abc.abstractmethod
    def stop(self) -> None:
        """End the store; what it has stays."""

    @abc.abstractmethod
    def start(self) -> None:
        """Start it again."""

    @abc.abstractmethod
    def forget(self) -> None:
        """Forget every revision but the present one."""


def peer(name: str, asn: int = 64512, address: str = "192.0.2.1") -> Object:
    return parse(
        {
            "apiVersion": "bgpcni.dev/v1alpha1", "kind": "BGPPeer",
            "metadata": {"name": name}, "spec": {"asn": asn, "address": address},
        }
    )  # fmt: skip


class Watching:
    """A watch in a thread of its own; its changes, or what ended it, in order."""

    def __init__(self, place: StorePlace, store: Store, revision: str) -> None:
        self._found: Queue[Change[Kept] | Exception | None] = Queue()
        self._thread = threading.Thread(
            target=place.call, args=(lambda: self._run(store, revision),), daemon=True, name="watching"
        )
        self._thread.start()

    def _run(self, store: Store, revision: str) -> None:
        try:
            for change in store.watch(revision):
                if isinstance(change, Change):
                    self._found.put(change)
        except (TooOld, Trouble) as error:
            self._found.put(error)
        else:
            self._found.put(None)

    def next(self) -> Change[Kept] | Exception | None:
        try:
            return self._found.get(timeout=SECONDS)
        except Empty:
            raise AssertionError("nothing came") from None


class StoreSuite(abc.ABC):
    """Inherit it, give it a `place`."""

    @pytest.fixture
    def store(self, place: StorePlace) -> Store:
        return place.call(place.store)

    def test_what_is_created_is_listed(self, place: StorePlace, store: Store) -> None:
        """As it was given, with a version; a second client sees the same."""
        kept = place.call(lambda: store.create(peer("a")))
        other = place.call(place.store)
        listing = place.call(other.list)
        assert listing.items == {("BGPPeer", "a"): kept}
        assert listing.broken == {}
        assert kept.object == peer("a")
        assert place.call(lambda: other.get(("BGPPeer", "a"))) == kept
        assert place.call(lambda: other.get(("BGPPeer", "b"))) is None

    def test_only_one_creates(self, place: StorePlace, store: Store) -> None:
        """Of many that create the same object at once, one succeeds, and its object is the one that stays."""
        clients = [place.call(place.store) for _ in range(8)]

        def create(at: int) -> bool:
            try:
                place.call(lambda: clients[at].create(peer("a", asn=64512 + at)))
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(8) as threads:
            won = [at for at, done in enumerate(threads.map(create, range(8))) if done]
        assert len(won) == 1
        (kept,) = place.call(store.list).items.values()
        assert kept.object == peer("a", asn=64512 + won[0])

    def test_a_stale_version_changes_nothing(self, place: StorePlace, store: Store) -> None:
        """Compare-and-swap: who knows an older version is told so, for a change and for a deletion."""
        first = place.call(lambda: store.create(peer("a")))
        second = place.call(lambda: store.swap(peer("a", asn=2), first.version))
        assert second.version != first.version
        with pytest.raises(Conflict):
            place.call(lambda: store.swap(peer("a", asn=3), first.version))
        with pytest.raises(Conflict):
            place.call(lambda: store.delete(("BGPPeer", "a"), first.version))
        assert place.call(store.list).items == {("BGPPeer", "a"): second}
        place.call(lambda: store.delete(("BGPPeer", "a"), second.version))
        with pytest.raises(Conflict):
            place.call(lambda: store.swap(peer("a", asn=4), second.version))
        with pytest.raises(Conflict):
            place.call(lambda: store.delete(("BGPPeer", "a")))
        assert place.call(store.list).items == {}

    def test_a_watch_tells_everything_after_a_revision(self, place: StorePlace, store: Store) -> None:
        """In order, without a gap between the list and the watch, and nothing from before the list."""
        place.call(lambda: store.create(peer("before")))
        revision = place.call(store.list).revision
        made = place.call(lambda: store.create(peer("a")))
        watching = Watching(place, place.call(place.store), revision)
        changed = place.call(lambda: store.swap(peer("a", asn=2), made.version))
        place.call(lambda: store.delete(("BGPPeer", "a")))
        found = [watching.next() for _ in range(3)]
        assert [(one.path, one.item) for one in found if isinstance(one, Change)] == [
            (("BGPPeer", "a"), made), (("BGPPeer", "a"), changed), (("BGPPeer", "a"), None),
        ]  # fmt: skip

    def test_a_watch_goes_on_from_where_another_ended(self, place: StorePlace, store: Store) -> None:
        """Each change has the revision from which the next watch begins: nothing is told twice, nothing is missed."""
        revision = place.call(store.list).revision
        for number in range(5):
            place.call(lambda number=number: store.create(peer(f"p{number}")))  # type: ignore[misc]
        names = []
        for _ in range(5):
            change = Watching(place, place.call(place.store), revision).next()
            assert isinstance(change, Change)
            names.append(change.path[1])
            revision = change.revision
        assert names == [f"p{number}" for number in range(5)]

    def test_a_revision_that_is_forgotten_is_told(self, place: StorePlace, store: Store) -> None:
        """The watcher then lists anew; it never waits for what does not come."""
        revision = place.call(store.list).revision
        for number in range(3):
            place.call(lambda number=number: store.create(peer(f"p{number}")))  # type: ignore[misc]
        place.forget()
        assert isinstance(Watching(place, store, revision).next(), TooOld)
        assert len(place.call(store.list).items) == 3

    def test_a_sign_of_life_is_no_object_and_no_event(self, place: StorePlace, store: Store) -> None:
        """Agents say that they live as often as they like: whoever follows the objects is told nothing of it."""
        watching = Watching(place, store, place.call(store.list).revision)
        other = place.call(place.store)
        assert place.call(other.heard) == {}
        place.call(lambda: store.beat("node-1"))
        first = place.call(other.heard)
        assert abs((first["node-1"] - datetime.now(UTC)).total_seconds()) < SECONDS
        place.call(lambda: other.beat("node-1"))  # an agent that was started anew
        place.call(lambda: other.beat("node-1"))
        assert place.call(store.heard)["node-1"] >= first["node-1"] - timedelta(seconds=1)
        assert place.call(store.list).items == {}
        place.call(lambda: store.create(peer("a")))
        change = watching.next()
        assert isinstance(change, Change)
        assert change.path == ("BGPPeer", "a")

    def test_a_store_that_is_away_is_trouble(self, place: StorePlace, store: Store) -> None:
        """Every request and the running watch say so, and the same client works again when it is back."""
        place.call(lambda: store.create(peer("a")))
        watching = Watching(place, store, place.call(store.list).revision)
        place.stop()
        assert not isinstance(watching.next(), (Change, TooOld))
        for ask in (store.list, lambda: store.create(peer("b")), lambda: store.delete(("BGPPeer", "a"))):
            with pytest.raises(Trouble):
                place.call(ask)
        place.start()
        assert list(place.call(store.list).items) == [("BGPPeer", "a")]

    def test_closing_ends_a_watch(self, place: StorePlace, store: Store) -> None:
        """A thread that waits for changes is never left behind."""
        watching = Watching(place, store, place.call(store.list).revision)
        place.call(lambda: store.create(peer("a")))
        assert isinstance(watching.next(), Change)
        store.close()
        assert not isinstance(watching.next(), Change)

    def test_nonsense_in_the_store_is_told_and_harms_nothing_else(self, place: StorePlace, store: Store) -> None:
        """One object that nobody can read does not hide the others."""
        place.call(lambda: store.create(peer("good")))
        self.write_nonsense(place, "BGPPeer", "bad")
        listing = place.call(store.list)
        assert list(listing.items) == [("BGPPeer", "good")]
        assert "bad" in listing.broken["BGPPeer", "bad"]

    @abc.abstractmethod
    def write_nonsense(self, place: StorePlace, kind: str, name: str) -> None:
        """Put something under that name which is no object of that kind."""
