"""What our encoders put on the wire, as others read it: tshark field by field, and FRR in its table."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from bgpcni.exporter import Reach
from bgpcni.model import Announcement, Family, IpPrefixNlri, MacIpNlri, MulticastNlri, Nlri, UnicastNlri, VpnNlri
from integration.exabgp_bench import Bench, Speaker, bench, facts, unicast
from integration.frr_table import meant, table
from integration.lab import Frr, Lab, until

RT = ("64512:5001", "4200000000:7", "192.0.2.9:3")
Fields = dict[str, list[str]]


def marked(place: Bench) -> dict[int, Announcement]:
    """One route of each kind, by the number in the community that marks it, so that each has an UPDATE of its own."""
    mac, evpn = "02:00:00:00:00:01", Family.L2VPN_EVPN
    rds = (f"{place.address}:7", "64512:70000", "4200000000:9")
    nlris: list[Nlri] = [
        UnicastNlri.of("10.1.2.3/32"),
        UnicastNlri.of("10.1.32.0/20"),
        UnicastNlri.of("0.0.0.0/0"),
        UnicastNlri.of("2001:db8:1::/64"),
        UnicastNlri.of("2001:db8:1::5/128"),
        *(VpnNlri.of("10.9.0.0/24", rd) for rd in rds),
        *(VpnNlri.of("2001:db8:9::/64", rd) for rd in rds),
        MacIpNlri(rds[0], mac),
        MacIpNlri(rds[1], mac, "10.9.0.5/32"),
        MacIpNlri(rds[2], mac, "2001:db8:9::5/128"),
        MulticastNlri(rds[0], place.address),
        IpPrefixNlri(rds[0], "10.9.1.0/24"),
        IpPrefixNlri(rds[1], "2001:db8:9:1::/64"),
    ]
    return {
        number: Announcement(
            nlri,
            "net",
            place.address6 if nlri.family in (Family.IPV6_UNICAST, Family.IPV6_VPN) else place.address,
            export_rt=RT,
            communities=(f"64512:{number}", "4200000000:1:2"),
            vni=5000 + number if nlri.family is evpn else None,
            label=4000 + number if nlri.kind == "vpn" else None,
            mobility=number if nlri.kind == "mac-ip" else 0,
        )
        for number, nlri in enumerate(nlris, 1)
    }


def flatten(value: Any, into: Fields) -> Fields:
    for key, inner in value.items() if isinstance(value, dict) else ():
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, dict):
                flatten(one, into)
            else:
                into[key.removeprefix("bgp.").removeprefix("update.path_attribute.")].append(str(one))
    return into


def captured(file: Path) -> Iterator[Fields]:
    """The UPDATEs of a capture, each as its fields."""
    done = subprocess.run(
        ["tshark", "-r", file, "-Y", "bgp.type == 2", "-T", "json", "--no-duplicate-keys"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip  # a file that is still written to ends in the middle of a packet
    for packet in json.loads(done.stdout or "[]"):
        messages = packet["_source"]["layers"]["bgp"]
        for message in messages if isinstance(messages, list) else [messages]:
            yield flatten(message, defaultdict(list))


def mark_of(fields: Fields) -> int | None:
    pairs = list(zip(fields["community_as"], fields["community_value"], strict=True))
    return int(pairs[0][1]) if pairs and pairs[0][0] == "64512" else None


def expected(route: Announcement) -> Fields:
    """The fields that tshark should see."""
    nlri, six = route.nlri, ":" in route.next_hop
    fields: Fields = {
        "origin": ["0"],
        "local_pref": ["100"],
        "ext_com.value_as2": ["64512"],
        "ext_com.value_an4": ["5001"],
        "ext_com.value_as4": ["4200000000"],
        "ext_com.value_IP4": ["192.0.2.9"],
        "ext_com.value_an2": ["7", "3"],
        "large_communities.ga": ["4200000000"],
        "large_communities.ldp1": ["1"],
        "large_communities.ldp2": ["2"],
    }
    if nlri.family is Family.IPV4_UNICAST:
        return fields | {"next_hop": [route.next_hop], "nlri_prefix": [_address(nlri)], "prefix_length": [_bits(nlri)]}
    fields["mp_reach_nlri.next_hop.ipv6" if six else "mp_reach_nlri.next_hop.ipv4"] = [route.next_hop]
    if nlri.family is Family.IPV6_UNICAST:
        return fields | {"mp_reach_nlri_ipv6_prefix": [_address(nlri)], "prefix_length": [_bits(nlri)]}
    if nlri.kind == "vpn":
        key = "mp_reach_nlri_ipv6_prefix" if six else "mp_reach_nlri_ipv4_prefix"
        bits = str(88 + int(_bits(nlri)))
        stack = [f"{route.label} (bottom)"]
        return fields | {key: [_address(nlri)], "prefix_length": [bits], "label_stack": stack, "rd": [str(nlri.rd)]}
    assert nlri.kind != "unicast"
    # an automatic route target of RFC 8365 section 5.1.2.1, for tshark: its number is an identifier of a service
    fields["ext_com.local_admin.service_id"] = fields.pop("ext_com.value_an4")
    fields |= {"ext_com.tunnel_type": ["8"], "evpn.nlri.rd": [rd_octets(str(nlri.rd))], "evpn.nlri.etag": ["0"]}
    if nlri.kind == "multicast":
        return fields | {
            "evpn.nlri.rt": ["3"],
            "evpn.nlri.ip.addr": [str(nlri.originator)],
            "pmsi.tunnel.type": ["6"],
            "pmsi.ingress_rep_ip": [route.next_hop],
            "evpn.nlri.vni": [str(route.vni)],
        }
    fields |= {"evpn.nlri.esi": ["00:00:00:00:00:00:00:00:00:00"]}
    address = "evpn.nlri.ipv6.addr" if ":" in str(nlri.prefix) else "evpn.nlri.ip.addr"
    if nlri.prefix:
        fields |= {address: [_address(nlri)]}
    if nlri.kind == "ip-prefix":
        mac = "02:00:5e:" + (route.vni or 0).to_bytes(3, "big").hex(":")
        gateway = (
            {"evpn.nlri.ipv6.gtw_addr": ["::"]} if ":" in str(nlri.prefix) else {"evpn.nlri.ipv4.gtw_addr": ["0.0.0.0"]}
        )
        fields |= gateway | {"evpn.nlri.rt": ["5"], "evpn.nlri.prefix_len": [_bits(nlri)]}
        return fields | {"ext_com_evpn.esi.router_mac": [mac]}
    return fields | {
        "evpn.nlri.rt": ["2"],
        "evpn.nlri.mac_addr": [str(nlri.mac)],
        "evpn.nlri.maclen": ["48"],
        "evpn.nlri.iplen": [_bits(nlri) if nlri.prefix else "0"],
        "ext_com_evpn.mmac.seq": [str(route.mobility)],
    }


def rd_octets(text: str) -> str:
    admin, _, number = text.partition(":")
    if "." in admin:
        return (b"\0\1" + ip_address(admin).packed + int(number).to_bytes(2, "big")).hex(":")
    if int(admin) < 1 << 16:
        return (b"\0\0" + int(admin).to_bytes(2, "big") + int(number).to_bytes(4, "big")).hex(":")
    return (b"\0\2" + int(admin).to_bytes(4, "big") + int(number).to_bytes(2, "big")).hex(":")


def _address(nlri: Nlri) -> str:
    return str(ip_network(str(nlri.prefix)).network_address)


def _bits(nlri: Nlri) -> str:
    return str(nlri.prefix).partition("/")[2]


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


@pytest.mark.skipif(shutil.which("tshark") is None, reason="not installed: tshark")
def test_tshark_and_frr_read_what_was_meant(lab: Lab, frr: Frr) -> None:
    """Every field of every family's routes, by two independent readers."""
    node = bench(lab, frr)
    speaker = Speaker(lab, node.namespace, facts(node))
    routes = marked(node)
    file, log = lab.folder / "wire.pcap", lab.folder / "tshark.log"
    capture = node.namespace.popen("tshark", "-q", "-i", "uplink", "-f", "tcp port 179", "-w", file, log=log)
    lab.callback(capture.wait)
    lab.callback(capture.kill)
    until(lambda: "Capturing" in log.read_text(), "tshark's capture")
    speaker.announce(*routes.values())
    speaker.prune(*routes.values())
    speaker.wait(Reach.ACKED, *routes.values())
    until(lambda: table(frr) == {r.nlri: meant(r) for r in routes.values()}, "FRR's table")
    seen: dict[int | None, Fields] = {}

    def whole() -> bool:
        seen.update({mark_of(fields): fields for fields in captured(file)})
        if set(routes) <= set(seen):
            return True
        frr.text("clear bgp * soft in")  # the capture began too late, or is not written yet: all again
        return False

    until(whole, "all routes in the capture", step=0.5)
    for number, route in routes.items():
        wanted = expected(route)
        found = seen[number]
        assert {key: found[key] for key in wanted} == wanted, route.nlri
        if route.vni:  # as a VNI or, depending on its last bit, as an MPLS label of 20 bits; FRR sees all 24
            shown = {v for key in found if "vni" in key or "mpls_l" in key for v in found[key]}
            assert shown & {str(route.vni), str(route.vni >> 4)}, found


