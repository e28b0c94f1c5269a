"""Who forwards what is announced: our agent, an exporter's daemon, or nobody, and then ADD says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bgpcni.config.network import NetworkConfig, decode, parse
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import Address, Bgp
from bgpcni.node import plan


def config(**keys: Any) -> NetworkConfig:
    found, _ = parse(decode(json.dumps({"cniVersion": "1.0.0", "name": "n", "type": "bgpcni"} | keys).encode()))
    return found


EVPN = Bgp(family="evpn", vni=5001)


def test_one_owns_the_vxlan() -> None:
    """A daemon that has a data path of its own, else the agent if it learns routes; two daemons are refused."""
    assert plan.forwarded(config(), EVPN, {"exabgp": "routes"})[0].forwarder == "agent"
    assert plan.forwarded(config(), EVPN, {"exabgp": "routes", "bagpipe": "datapath"})[0].forwarder == "exporter"
    intent, warnings = plan.forwarded(config(), EVPN, {"x": "none"})
    assert (intent.forwarder, len(warnings)) == (None, 1)
    with pytest.raises(InvalidConfiguration, match="one and two would both own the VXLAN"):
        plan.forwarded(config(), EVPN, {"one": "datapath", "two": "datapath"})


@pytest.mark.parametrize(
    ("intent", "word"), [(Bgp(family="vpn"), "MPLS"), (EVPN.model_copy(update={"advertise": "subnet"}), "type 5")]
)
def test_what_is_announced_only_is_said(intent: Bgp, word: str) -> None:
    """No MPLS and no VRF here: ADD warns."""
    (warning,) = plan.forwarded(config(), intent, {"exabgp": "routes"})[1]
    assert word in warning
    assert "announced only" in warning


def test_a_gateway_of_evpn_is_anycast() -> None:
    """Where the agent has the VXLAN the bridge gets the MAC that it has on every node."""
    intent, _ = plan.forwarded(config(isGateway=True), EVPN, {"exabgp": "routes"})
    assert intent.anycast
    address = Address(address="10.1.2.3/24", gateway="10.1.2.1")
    bridge = plan.bridge_of(config(isGateway=True), [address], intent)
    assert (bridge.anycast_mac, bridge.gateways) == ("02:00:5e:00:13:89", ("10.1.2.1/24",))
    daemon, _ = plan.forwarded(config(isGateway=True), EVPN, {"bagpipe": "datapath"})
    assert not daemon.anycast
    assert plan.bridge_of(config(isGateway=True), [address], daemon).anycast_mac is None


def test_a_vrf_has_a_table_where_the_kernel_can() -> None:
    """Of the VRF's own number, as its label; without one there is a warning, and control plane alone."""
    routed = EVPN.model_copy(update={"vrf": "red", "l3vni": 4001, "advertise": "subnet"})
    labelled = Bgp(family="vpn", vrf="red")
    there, missing = plan.VrfHere(3), plan.VrfHere(3, "VRF")
    intent, warnings = plan.forwarded(config(), routed, {"exabgp": "routes"}, there)
    assert (intent.table, intent.label, warnings) == (182003, None, ())
    intent, warnings = plan.forwarded(config(), labelled, {"exabgp": "routes"}, there)
    assert (intent.table, intent.label, warnings) == (182003, 182003, ())
    for asked, imports, here in (
        (routed, "routes", missing), (labelled, "routes", missing), (labelled, "none", there),
    ):  # fmt: skip
        intent, (warning,) = plan.forwarded(config(), asked, {"x": imports}, here)
        assert intent.table is None
        assert "VRF red" in warning
        assert "announced only" in warning


@pytest.mark.parametrize("intent", [EVPN, Bgp(family="vpn")])
def test_a_daemon_with_a_data_path_of_its_own_knows_no_vrf(intent: Bgp) -> None:
    """BaGPipe, and FRR with its own EVPN: refused."""
    with pytest.raises(InvalidConfiguration, match=r"bgp\.vrf: bagpipe has a data path of its own"):
        plan.forwarded(config(), intent.model_copy(update={"vrf": "red"}), {"bagpipe": "datapath"}, plan.VrfHere(1))
