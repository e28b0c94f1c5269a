"""In chains with the stock plugins: first, with others behind us, and later, behind another's interface.

Dual stack throughout, run through our own libcni (`bgpcni attach`) and by direct calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from integration.lab import until
from integration.lab.namespace import link
from integration.lab.node import STOCK_PLUGINS, CniAnswer
from integration.runtimes.site import NETWORK, SUBNETS, Site, addresses
from integration.runtimes.sleeper import Sleeper

Document = dict[str, Any]
OURS: Document = {"type": "bgpcni", "exporters": ["exabgp"], "bgp": {"wait": "sent", "waitSeconds": 20}}


@pytest.fixture
def ready(site: Site) -> Site:
    """The agent with its session."""
    site.agent()
    return site


@pytest.fixture
def process(ready: Site) -> Sleeper:
    return Sleeper(ready.node.folder, ready.machine)


def ipam(site: Site, kind: str = "host-local") -> Document:
    defaults = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    if kind == "static":
        ips = [{"address": "10.1.2.3/24"}, {"address": "2001:db8:1:2::3/64"}]
        return {"type": "static", "addresses": ips}
    ranges = [[{"subnet": subnet}] for subnet in SUBNETS]
    return {"type": "host-local", "dataDir": str(site.node.leases), "ranges": ranges, "routes": defaults}


def first_plugin(site: Site, kind: str) -> Document:
    """A stock plugin that makes an interface whose addresses the node reaches."""
    own = {"bridge": {"bridge": "br0", "isGateway": True}, "ptp": {}}[kind]
    return {"type": kind, **own, "ipam": ipam(site)}


def configured(plugin: Document, version: str, result: Document | None = None) -> Document:
    """One plugin's configuration in a list, as a runtime derives it."""
    given = {**plugin, "cniVersion": version, "name": NETWORK}
    return given | ({"prevResult": result} if result else {})


def call(site: Site, command: str, process: Sleeper, conf: Document, netns: bool = True) -> CniAnswer:
    """A direct call of a plugin, ours or a stock one."""
    where = None if conf["type"] == "bgpcni" else str(STOCK_PLUGINS / conf["type"])
    return site.node.cni(command, "c1", process.path if netns else None, conf, plugin=where)


def settled(site: Site, process: Sleeper) -> None:
    """Wait until duplicate address detection is over, on the node and in the container."""
    places = (site.node.namespace, process)
    until(lambda: not any("tentative" in place.ip("-6", "address") for place in places), "addresses to settle")


def state(site: Site, process: Sleeper) -> Document:
    """All that a chained plugin might have changed: links, addresses, routes, rules and the firewall."""
    views = (("link", "show"), ("address", "show"), ("route", "show"), ("-6", "route", "show"), ("rule", "show"))
    node, inside = site.node.namespace, process
    settled(site, process)
    found: Document = {}
    for view in views:
        name = " ".join(view)
        found[f"node: {name}"] = sorted(json.dumps(_timeless(entry)) for entry in node.ip_json(*view))
        found[f"container: {name}"] = sorted(json.dumps(_timeless(entry)) for entry in inside.ip_json(*view))
    found["firewall"] = site.machine.run("nft", "--stateless", "list", "ruleset").stdout
    found["leases"] = sorted(site.leases())
    return found


def _timeless(entry: Document) -> Document:
    """Without what changes by itself."""
    addresses = [
        {key: value for key, value in info.items() if "life_time" not in key} for info in entry.get("addr_info", [])
    ]
    return {key: value for key, value in entry.items() if key != "addr_info"} | {"addr_info": addresses}


# ---------------------------------------------------------------- first


def behind_us(site: Site) -> Iterator[tuple[str, Document]]:
    ports = [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8053, "containerPort": 53, "protocol": "udp"},
    ]
    yield (
        "portmap",
        {"type": "portmap", "capabilities": {"portMappings": True}, "runtimeConfig": {"portMappings": ports}},
    )
    yield "bandwidth", {"type": "bandwidth", "ingressRate": 10**8, "ingressBurst": 10**8}
    yield "tuning", {"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1"}, "mtu": 1400}
    yield "firewall", {"type": "firewall", "backend": "iptables"}


