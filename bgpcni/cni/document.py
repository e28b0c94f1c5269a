"""JSON values that know their path, so that every error names the place: `ipam.ranges[0][0].subnet: …`.

Pure; standard library only. It reads what `json.loads` returned, and raises only the error class that it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from bgpcni.errors import CniError, DecodingFailure

U32 = (1 << 32) - 1
T = TypeVar("T")


class Place:
    """A value with its path from the top. `error`: the class of the errors raised for it and for all below.

    `fold`: keys match without regard to case, as in Go's JSON; for documents that people write.
    """

    __slots__ = ("error", "fold", "path", "value")

    def __init__(
        self, path: str, value: object, error: type[CniError] = DecodingFailure, *, fold: bool = False
    ) -> None:
        self.path = path
        self.value = value
        self.error = error
        self.fold = fold

    def wrong(self, reason: str) -> CniError:
        """The error to raise: `path: reason`."""
        return self.error(f"{self.path}: {reason}")

    def below(self, suffix: str, value: object) -> Place:
        """A value found inside this one."""
        return Place(self.path + suffix, value, self.error, fold=self.fold)

    def object(self) -> Object:
        """This value as an object, which may be empty."""
        return Object(self, self._typed(dict, "an object"))

    def list(self) -> Iterator[Place]:
        """The entries of this list, each with its own path."""
        return (self.below(f"[{i}]", item) for i, item in enumerate(self._typed(list, "a list")))

    def string(self) -> str:
        """This value as a string that can be written as UTF-8 again."""
        text = self._typed(str, "a string")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.wrong("half of a surrogate pair") from None
        return text

    def integer(self, maximum: int = U32) -> int:
        """This value as an integer from 0 to `maximum`."""
        number = self._typed(int, "an integer")
        if not 0 <= number <= maximum:
            raise self.wrong(f"must be 0-{maximum}")
        return number

    def ip(self) -> IPv4Address | IPv6Address:
        """This value as an IP address without zone."""
        text = self.string()
        try:
            return ip_address(_unscoped(text))
        except ValueError:
            raise self.wrong(f"{text!a} is no IP address") from None

    def prefixed(self) -> str:
        """This value as an address with its prefix length in digits, in canonical form, with its host bits:
        `10.1.2.3/24`."""
        text = self.string()
        address, slash, length = text.partition("/")
        try:
            host = ip_address(_unscoped(address))
            bits = int(length) if slash and length.isascii() and length.isdigit() and len(length) <= 3 else -1
        except ValueError:
            bits = -1
        if bits < 0 or bits > host.max_prefixlen:
            raise self.wrong(f"{text!a} is no address with a prefix length, such as 10.1.2.3/24")
        return f"{host}/{bits}"

    def _typed(self, kind: type[T], name: str) -> T:
        if not isinstance(self.value, kind) or isinstance(self.value, bool):
            raise self.wrong(f"expected {name}, not {type(self.value).__name__}")
        return self.value


class Object:
    """A JSON object with its path. A member that is null counts as absent; unknown members are ignored."""

    __slots__ = ("members", "place")

    def __init__(self, place: Place, members: Mapping[str, object]) -> None:
        self.place = place
        self.members = members
        if place.fold:
            self.members = {key.lower(): value for key, value in members.items()}

    def optional(self, key: str) -> Place | None:
        """A member, None if it is absent or null."""
        value = self.members.get(key.lower() if self.place.fold else key)
        return None if value is None else self._member(key, value)

    def required(self, key: str) -> Place:
        """A member; absent or null is an error: `…: missing`."""
        place = self.optional(key)
        if place is None:
            raise self._member(key, None).wrong("missing")
        return place

    def items(self, key: str) -> Iterator[Place]:
        """The entries of a list, none if absent."""
        place = self.optional(key)
        return iter(()) if place is None else place.list()

    def text(self, key: str) -> str | None:
        """A string, None if absent or empty: Go writes an unset string as an empty one."""
        place = self.optional(key)
        return None if place is None else place.string() or None

    def ip(self, key: str) -> IPv4Address | IPv6Address | None:
        """An IP address, None if absent or empty."""
        place = self.optional(key)
        return None if place is None or place.value == "" else place.ip()

    def address(self, key: str) -> str | None:
        """An IP address in canonical text, None if absent or empty."""
        ip = self.ip(key)
        return None if ip is None else str(ip)

    def integer(self, key: str, maximum: int = U32) -> int | None:
        """An integer within 0 and `maximum`, None if absent."""
        place = self.optional(key)
        return None if place is None else place.integer(maximum)

    def _member(self, key: str, value: object) -> Place:
        return self.place.below(f".{key}" if self.place.path else key, value)


def _unscoped(text: str) -> str:
    if "%" in text:
        raise ValueError("a zone has no meaning here")
    return text
