"""host-local's configuration: what is taken, what is refused, and that errors name the place."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpcni.cni.result import Route
from bgpcni.errors import CniError, InvalidConfiguration, InvalidEnvironment
from bgpcni.ipam.config import DEFAULT_DATA_DIR, HostLocalConfig, parse_host_local, requested_addresses

STOCK = "/usr/lib/cni/host-local"
needs_stock = pytest.mark.skipif(
    not os.access(STOCK, os.X_OK), reason=f"{STOCK} (containernetworking-plugins) is missing"
)


def network(**ipam: Any) -> dict[str, Any]:
    return {"cniVersion": "1.0.0", "name": "blue", "ipam": {"type": "host-local", **ipam}}


def texts(config: HostLocalConfig) -> list[list[str]]:
    return [[str(range_) for range_ in ranges] for ranges in config.range_sets]


def test_defaults_are_the_stock_plugins() -> None:
    """A subnet alone is enough: the first address is the gateway, IPv4's broadcast is left out."""
    config = parse_host_local(network(ranges=[[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]))
    assert texts(config) == [["10.1.2.1-10.1.2.254"], ["fd00::1-fd00::ffff:ffff:ffff:ffff"]]
    assert [str(ranges[0].gateway) for ranges in config.range_sets] == ["10.1.2.1", "fd00::1"]
    assert (config.data_dir, config.resolv_conf, config.routes) == (DEFAULT_DATA_DIR, None, ())


def test_the_order_of_sets_is_runtime_old_form_ranges() -> None:
    """The index of a set names its `last_reserved_ip.N`, so the order is part of the format."""
    document = network(subnet="10.9.0.0/24", rangeStart="10.9.0.9", ranges=[[{"subnet": "10.1.2.0/24"}]])
    document["runtimeConfig"] = {"ipRanges": [[{"subnet": "fd00::/64"}]]}
    assert [sets[0].split("-")[0] for sets in texts(parse_host_local(document))] == ["fd00::1", "10.9.0.9", "10.1.2.1"]


def test_keys_match_without_regard_to_case_and_null_is_absent() -> None:
    """As Go's JSON reads them; empty strings count as not set."""
    document = {
        "NAME": "blue",
        "cniversion": "1.0.0",
        "IPAM": {
            "DATADIR": "/tmp/x",
            "Ranges": [[{"SUBNET": "10.1.2.0/24", "rangestart": "", "gateway": None}]],
            "routes": [{"DST": "0.0.0.0/0", "Gw": "10.1.2.9", "mtu": 1400}],
        },
    }
    config = parse_host_local(document)
    assert config.data_dir == "/tmp/x"
    assert texts(config) == [["10.1.2.1-10.1.2.254"]]
    assert config.routes == (Route("0.0.0.0/0", "10.1.2.9", mtu=1400),)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({}, "ipam: no ranges"),
    ({"ranges": []}, "ipam: no ranges"),
    ({"ranges": [[]]}, "ipam.ranges[0]: empty range set"),
    ({"ranges": [[{}]]}, "ipam.ranges[0][0].subnet: missing"),
    ({"ranges": [[{"subnet": "10.1.2.1/24"}]]}, "ipam.ranges[0][0].subnet: 10.1.2.1/24 has host bits set"),
    ({"ranges": [[{"subnet": "10.1.2.0"}]]}, "ipam.ranges[0][0].subnet: '10.1.2.0' is no address with"),
    ({"ranges": [[{"subnet": "10.1.2.0/31"}]]}, "ipam.ranges[0][0].subnet: 10.1.2.0/31 is too small"),
    ({"ranges": [[{"subnet": "10.1.2.1/32"}]]}, "ipam.ranges[0][0].subnet: 10.1.2.1/32 is too small"),
    ({"ranges": [[{"subnet": "fd00::/127"}]]}, "ipam.ranges[0][0].subnet: fd00::/127 is too small"),
    ({"ranges": [[{"subnet": "::ffff:10.0.0.0/120"}]]}, "ipam.ranges[0][0].subnet: IPv4 addresses in IPv6 form"),
    ({"ranges": [[{"subnet": 10}]]}, "ipam.ranges[0][0].subnet: expected a string, not int"),
    ({"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.1"}, "ipam.rangeStart: 10.1.3.1 is not in 10.1.2.0/24"),
    ({"subnet": "10.1.2.0/24", "rangeEnd": "fd00::1"}, "ipam.rangeEnd: fd00::1 is not in 10.1.2.0/24"),
    ({"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.4"}, "ipam.rangeStart: the range"),
    ({"subnet": "10.1.2.0/24", "rangeStart": "ten"}, "ipam.rangeStart: 'ten' is no IP address"),
    (
        {"ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "fd00::/64"}]]},
        "ipam.ranges[0]: mixed address families",
    ),
    (
        {"ranges": [[{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.2.128/25"}]]},
        "ipam.ranges[0]: 10.1.2.129-10.1.2.254 overlaps 10.1.2.1-10.1.2.254",
    ),
    (
        {"ranges": [[{"subnet": "10.1.2.128/25"}], [{"subnet": "10.1.2.0/24"}]]},
        "ipam.ranges[1]: 10.1.2.1-10.1.2.254 overlaps",
    ),
    ({"subnet": "10.1.2.0/24", "routes": [{"dst": "default"}]}, "ipam.routes[0].dst: 'default' is no address"),
]


@pytest.mark.parametrize(("ipam", "message"), FAULTS)
def test_a_fault_is_error_7_with_its_place(ipam: dict[str, Any], message: str) -> None:
    """The operator reads the path to the very value that is wrong."""
    with pytest.raises(InvalidConfiguration) as error:
        parse_host_local(network(**ipam))
    assert error.value.code == 7
    assert error.value.msg.startswith(message)


@needs_stock
@pytest.mark.parametrize("ipam", [ipam for ipam, _ in FAULTS])
def test_what_we_refuse_the_stock_plugin_refuses(ipam: dict[str, Any], tmp_path: Path) -> None:
    """A configuration that works with host-local works here."""
    document = network(dataDir=str(tmp_path), **ipam)
    environment = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/x", "CNI_IFNAME": "e", "CNI_PATH": "/x"}
    done = subprocess.run([STOCK], input=json.dumps(document), env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout


def test_stricter_than_stock() -> None:
    """A relative folder and a gateway of the other family cannot work; a gateway outside the subnet can."""
    with pytest.raises(InvalidConfiguration, match=r"ipam\.dataDir: 'x' is no absolute path"):
        parse_host_local(network(subnet="10.1.2.0/24", dataDir="x"))
    with pytest.raises(InvalidConfiguration, match=r"ipam\.gateway: fd00::1 is of another family"):
        parse_host_local(network(subnet="10.1.2.0/24", gateway="fd00::1"))
    config = parse_host_local(network(subnet="10.1.2.0/24", gateway="169.254.1.1"))
    assert str(config.range_sets[0][0].gateway) == "169.254.1.1"


def test_old_versions_have_room_for_one_address_of_each_family() -> None:
    """Two IPv4 sets need cniVersion 0.3.0."""
    document = network(ranges=[[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]])
    parse_host_local(document | {"cniVersion": "0.3.0"})
    with pytest.raises(InvalidConfiguration, match=r"cniVersion 0\.2\.0 allows one range set"):
        parse_host_local(document | {"cniVersion": "0.2.0"})


def test_requested_addresses_come_from_three_places() -> None:
    """CNI_ARGS, `args.cni.ips` and the `ips` capability; duplicates count once, prefix lengths are dropped."""
    document = network(subnet="10.1.2.0/24") | {
        "args": {"cni": {"ips": ["10.1.2.4", "FD00::4"]}},
        "runtimeConfig": {"ips": ["10.1.2.5/24", "10.1.2.4"]},
    }
    assert requested_addresses(document, {"IP": "10.1.2.3"}) == ("10.1.2.3", "10.1.2.4", "fd00::4", "10.1.2.5")
    assert requested_addresses(network(), {}) == ()
    with pytest.raises(InvalidEnvironment, match="CNI_ARGS: IP: '99' is no IP address"):
        requested_addresses(network(), {"IP": "99"})
    with pytest.raises(InvalidConfiguration, match=r"args\.cni\.ips\[0\]: expected a string"):
        requested_addresses(network() | {"args": {"cni": {"ips": [4]}}}, {})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["10.1.2.0/24", "fd00::/64", "10.1.2.9"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["subnet", "gateway", "rangeStart", "rangeEnd", "ranges", "routes", "dst", "ips", "cni"]),
            inner,
            max_size=4,
        )
    ),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values, values, values)
def test_no_configuration_raises_anything_but_a_cni_error(ipam: object, runtime: object, args: object) -> None:
    """Whatever stands there, the answer has a CNI code."""
    document = {"cniVersion": "1.0.0", "ipam": ipam, "runtimeConfig": runtime, "args": args}
    for read in (parse_host_local, lambda document: requested_addresses(document, {})):
        try:
            read(document)
        except CniError as error:
            error.msg.encode()
