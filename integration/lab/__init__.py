"""The laboratory: network namespaces, FRR in one of them or in a container, and a node with the agent.

Everything is made in separate network namespaces and in a temporary folder, named after this process, and is removed
when the `Lab` closes. Nothing here touches the root network namespace, its routes, sysctls or firewall.
"""

from integration.lab.core import Lab, NotHere
from integration.lab.daemon import Daemon
from integration.lab.engine import Container, Docker, Engine, Podman, start_engine
from integration.lab.frr import ALL_FAMILIES, Frr, Neighbor, bgp
from integration.lab.inside import Inside
from integration.lab.namespace import Namespace, NoNamespaces, link, sweep
from integration.lab.node import CniAnswer, Node, install_plugin
from integration.lab.wait import NeverHappened, until

__all__ = [
    "ALL_FAMILIES",
    "CniAnswer",
    "Container",
    "Daemon",
    "Docker",
    "Engine",
    "Frr",
    "Inside",
    "Lab",
    "Namespace",
    "Neighbor",
    "NeverHappened",
    "NoNamespaces",
    "Node",
    "NotHere",
    "Podman",
    "bgp",
    "install_plugin",
    "link",
    "start_engine",
    "sweep",
    "until",
]
