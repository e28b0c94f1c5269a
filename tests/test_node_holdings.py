"""`bgpcni ipam check`: what contradicts between leases, records and the kernel, and what only looks so."""

from __future__ import annotations

from typing import Any

import pytest

from bgpcni.model import Address, Attachment, Bgp, ExporterUse, State
from bgpcni.node.holdings import Holding, Lease, Picture, Stranger, contradictions

DIR = "/var/lib/cni/networks"


def record(name: str = "c1", address: str = "10.1.2.3", state: State = State.UP, **changed: Any) -> Holding:
    attachment = Attachment(
        boot_id="b", network=changed.pop("network", "a"), container_id=name, ifname="eth0", netns="", bridge="cni0",
        addresses=(Address(address=f"{address}/{64 if ':' in address else 24}"),),
        bgp=changed.pop("bgp", Bgp()), exporters=(ExporterUse(name="x", type="x"),),
    )  # fmt: skip
    holding = Holding(state, attachment, frozenset({address}), DIR, False, frozenset({address}))
    return holding._replace(**changed)


def lease(name: str = "c1", address: str = "10.1.2.3", ifname: str | None = "eth0", network: str = "a") -> Lease:
    return Lease(DIR, network, address, (name, ifname))


def codes(*, leases: Any = (), holdings: Any = (), **more: Any) -> list[tuple[str, str]]:
    found = contradictions(Picture(tuple(leases), tuple(holdings), **more))
    assert all(one.text for one in found)
    return [(one.code, one.address) for one in found]


@pytest.mark.parametrize("address", ["10.1.2.3", "2001:db8::3"])
def test_what_fits(address: str) -> None:
    """A lease of old versions names no interface; a lease that an ADD is just taking; a container of another plugin;
    a held address that was handed to a new container."""
    mine, own = record(address=address), lease(address=address)
    assert codes(leases=[own], holdings=[mine]) == []
    assert codes(leases=[own._replace(owner=("c1", None))], holdings=[mine]) == []
    adding = record(address=address, state=State.ADDING, addresses=frozenset())
    assert codes(leases=[own], holdings=[adding]) == []
    assert codes(leases=[own], strangers=(Stranger("veth1", frozenset({address}), False),)) == []
    assert codes(leases=[own._replace(ours=False)]) == []  # a network that only another plugin has
    held = record("old", address, State.LEAVING, inside=None)
    assert codes(leases=[own], holdings=[mine, held]) == []
    assert codes(holdings=[mine._replace(data_dir=None)]) == []
    assert codes(leases=[own], holdings=[mine._replace(inside=None)]) == []


@pytest.mark.parametrize("address", ["10.1.2.3", "2001:db8::3"])
def test_what_contradicts(address: str) -> None:
    mine, own = record(address=address), lease(address=address)
    other = lease("c2", address)
    assert codes(leases=[own]) == [("lease-without-owner", address)]
    assert codes(leases=[own._replace(owner=("", None))]) == [("empty-lease", address)]
    assert codes(holdings=[mine]) == [("no-lease", address)]
    assert codes(holdings=[mine._replace(state=State.LEAVING)]) == [("no-lease", address)]
    assert codes(leases=[other], holdings=[mine]) == [("lease-without-owner", address), ("lease-of-another", address)]
    assert codes(leases=[own, lease(address="10.1.2.9")], holdings=[mine]) == [("lease-not-recorded", "10.1.2.9")]
    assert codes(leases=[own], holdings=[mine._replace(inside=frozenset())]) == [("not-in-kernel", address)]
    assert codes(leases=[own], holdings=[mine._replace(gone=True, inside=None)]) == [("orphan", address)]
    assert codes(strangers=(Stranger("veth1", frozenset({address}), True),)) == [("no-record", address)]
    assert codes(broken=("x.json: not JSON",)) == [("unreadable-record", "")]
    assert codes(claimed=frozenset({mine.attachment.key})) == [("claim-without-record", "")]


def test_an_address_of_two_containers() -> None:
    """On one bridge, or as one route; not where neither is shared, as in two VRFs."""
    one, two = record(), record("c2", network="b")
    leases = [lease(), lease("c2", network="b")]
    assert codes(leases=leases, holdings=[one, two]) == [("address-twice", "10.1.2.3")]
    apart = two._replace(attachment=two.attachment.model_copy(update={"bridge": "br2"}))
    assert codes(leases=leases, holdings=[one, apart]) == [("address-twice", "10.1.2.3")]
    vpn = Bgp(family="vpn", vrf="red")
    inside = apart._replace(attachment=apart.attachment.model_copy(update={"bgp": vpn}))
    assert codes(leases=leases, holdings=[one, inside]) == []
    assert codes(leases=leases, holdings=[one, two._replace(state=State.LEAVING)]) == []
