"""Long-lived graceful restart (RFC 9494), which ExaBGP does not have: the capability, sent and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from exabgp.bgp.message.open.capability import Capability
from exabgp.protocol.family import AFI, SAFI

from bgpcni_exabgp.protocol import LONG_LIVED

CODE = 71
_FORWARDING = 0x80  # of each family: forwarding went on meanwhile
_ENTRY = 7  # octets: AFI, SAFI, flags, stale time


class LongLived(list[tuple[AFI, SAFI]]):
    """The capability for these families, each with the same stale time (seconds). It prints as ExaBGP's own do."""

    def __init__(self, families: list[tuple[AFI, SAFI]], seconds: int) -> None:
        super().__init__(families)
        self.seconds = seconds

    def extract(self) -> list[bytes]:
        tail = bytes([_FORWARDING]) + self.seconds.to_bytes(3, "big")
        return [b"".join(afi.pack() + safi.pack() + tail for afi, safi in self)]

    def json(self) -> str:
        return f'{{ "name": "{LONG_LIVED}", "time": {self.seconds} }}'


def offering(stock: Callable[..., Any]) -> Callable[..., Any]:
    """For `Capabilities.new`, which makes our OPEN: with the capability if the configuration has a stale time."""

    def new(capabilities: Any, neighbor: Any, *rest: Any, **named: Any) -> Any:
        made = stock(capabilities, neighbor, *rest, **named)
        words, _, seconds = str(neighbor["description"]).strip('"').rpartition(" ")
        if words == LONG_LIVED and Capability.CODE.GRACEFUL_RESTART in made:
            made[CODE] = LongLived(neighbor.families(), int(seconds))
        return made

    return new


def received(capabilities: Mapping[int, Any]) -> dict[str, int]:
    """The families in a peer's capability, with their stale times; empty if it has none, or a malformed one."""
    octets = bytes(getattr(capabilities.get(CODE), "data", b""))
    entries = [octets[at : at + _ENTRY] for at in range(0, len(octets), _ENTRY)]
    if any(len(entry) != _ENTRY for entry in entries):
        return {}
    return {
        f"{AFI.create(int.from_bytes(entry[:2], 'big'))}/{SAFI.create(entry[2])}": int.from_bytes(entry[4:], "big")
        for entry in entries
    }