@pytest.mark.parametrize("kind", ["portmap", "bandwidth", "tuning", "firewall"])
def test_first_and_a_stock_plugin_behind(ready: Site, process: Sleeper, kind: str) -> None:
    """The stock plugin works on the interface we made; the container is announced; nothing of either stays."""
    plugin = dict(behind_us(ready))[kind]
    # where the stock plugin does not even work behind the stock bridge, nothing is to be learned
    ready.machine.network({"cniVersion": "1.0.0", "name": NETWORK, "plugins": [first_plugin(ready, "bridge"), plugin]})
    probe = ready.attach(process.pid, "probe")
    if probe.code:
        pytest.skip(f"the stock {kind} does not work here behind the stock bridge: {probe.document['error']}")
    assert ready.detach(id="probe").code == 0
    ready.machine.run("ip", "link", "delete", "br0")

    before = ready.machine.run("nft", "--stateless", "list", "ruleset").stdout
    ready.network(plugin)
    answer = ready.attach(process.pid, "web")
    assert answer.code == 0, answer
    ips = addresses(answer.document)
    ready.announced(ips)
    ready.reachable(ips)
    _works[kind](ready, process, ips)
    assert ready.detach(id="web").code == 0
    ready.withdrawn(ips)
    ready.nothing_left()
    after = ready.machine.run("nft", "--stateless", "list", "ruleset").stdout
    assert not [ip for ip in ips if f" {ip} " in after], after
    assert after.count("8080") == before.count("8080")


def _portmap(site: Site, process: Sleeper, ips: list[str]) -> None:
    folder = site.node.folder / "www"
    folder.mkdir()
    (folder / "index.html").write_text("hello")
    site.machine.popen("nsenter", "-t", process.pid, "-n", "busybox", "httpd", "-f", "-p", "80", "-h", folder)
    for host in (site.node.address, f"[{site.node.address6}]"):
        get = ("curl", "--silent", "--max-time", 2, "--noproxy", "*", f"http://{host}:8080/")
        until(lambda get=get: site.frr.namespace.run(*get, check=False).stdout == "hello", f"{host}:8080")  # type: ignore[misc]


def _bandwidth(site: Site, process: Sleeper, ips: list[str]) -> None:
    assert "tbf" in site.machine.run("tc", "qdisc", "show").stdout


def _tuning(site: Site, process: Sleeper, ips: list[str]) -> None:
    assert process.run("sysctl", "-n", "net.ipv4.conf.eth0.arp_notify") == "1\n"
    assert process.ip_json("link", "show", "eth0")[0]["mtu"] == 1400


def _firewall(site: Site, process: Sleeper, ips: list[str]) -> None:
    for program, ip in zip(("iptables-save", "ip6tables-save"), ips, strict=True):
        assert f" {ip}/" in site.machine.run(program).stdout


_works = {"portmap": _portmap, "bandwidth": _bandwidth, "tuning": _tuning, "firewall": _firewall}


# ---------------------------------------------------------------- later


@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_later_in_a_list(ready: Site, process: Sleeper, kind: str) -> None:
    """Behind a stock plugin, in a list run as libcni does: announced with it, withdrawn with it, nothing left."""
    plugins = [first_plugin(ready, kind), OURS]
    ready.machine.network({"cniVersion": "1.0.0", "name": NETWORK, "plugins": plugins})
    answer = ready.attach(process.pid, "web")
    assert answer.code == 0, answer
    ips = addresses(answer.document)
    assert [":" in ip for ip in ips] == [False, True]
    ready.announced(ips)
    ready.reachable(ips)
    (attachment,) = ready.node.attachments()
    assert attachment["mac"] == process.ip_json("link", "show", "eth0")[0]["address"]
    assert addresses(attachment) == ips
    assert ready.leases() == set(ips)
    assert ready.detach(id="web").code == 0
    ready.withdrawn(ips)
    until(lambda: not ready.node.records(), "the release")
    assert ready.leases() == set()
    assert ready.node.links() <= {"br0"}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
