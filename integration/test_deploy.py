"""`deploy/` on a node: the image, and the pods that its manifests describe, run by a real containerd."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bgpcni import __version__
from bgpcni.testing.patience import SECONDS
from integration.lab import Lab, NotHere, until
from integration.lab.engine import NoEngine
from integration.runtimes import NoMachine
from integration.runtimes.cri import CriError
from integration.runtimes.deployed import CHECKOUT, IMAGE, KUBERNETES, Deployed, build_image, renamed_image
from integration.runtimes.load import Load, pinged
from integration.runtimes.site import host_prefix
from integration.seen import session

NEWER = "0.1.1"
ROLLS = int(os.environ.get("BGPCNI_ROLLS", "1"))
"""How often the agent is upgraded under load; `make soak` does it more often."""
CAPABILITIES = {"DAC_OVERRIDE": 1, "NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21}
"""What the agent's container has, by number: capabilities(7)."""


@pytest.fixture(scope="session")
def image(here: None) -> Path:
    """The image, built once."""
    return build_image()


@pytest.fixture(scope="session")
def newer(image: Path) -> Path:
    """An image of another version of the same program."""
    return renamed_image(NEWER)


@pytest.fixture
def deployed(lab: Lab, image: Path) -> Deployed:
    """An empty node, whose containerd has the image."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    try:
        return Deployed(lab, image)
    except (NoMachine, NoEngine) as error:
        raise NotHere(str(error)) from None


def test_an_empty_node_gets_its_network(deployed: Deployed) -> None:
    """`kubectl apply -k` alone: the plugin is installed, the Node takes pods, and the routes of a pod are at FRR."""
    assert not deployed.schedulable()
    agent, _ = deployed.up("unicast")
    assert deployed.installed() == {"bgpcni", "bagpipe", "bgpcni-ipam"}
    assert deployed.networks() == {"10-bgpcni.conflist"}
    sandbox, ips = deployed.pod("web")
    deployed.announced(ips)
    deployed.reachable(ips)
    routes = deployed.ask(agent, "routes")["routes"]
    assert {(route["pod"]["name"], route["prefix"]) for route in routes} == {("web", host_prefix(ip)) for ip in ips}
    namespace = routes[0]["pod"]["namespace"]
    (explained,) = deployed.ask(agent, "explain", f"{namespace}/web")["attachments"]
    assert explained["steps"][-1]["state"] == "announced"
    assert deployed.ask(agent, "status")["healthy"]
    assert "warning" not in deployed.node.logs()["node1/agent.log"]
    deployed.pods.stop(sandbox)
    deployed.withdrawn(ips)


@contextmanager
def under_load(deployed: Deployed, ips: Iterable[str]) -> Iterator[Load]:
    """Calls, pods, and packets to these addresses meanwhile: none of them may be lost."""
    with ExitStack() as stack:
        lost = [stack.enter_context(pinged(deployed.frr, ip, deployed.node.folder)) for ip in ips]
        load = stack.enter_context(Load(deployed.machine, deployed.pods, deployed.network_in_place()))
        load.more()
        yield load
    print(load)
    assert load.lost == []
    assert not any(lost)


def test_an_upgrade_of_the_agent_is_no_event(deployed: Deployed, newer: Path) -> None:
    """Under load: FRR sees no change of a route or a session, no packet is lost, and every start that fails meanwhile
    works when it is tried again."""
    deployed.load(newer)
    agent, _ = deployed.up("unicast")
    sandbox, ips = deployed.pod("steady")
    deployed.announced(ips)
    deployed.reachable(ips)
    before = session(deployed.frr, deployed.node), deployed.versions(ips)
    with under_load(deployed, ips) as load:
        for turn in range(ROLLS):
            tag = (NEWER, __version__)[turn % 2]
            deployed.apply("unicast", {IMAGE: tag})
            agent = deployed.roll(agent, "bgpcni-agent")
            assert deployed.ask(agent, "status")["version"] == tag
            load.more()
    assert (session(deployed.frr, deployed.node), deployed.versions(ips)) == before
    assert deployed.schedulable()
    deployed.pods.stop(sandbox)
    deployed.withdrawn(ips)
    deployed.nothing_left()


def test_an_upgrade_of_the_speaker_is_a_graceful_restart(deployed: Deployed, newer: Path) -> None:
    """Peers go on forwarding: no packet is lost, calls go on meanwhile, and afterwards every route is announced again
    in the new speaker's session. (FRR has no graceful restart for EVPN: such routes would be gone until then.)"""
    deployed.load(newer)
    agent, speaker = deployed.up("unicast")
    _, ips = deployed.pod("steady")
    deployed.announced(ips)
    deployed.reachable(ips)
    established, _ = session(deployed.frr, deployed.node)
    with under_load(deployed, ips) as load:
        deployed.apply("unicast", {f"{IMAGE}-speaker": NEWER})
        speaker = deployed.roll(speaker, "bgpcni-speaker")
        until(lambda: session(deployed.frr, deployed.node)[0] > established, "a new session")
        load.more()
    until(lambda: not any(path.get("stale") for ip in ips for path in deployed.frr.paths(host_prefix(ip))), "no stale")
    deployed.announced(ips)
    until(lambda: deployed.ask(agent, "status")["healthy"], "an agent without problems")


