"""`deploy/` on a node: the image, and the pods that its manifests describe, run by a real containerd."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.lab import Lab
from integration.runtimes.deployed import Deployed, build_image


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
