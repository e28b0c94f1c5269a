"""What a cluster store does, whoever keeps it: etcd, Kubernetes, or a store of somebody else's.

Stores are loaded by stevedore from the entry-point group `bgpcni.stores`, as exporters are. Every change is a
compare-and-swap on one object: nothing is ever locked, and who comes second learns of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bgpcni.cluster.objects import Object, Path


class Trouble(Exception):
    """The store could not be asked, or refused for a reason of its own. What was true before is still true."""


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
class Listing:
    """Everything at one revision. `broken`: what is in the store and is no valid object, with the reason."""

    revision: str
    items: Mapping[Path, Kept]
    broken: Mapping[Path, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One object changed at `revision`. `item` is None where it was deleted, or where `broken` says what is wrong."""

    path: Path
    item: Kept | None
    revision: str
    broken: str = ""


class Store(ABC):
    """One cluster's store, as one client. Safe for threads. Every method may raise Trouble."""

    @abstractmethod
    def list(self) -> Listing:
        """All objects of all kinds."""

    @abstractmethod
    def watch(self, revision: str) -> Iterator[Change | None]:
        """Everything that happens after `revision`, in order; None now and then, when nothing happens.

        It ends when the server ends it. Raises TooOld.
        """

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

    @abstractmethod
    def close(self) -> None:
        """End every watch and connection."""
