"""Sessions that do not come up, or do not last: `bgpcni peers` says why, in words."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from bgpcni.exporter import Peer, Reach
from bgpcni.model import Announcement, Family, MulticastNlri, Neighbor
from integration.exabgp_bench import Bench, Speaker, bench, facts, unicast
from integration.lab import Frr, Lab, until
from integration.lab import Neighbor as FrrNeighbor

FAMILIES = (Family.IPV4_UNICAST,)


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


def peer_of(speaker: Speaker) -> Peer:
    (peer,) = speaker.exporter.peers()
    return peer


def start(lab: Lab, node: Bench, neighbor: Neighbor, **fields: object) -> Speaker:
    speaker = Speaker(lab, node.namespace, facts(node, neighbor, **fields))
    speaker.prune()
    return speaker


def says(speaker: Speaker, words: str) -> None:
    until(lambda: words in peer_of(speaker).last_error, f"{words!r}; it says {peer_of(speaker).last_error!r}")


def test_nobody_listens(lab: Lab, frr: Frr) -> None:
    """A neighbour that refuses the connection."""
    node = bench(lab, frr)
    frr.close()
    speaker = start(lab, node, Neighbor(node.peer, 64512, FAMILIES, 90))
    says(speaker, "cannot connect: Connection refused")
    assert peer_of(speaker).state != "Established"


def test_a_wrong_password(lab: Lab, frr: Frr, tmp_path: Path) -> None:
    """TCP MD5 that does not match: the peer's kernel is silent."""
    node = bench(lab, frr, extra=("password right",))
    secret = tmp_path / "password"
    secret.write_text("wrong")
    secret.chmod(0o600)
    speaker = start(lab, node, Neighbor(node.peer, 64512, FAMILIES, 90, password_file=str(secret)))
    says(speaker, "cannot connect: Connection timed out, or the passwords differ")
    assert peer_of(speaker).state != "Established"


def test_a_wrong_as(lab: Lab, frr: Frr) -> None:
    """Each side expects another AS number than the other has."""
    node = bench(lab, frr)
    speaker = start(lab, node, Neighbor(node.peer, 64999, FAMILIES, 90))
    says(speaker, "OPEN Message Error, Bad Peer AS: the peer says that it has AS 64512, agent.toml says 64999")


def test_an_administrative_shutdown_and_its_end(lab: Lab, frr: Frr) -> None:
    """The NOTIFICATION in words; `since` is when the state became what it is, also for Idle."""
    node = bench(lab, frr)
    speaker = start(lab, node, Neighbor(node.peer, 64512, FAMILIES, 90))
    until(lambda: peer_of(speaker).state == "Established", "the session")
    up = peer_of(speaker).since
    until(lambda: time.time() - datetime.fromisoformat(up).timestamp() > 2, "two seconds of session")
    frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} shutdown")
    says(speaker, "NOTIFICATION 6/2 received: Cease, Administrative Shutdown")
    down = peer_of(speaker)
    assert down.state != "Established"
    assert down.since > up
    assert abs(datetime.fromisoformat(down.since).timestamp() - time.time()) < 30
    frr.configure(f"router bgp {frr.asn}", f"no neighbor {node.address} shutdown")
    until(lambda: peer_of(speaker).state == "Established", "the session again")
    assert peer_of(speaker).since >= down.since


def test_the_peers_prefix_limit(lab: Lab, frr: Frr) -> None:
    """FRR takes three routes and we have four: it says so, and so do we; with fewer the session comes back."""
    node = bench(lab, frr, families=["ipv4-unicast"])
    limit = (
        f"router bgp {frr.asn}",
        "address-family ipv4 unicast",
        f"neighbor {node.address} maximum-prefix 3 restart 1",
    )
    frr.configure(*limit)
    speaker = start(lab, node, Neighbor(node.peer, 64512, FAMILIES, 90))
    routes = [unicast(node, f"10.1.2.{n}/32") for n in range(1, 5)]
    speaker.announce(*routes)
    says(speaker, "NOTIFICATION 6/1 received: Cease, Maximum Number of Prefixes Reached")
    speaker.withdraw(routes[0])
    frr.text(f"clear bgp {node.address}")
    speaker.wait(Reach.ACKED, *routes[1:])