@pytest.mark.parametrize("asn", [64513, 4200000001])
def test_an_external_peer_reads_what_was_meant(lab: Lab, frr: Frr, asn: int) -> None:
    """The same over eBGP, from a two-octet and a four-octet AS."""
    node = bench(lab, frr, asn=asn)
    speaker = Speaker(lab, node.namespace, facts(node))
    routes = list(marked(node).values())
    speaker.announce(*routes)
    speaker.prune(*routes)
    speaker.wait(Reach.ACKED, *routes)
    until(lambda: table(frr) == {route.nlri: meant(route, asn) for route in routes}, "FRR's table")


def test_the_routes_of_the_family_that_a_peer_shows_are_all_there_are(lab: Lab, frr: Frr) -> None:
    """A route that changes all it can change is the same route, with the new values only."""
    node = bench(lab, frr)
    speaker = Speaker(lab, node.namespace, facts(node))
    first = unicast(node, "10.1.2.3/32", communities=("64512:1",), export_rt=RT)
    second = unicast(node, "10.1.2.3/32", communities=("64512:2", "1:2:3"), export_rt=("64512:9",))
    speaker.announce(first)
    speaker.prune(first)
    speaker.announce(second)
    speaker.wait(Reach.ACKED, second)
    until(lambda: table(frr) == {second.nlri: meant(second)}, "the second form alone")
