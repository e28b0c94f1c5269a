"""The daemon's sessions as last listed: their families, and which peers may still have a withdrawn route. Pure.

The daemon itself must say which sessions were up, because one may have come and gone between two of our listings, or
before the first. After a session has ended, the daemon still has the time at which it came up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from bgpcni.exporter import MESSAGES, Peer, counted
from bgpcni.model import Family
from bgpcni_gobgp import gobgp_pb2 as api
from bgpcni_gobgp.paths import family_of

_UP = api.PeerState.ESTABLISHED
_NAMES = {
    api.PeerState.UNKNOWN: "Unknown",
    api.PeerState.IDLE: "Idle",
    api.PeerState.CONNECT: "Connect",
    api.PeerState.ACTIVE: "Active",
    api.PeerState.OPENSENT: "OpenSent",
    api.PeerState.OPENCONFIRM: "OpenConfirm",
    api.PeerState.ESTABLISHED: "Established",
}


@dataclass(slots=True)
class Sessions:
    """The sessions. `patience`: for how many seconds a peer whose session ended may still use our routes."""

    patience: float
    peers: tuple[Peer, ...] = ()
    more: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """By the address of each peer, what `Exporter.session` tells of it. Replaced, never changed."""
    _fallen: dict[str, float] = field(default_factory=dict)  # address: when it has removed our routes; never changed
    _ended: dict[str, int] = field(default_factory=dict)  # address: when its last ended session came up
    _told: bool = False

    def note(self, found: Iterable[api.Peer], now: float) -> bool:
        """Note what the daemon lists. True if a session came or went, or is listed for the first time."""
        found = list(found)
        peers = tuple(peer_of(one) for one in found)
        before = {peer.address: peer.families for peer in self.peers if is_up(peer)}
        after = {peer.address: peer.families for peer in peers if is_up(peer)}
        began = {peer.address: one.timers.state.uptime.seconds for peer, one in zip(peers, found, strict=True)}
        ended = {address for address, when in began.items() if when and self._ended.get(address) != when}
        ended = (ended | before.keys()) - after.keys()
        self._ended |= {address: began.get(address, 0) for address in ended}
        fallen = self._fallen | dict.fromkeys(ended, now + self.patience)
        still = {address: end for address, end in fallen.items() if address not in after and end > now}
        self._fallen = still  # before `peers`, so that whoever sees that a session has ended sees this, too
        self.peers = peers
        self.more = {peer.address: _more(one) for peer, one in zip(peers, found, strict=True)}
        first, self._told = not self._told, True
        return first or before != after or still.keys() != fallen.keys()

    def lost(self, now: float) -> None:
        """The daemon has ended, and with it all sessions."""
        up = [peer.address for peer in self.peers if is_up(peer)]
        self._fallen = self._fallen | dict.fromkeys(up, now + self.patience)
        self.peers, self.more, self._ended = (), {}, {}

    def unheard(self, family: Family) -> str:
        """Why no peer gets the routes of a family now; "" if one does."""
        if not self.peers:
            return "gobgpd has no neighbour"
        up = [peer for peer in self.peers if is_up(peer)]
        if not up:
            return "no session with " + ", ".join(peer.address for peer in self.peers)
        if not any(family in peer.families for peer in up):
            return f"{family} is not negotiated with " + ", ".join(peer.address for peer in up)
        return ""

    def holding(self) -> str:
        """Which peers may still have a withdrawn route, because their session ended before the withdrawal; "" if
        none."""
        fallen = self._fallen
        return f"{', '.join(sorted(fallen))} may still have it" if fallen else ""


def told_all(found: api.Peer) -> frozenset[Family]:
    """The families for which a peer has sent End-of-RIB in its present session."""
    said = (one for one in found.afi_safis if one.mp_graceful_restart.state.end_of_rib_received)
    return frozenset(family for one in said if (family := family_of(one.state.family)) is not None)


def is_up(peer: Peer) -> bool:
    return peer.state == _NAMES[_UP]


def peer_of(found: api.Peer) -> Peer:
    up = found.state.session_state == _UP
    when = found.timers.state.uptime if up else found.timers.state.downtime
    offered = {family for capability in found.state.remote_cap if (family := _offered(capability)) is not None}
    ours = [one.state for one in found.afi_safis]
    families = [family for one in ours if (family := family_of(one.family)) is not None and family in offered]
    return Peer(
        address=found.state.neighbor_address or found.conf.neighbor_address,
        asn=found.state.peer_asn or found.conf.peer_asn,
        state=_NAMES.get(found.state.session_state, "Unknown"),
        since=_text(when),
        families=tuple(families) if up else (),
        received=sum(one.received for one in ours) if up else 0,
    )


def _more(found: api.Peer) -> dict[str, object]:
    sent, received = (
        {name: getattr(counts, name) for name in MESSAGES}
        for counts in (found.state.messages.sent, found.state.messages.received)
    )
    return {"messages": counted(sent, received)}


def _offered(capability: object) -> Family | None:
    message = api.MultiProtocolCapability()
    return family_of(message.family) if capability.Unpack(message) else None  # type: ignore[attr-defined]


def _text(when: Timestamp) -> str:
    return when.ToDatetime(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if when.seconds > 0 else ""
