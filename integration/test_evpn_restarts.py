"""EVPN while its parts die and come back: what is in the kernels forwards on."""

from __future__ import annotations

import os
import signal

import pytest

from bgpcni.testing.patience import SECONDS
from integration import evpn
from integration.evpn import Container, Fabric, Pings, connected
from integration.gobgp import GoBGP
from integration.lab import Frr, Lab, Neighbor, Node, until


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


@pytest.fixture
def fabric(lab: Lab, frr: Frr) -> Fabric:
    return Fabric(lab, frr, 2)


@pytest.fixture
def pair(fabric: Fabric) -> tuple[Container, Container]:
    """A container on each node; they reach each other."""
    a, b = fabric.add(0, "a"), fabric.add(1, "b")
    connected(a, b)
    return a, b


class Deletions:
    """What the kernel of a node says is deleted from its forwarding and neighbour tables."""

    def __init__(self, node: Node) -> None:
        self.log = node.folder / "deletions.log"
        self.log.write_text("")
        with self.log.open("w") as out:
            self.process = node.namespace.popen("bridge", "monitor", "fdb", stdout=out)

    def stop(self) -> list[str]:
        self.process.terminate()
        self.process.wait(SECONDS)
        return [line for line in self.log.read_text().splitlines() if "Deleted" in line and evpn.DEVICE in line]