def test_a_drained_node_keeps_nothing(deployed: Deployed) -> None:
    """`kubectl drain` takes the pods off the node: their routes are gone at FRR, and addresses, links and records on
    the node. The session stays, for the node is still one."""
    deployed.up("unicast")
    names = ["web-0", "web-1"]
    for name in names:
        spec = {"nodeName": deployed.name, "containers": [{"name": "web", "image": "web"}]}
        metadata = {"name": name, "namespace": "default"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
        deployed.cluster.kubectl("create", "-f", "-", stdin=pod)
    running = {name: deployed.pod(name) for name in names}
    ips = [ip for _, found in running.values() for ip in found]
    deployed.announced(ips)
    log = deployed.node.folder / "drain.log"
    drain = deployed.cluster.kubectl_open("drain", deployed.name, "--force", "--ignore-daemonsets", log=log)
    for name, (sandbox, _) in running.items():  # what kubelet does then

        def leaves(name: str = name) -> bool:
            return "deletionTimestamp" in deployed.cluster.kubectl_json("get", "pod", name)["metadata"]

        until(leaves, f"the eviction of {name}")
        deployed.pods.stop(sandbox)
        deployed.pods.remove(sandbox)
        deployed.cluster.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    assert drain.wait(SECONDS) == 0
    deployed.withdrawn(ips)
    deployed.nothing_left()
    assert deployed.frr.established(deployed.node.address)


def test_a_node_that_vanishes_is_routed_to_no_more(deployed: Deployed) -> None:
    """Its peers hear nothing for the hold time, and without graceful restart forget its routes."""
    deployed.up("unicast", bgp="hold_time = 3\ngraceful_restart = 0")
    _, ips = deployed.pod("web")
    deployed.announced(ips)
    deployed.frr.namespace.ip("link", "set", "node1", "down")
    deployed.withdrawn(ips)


def test_the_overlay_evpn(deployed: Deployed) -> None:
    """A pod's MAC and addresses are at FRR as type 2 routes, with the node as VTEP."""
    deployed.up("evpn")
    _, ips = deployed.pod("web")

    def found() -> set[str]:
        paths = [path for paths in deployed.frr.evpn_routes("macip").values() for path in paths]
        return {path["ip"] for path in paths if "ip" in path and hops(path) == {deployed.node.address}}

    until(lambda: found() == set(ips), "type 2 routes of the pod")


def hops(path: dict[str, Any]) -> set[str]:
    """The next hops of one path."""
    return {hop["ip"] for hop in path["nexthops"]}


def test_the_overlay_own_frr(deployed: Deployed) -> None:
    """The routes of a pod are in the table from which a daemon of the node's own takes them, and no ExaBGP runs."""
    deployed.apply("own-frr")
    deployed.run("bgpcni-agent")
    deployed.wait_schedulable()
    sandbox, ips = deployed.pod("web")

    def table() -> set[str]:
        families = ("-4", "-6")
        return {
            route["dst"]
            for family in families
            for route in deployed.machine.ip_json(family, "route", "show", "table", "100")
        }

    until(lambda: table() == set(ips), "the pod's routes in table 100")
    assert not [name for name in os.listdir(deployed.node.run_dir) if name.startswith("exabgp")]
    deployed.pods.stop(sandbox)
    until(lambda: not table(), "an empty table 100")


def test_without_its_agent_a_node_says_where_to_look(deployed: Deployed) -> None:
    """After a boot the plugin is there and no agent yet, nor a Python to do without: the pod's event is in words."""
    agent, speaker = deployed.up("unicast")
    deployed.kubelet.stop(agent)
    deployed.kubelet.stop(speaker)
    deployed.machine.run("rm", "-r", "/run/bgpcni")  # as a boot does
    with pytest.raises(CriError) as error:
        deployed.pods.run_pod("early")
    expected = (
        "no agent answers on /run/bgpcni/agent.sock, and bgpcni was installed on this node without its Python: "
        "start bgpcni agent, or look at its pod on this node"
    )
    assert expected in str(error.value)
    deployed.up("unicast")
    _, ips = deployed.pod("late")
    deployed.announced(ips)


def test_a_node_is_left_as_it_was(deployed: Deployed) -> None:
    """The overlay is deleted, the kustomization `uninstall` applied: no file, link or table of ours is on the node.
    While a pod still has its network nothing is taken, and the reason is in the log."""
    links = deployed.node.links()
    agent, speaker = deployed.up("unicast")
    sandbox, ips = deployed.pod("web")
    deployed.kubelet.stop(agent)
    deployed.cluster.kubectl("apply", "-k", str(KUBERNETES / "uninstall"))
    with pytest.raises(AssertionError, match=r"uninstall of bgpcni-uninstall-[0-9]+ ended with 1"):
        deployed.kubelet.start("bgpcni-uninstall")
    assert "1 interfaces of containers still have a record" in deployed.node.logs()["node1/uninstall.log"]
    assert deployed.installed()
    agent = deployed.run("bgpcni-agent")
    deployed.pods.stop(sandbox)
    deployed.pods.remove(sandbox)
    deployed.withdrawn(ips)
    deployed.nothing_left()
    deployed.kubelet.stop(agent)
    with pytest.raises(AssertionError, match=r"uninstall of bgpcni-uninstall-[0-9]+ ended with 1"):
        deployed.kubelet.start("bgpcni-uninstall")
    assert "the speaker exabgp still runs" in deployed.node.logs()["node1/uninstall.log"]
    deployed.kubelet.stop(speaker)
    deployed.run("bgpcni-uninstall")
    assert deployed.installed() == set()
    assert deployed.networks() == set()
    assert deployed.node.links() == links
    for folder in ("/run/bgpcni", "/var/lib/bgpcni", "/var/lib/cni/networks/pods"):
        assert not deployed.machine.inside(Path(folder)).exists()


def test_the_image_has_what_it_needs_and_no_more(deployed: Deployed) -> None:
    """No shell, pip or compiler; a read-only root, the capabilities that are listed, and the list of what is inside, in
    which every Python package has the version of constraints.txt."""
    agent, _ = deployed.up("unicast")
    code, said = deployed.kubelet.exec(agent, "agent", "/opt/bgpcni/bin/python", "-c", INSIDE)
    assert code == 0, said
    inside = json.loads(said)
    assert inside["found"] == ["nft", "iptables", "ip6tables"]
    assert inside["runs"] == [0, 0, 0]
    assert inside["capabilities"] == sum(1 << number for number in CAPABILITIES.values())
    assert (inside["root"], inside["seccomp"]) == ("Read-only file system", "2")
    parts = inside["sbom"]["components"]
    assert {"libc6", "nftables", "python3.13"} <= {part["name"] for part in parts}
    lines = (CHECKOUT / "constraints.txt").read_text().splitlines()
    pinned = {plain(name): version for name, _, version in (line.partition("==") for line in lines)}
    python = {plain(part["name"]): part["version"] for part in parts if part["purl"].startswith("pkg:pypi/")}
    assert python.pop("bgpcni") == __version__
    assert {"exabgp", "pyroute2", "lightkube"} <= python.keys()
    assert "pip" not in python
    assert python == {name: pinned[name] for name in python}


def plain(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return name.lower().replace("_", "-")


INSIDE = """
import json, os, shutil, subprocess
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
try:
    open("/opt/bgpcni/new", "w")
    root = "writable"
except OSError as error:
    root = error.strerror
programs = ["sh", "bash", "pip", "pip3", "gcc", "cc", "apt", "dpkg", "perl", "nft", "iptables", "ip6tables"]
print(json.dumps({
    "found": [name for name in programs if shutil.which(name)],
    "runs": [subprocess.run([name, "--version"], stdout=subprocess.DEVNULL).returncode for name in programs[-3:]],
    "capabilities": int(status["CapEff"], 16),
    "seccomp": status["Seccomp"].strip(),
    "root": root,
    "sbom": json.load(open("/opt/bgpcni/share/sbom/bgpcni.cdx.json")),
}))
"""
