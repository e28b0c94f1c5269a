"""`deploy/` on a node: the image, and the pods that its manifests describe, run by a real containerd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from integration.lab import Lab
from integration.runtimes.cri import CriError
from integration.runtimes.deployed import CHECKOUT, KUBERNETES, Deployed, build_image


@pytest.fixture(scope="session")
def image(here: None) -> Path:
    """The image, built once."""
    return build_image()


@pytest.fixture
def deployed(lab: Lab, image: Path) -> Deployed:
    """An empty node, whose containerd has the image."""
    return Deployed(lab, image)


def test_an_empty_node_gets_its_network(deployed: Deployed) -> None:
    """`kubectl apply -k` alone: the plugin is installed, the Node takes pods, and the routes of a pod are at FRR."""
    deployed.apply("unicast")
    assert not deployed.schedulable()
    agent = deployed.run("bgpcni-agent")
    assert deployed.installed() == {"bgpcni", "bagpipe", "bgpcni-ipam"}
    deployed.wait_serving()
    assert deployed.networks() == {"10-bgpcni.conflist"}
    sandbox, ips = deployed.pod("web")
    deployed.announced(ips)
    deployed.reachable(ips)
    assert deployed.ask(agent, "status")["healthy"]
    deployed.pods.stop(sandbox)
    deployed.withdrawn(ips)


def test_a_node_is_left_as_it_was(deployed: Deployed) -> None:
    """The overlay is deleted, the kustomization `uninstall` applied: no file, link or table of ours is on the node.
    While a pod still has its network nothing is taken, and the reason is in the log."""
    links = deployed.node.links()
    deployed.apply("unicast")
    agent = deployed.run("bgpcni-agent")
    deployed.wait_serving()
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
    deployed.run("bgpcni-uninstall")
    assert deployed.installed() == set()
    assert deployed.networks() == set()
    assert deployed.node.links() == links
    for folder in ("/run/bgpcni", "/var/lib/bgpcni", "/var/lib/cni/networks/pods"):
        assert not deployed.machine.inside(Path(folder)).exists()


def test_without_its_agent_a_node_says_where_to_look(deployed: Deployed) -> None:
    """After a boot the plugin is there and no agent yet, nor a Python to do without: the pod's event is in words."""
    deployed.apply("unicast")
    agent = deployed.run("bgpcni-agent")
    deployed.wait_serving()
    deployed.kubelet.stop(agent)
    deployed.machine.run("rm", "-r", "/run/bgpcni")  # as a boot does
    with pytest.raises(CriError) as error:
        deployed.pods.run_pod("early")
    expected = (
        "no agent answers on /run/bgpcni/agent.sock, and bgpcni was installed on this node without its Python: "
        "start bgpcni agent, or look at its pod on this node"
    )
    assert expected in str(error.value)
    agent = deployed.run("bgpcni-agent")
    _, ips = deployed.pod("late")
    deployed.announced(ips)


def test_the_image_has_what_it_needs_and_no_more(deployed: Deployed) -> None:
    """No shell, pip or compiler; a read-only root, the capabilities that are listed, and the list of what is inside."""
    deployed.apply("unicast")
    agent = deployed.run("bgpcni-agent")
    code, said = deployed.kubelet.exec(agent, "agent", "/opt/bgpcni/bin/python", "-c", INSIDE)
    assert code == 0, said
    inside = json.loads(said)
    assert inside["found"] == ["nft", "iptables", "ip6tables"]
    assert inside["runs"] == [0, 0, 0]
    assert inside["capabilities"] == sum(
        1 << number for number in (CAP_DAC_OVERRIDE, CAP_NET_BROADCAST, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN)
    )
    assert (inside["root"], inside["seccomp"]) == ("Read-only file system", "2")
    names = {part["name"]: part["version"] for part in inside["sbom"]["components"]}
    assert {"bgpcni", "exabgp", "pyroute2", "libc6", "nftables"} <= names.keys()
    assert "pip" not in names
    pinned = dict(line.split("==") for line in (CHECKOUT / "constraints.txt").read_text().splitlines() if "==" in line)
    pinned = {name.lower().replace("_", "-"): version for name, version in pinned.items()}
    python = [part for part in inside["sbom"]["components"] if part["purl"].startswith("pkg:pypi/")]
    for part in python:
        name = part["name"].lower().replace("_", "-")
        assert name == "bgpcni" or part["version"] == pinned[name]
    assert {"lightkube", "pydantic"} <= {part["name"] for part in python}


CAP_DAC_OVERRIDE, CAP_NET_BROADCAST, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN = 1, 11, 12, 13, 21
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