@pytest.mark.parametrize("kind", ["bridge", "ptp"])
def test_later_by_direct_calls(ready: Site, process: Sleeper, kind: str, version: str) -> None:
    """The interface is announced, and neither ADD nor DEL, nor a second DEL, changes anything that is not ours."""
    stock = configured(first_plugin(ready, kind), version)
    made = call(ready, "ADD", process, stock)
    assert made.ok, made
    before = state(ready, process)
    ours = configured(OURS, version, made.document)
    answer = call(ready, "ADD", process, ours)
    assert answer.ok, answer
    for key in ("cniVersion", "interfaces", "ips", "routes"):
        assert answer.document[key] == made.document[key]
    ready.announced(answer.ips)
    ready.reachable(answer.ips)
    assert state(ready, process) == before
    if version != "0.3.1":
        checked = call(ready, "CHECK", process, ours)
        assert checked.ok, checked
    again = call(ready, "ADD", process, ours)
    assert again.error == 100
    for netns in (True, False):
        gone = call(ready, "DEL", process, ours if netns else configured(OURS, version), netns)
        assert gone.ok, gone
        ready.withdrawn(answer.ips)
        assert state(ready, process) == before
    until(lambda: not ready.node.records(), "the release")
    assert call(ready, "DEL", process, stock).ok


def test_the_earlier_plugin_is_deleted_first(ready: Site, process: Sleeper) -> None:
    """If the interface is removed before our DEL, its routes are withdrawn at once, and our DEL succeeds."""
    stock = configured(first_plugin(ready, "bridge"), "1.0.0")
    made = call(ready, "ADD", process, stock)
    ours = configured(OURS, "1.0.0", made.document)
    ips = call(ready, "ADD", process, ours).ips
    ready.announced(ips)
    assert call(ready, "DEL", process, stock).ok
    ready.withdrawn(ips)
    assert call(ready, "DEL", process, ours).ok
    until(lambda: not ready.node.records(), "the release")


def test_a_container_behind_another_plugin_dies(ready: Site, process: Sleeper) -> None:
    """The earlier plugin's veth goes with the namespace: our route goes at once."""
    stock = configured(first_plugin(ready, "ptp"), "1.0.0")
    made = call(ready, "ADD", process, stock)
    ours = configured(OURS, "1.0.0", made.document)
    ips = call(ready, "ADD", process, ours).ips
    ready.announced(ips)
    process.end()
    ready.withdrawn(ips)
    assert call(ready, "DEL", process, ours).ok
    until(lambda: not ready.node.records(), "the release")
    assert ready.leases() == set(ips)  # the earlier plugin's, whose DEL is still to come
    assert call(ready, "DEL", process, stock, netns=False).ok
    assert ready.leases() == set()


def change(result: Document, **changes: Any) -> Document:
    """A result as an earlier plugin that is wrong would give it."""
    copy: Document = json.loads(json.dumps(result))
    for interface in copy["interfaces"]:
        if interface.get("sandbox"):
            interface.update(changes.get("interface", {}))
    copy["ips"] = changes.get("ips", copy["ips"])
    return copy


def test_what_is_wrong_is_refused(ready: Site, process: Sleeper) -> None:
    """ipam besides prevResult, or a prevResult that the namespace contradicts: error 7 in words, nothing changed."""
    made = call(ready, "ADD", process, configured(first_plugin(ready, "bridge"), "1.0.0"))
    before = state(ready, process)
    right, absent = made.document, [{"address": "10.1.2.200/24", "interface": 2}]
    for conf, reason in (
        (configured({**OURS, "ipam": ipam(ready)}, "1.0.0", right), "ipam: given together with prevResult"),
        (configured(OURS, "1.0.0", change(right, interface={"mac": "02:00:00:00:00:09"})), "has MAC"),
        (configured(OURS, "1.0.0", change(right, interface={"name": "eth7"})), "no interface eth0"),
        (configured(OURS, "1.0.0", change(right, ips=absent)), "does not have the address 10.1.2.200/24"),
    ):
        answer = call(ready, "ADD", process, conf)
        assert (answer.error, reason in answer.document["msg"]) == (7, True), answer
        assert state(ready, process) == before
    until(lambda: not ready.node.records(), "the release")
    assert ready.node.routes() == []


