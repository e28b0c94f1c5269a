"""The daemon's sessions, as it last told: which families go where, and who may still hold what was withdrawn. Pure.

Who was up is the daemon's to say, not what was seen of it here: a session may have come and gone between two looks,
or before the first. The daemon keeps the time at which a peer's last session came up when that session is over.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC

from google.protobuf.timestamp_pb2 import Timestamp

from bgpcni.exporter import Peer
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
    """`patience`: seconds for which a peer whose session ended may go on using what it was told."""

    patience: float
    peers: tuple[Peer, ...] = ()
    _fallen: dict[str, float] = field(default_factory=dict)  # address: when it will have forgotten; never changed
    _ended: dict[str, int] = field(default_factory=dict)  # address: when its last session that is over came up
    _told: bool = False

    def note(self, found: Iterable[api.Peer], now: float) -> bool:
        """What the daemon lists; True if a session came or went, or was heard of for the first time."""
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
        self._fallen = still  # before `peers`: whoever sees that a session is over sees what that means
        self.peers = peers
        first, self._told = not self._told, True
        return first or before != after or still.keys() != fallen.keys()

    def lost(self, now: float) -> None:
        """The daemon ended, and all sessions with it."""
        up = [peer.address for peer in self.peers if is_up(peer)]
        self._fallen = self._fallen | dict.fromkeys(up, now + self.patience)
        self.peers, self._ended = (), {}

    def unheard(self, family: Family) -> str:
        """Why nobody hears of a family's routes now, "" if somebody does."""
        if not self.peers:
            return "gobgpd has no neighbour"
        up = [peer for peer in self.peers if is_up(peer)]
        if not up:
            return "no session with " + ", ".join(peer.address for peer in self.peers)
        if not any(family in peer.families for peer in up):
            return f"{family} is not negotiated with " + ", ".join(peer.address for peer in up)
        return ""

    def holding(self) -> str:
        """Who may still hold a route that was withdrawn: its session ended before it could be told. "": nobody."""
        fallen = self._fallen
        return f"{', '.join(sorted(fallen))} may still hold it" if fallen else ""


def told_all(found: api.Peer) -> frozenset[Family]:
    """The families of which a peer said End-of-RIB in its session of now."""
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


def _offered(capability: object) -> Family | None:
    message = api.MultiProtocolCapability()
    return family_of(message.family) if capability.Unpack(message) else None  # type: ignore[attr-defined]


def _text(when: Timestamp) -> str:
    return when.ToDatetime(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if when.seconds > 0 else ""
