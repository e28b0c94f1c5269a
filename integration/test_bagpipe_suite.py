"""The bagpipe exporter against the real daemon: what every exporter promises, and what this one does besides."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bgpcni.exporter import Exporter, Reach, Wake
from bgpcni.model import Announcement, Endpoint, IpPrefixNlri, MacIpNlri, MulticastNlri, NodeFacts, VpnNlri
from bgpcni.testing import ExporterSuite
from bgpcni.testing.suite import Life, reached, shows
from bgpcni_bagpipe import BaGPipe as BaGPipeExporter
from integration.bagpipe import BaGPipe
from integration.lab import Lab
from integration.speakers import DaemonSpeaker, SpeakerInside, impostor

VNIS = {"net": 5001, "spared": 5002}
FALSE_PORT = 8083


class Daemon(DaemonSpeaker, SpeakerInside):
    """A daemon without a peer: what it would announce is in its looking glass."""

    daemon: BaGPipe

    def __init__(self, lab: Lab) -> None:
        super().__init__(lab, lab.namespace("bagpipe"))
        self.daemon = BaGPipe(lab, self.namespace, "127.0.0.1", "127.0.0.9", 64512)
        self._run_dir = lab.folder / "run"
        self._run_dir.mkdir()
        self._port = 8082
        self._started = False

    def exporter(self, wake: Wake) -> Exporter:
        if self._port == 8082 and not self._started:
            self.start()
        config = BaGPipeExporter.Config(url=f"http://127.0.0.1:{self._port}")
        facts = NodeFacts(run_dir=str(self._run_dir), data_dir=str(self._run_dir))
        return BaGPipeExporter("bagpipe", config, facts, wake)

    def route(self, number: int, network: str = "net") -> Announcement:
        high, low = divmod(number + 1, 256)
        return endpoint(f"02:00:00:00:{high:02x}:{low:02x}", f"10.5.{high}.{low}/16", network)

    def key(self, route: Announcement) -> str:
        assert route.endpoint is not None
        return f"{route.vni}/{route.endpoint.mac}/{route.endpoint.address}"

    def table(self) -> set[str]:
        return self.daemon.endpoints()

    def unwanted(self) -> Announcement:
        return endpoint("02:00:00:00:ee:ee", "10.5.99.99/16", export_rt=("4200000000:1",))

    def foreign(self) -> str:
        self.daemon.post("/attach_localport", **foreign("6001"))
        return "6001/02:00:00:00:ff:01/10.6.0.1/24"

    def start(self) -> None:
        super().start()
        self._started = True

    @contextmanager
    def impostor(self, answer: bytes) -> Iterator[None]:
        self._port = FALSE_PORT
        with impostor(self.call(socket.create_server, ("127.0.0.1", FALSE_PORT)), answer):
            yield
        self._port = 8082


def endpoint(
    mac: str,
    address: str,
    network: str = "net",
    *,
    export_rt: tuple[str, ...] | None = None,
    link: str = "",
) -> Announcement:
    vni = VNIS[network]
    prefix = f"{address.partition('/')[0]}/{128 if ':' in address else 32}"
    own = (f"64512:{vni}",)
    return Announcement(
        MacIpNlri("0:1", mac, prefix),
        network,
        "",
        export_rt=own if export_rt is None else export_rt,
        import_rt=own,
        vni=vni,
        endpoint=Endpoint("c1", "eth0", mac, address, None, "cni0", link or f"v{mac.replace(':', '')}", 7),
    )


def foreign(vpn: str, **more: object) -> dict[str, object]:
    return {
        "vpn_type": "evpn",
        "vpn_instance_id": vpn,
        "vni": int(vpn),
        "mac_address": "02:00:00:00:ff:01",
        "ip_address": "10.6.0.1/24",
        "gateway_ip": "10.6.0.254",
        "linuxbr": "br6",
        "local_port": {"linuxif": "tap1"},
        "import_rt": [f"64512:{vpn}"],
        "export_rt": [f"64512:{vpn}"],
    } | more


@pytest.fixture
def speaker(lab: Lab) -> Daemon:
    return Daemon(lab)


class TestBaGPipe(ExporterSuite):
    @pytest.fixture
    def speaker(self, speaker: Daemon) -> Daemon:
        return speaker


@pytest.fixture
def life(speaker: Daemon) -> Life:
    return Life(speaker)


def test_both_addresses_of_a_container_come_and_go(speaker: Daemon, life: Life) -> None:
    """IPv4 and IPv6 of one MAC are two endpoints; one can go alone, and the other stays."""
    four = endpoint("02:00:00:00:00:01", "10.5.0.1/16")
    six = endpoint("02:00:00:00:00:01", "2001:db8::1/64")
    reached(life.announce(four, six))
    shows(speaker, four, six)
    life.withdraw(four)
    shows(speaker, six)
    life.withdraw(six)
    shows(speaker)
    assert speaker.daemon.get("/looking-glass/summary")["vpn_instances_count"] == 0


def test_other_route_targets_are_refused_while_the_vpn_lives(speaker: Daemon, life: Life) -> None:
    """Route targets are the VPN's: an attach with others would make its other routes vanish, so it is refused."""
    first, second = speaker.route(0), endpoint("02:00:00:00:00:99", "10.5.0.99/16", export_rt=("64512:7",))
    reached(life.announce(first))
    (outcome,) = life.announce(second)
    assert outcome.reach is Reach.REFUSED
    assert "64512:5001" in outcome.reason
    assert "64512:7" in outcome.reason
    shows(speaker, first)
    life.withdraw(first)
    reached(life.announce(second))
    shows(speaker, second)


