"""What gobgpd lists becomes events: each change once, nothing for what stays, and nothing that is ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("google.protobuf", reason="protobuf is not installed: pip install bgpcni[gobgp]")

from bgpcni.exporter import EndOfRib, Gone, Learned, SessionDown
from bgpcni.model import ROUTES, Announcement, Family, MacIpNlri, Nlri, UnicastNlri
from bgpcni.wire.encode import encode
from bgpcni_gobgp import gobgp_pb2 as api
from bgpcni_gobgp.learning import AdjRibIn, Session, learned
from bgpcni_gobgp.paths import LOCAL, NUMBERS, _split

PEER, EVPN, IPV4 = "198.18.1.1", Family.L2VPN_EVPN, Family.IPV4_UNICAST
BOTH = frozenset({EVPN, IPV4})
UP = {PEER: Session("t1", internal=True, families=BOTH)}


def path(nlri: Nlri, hop: str = "192.0.2.9", peer: str = PEER, more: bytes = b"") -> api.Path:
    """As the daemon lists it; `more`: NLRI of the same message that are other paths."""
    wire = encode(Announcement(nlri, "net", hop, export_rt=("64512:1",), vni=5001), 64512, "ibgp")
    attributes = list(_split(wire.attributes))
    octets = bytes(map(int, hop.split(".")))
    if nlri.family is IPV4:
        attributes.append(b"\x40\x03\x04" + octets)
    else:
        value = b"\x00\x19\x46\x04" + octets + b"\0" + more + wire.nlri
        attributes.append(b"\x90\x0e" + len(value).to_bytes(2, "big") + value)
    return api.Path(family=NUMBERS[nlri.family], neighbor_ip=peer, nlri_binary=wire.nlri, pattrs_binary=attributes)


def mac(number: int) -> Nlri:
    return MacIpNlri("192.0.2.9:1", f"02:00:00:00:00:{number:02x}", f"10.1.2.{number}/32")


def plain(number: int) -> Nlri:
    return UnicastNlri(IPV4, f"10.9.{number}.0/24")


@pytest.mark.parametrize("nlri", [mac(1), plain(1)], ids=str)
def test_a_path_is_a_learned_route(nlri: Nlri) -> None:
    """Next hop, route targets and VNI included; of a message's other NLRI nothing."""
    other = encode(Announcement(mac(2), "net", "192.0.2.9", vni=7), 64512, "ibgp").nlri
    found = learned(path(nlri, more=other), internal=True)
    assert found is not None
    assert (found.peer, found.nlri, found.attributes.next_hop) == (PEER, nlri, "192.0.2.9")
    assert found.attributes.route_targets == ("64512:1",)
    assert found.vni == (5001 if nlri.family is EVPN else None)


def test_each_change_is_told_once() -> None:
    rib = AdjRibIn()
    ours = path(mac(9), peer=LOCAL)
    first = rib.compare(BOTH, UP, [path(mac(1)), path(plain(1)), ours])
    assert {event.nlri for event in first if isinstance(event, Learned)} == {mac(1), plain(1)}
    assert rib.waits(BOTH, UP)
    assert rib.compare(BOTH, UP, [path(mac(1)), path(plain(1)), ours]) == []
    told = {PEER: Session("t1", internal=True, families=BOTH, told=BOTH)}
    moved = rib.compare(BOTH, told, [path(mac(1), "192.0.2.8")])
    assert [type(event) for event in moved] == [Learned, Gone, EndOfRib, EndOfRib]
    assert not rib.waits(BOTH, told)
    assert rib.compare(BOTH, told, [path(mac(1), "192.0.2.8")]) == []


def test_another_session_tells_all_again() -> None:
    """What came before it stays until then; of a peer that is away it goes."""
    rib = AdjRibIn()
    rib.compare(BOTH, UP, [path(mac(1))])
    again = {PEER: Session("t2", internal=True, families=BOTH)}
    down, route = rib.compare(BOTH, again, [path(mac(1))])
    assert down == SessionDown(PEER, graceful=True)
    assert isinstance(route, Learned)
    assert rib.compare(BOTH, {}, []) == [SessionDown(PEER, graceful=False)]
    assert rib.compare(BOTH, {}, []) == []


def test_a_daemon_that_went_away_is_no_withdrawal() -> None:
    rib = AdjRibIn()
    rib.compare(BOTH, UP, [path(mac(1))])
    assert rib.lost() == [SessionDown(PEER, graceful=True)]
    assert rib.lost() == []
    assert [type(event) for event in rib.compare(BOTH, UP, [path(mac(1))])] == [Learned]


def test_a_peer_that_tells_too_much_is_cut_off() -> None:
    """What was there first stays; what is left out is counted, and told when there is room."""
    rib = AdjRibIn(maximum=2)
    rib.compare(BOTH, UP, [path(plain(1)), path(plain(2))])
    assert rib.compare(BOTH, UP, [path(plain(3)), path(plain(1)), path(plain(2))]) == []
    assert rib.words(PEER) == "maximum_prefix 2 is reached: 1 routes are left out"
    events = rib.compare(BOTH, UP, [path(plain(3)), path(plain(2))])
    assert {type(event): event.nlri for event in events} == {Learned: plain(3), Gone: plain(1)}  # type: ignore[union-attr]
    assert rib.words(PEER) == ""


def test_a_family_that_is_not_listened_to_is_not_told() -> None:
    assert AdjRibIn().compare(frozenset({EVPN}), UP, [path(plain(1))]) == []


@given(st.lists(st.binary(max_size=64), max_size=4), st.binary(max_size=64), st.sampled_from(sorted(ROUTES)))
def test_no_octets_do_any_harm(attributes: list[bytes], nlri: bytes, family: Family) -> None:
    found = learned(
        api.Path(family=NUMBERS[family], neighbor_ip=PEER, nlri_binary=nlri, pattrs_binary=attributes), internal=False
    )
    assert found is None or isinstance(found, Learned)