def test_a_silent_peer_is_dropped_after_the_hold_time(lab: Lab, frr: Frr) -> None:
    """`hold_time` is ours: three seconds of silence end the session, with the reason."""
    node = bench(lab, frr)
    speaker = start(lab, node, Neighbor(node.peer, 64512, FAMILIES, 3))
    until(lambda: peer_of(speaker).state == "Established", "the session")
    assert frr.neighbor(node.address)["bgpTimerHoldTimeMsecs"] == 3000
    node.namespace.ip("link", "set", "uplink", "down")
    says(speaker, "NOTIFICATION 4/0 sent: Hold Timer Expired")
    node.namespace.ip("link", "set", "uplink", "up")
    until(lambda: peer_of(speaker).state == "Established", "the session again")


def test_several_neighbours_over_both_ip_versions(lab: Lab, frr: Frr) -> None:
    """An IPv4 and an IPv6 session at once, each with its own families; one is refused, the other is not disturbed."""
    node = bench(lab, frr, families=["ipv4-unicast"])
    frr.add_neighbor(FrrNeighbor(node.address6, node.asn, ["ipv6-unicast"]))
    four = Neighbor(node.peer, 64512, (Family.IPV4_UNICAST,), 90)
    six = Neighbor(node.peer6, 64512, (Family.IPV6_UNICAST,), 90)
    speaker = Speaker(lab, node.namespace, facts(node, four, six))
    routes = [unicast(node, "10.1.2.3/32"), unicast(node, "2001:db8:1::3/128")]
    speaker.announce(*routes)
    speaker.prune(*routes)
    speaker.wait(Reach.ACKED, *routes)
    until(lambda: frr.next_hops("10.1.2.3/32") == {node.address}, "the IPv4 route")
    until(lambda: frr.next_hops("2001:db8:1::3/128") == {node.address6}, "the IPv6 route")
    before = frr.neighbor(node.address)["connectionsDropped"]
    speaker.close()
    second = Speaker(lab, node.namespace, facts(node, four, replace(six, asn=64999)))
    second.announce(*routes)
    second.prune(*routes)

    def told() -> bool:
        found = {peer.address: peer for peer in second.exporter.peers()}
        return "Bad Peer AS" in found[node.peer6].last_error and found[node.peer].state == "Established"

    until(told, "the reason of the one, the session of the other")
    assert frr.neighbor(node.address)["connectionsDropped"] == before


def test_an_ipv6_vtep_costs_no_session(lab: Lab, frr: Frr) -> None:
    """FRR ends a session over a type 3 route of an IPv6 VTEP, its withdraw included: it is sent neither."""
    node = bench(lab, frr)
    families = (Family.L2VPN_EVPN, Family.IPV6_UNICAST)
    frr.add_neighbor(FrrNeighbor(node.address6, 64513, families))
    peer = Neighbor(node.peer6, frr.asn, families, 90)
    speaker = Speaker(lab, node.namespace, facts(node, peer, asn=64513, local_address=node.address6))
    nlri = MulticastNlri("64512:1", node.address6)
    flood = Announcement(nlri, "e", node.address6, vni=5)
    route = unicast(node, "2001:db8:1::/64")
    speaker.prune(route)
    speaker.announce(flood, route)
    speaker.wait(Reach.ACKED, route)
    assert speaker.reach(flood) == {Reach.REFUSED}
    assert "IPv6 VTEP" in speaker.reason(flood)
    speaker.withdraw(flood, route)
    until(lambda: not frr.next_hops("2001:db8:1::/64"), "the route behind it gone")
    assert frr.neighbor(node.address6)["connectionsEstablished"] == 1
    assert frr.established(node.address6)
