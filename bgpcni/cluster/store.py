"""What a cluster store does, whoever keeps it: etcd, Kubernetes, or a store of somebody else's.

Stores are loaded by stevedore from the entry-point group `bgpcni.stores`, as exporters are. Every change is a
compare-and-swap on one object: nothing is ever locked, and who comes second learns of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from bgpcni.cluster.objects import Object, Path

V = TypeVar("V")
Key = tuple[str, str]
"""Kind and name in a store; namespace and name among Kubernetes' objects of one kind."""


class Trouble(Exception):
    """The store could not be asked, or refused for a reason of its own. What was true before is still true.

    `after`: seconds that it asks us to wait.
    """

    def __init__(self, message: str = "", *, after: float = 0.0) -> None:
        super().__init__(message)
        self.after = after


class Absent(Trouble):
    """Nobody has prepared this store for our objects yet, so it has none."""


class Conflict(Exception):
    """The object is not what the caller thinks: it exists already, has changed, or is gone."""


class TooOld(Exception):
    """The store does not remember that revision any more: list everything anew."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An object as a store has it. `version`: opaque, another one after each change of this object."""

    object: Object
    version: str


@dataclass(frozen=True, slots=True)
class Listing(Generic[V]):
    """Everything at one revision. `broken`: what is there and is no valid object, with the reason."""

    revision: str
    items: Mapping[Key, V]
    broken: Mapping[Key, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change(Generic[V]):
    """One object changed at `revision`. `item` is None where it was deleted, or where `broken` says what is wrong."""

    path: Key
    item: V | None
    revision: str
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """A sign of life. `revision`: all that happened up to it has been told; "" where the server does not say."""

    revision: str = ""


class Source(Protocol[V]):
    """What can be followed: a list, then what happens after it. Every method may raise Trouble."""

    def list(self) -> Listing[V]:
        """Everything."""
        ...

    def watch(self, revision: str) -> Iterator[Change[V] | Progress]:
        """Everything that happens after `revision`, in order; a Progress once it is accepted, and now and then.

        It ends when the server ends it. Raises TooOld.
        """
        ...

    def close(self) -> None:
        """End every watch, in whatever thread."""
        ...


class Store(ABC):
    """One cluster's store, as one client. Safe for threads. Every method may raise Trouble."""

    @abstractmethod
    def list(self) -> Listing[Kept]:
        """All objects of all kinds."""

    @abstractmethod
    def watch(self, revision: str) -> Iterator[Change[Kept] | Progress]:
        """As `Source.watch`."""

    @abstractmethod
    def get(self, path: Path) -> Kept | None:
        """One object. Raises InvalidConfiguration for what is no valid object."""

    @abstractmethod
    def create(self, item: Object) -> Kept:
        """Raises Conflict if it exists."""

    @abstractmethod
    def swap(self, item: Object, version: str) -> Kept:
        """Put `item` in the place of the version that the caller knows. Raises Conflict if it is another one by now."""

    @abstractmethod
    def delete(self, path: Path, version: str | None = None) -> None:
        """Raises Conflict if it is gone already, or is another version than the one given."""

    def beat(self, node: str) -> None:
        """Note that the agent of this node lives: beside its object, so that nobody who follows objects is told."""

    def heard(self) -> Mapping[str, datetime]:
        """When the agent of each node noted last that it lives, as far as that is known."""
        return {}

    @abstractmethod
    def close(self) -> None:
        """End every watch and connection."""