def unreachable(answer: CniAnswer) -> None:
    assert answer.error == 7, answer
    assert "the node cannot reach 10.1.2.3" in answer.document["msg"]


def test_behind_host_device(ready: Site, process: Sleeper) -> None:
    """A device whose other side is elsewhere is refused, unless the node reaches its addresses there."""
    node, switch = ready.node.namespace, ready.lab.namespace("switch")
    # the device's cable goes to a switch; so, later, does one of the node's own
    link(node, switch, "dev0", "port0")
    switch.ip("link", "add", "name", "fabric", "type", "bridge")
    switch.ip("link", "set", "fabric", "up")
    switch.ip("link", "set", "port0", "master", "fabric")
    stock = configured({"type": "host-device", "device": "dev0", "ipam": ipam(ready, "static")}, "1.0.0")
    made = call(ready, "ADD", process, stock)
    assert made.ok, made
    ours = configured(OURS, "1.0.0", made.document)
    unreachable(call(ready, "ADD", process, ours))
    # a route is not enough: nobody answers
    link(node, switch, "nic", "port1", ("10.1.2.1/24", "2001:db8:1:2::1/64"))
    unreachable(call(ready, "ADD", process, ours))
    until(lambda: not ready.node.records(), "the release")
    switch.ip("link", "set", "port1", "master", "fabric")
    for family, gateway in (("-4", "10.1.2.1"), ("-6", "2001:db8:1:2::1")):
        process.ip(family, "route", "add", "default", "via", gateway)
    node.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    settled(ready, process)
    answer = call(ready, "ADD", process, ours)
    assert answer.ok, answer
    ready.announced(answer.ips)
    ready.reachable(answer.ips)
    assert call(ready, "DEL", process, ours).ok
    ready.withdrawn(answer.ips)
    assert process.ip_json("link", "show", "eth0")
    assert call(ready, "DEL", process, stock).ok


@pytest.mark.parametrize("kind", ["macvlan", "ipvlan"])
def test_behind_macvlan(ready: Site, process: Sleeper, kind: str) -> None:
    """A node does not reach macvlans through their parent: refused, unless it has a link of that kind itself.

    When the container's process dies, its route goes at once, and a late DEL succeeds.
    """
    node, wire = ready.node.namespace, ready.lab.namespace("wire")
    link(node, wire, "parent", "far", ("10.1.2.1/24", "2001:db8:1:2::1/64"))
    mode = {"macvlan": "bridge", "ipvlan": "l2"}[kind]
    stock = configured({"type": kind, "master": "parent", "mode": mode, "ipam": ipam(ready, "static")}, "1.0.0")
    made = call(ready, "ADD", process, stock)
    if not made.ok and "operation not supported" in made.document.get("msg", ""):
        pytest.skip(f"this kernel has no {kind}")
    assert made.ok, made
    ours = configured(OURS, "1.0.0", made.document)
    unreachable(call(ready, "ADD", process, ours))
    until(lambda: not ready.node.records(), "the release")
    for address in ("10.1.2.1/24", "2001:db8:1:2::1/64"):
        node.ip("address", "del", address, "dev", "parent")
    node.ip("link", "add", "link", "parent", "name", "shim", "type", kind, "mode", mode)
    for address in ("10.1.2.1/24", "2001:db8:1:2::1/64"):
        node.ip("address", "add", address, "dev", "shim", *(["nodad"] if ":" in address else []))
    node.ip("link", "set", "shim", "up")
    settled(ready, process)
    answer = call(ready, "ADD", process, ours)
    assert answer.ok, answer
    ready.announced(answer.ips)
    assert call(ready, "DEL", process, ours).ok
    ready.withdrawn(answer.ips)
    assert process.ip_json("link", "show", "eth0")
    assert call(ready, "ADD", process, ours).ok
    ready.announced(answer.ips)
    process.end()
    ready.withdrawn(answer.ips)
    assert call(ready, "DEL", process, ours).ok
    until(lambda: not ready.node.records(), "the release")
    assert call(ready, "DEL", process, stock, netns=False).ok
