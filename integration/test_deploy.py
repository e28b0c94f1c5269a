"""`deploy/` on a node: the image, and the pods that its manifests describe, run by a real containerd."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.lab import Lab
from integration.runtimes.deployed import Deployed, build_image


@pytest.fixture(scope="session")
def image() -> Path:
    """The image, built once."""
    return build_image()


@pytest.fixture
def deployed(lab: Lab, image: Path) -> Deployed:
    """An empty node, whose containerd has the image."""
    return Deployed(lab, image)


def test_an_empty_node_gets_its_network(deployed: Deployed) -> None:
    """From the rendered manifests alone: the plugin is installed, the agent serves, and a pod's routes are at FRR."""
    manifests = deployed.overlay("unicast")
    kubelet = deployed.kubelet(manifests)
    agent = kubelet.start("bgpcni-agent")
    kubelet.wait_ready(agent)
    assert deployed.installed() == {"bgpcni", "bagpipe", "bgpcni-ipam"}
    deployed.established()
    deployed.write_network(manifests)
    sandbox, ips = deployed.pod("web")
    deployed.announced(ips)
    deployed.reachable(ips)
    deployed.cri_client.stop(sandbox)
    deployed.withdrawn(ips)
