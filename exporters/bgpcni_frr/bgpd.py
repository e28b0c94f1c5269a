"""Reads from FRR's bgpd which VNIs it has found in the kernel, their route targets, and which routes it announces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bgpcni.exporter import NotThereYet, Peer, counted
from bgpcni.model import Family, MacIpNlri, Nlri
from bgpcni_frr.vty import Vty

FAMILIES = {
    "ipv4Unicast": Family.IPV4_UNICAST,
    "ipv6Unicast": Family.IPV6_UNICAST,
    "ipv4Vpn": Family.IPV4_VPN,
    "ipv6Vpn": Family.IPV6_VPN,
    "l2VpnEvpn": Family.L2VPN_EVPN,
}
"""FRR's names of the families in JSON."""
_MESSAGES = {
    "open": "opens",
    "update": "updates",
    "notification": "notifications",
    "keepalive": "keepalives",
    "refresh": "routeRefresh",
}
"""FRR's names of the types of messages in JSON, before `Sent` and `Recv`."""
UP, NOT_NEGOTIATED = "Established", "NoNeg"


@dataclass(frozen=True, slots=True)
class Vni:
    """A VNI as bgpd has it. `live`: its VXLAN device exists; otherwise the VNI is only configured."""

    rd: str
    imports: frozenset[str]
    exports: frozenset[str]
    live: bool


def vni(vty: Vty, number: int, deadline: float) -> Vni | None:
    """What bgpd knows about a VNI; None if nothing. Raises NotThereYet."""
    found = vty.ask(f"show bgp l2vpn evpn vni {number}", deadline)
    if "vni" not in found:
        return None
    rd, imports, exports = found.get("rd"), found.get("importRts"), found.get("exportRts")
    if not isinstance(rd, str) or not isinstance(imports, list) or not isinstance(exports, list):
        raise NotThereYet(f"bgpd's answer about VNI {number} cannot be parsed")
    live = found.get("inKernel") == "True"
    return Vni(rd, frozenset(map(str, imports)), frozenset(map(str, exports)), live)


def takes_all(vty: Vty, deadline: float) -> bool:
    """Whether `advertise-all-vni` is set. Raises NotThereYet."""
    return vty.ask("show bgp l2vpn evpn vni", deadline).get("advertiseAllVnis") == "Enabled"


def announces(vty: Vty, of: Vni, nlri: Nlri, deadline: float) -> bool:
    """Whether bgpd announces this route of type 2 or 3, with FRR's own RD. Raises NotThereYet."""
    if isinstance(nlri, MacIpNlri):
        address = f" ip {nlri.prefix.partition('/')[0]}" if nlri.prefix else ""
        return bool(vty.ask(f"show bgp l2vpn evpn route rd {of.rd} mac {nlri.mac}{address}", deadline).get("paths"))
    found = vty.ask(f"show bgp l2vpn evpn route rd {of.rd} type multicast", deadline)
    inner, (_, bracket, rest) = found.get(of.rd), str(nlri).partition("[")
    return isinstance(inner, dict) and bracket + rest in inner


def peers(vty: Vty, deadline: float, now: float) -> list[Peer]:
    """The sessions of the default VRF. `now`: seconds since the epoch. Raises NotThereYet."""
    found: dict[str, dict[Family, dict[str, Any]]] = {}
    for family, address, shown in _summary(vty.ask("show bgp summary", deadline)):
        found.setdefault(address, {})[family] = shown
    return [_peer(vty, address, shown, deadline, now) for address, shown in found.items()]


def messages(vty: Vty, address: str, deadline: float) -> dict[str, dict[str, int]] | None:
    """How many messages went both ways in the sessions with a peer; None if bgpd has no such peer.

    Raises NotThereYet.
    """
    shown = vty.ask(f"show bgp neighbors {address}", deadline).get(address)
    found = shown.get("messageStats") if isinstance(shown, dict) else None
    if not isinstance(found, dict):
        return None
    sent, received = (
        {name: _number(found, f"{theirs}{end}") for name, theirs in _MESSAGES.items()} for end in ("Sent", "Recv")
    )
    return counted(sent, received)


def reset(vty: Vty, address: str, *, soft: bool, deadline: float) -> None:
    """End the session with a peer or, `soft`, exchange all routes again. Raises NotThereYet."""
    vty.order(f"clear bgp {address}{' soft' if soft else ''}", deadline)


def _summary(document: dict[str, Any]) -> Iterator[tuple[Family, str, dict[str, Any]]]:
    for name, family in FAMILIES.items():
        table = document.get(name)
        listed = table.get("peers") if isinstance(table, dict) else None
        for address, shown in listed.items() if isinstance(listed, dict) else ():
            if isinstance(shown, dict):
                yield family, address, shown


def _peer(vty: Vty, address: str, by_family: dict[Family, dict[str, Any]], deadline: float, now: float) -> Peer:
    """A session, from what bgpd shows of it in each family. For one that is not up the reason is read, too."""
    shown = next(iter(by_family.values()))
    states = {str(one.get("state")) for one in by_family.values()}
    up = {family: one for family, one in by_family.items() if one.get("state") == UP}
    state = UP if states & {UP, NOT_NEGOTIATED} else states.pop()
    reason = ""
    if state != UP:
        asked = vty.ask(f"show bgp neighbors {address}", deadline).get(address)
        said = asked if isinstance(asked, dict) else {}
        reason = str(said.get("lastNotificationReason") or said.get("lastResetDueTo") or "")
    since = _number(shown, "peerUptimeEstablishedEpoch") if state == UP else 0
    lasted = _number(shown, "peerUptimeMsec")
    if not since and lasted:
        since = int(now - lasted / 1000)
    return Peer(
        address=address,
        asn=_number(shown, "remoteAs"),
        state=state,
        since=datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if since else "",
        families=tuple(sorted(up)),
        sent=sum(_number(one, "pfxSnt") for one in up.values()),
        received=sum(_number(one, "pfxRcd") for one in up.values()),
        last_error=reason,
    )


def _number(shown: dict[str, Any], key: str) -> int:
    value = shown.get(key)
    return value if isinstance(value, int) else 0