def test_an_address_that_moved_is_announced_for_its_new_owner(speaker: Daemon, life: Life) -> None:
    """What an earlier life left in the way of an address is pruned, and the address is announced again."""
    old = endpoint("02:00:00:00:00:01", "10.5.0.1/16")
    new = endpoint("02:00:00:00:00:02", "10.5.0.1/16")
    reached(life.announce(old))
    later = Life(speaker)
    (outcome,) = later.announce(new)
    assert outcome.reach is Reach.REFUSED
    assert "already bound" in outcome.reason
    before = later.wake.emptied
    later.prune(new)
    assert later.wake.emptied > before
    reached(later.announce(new))
    shows(speaker, new)


def test_a_poisoned_address_is_healed(speaker: Daemon, life: Life) -> None:
    """Somebody detached by another spelling of the address and attached by it: our route can still be withdrawn."""
    route, other = speaker.route(0), speaker.route(1)
    reached(life.announce(route, other))
    assert route.endpoint is not None
    mac, link = route.endpoint.mac, route.endpoint.host_veth
    bad = foreign("5001", mac_address=mac, ip_address=f"{route.nlri.prefix}", local_port={"linuxif": link})
    for path in ("/detach_localport", "/attach_localport"):
        with pytest.raises(RuntimeError):
            speaker.daemon.post(path, **bad)
    (outcome,) = life.withdraw(route)
    assert outcome.reach >= Reach.ACCEPTED, outcome.reason
    shows(speaker, other)


def test_what_a_failed_attach_left_is_cleared(speaker: Daemon, life: Life) -> None:
    """An empty VPN that cannot work is taken away before the first endpoint is attached."""
    life.withdraw(speaker.route(0))
    with pytest.raises(RuntimeError):
        speaker.daemon.post("/attach_localport", **foreign("5001", linuxbr="cni0", mac_address="02-00-00-00-ff-01-02"))
    with pytest.raises(RuntimeError):
        speaker.daemon.post("/attach_localport", **foreign("5001", linuxbr="cni0", advertise_subnet=True))
    there = speaker.daemon.get("/looking-glass/vpns/instances")
    assert [entry["id"] for entry in there] == ["5001"]
    assert speaker.daemon.get("/looking-glass/vpns/instances/5001")["name"] == "EVI-1"
    reached(life.announce(speaker.route(0)))
    assert speaker.daemon.get("/looking-glass/vpns/instances/5001")["name"] == "EVI-2"
    shows(speaker, speaker.route(0))


def test_a_vpn_of_ipv4(speaker: Daemon, life: Life) -> None:
    """L3VPN endpoints are attached to an instance named after the network; IPv6 there is refused in words."""
    base = endpoint("02:00:00:00:00:01", "10.5.0.1/16")
    nlri = VpnNlri.of("10.5.0.1/32", "0:3")
    route = Announcement(
        nlri, "net", "", import_rt=base.import_rt, export_rt=base.export_rt, label=18, endpoint=base.endpoint
    )
    reached(life.announce(route))
    assert speaker.table() == {"ipvpn-net/02:00:00:00:00:01/10.5.0.1/16"}
    life.prune(route)
    assert speaker.table() == {"ipvpn-net/02:00:00:00:00:01/10.5.0.1/16"}
    life.withdraw(route)
    assert speaker.table() == set()


def test_type_3_is_the_daemons_own(speaker: Daemon, life: Life) -> None:
    """The exporter is content with the multicast route, which BaGPipe announces by itself; not with type 5."""
    three = Announcement(MulticastNlri("192.0.2.1:1", "192.0.2.1"), "net", "", vni=5001)
    five = Announcement(IpPrefixNlri("192.0.2.1:1", "10.5.0.0/16"), "net", "", vni=5001)
    outcomes = life.announce(three, five)
    assert [outcome.reach for outcome in outcomes] == [Reach.ACCEPTED, Reach.REFUSED]
    assert "ip-prefix" in outcomes[1].reason
