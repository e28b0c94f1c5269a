"""Results and prevResult in each version's form, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpcni.cni.result import Dns, Interface, IpConfig, Result, Route, decode
from bgpcni.cni.versions import SUPPORTED, at_least
from bgpcni.errors import CniError, DecodingFailure

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is no failure
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
u32 = st.integers(0, 2**32 - 1)
addresses = (st.ip_addresses(v=4) | st.ip_addresses(v=6)).filter(lambda a: "%" not in str(a))


def prefixed(address: IPv4Address | IPv6Address, length: int) -> str:
    return f"{address}/{length % (address.max_prefixlen + 1)}"


hosts = st.builds(prefixed, addresses, st.integers(0, 128))
prefixes = hosts.map(lambda text: str(ip_network(text, strict=False)))
gateways = st.none() | addresses.map(str)
macs = st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":"))
interfaces = st.builds(
    Interface, words, st.none() | macs, st.none() | u32, st.none() | words, st.none() | words, st.none() | words
)
routes = st.builds(Route, prefixes, gateways, *[st.none() | u32] * 4, st.none() | st.integers(0, 255))
texts = st.lists(words, max_size=2).map(tuple)


@st.composite
def results(draw: Callable[..., Any]) -> Result:
    links = draw(st.lists(interfaces, max_size=3))
    index = st.none() | st.integers(0, len(links) - 1) if links else st.none()
    return Result(
        interfaces=tuple(links),
        ips=tuple(draw(st.lists(st.builds(IpConfig, hosts, gateways, index), max_size=4))),
        routes=tuple(draw(st.lists(routes, max_size=3))),
        dns=draw(st.builds(Dns, texts, st.none() | words, texts, texts)),
    )


def carried(result: Result, version: str) -> Result:
    """A result without the fields that a version does not have."""
    if at_least(version, "1.1.0"):
        return result
    plain = tuple(Route(route.dst, route.gw) for route in result.routes)
    if at_least(version, "0.3.0"):
        links = tuple(link._replace(mtu=None, socket_path=None, pci_id=None) for link in result.interfaces)
        return result._replace(interfaces=links, routes=plain)
    ips, left = [], []
    for family in (4, 6):
        of_family = [ip for ip in result.ips if ip_interface(ip.address).version == family]
        if of_family:
            ips.append(of_family[0]._replace(interface=None))
            left += [route for route in plain if ip_network(route.dst).version == family]
    return Result(ips=tuple(ips), routes=tuple(left), dns=result.dns)


@patient
@given(results(), st.sampled_from(SUPPORTED))
def test_what_a_version_can_carry_survives_writing_and_reading(result: Result, version: str) -> None:
    """decode(encode(result)) is the result, less what that version has no place for."""
    document = json.loads(json.dumps(result.encode(version)))
    assert document["cniVersion"] == version
    assert decode(document, version) == carried(result, version)


SAMPLE = Result(
    interfaces=(
        Interface("cni0", "02:00:5e:00:00:01"),
        Interface("eth0", "02:00:00:00:00:02", mtu=1450, sandbox="/run/netns/blue"),
    ),
    ips=(IpConfig("10.1.2.3/24", "10.1.2.1", 1), IpConfig("fd00::3/64", None, 1)),
    routes=(Route("0.0.0.0/0", mtu=1400), Route("::/0", "fd00::1")),
    dns=Dns(nameservers=("10.1.2.53",)),
)


def test_the_forms_of_each_version() -> None:
    """Golden documents: what a runtime of each age expects to see."""
    dns = {"nameservers": ["10.1.2.53"]}
    assert SAMPLE.encode("0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::3/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "dns": dns,
    }
    links = [
        {"name": "cni0", "mac": "02:00:5e:00:00:01"},
        {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/blue"},
    ]
    assert SAMPLE.encode("0.4.0") == {
        "cniVersion": "0.4.0",
        "interfaces": links,
        "ips": [
            {"version": "4", "address": "10.1.2.3/24", "gateway": "10.1.2.1", "interface": 1},
            {"version": "6", "address": "fd00::3/64", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}],
        "dns": dns,
    }
    assert SAMPLE.encode("1.0.0")["ips"][1] == {"address": "fd00::3/64", "interface": 1}
    assert SAMPLE.encode("1.1.0")["interfaces"][1]["mtu"] == 1450
    assert SAMPLE.encode("1.1.0")["routes"][0] == {"dst": "0.0.0.0/0", "mtu": 1400}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ips": [{"address": "10.1.2.3"}]}, "prevResult.ips[0].address: '10.1.2.3' is no address"),
        ({"ips": [{"address": "10.1.2.3/33"}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": "10.1.2.3/255.255.255.0"}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": "fe80::1%eth0/64"}]}, "prevResult.ips[0].address"),
        ({"ips": [{"address": 167772161}]}, "prevResult.ips[0].address: expected a string, not int"),
        ({"ips": [{}]}, "prevResult.ips[0].address: missing"),
        ({"ips": {}}, "prevResult.ips: expected a list, not dict"),
        ({"ips": [None]}, "prevResult.ips[0]: expected an object, not NoneType"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": 2}]}, "prevResult.ips[0].interface: no interface 2 among 2"),
        ({"ips": [{"address": "10.0.0.1/8", "interface": True}]}, "prevResult.ips[0].interface: expected an integer"),
        ({"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]}, "prevResult.ips[0].gateway: 'x' is no IP address"),
        ({"interfaces": [{"mac": "x"}]}, "prevResult.interfaces[0].name: missing"),
        ({"interfaces": [{"name": "a", "mac": "x"}]}, "prevResult.interfaces[0].mac: 'x' is no hardware address"),
        ({"routes": [{"dst": "default"}]}, "prevResult.routes[0].dst"),
        ({"dns": {"search": "a"}}, "prevResult.dns.search: expected a list, not str"),
        ({"dns": {"domain": "\ud800"}}, "prevResult.dns.domain: half of a surrogate pair"),
    ],
)
def test_an_error_names_the_place(change: dict[str, Any], message: str) -> None:
    """A bad result is error 6, and the message names the place."""
    document = json.loads(json.dumps(SAMPLE.encode("1.0.0") | change))
    with pytest.raises(DecodingFailure) as error:
        decode(document, "1.0.0")
    assert error.value.code == 6
    assert error.value.msg.startswith(message)


def test_a_version_in_an_address_must_be_right() -> None:
    """Before 1.0.0 each address says its version."""
    good = SAMPLE.encode("0.4.0")
    for wrong in ("6", 4, None):
        good["ips"][0]["version"] = wrong
        with pytest.raises(DecodingFailure, match=r"prevResult\.ips\[0\]\.version"):
            decode(good, "0.4.0")


@pytest.mark.parametrize("given_version", ["0.4.0", "1.1.0", "9.0", 1])
def test_a_result_of_another_version_is_error_6(given_version: object) -> None:
    """A result is read only in the configuration's version."""
    with pytest.raises(DecodingFailure, match=r"^prevResult\.cniVersion: "):
        decode({"cniVersion": given_version}, "1.0.0")


