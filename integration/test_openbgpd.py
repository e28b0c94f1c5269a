"""OpenBGPD as a neighbour, of another AS with a number of four octets."""

from __future__ import annotations

from bgpcni.exporter import Reach
from bgpcni.model import Family, Neighbor, UnicastNlri
from integration.exabgp_bench import Bench, Speaker, facts, unicast
from integration.lab import Lab, link, until
from integration.openbgpd import OpenBGPD

ASN = 4200000001
CONFIG = """
AS {asn}
router-id {peer}
network 172.16.1.0/24
network 2001:db8:16::/48
neighbor {address} {{
    remote-as {own}
    announce IPv4 unicast
    announce IPv6 unicast
}}
allow from any
allow to any
"""


def test_routes_go_both_ways(lab: Lab) -> None:
    """IPv4 and IPv6 routes are announced and withdrawn, those of OpenBGPD are learned with its AS, and an
    OpenBGPD that was restarted has everything again."""
    families = (Family.IPV4_UNICAST, Family.IPV6_UNICAST)
    place = Bench(
        lab.namespace("near"), lab.folder / "near", 64512, ASN, families,
        "198.18.91.2", "198.18.91.1", "2001:db8:18:91::2", "2001:db8:18:91::1",
    )  # fmt: skip
    place.run_dir.mkdir(mode=0o700)
    far = lab.namespace("far")
    here = (f"{place.address}/24", f"{place.address6}/64")
    link(place.namespace, far, "uplink", "far", here, (f"{place.peer}/24", f"{place.peer6}/64"))
    config = CONFIG.format(asn=ASN, peer=place.peer, address=place.address, own=place.asn)
    daemon = OpenBGPD(lab, far, config)
    daemon.start()
    speaker = Speaker(lab, place.namespace, facts(place, Neighbor(place.peer, ASN, families, 90)))
    ears = speaker.listen()
    routes = [unicast(place, "10.1.2.3/32", communities=("64512:1", "64512:1:2")), unicast(place, "2001:db8:1::/64")]
    speaker.announce(*routes)
    speaker.prune(*routes)
    speaker.wait(Reach.ACKED, *routes)
    own, theirs = {"10.1.2.3/32", "2001:db8:1::/64"}, {"172.16.1.0/24", "2001:db8:16::/48"}
    until(lambda: daemon.prefixes() == own | theirs, "our routes at OpenBGPD")
    until(lambda: {nlri.prefix for nlri in ears.nlris()} == theirs, "its routes here")
    assert ears.of(UnicastNlri.of("172.16.1.0/24")).attributes.as_path == (ASN,)
    daemon.restart()
    until(lambda: daemon.prefixes() == own | theirs, "our routes at the next OpenBGPD")
    speaker.withdraw(routes[0])
    until(lambda: daemon.prefixes() == theirs | {"2001:db8:1::/64"}, "the end of one route")