def speaker(node: Node) -> int:
    """ExaBGP's pid: the process of the node whose command line is the engine's."""
    for pid in node.namespace.pids():
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"bgpcni_exabgp.engine" in file.read():
                return pid
    raise AssertionError(f"no ExaBGP on {node.address}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "upgraded"])
def test_an_agents_restart_loses_no_ping(
    fabric: Fabric, pair: tuple[Container, Container], number: signal.Signals
) -> None:
    """The next agent takes device and entries over as they are; what changed meanwhile is put right, once known."""
    one, two = fabric.nodes
    a, b = pair
    gone = fabric.add(1, "gone")
    until(lambda: gone.mac in evpn.remote(one), "the third container known")
    device, before = evpn.index(one), evpn.remote(one)
    pings, deletions = Pings(a.space, b.four), Deletions(one)
    one.kill_agent(number)
    gone.delete()
    late = fabric.add(1, "late")
    one.start_agent()
    until(lambda: evpn.remote(one) == {b.mac: two.address, late.mac: two.address}, "the entries of now")
    until(lambda: evpn.neighbours(one) == {ip: x.mac for x in (a, b, late) for ip in x.answer.ips}, "the addresses")
    sent, lost = pings.stop()
    print(f"{sent} pings while the agent was away and came back, {lost} lost")
    assert sent
    assert lost == 0
    assert evpn.index(one) == device
    assert not [line for line in deletions.stop() if b.mac in line]
    assert b.mac in before
    connected(a, late)
    for container in (a, b, late):
        container.delete()
    for node in fabric.nodes:
        evpn.empty(node)


def test_a_killed_exabgp_keeps_what_it_had_learned(fabric: Fabric, pair: tuple[Container, Container]) -> None:
    """This side's entries stay over the speaker's restart; announced routes are back with it."""
    one, two = fabric.nodes
    a, b = pair
    pings, deletions = Pings(a.space, b.four), Deletions(one)
    pid = speaker(one)
    os.kill(pid, signal.SIGKILL)
    until(lambda: speaker(one) != pid, "another ExaBGP")
    until(lambda: one.operator("routes").code == 0 and one.operator("peers").code == 0, "everything announced again")
    until(lambda: evpn.remote(two) == {a.mac: one.address}, "the route at the other node")
    until(lambda: not any(r["stale"] for r in one.operator("routes", "--received").document["received"]), "told again")
    sent, lost = pings.stop()
    print(f"{sent} pings while ExaBGP was killed, {lost} lost (FRR keeps no EVPN routes over a restart)")
    assert deletions.stop() == []
    assert evpn.remote(one) == {b.mac: two.address}
    connected(a, b)


def test_a_restarted_reflector_stops_nobody(fabric: Fabric, pair: tuple[Container, Container], frr: Frr) -> None:
    """While the reflector is away, and when it is back, the nodes forward to each other."""
    one, two = fabric.nodes
    a, b = pair
    pings = Pings(a.space, b.four)
    deletions = [Deletions(node) for node in fabric.nodes]
    frr.restart(signal.SIGTERM)
    for node in fabric.nodes:
        frr.wait_established(node.address)
    until(lambda: len(frr.evpn_routes("macip")) == 4, "both containers at FRR again")
    for node in fabric.nodes:
        until(
            lambda node=node: (
                not any(  # type: ignore[misc]
                    r["stale"] for r in node.operator("routes", "--received").document["received"]
                )
            ),
            "told again",
        )
    sent, lost = pings.stop()
    print(f"{sent} pings while FRR restarted, {lost} lost")
    assert [line for each in deletions for line in each.stop()] == []
    assert lost == 0
    assert (evpn.remote(one), evpn.remote(two)) == ({b.mac: two.address}, {a.mac: one.address})
    connected(a, b)


def test_what_somebody_deletes_is_made_again(fabric: Fabric, pair: tuple[Container, Container]) -> None:
    """Somebody deletes entries, or the VXLAN device: `sync` finds the ones, the other is there again at once."""
    one, two = fabric.nodes
    a, b = pair
    one.namespace.run("bridge", "fdb", "delete", b.mac, "dev", evpn.DEVICE, "self")
    one.namespace.ip("neigh", "delete", b.four, "dev", evpn.BRIDGE)
    assert evpn.remote(one) == {}
    one.operator("sync")
    until(lambda: evpn.remote(one) == {b.mac: two.address} and b.four in evpn.neighbours(one), "found by sync")
    one.namespace.ip("link", "delete", evpn.DEVICE)
    until(lambda: evpn.remote(one) == {b.mac: two.address} and evpn.flood(one) == {two.address}, "the entries")
    connected(a, b)


def test_a_reload_stops_nobody(fabric: Fabric, pair: tuple[Container, Container]) -> None:
    """Another hold time, so another session: the entries stay until they are told again, and after."""
    one, two = fabric.nodes
    a, b = pair
    pings, deletions = Pings(a.space, b.four), Deletions(one)
    one.configure(bgp={"hold_time": 60})
    assert one.operator("reload").code == 0
    until(lambda: one.operator("routes").code == 0 and one.operator("peers").code == 0, "everything announced again")
    until(lambda: not any(r["stale"] for r in one.operator("routes", "--received").document["received"]), "told again")
    sent, lost = pings.stop()
    print(f"{sent} pings over a reload, {lost} lost")
    assert deletions.stop() == []
    assert evpn.remote(one) == {b.mac: two.address}
    connected(a, b)


def test_a_reload_to_another_speaker_goes_on_learning(
    fabric: Fabric, pair: tuple[Container, Container], lab: Lab, frr: Frr
) -> None:
    """From ExaBGP to gobgpd and back, while packets flow: no entry is deleted meanwhile, and what comes and goes at the
    other node afterwards is learned through the new one."""
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install bgpcni[gobgp]")
    one, two = fabric.nodes
    a, b = pair
    second = "198.18.1.3"
    one.namespace.ip("address", "add", f"{second}/24", "dev", "uplink")
    frr.add_neighbor(Neighbor(second, frr.asn, reflect=True))
    daemon = GoBGP(lab, one.namespace, second, one.peer, frr.asn)
    daemon.start()
    frr.wait_established(second)

    def through(exporter: str) -> bool:
        """Whether all that is announced and all that is learned goes through this one alone."""
        routes = one.routes()
        received = one.operator("routes", "--received").document["received"]
        return {name for route in routes for name in route["exporters"]} == {exporter} == {
            route["exporter"] for route in received
        } and not any(route["stale"] for route in received)

    table = {"gobgp": {"target": daemon.target}}
    pings, deletions = Pings(a.space, b.four), Deletions(one)
    one.configure(exporters=table, default_exporters=[], networks={"tenant-a": {"exporters": ["gobgp"]}})
    assert one.operator("reload").code == 0
    until(lambda: through("gobgp"), "everything through gobgpd")
    assert evpn.remote(one) == {b.mac: two.address}
    assert deletions.stop() == []
    late = fabric.add(1, "late")
    until(lambda: evpn.remote(one) == {b.mac: two.address, late.mac: two.address}, "what came afterwards")
    connected(a, late)
    late.delete()
    until(lambda: evpn.remote(one) == {b.mac: two.address}, "what went afterwards")
    assert evpn.flood(one) == {two.address}

    deletions = Deletions(one)
    one.configure()
    assert one.operator("reload").code == 0
    until(lambda: through("exabgp"), "everything through ExaBGP again")
    assert deletions.stop() == []
    assert evpn.remote(one) == {b.mac: two.address}
    sent, lost = pings.stop()
    print(f"{sent} pings over two changes of the speaker, {lost} lost")
    assert lost == 0
    connected(a, b)
