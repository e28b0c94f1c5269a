"""What BaGPipe is sent: only what it can take, by type and form, and what its looking glass shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bgpcni.model import Announcement, Endpoint, IpPrefixNlri, MacIpNlri, MulticastNlri, UnicastNlri, VpnNlri
from bgpcni_bagpipe import BaGPipe, glass
from bgpcni_bagpipe.endpoint import Unfit, Vpn, attach_of, identity

MAC = "02:00:00:00:00:01"
ENDPOINT = Endpoint("c1", "eth0", MAC, "10.1.2.3/24", "10.1.2.1", "cni0", "veth0123456789a", 7)
EVPN = Announcement(
    MacIpNlri("0:1", MAC, "10.1.2.3/32"),
    "mynet",
    "",
    export_rt=("64512:90", "64512:5"),
    import_rt=("64512:90",),
    vni=90,
    endpoint=ENDPOINT,
)


def test_an_evpn_endpoint() -> None:
    """VNI a number and the VPN's name its decimal text; MAC, address, bridge, host veth, route targets, our mark."""
    attach = attach_of(EVPN)
    assert attach is not None
    assert attach.payload == {
        "vpn_type": "evpn",
        "vpn_instance_id": "90",
        "vni": 90,
        "mac_address": MAC,
        "ip_address": "10.1.2.3/24",
        "gateway_ip": "10.1.2.1",
        "linuxbr": "cni0",
        "local_port": {"linuxif": "veth0123456789a"},
        "advertise_subnet": False,
        "import_rt": ["64512:90"],
        "export_rt": ["64512:5", "64512:90"],
        "description": "bgpcni mynet",
    }
    assert "ip_address" not in identity(attach.port)


def test_a_mac_without_an_address() -> None:
    """Layer 2 only: the address is left out."""
    attach = attach_of(replace(EVPN, endpoint=ENDPOINT._replace(address="", gateway=None)))
    assert attach is not None
    assert "ip_address" not in attach.payload


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (replace(EVPN, vni=None), "VNI"),
        (replace(EVPN, vni=1 << 24), "VNI"),
        (replace(EVPN, vni=True), "VNI"),
        (replace(EVPN, export_rt=("4200000000:1",)), "4200000000:1"),
        (replace(EVPN, export_rt=("192.0.2.1:5",)), "192.0.2.1:5"),
        (replace(EVPN, import_rt=("64512:4294967296",)), "64512:4294967296"),
        (replace(EVPN, endpoint=None), "endpoints only"),
        (replace(EVPN, endpoint=ENDPOINT._replace(mac="02-00-00-00-00-01")), "MAC address"),
        (replace(EVPN, endpoint=ENDPOINT._replace(host_veth="veth;reboot")), "interface name"),
        (replace(EVPN, endpoint=ENDPOINT._replace(bridge="-cni0")), "interface name"),
        (replace(EVPN, endpoint=ENDPOINT._replace(address="10.1.2.300/24")), "address"),
        (replace(EVPN, endpoint=ENDPOINT._replace(gateway="nobody")), "gateway"),
        (replace(EVPN, nlri=IpPrefixNlri("0:1", "10.0.0.0/8")), "ip-prefix"),
        (replace(EVPN, nlri=UnicastNlri.of("10.1.2.3/32")), "unicast"),
        (replace(EVPN, nlri=VpnNlri.of("2001:db8::1/128", "0:1")), "ipv6-vpn"),
    ],
)
def test_what_it_cannot_take_is_refused_in_words(route: Announcement, words: str) -> None:
    """Nothing reaches the daemon that breaks it in silence."""
    with pytest.raises(Unfit, match=words):
        attach_of(route)


def test_the_multicast_route_is_the_daemons_own() -> None:
    assert attach_of(replace(EVPN, nlri=MulticastNlri("0:1", "192.0.2.1"))) is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_a_looking_glass_that_shows_something_else(document: object) -> None:
    """Any document is either read or a ValueError."""
    for read in (glass.names, glass.instance, lambda shown: glass.endpoints(Vpn("evpn", "90", 90), shown)):
        try:
            read(document)
        except ValueError:
            pass


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1:8082", "http://", "ftp://127.0.0.1", "http://u@127.0.0.1", "http://127.0.0.1:0", "http://[::1",
     "http://127.0.0.1:99999", "http://127.0.0.1/?q", "http://127.0.0.1/\n", "127.0.0.1:8082"],
)  # fmt: skip
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValidationError):
        BaGPipe.Config(url=url)
