"""The values: routes print as in FRR, records can be read back, and different keys have different digests."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bgpcni.cni.result import Route
from bgpcni.model import (
    Address,
    Attachment,
    AttachmentKey,
    Bgp,
    ExporterUse,
    Family,
    IpamRecord,
    IpPrefixNlri,
    MacIpNlri,
    MulticastNlri,
    Nlri,
    UnicastNlri,
    VpnNlri,
)

RD = "10.0.0.1:5"
EVPN = Family.L2VPN_EVPN


@pytest.mark.parametrize(
    ("nlri", "text"),
    [
        (UnicastNlri.of("10.1.2.3/32"), "10.1.2.3/32"),
        (VpnNlri.of("2001:db8::1/128", RD), "10.0.0.1:5:2001:db8::1/128"),
        (MulticastNlri(RD, "10.0.0.1"), "10.0.0.1:5:[3]:[0]:[32]:[10.0.0.1]"),
        (MulticastNlri(RD, "2001:db8::1"), "10.0.0.1:5:[3]:[0]:[128]:[2001:db8::1]"),
        (MacIpNlri(RD, "02:00:00:00:00:01"), "10.0.0.1:5:[2]:[0]:[48]:[02:00:00:00:00:01]"),
        (
            MacIpNlri(RD, "02:00:00:00:00:01", "10.1.2.3/32"),
            "10.0.0.1:5:[2]:[0]:[48]:[02:00:00:00:00:01]:[32]:[10.1.2.3]",
        ),
        (IpPrefixNlri(RD, "10.1.2.0/24"), "10.0.0.1:5:[5]:[0]:[24]:[10.1.2.0]"),
    ],
)
def test_an_nlri_reads_as_in_frr(nlri: Nlri, text: str) -> None:
    """What `bgpcni routes` shows can be pasted into vtysh."""
    assert str(nlri) == text


def test_routes_of_two_types_are_two_routes() -> None:
    """Even where all that they say is the same: neither takes the other's place in a table."""
    rd, text = RD, "10.0.0.1"
    one_of_each = [
        UnicastNlri(Family.IPV4_VPN, text), VpnNlri(Family.IPV4_VPN, text, rd), MacIpNlri(rd, text),
        MulticastNlri(rd, text), IpPrefixNlri(rd, text),
    ]  # fmt: skip
    assert {type(nlri) for nlri in one_of_each} == set(get_args(Nlri))
    assert len(set(one_of_each)) == len(one_of_each)
    assert IpPrefixNlri(rd, text) == IpPrefixNlri(rd, text)


@given(
    st.tuples(*[st.text(alphabet="ab\0/-", max_size=4)] * 3), st.tuples(*[st.text(alphabet="ab\0/-", max_size=4)] * 3)
)
def test_different_keys_have_different_digests(one: tuple[str, str, str], two: tuple[str, str, str]) -> None:
    """The three parts cannot run into each other (none of them may hold a NUL)."""
    if any("\0" in part for part in (*one, *two)):
        return
    first, second = AttachmentKey(*one), AttachmentKey(*two)
    assert (first.digest == second.digest) == (one == two)
    assert len(first.digest) == 40


FULL = Attachment(
    boot_id="b",
    network="net",
    container_id="c",
    ifname="eth0",
    netns="/run/netns/x",
    cookie=7,
    addresses=(Address(address="10.1.2.3/24", gateway="10.1.2.1"),),
    routes=(Route(dst="0.0.0.0/0"),),
    ipam=IpamRecord(type="host-local", data_dir="/var/lib/cni/networks"),
    bgp=Bgp(family="vpn", rd=RD, label=16, export_rt=("64512:1",)),
    exporters=(ExporterUse(name="fabric", type="bagpipe", config={"url": "http://127.0.0.1:8082"}),),
)


def test_a_record_survives_the_disk() -> None:
    """And says which schema it is of."""
    text = FULL.model_dump_json(by_alias=True)
    assert json.loads(text)["schema"] == 1
    assert Attachment.model_validate_json(text) == FULL
    assert FULL.key == AttachmentKey("net", "c", "eth0")
    assert str(FULL.key) == "net/c/eth0"


def test_a_record_is_written_as_the_release_before_wrote_it() -> None:
    """An agent that is upgraded reads the records of the one before, and that one those of its successor, but for keys
    that are new."""
    document = json.loads(FULL.model_dump_json(by_alias=True))
    assert document["routes"] == [
        {"dst": "0.0.0.0/0", "gw": None, "mtu": None, "advmss": None, "priority": None, "table": None, "scope": None}
    ]
    assert document["addresses"] == [{"address": "10.1.2.3/24", "gateway": "10.1.2.1", "block": None}]
    assert document["ipam"] == {
        "type": "host-local", "data_dir": "/var/lib/cni/networks", "stdin": None, "environment": {},
    }  # fmt: skip
    before = {key: value for key, value in document.items() if key not in ("pod",)}
    assert Attachment.model_validate(before) == FULL


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"unknown": 1},
        {"bgp": {"family": "evpm"}},
        {"network": None},
        {"routes": [{"dst": "::/0", "unknown": 1}]},
    ],
)
def test_a_record_of_another_shape_is_refused(change: dict[str, object]) -> None:
    """A later version's record is not half understood."""
    with pytest.raises(ValidationError):
        Attachment.model_validate({**FULL.model_dump(by_alias=True), **change})


def test_what_is_passed_between_parts_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FULL.mac = "02:00:00:00:00:01"  # type: ignore[misc]
