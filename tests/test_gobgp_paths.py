"""Announcements as GoBGP's paths; what the daemon lists is read back as what was announced."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("google.protobuf", reason="protobuf is not installed: pip install bgpcni[gobgp]")
pytest.importorskip("grpc", reason="grpcio is not installed: pip install bgpcni[gobgp]")

from pydantic import ValidationError

from bgpcni.model import Announcement, Family, IpPrefixNlri, MacIpNlri, MulticastNlri, Nlri, UnicastNlri, VpnNlri
from bgpcni.wire.values import Unencodable
from bgpcni_gobgp import GoBGP
from bgpcni_gobgp import gobgp_pb2 as api
from bgpcni_gobgp.paths import LOCAL, announced, identifier, is_ours, nlri_of, taken_back, withdrawn

RD, MAC = "192.0.2.1:7", "02:00:00:00:00:01"
EVPN = Family.L2VPN_EVPN
NLRIS = [
    UnicastNlri.of("10.1.2.3/32"),
    UnicastNlri.of("2001:db8::/64"),
    VpnNlri.of("10.9.0.0/24", RD),
    VpnNlri.of("2001:db8::1/128", RD),
    MacIpNlri(RD, MAC),
    MacIpNlri(RD, MAC, "10.9.0.5/32"),
    MulticastNlri(RD, "192.0.2.1"),
    IpPrefixNlri(RD, "10.9.1.0/24"),
]


def route(nlri: Nlri, next_hop: str = "") -> Announcement:
    hop = next_hop or ("2001:db8::9" if nlri.family is Family.IPV6_UNICAST else "192.0.2.1")
    return Announcement(nlri, "net", hop, export_rt=("64512:1",), communities=("64512:7",), vni=5001, label=100)


@pytest.mark.parametrize("nlri", NLRIS, ids=str)
def test_what_is_announced_is_read_back(nlri: Nlri) -> None:
    """The listed path gives the NLRI again, and taking it back names the same path."""
    path = announced(route(nlri), 1)
    assert nlri_of(path) == nlri
    assert nlri_of(withdrawn(nlri, 1)) == nlri
    gone = taken_back(path)
    assert (gone.nlri_binary, gone.identifier, gone.is_withdraw) == (path.nlri_binary, 1, True)
    codes = [attribute[1] for attribute in path.pattrs_binary]
    assert len(codes) == len(set(codes))
    assert {1, 2, 3, 8, 16} <= set(codes)


@pytest.mark.parametrize(
    "bad",
    [
        route(UnicastNlri.of("10.1.2.3/33")),
        route(UnicastNlri.of("10.1.2.3/32"), "2001:db8::1"),
        route(MulticastNlri(RD, "2001:db8::1")),
        Announcement(MacIpNlri(RD, MAC), "net", "192.0.2.1"),
        Announcement(NLRIS[2], "net", "192.0.2.1", label=1 << 20),
    ],
    ids=["length 33", "IPv6 next hop", "IPv6 originator", "no VNI", "label too large"],
)
def test_what_would_end_the_sessions_is_not_sent(bad: Announcement) -> None:
    """What gobgpd would pass on and a peer answer with NOTIFICATION is refused here."""
    with pytest.raises(Unencodable):
        announced(bad, 1)


@given(st.integers(1, 255), st.text())
def test_the_mark_is_the_owners(owner: int, network: str) -> None:
    """A path is ours by the first octet of its identifier, if it came from no peer."""
    path = api.Path(neighbor_ip=LOCAL, identifier=identifier(owner, network))
    assert is_ours(path, owner)
    assert not is_ours(path, owner % 255 + 1)
    path.neighbor_ip = "192.0.2.1"
    assert not is_ours(path, owner)


@given(st.binary(max_size=40))
def test_whatever_is_listed_is_read_or_left(wire: bytes) -> None:
    """NLRI of others, of any octets, raise nothing."""
    nlri_of(api.Path(family=api.Family(afi=25, safi=70), nlri_binary=wire))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["127.0.0.1:50051", "[::1]:50051", "unix:///run/gobgp/api.sock"])
def test_targets_of_this_node(target: str) -> None:
    assert GoBGP.Config(target=target).target == target


@pytest.mark.parametrize("target", ["192.0.2.1:50051", "localhost:50051", "dns:///x", "unix:relative", ":50051", ""])
def test_other_targets_are_refused(target: str) -> None:
    """The API is neither encrypted nor authenticated: only this node's, by literal address or path."""
    with pytest.raises(ValidationError, match="not an address of a gobgpd on this node"):
        GoBGP.Config(target=target)
