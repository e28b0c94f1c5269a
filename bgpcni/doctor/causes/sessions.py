"""Causes in the BGP sessions and in what they need of the node. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bgpcni.config.agent import BgpTable
from bgpcni.doctor.cause import Judgement, cause, error, warning
from bgpcni.doctor.facts import Snapshot, known, listed
from bgpcni.ip import ip_address
from bgpcni.model import Family

_NOTIFICATION = re.compile(r"NOTIFICATION (\d+)/(\d+) (sent|received)", re.IGNORECASE)


def _down(seen: Snapshot) -> Iterator[tuple[str, str, str, tuple[int, int], bool]]:
    """(address, state, last error, NOTIFICATION, whether the peer sent it) of each session that is not up."""
    for peer in known(seen.answers).peers:
        if peer.get("state") == "Established":
            continue
        text = str(peer.get("lastError") or "")
        found = _NOTIFICATION.search(text)
        code = (int(found[1]), int(found[2])) if found else (0, 0)
        yield str(peer.get("address")), str(peer.get("state")), text, code, found is not None and found[3] == "received"


@cause(
    symptom="A session does not come up; its last error is NOTIFICATION 2/2, Bad Peer AS.",
    why="The two ends do not agree on an AS number.",
    remedy="compare asn of {address} in agent.toml with the peer's own AS, and [bgp] asn with what the peer expects",
    fine="no peer refused an AS number",
)
def peer_as(seen: Snapshot) -> Judgement:
    for address, _, text, code, _ in _down(seen):
        if code == (2, 2):
            yield error(f"{address}: {text}", address=address)


_NOTIFIED = {
    (2, 3): "give the two ends different router IDs ([bgp] router_id)",
    (2, 6): "raise hold_time of this neighbour to what the peer accepts",
    (2, 7): "the peer lacks a capability: leave families out that it does not have",
    (2, 11): "the two ends have roles that do not fit (RFC 9234): correct the peer",
    (4, 0): "the peer heard nothing for its hold time: look for loss on the way, and at the load of this node",
    (6, 1): "raise the peer's maximum-prefix, or announce subnets (bgp.advertise)",
    (6, 2): "the peer was shut down by its administrator: enable the neighbour there",
    (6, 3): "the peer has this neighbour no more: configure it there",
    (6, 5): "the peer rejects the connection: check there that it has this node as a neighbour, and its limits",
    (6, 7): "two speakers of this address connect to the peer: end the other one",
    (6, 8): "the peer is out of resources",
}
"""What to do about a NOTIFICATION (RFC 4271 section 4.5, RFC 4486)."""


@cause(
    symptom="A session ended with another NOTIFICATION.",
    why="One end refused what the other sent: a router ID, the hold time, a capability, the number of prefixes.",
    remedy="{what}",
    fine="no session ended with a NOTIFICATION that is known here",
)
def peer_notification(seen: Snapshot) -> Judgement:
    for address, state, text, code, _ in _down(seen):
        if code in _NOTIFIED:
            yield error(f"{address} is {state}: {text}", what=_NOTIFIED[code])
        elif code[0] == 3:
            yield error(f"{address} is {state}: {text}", what="run `bgpcni diags` and report it: an UPDATE was refused")


@cause(
    symptom="A session does not come up, and nobody says why.",
    why="The peer cannot be reached, does not listen, or drops our packets (a firewall, a password on one end only).",
    remedy="ping {address}; nc -vz {address} 179; on the peer: check neighbour, password and firewall",
    fine="all sessions are Established, or no agent runs",
)
def peer_down(seen: Snapshot) -> Judgement:
    for address, state, text, code, _ in _down(seen):
        if code != (2, 2) and code not in _NOTIFIED and code[0] != 3:
            yield error(f"{address} is {state}" + (f": {text}" if text else ""), address=address)


@cause(
    symptom="A peer never connects, and `bgpcni peers` shows it as Active or Idle.",
    why="A neighbour is passive, and another program has port 179.",
    remedy="ss -lntp 'sport = :179'; end that program, or give it another address",
    fine="port 179 is free, or nobody needs it",
)
def port_taken(seen: Snapshot) -> Judgement:
    table = seen.agent().bgp
    passive = [address for address, one in seen.neighbors() if one.passive]
    for listener in known(seen.listeners):
        if table is None or listener.ours or not _is_for(listener.address, table.local_address):
            continue
        text = f"{listener.program or 'a program'} listens on port 179 of {listener.address}"
        if passive:
            yield error(f"{text}, so {listed(passive)} cannot connect to ours")
        else:
            yield warning(f"{text}: a peer that connects finds that one; our neighbours are not passive, so it may be")


def _is_for(bound: str, address: str) -> bool:
    """Whether a socket that is bound so takes connections to the address."""
    one, other = ip_address(bound), ip_address(address)
    return one == other or (one.is_unspecified and one.version >= other.version)


@cause(
    symptom="A session with a password does not come up.",
    why="The kernel refuses TCP MD5 signatures (RFC 2385), as in FIPS mode or without CONFIG_TCP_MD5SIG.",
    remedy="boot a kernel with CONFIG_TCP_MD5SIG=y and without fips=1, or remove password_file at both ends",
    fine="the kernel has TCP MD5 signatures, or no neighbour has a password",
)
def md5_refused(seen: Snapshot) -> Judgement:
    if reason := known(seen.md5):
        mine = [address for address, one in seen.neighbors() if one.password_file]
        if mine:
            yield error(f"the kernel refuses TCP MD5 ({reason}), and {listed(mine)} has a password")


@cause(
    symptom="A session does not come up; the peer is some hops away.",
    why="Packets do not live long enough: TTL 1 of an external peer, or 255 that ttl_security demands.",
    remedy="{what}",
    fine="each peer is on a link, or needs no TTL of its own",
)
def ttl(seen: Snapshot) -> Judgement:
    table, ways = seen.agent().bgp, known(seen.ways)
    for address, one in seen.neighbors():
        way = ways.get(address)
        if table is None or way is None or way.gateway is None:
            continue
        if one.ttl_security:
            text = f"{address} is behind {way.gateway}, and ttl_security accepts packets of the next hop only"
            yield error(text, what=f"remove ttl_security of {address}, or take an address of it on a link of ours")
        elif one.multihop == 1:
            text = f"{address} is behind {way.gateway}, and multihop 1 lets packets reach the next hop only"
            yield error(text, what=f"raise multihop of {address} to the number of hops")
        elif table.asn is not None and one.asn != table.asn:
            text = f"{address} is external (AS {one.asn}) and behind {way.gateway}: it must not send with TTL 1"
            yield warning(text, what="on the peer: configure this neighbour as multihop (ebgp-multihop, or the like)")


@cause(
    symptom="Routes are announced, and packets for the containers go nowhere, or to another host.",
    why="The next hop that is announced is on no interface of this node.",
    remedy="correct {key} in agent.toml, or add the address: ip addr add {address} dev DEVICE",
    fine="the next hops are addresses of this node",
)
def next_hop(seen: Snapshot) -> Judgement:
    table = seen.agent().bgp
    if table is None:
        return
    own = {item.address for item in known(seen.local)}
    for key in ("local_address", "next_hop", "next_hop6"):
        address = getattr(table, key)
        if address is not None and address not in own:
            yield error(f"[bgp] {key}: {address} is on no interface of this node", key=f"[bgp] {key}", address=address)


@cause(
    symptom="Addresses of one IP version are not announced: `this node has no next hop for IPv6`.",
    why="Neighbours have that family, but the interface of local_address has no such address.",
    remedy="set [bgp] {key} in agent.toml, or add an address: ip addr add ADDRESS dev {device}",
    fine="there is a next hop for each family of the neighbours",
)
def next_hop_missing(seen: Snapshot) -> Judgement:
    table = seen.agent().bgp
    if table is None:
        return
    for version, key, family in ((4, "next_hop", Family.IPV4_UNICAST), (6, "next_hop6", Family.IPV6_UNICAST)):
        if not any(family in one.families for one in table.neighbors) or not seen.uses(version):
            continue
        if getattr(table, key) is None and not _has(seen, table, version):
            device = next((item.device for item in known(seen.local) if item.address == table.local_address), "DEVICE")
            yield warning(f"there is no next hop for IPv{version}, which neighbours have", key=key, device=device)


def _has(seen: Snapshot, table: BgpTable, version: int) -> bool:
    """Whether the interface of local_address has a global address of the version, as the agent looks for it."""
    if ip_address(table.local_address).version == version:
        return True
    devices = {item.device for item in known(seen.local) if item.address == table.local_address}
    return any(
        item.device in devices and item.subnet.version == version and not ip_address(item.address).is_link_local
        for item in known(seen.local)
    )


@cause(
    symptom="A session does not come up: `No route to host`, `Network is unreachable`.",
    why="No route leads to the peer, or it leads into a bridge of containers.",
    remedy="ip route get {address}",
    fine="a route leads to each peer",
)
def peer_unreachable(seen: Snapshot) -> Judgement:
    bridges = seen.bridges()
    for address, way in sorted(known(seen.ways).items()):
        if way is None:
            yield error(f"no route leads to the neighbour {address}", address=address)
        elif way.device in bridges:
            yield error(f"the route to the neighbour {address} leads into the bridge {way.device}", address=address)


@cause(
    symptom="`bgpcni status` says `no-neighbors`, and nothing is announced.",
    why="agent.toml has no neighbour, and no cluster that gives one.",
    remedy="add [[bgp.neighbors]] with address and asn to agent.toml; then bgpcni reload",
    fine="there are neighbours, or no agent is configured",
)
def no_neighbors(seen: Snapshot) -> Judgement:
    config = known(seen.config)
    if config is None or config.cluster is not None or known(seen.answers).peers:
        return
    if config.bgp is not None and config.bgp.neighbors:
        return
    what = "no [bgp]" if config.bgp is None else "no [[bgp.neighbors]]"
    yield warning(f"agent.toml has {what}: only exporters with a speaker of their own announce anything")
