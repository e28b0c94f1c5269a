"""FRR with its own kernel's EVPN as the far router: in a namespace, and in a container."""

from __future__ import annotations

from integration import evpn
from integration.evpn import Capture, Fabric
from integration.lab import Frr, Lab, Namespace, link, until

VTEP = "198.18.255.1"
HOST_MAC = "02:00:00:00:0f:01"
HOST4, HOST6 = "10.1.2.200", "2001:db8:1:2::200"


def make_router(lab: Lab, frr: Frr) -> Namespace:
    """A VTEP of FRR's: bridge and VXLAN device as its documentation has them, and one host behind it."""
    place = frr.namespace
    place.ip("address", "add", f"{VTEP}/32", "dev", "lo")
    place.ip("link", "add", "br5001", "type", "bridge")
    vxlan = ("id", evpn.VNI, "local", VTEP, "dstport", 4789, "nolearning")
    place.ip("link", "add", evpn.DEVICE, "type", "vxlan", *vxlan)
    place.ip("link", "set", evpn.DEVICE, "master", "br5001", "addrgenmode", "none")
    place.ip("link", "set", evpn.DEVICE, "type", "bridge_slave", "neigh_suppress", "on", "learning", "off")
    for device in ("br5001", evpn.DEVICE):
        place.ip("link", "set", device, "up")
    host = lab.namespace("host")
    link(place, host, "tohost", "eth0", (), (f"{HOST4}/24", f"{HOST6}/64"))
    host.ip("link", "set", "eth0", "address", HOST_MAC)
    place.ip("link", "set", "tohost", "master", "br5001")
    frr.configure(f"router bgp {frr.asn}", "address-family l2vpn evpn", "advertise-all-vni", "exit-address-family")
    return host


def reaches(place: Namespace, *addresses: str) -> bool:
    return all(place.ping(address, seconds=1) for address in addresses)


def test_containers_and_a_host_behind_frr_are_one_network(lab: Lab, frr: Frr) -> None:
    """They reach each other both ways, over IPv4 and IPv6; each side has the other's routes, and loses them."""
    host = make_router(lab, frr)
    fabric = Fabric(lab, frr, 1)
    node = fabric.nodes[0]
    a = fabric.add(0, "a")
    until(lambda: evpn.flood(node) == {VTEP}, "FRR's type 3")
    until(lambda: reaches(a.space, HOST4, HOST6), "the container reaches the host")
    until(lambda: reaches(host, a.four, a.six), "the host reaches the container")
    until(lambda: evpn.remote(node).get(HOST_MAC) == VTEP, "FRR's type 2")
    kernel = frr.json(f"show evpn mac vni {evpn.VNI} mac {a.mac}", "zebra")
    assert kernel[a.mac]["remoteVtep"] == node.address
    # FRR's kernel answers for the container: it has its address
    until(lambda: frr.json(f"show evpn arp-cache vni {evpn.VNI}", "zebra").get(a.four, {}).get("mac") == a.mac, "ARP")
    host.ip("neigh", "flush", "dev", "eth0")
    with Capture(node).running() as capture:
        assert reaches(host, a.four, a.six)
    assert [f for f in capture.resolutions([a.four, a.six]) if f.source == a.mac and "Reply" in f.words] == []
    a.delete()
    until(
        lambda: a.mac not in frr.json(f"show evpn mac vni {evpn.VNI}", "zebra").get("macs", {}), "FRR forgets the MAC"
    )
    evpn.empty(node)


def test_a_host_that_moves_behind_frr_is_followed(lab: Lab, frr: Frr) -> None:
    """A MAC that FRR learns on its own side, after it was a container's, wins by its sequence; and back again."""
    host = make_router(lab, frr)
    fabric = Fabric(lab, frr, 1)
    node = fabric.nodes[0]
    a = fabric.add(0, "a")
    until(lambda: evpn.flood(node) == {VTEP}, "FRR's type 3")
    b = fabric.add(0, "b", mac="02:00:00:00:00:77")
    until(lambda: frr.json(f"show evpn mac vni {evpn.VNI} mac {b.mac}", "zebra"), "FRR knows the MAC")
    b.delete()
    host.ip("link", "set", "eth0", "address", "02:00:00:00:00:77")
    until(lambda: reaches(host, a.four), "the host talks with the MAC")
    until(lambda: evpn.remote(node).get("02:00:00:00:00:77") == VTEP, "the MAC is behind FRR")
    b = fabric.add(0, "b", mac="02:00:00:00:00:77")
    [route] = [r for r in node.routes() if r["mac"] == b.mac and r["prefix"] == f"{b.four}/32"]
    table = frr.text(f"show bgp l2vpn evpn route rd {route['rd']} type macip")
    assert "MM:" in table