def test_a_result_without_a_version_is_taken_at_the_configurations() -> None:
    """As the reference library does for plugins that leave it out."""
    assert decode({"ips": [{"address": "10.1.2.3/24"}]}, "1.0.0").ips == (IpConfig("10.1.2.3/24"),)


def test_unknown_keys_and_empty_values_are_let_pass() -> None:
    """Other plugins put more into a result, and Go writes empty strings for what is not set."""
    document = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": "", "sandbox": "", "colour": "blue"}],
        "ips": [{"address": "FD00::3/064", "gateway": ""}],
        "routes": [{"dst": "10.0.0.1/8"}],
        "dns": {},
    }
    assert decode(document, "1.0.0") == Result(
        interfaces=(Interface("eth0"),), ips=(IpConfig("fd00::3/64"),), routes=(Route("10.0.0.0/8"),)
    )


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | hosts | st.sampled_from(SUPPORTED)
keys = st.sampled_from(
    [
        "cniVersion",
        "interfaces",
        "ips",
        "routes",
        "dns",
        "ip4",
        "ip6",
        "ip",
        "address",
        "gateway",
        "interface",
        "version",
        "name",
        "mac",
        "dst",
        "gw",
        "mtu",
        "nameservers",
        "domain",
        "search",
        "options",
        "sandbox",
        "scope",
    ]
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(), inner, max_size=5)
)


@patient
@given(documents, st.sampled_from(SUPPORTED))
def test_no_document_raises_anything_but_a_cni_error(document: object, version: str) -> None:
    """Whatever JSON stands in prevResult, the answer has a CNI code, and what is read can be written again."""
    outcome = decoded(document, version)
    if isinstance(outcome, CniError):
        assert outcome.code == 6
        outcome.msg.encode()
    else:
        json.dumps(outcome.encode(version), ensure_ascii=False).encode()


def decoded(document: object, version: str) -> Result | CniError:
    try:
        return decode(document, version)
    except CniError as error:
        return error
