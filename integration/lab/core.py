"""The laboratory as a whole: it makes the parts, gives them addresses, and takes everything away at the end.

Addresses. Link `k` (from 1) between FRR and a node is 198.18.k.0/24 and 2001:db8:18:k::/64, FRR `.1`/`::1`, the
node `.2`/`::2`. FRR is AS 64512, router ID 198.18.255.1; so is the node unless told otherwise.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from integration.lab.daemon import Daemon
from integration.lab.engine import Engine
from integration.lab.frr import ALL_FAMILIES, DAEMONS, Frr, Neighbor, bgp
from integration.lab.namespace import Namespace, link, unique
from integration.lab.node import Node, install_plugin

ASN = 64512
ROUTER_ID = "198.18.255.1"


class NotHere(RuntimeError):
    """A part that a test needs is not on this machine; the message names it."""


class Lab:
    """Makes namespaces, FRRs and nodes; `close` removes them in reverse order, and the folder they lived in.

    `engine` gives the container engine when an FRR in a container is asked for (it raises where none can run).
    """

    def __init__(self, engine: Callable[[], Engine] | None = None) -> None:
        self._stack = ExitStack()
        self._engine = engine
        # Short, and open to the users that FRR and ExaBGP run as.
        self.folder = Path(tempfile.gettempdir(), unique("lab"))
        self.folder.mkdir(mode=0o711)
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self.frrs: list[Frr] = []
        self.nodes: list[Node] = []
        self.daemons: list[Daemon] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take everything away. Idempotent."""
        self._stack.close()

    def callback(self, undo: Callable[[], object]) -> None:
        """Have `close` call something, before it removes what exists now."""
        self._stack.callback(undo)

    def adopt(self, daemon: Daemon) -> None:
        """Have a daemon ended by `close`, and its log among `logs`."""
        self.daemons.append(daemon)
        self._stack.callback(daemon.close)

    def namespace(self, what: str = "x") -> Namespace:
        return self._stack.enter_context(Namespace(what))

    def frr(
        self,
        kind: str = "namespace",
        config: str | None = None,
        *,
        asn: int = ASN,
        router_id: str = ROUTER_ID,
        neighbors: Sequence[Neighbor] = (),
        networks: Sequence[str] = (),
        extra: Sequence[str] = (),
        daemons: Sequence[str] = DAEMONS,
        start: bool = True,
        port: int = 179,
    ) -> Frr:
        """FRR in a `namespace` or a `container`, forwarding; `config` as a whole, or built by `bgp`."""
        folder = self.folder / f"frr{len(self.frrs)}"
        if kind == "container":
            if self._engine is None:
                raise NotHere("this laboratory was made without a container engine")
            container = self._engine().frr_container(folder)
            self._stack.callback(container.close)
            frr = Frr(container, folder, asn, daemons, port)
        else:
            frr = Frr(self.namespace(f"frr{len(self.frrs)}"), folder, asn, daemons, port)
        self.frrs.append(frr)
        self._stack.callback(frr.close)
        frr.namespace.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        if start:
            frr.start(bgp(asn, router_id, neighbors, networks, extra) if config is None else config)
        return frr

    def node(
        self, frr: Frr | None = None, *, asn: int | None = None, families: Sequence[str] = ALL_FAMILIES, **neighbor: Any
    ) -> Node:
        """A node, with an uplink and a default route to `frr`, where it is made a neighbour at once.

        `families` are both sides'; `neighbor` are further fields of FRR's `Neighbor` (`reflect`, `extra`).
        """
        k = len(self.nodes) + 1
        node = Node(
            self.namespace(f"node{k}"),
            self.folder / f"node{k}",
            install_plugin(),
            asn=asn or (frr.asn if frr else ASN),
            address=f"198.18.{k}.2",
            address6=f"2001:db8:18:{k}::2",
            peer=f"198.18.{k}.1",
            peer6=f"2001:db8:18:{k}::1",
            peer_asn=frr.asn if frr else None,
            families=tuple(families),
        )
        self.nodes.append(node)
        self._stack.callback(node.close)
        if frr is not None:
            here = (f"{node.address}/24", f"{node.address6}/64")
            there = (f"{node.peer}/24", f"{node.peer6}/64")
            link(node.namespace, frr.namespace, "uplink", f"node{k}", here, there)
            node.namespace.ip("route", "add", "default", "via", node.peer)
            node.namespace.ip("-6", "route", "add", "default", "via", node.peer6)
            frr.add_neighbor(Neighbor(node.address, node.asn, families, **neighbor))
        return node

    def container(self, what: str = "c") -> Namespace:
        """A container's network namespace, empty but for lo."""
        return self.namespace(what)

    def logs(self) -> dict[str, str]:
        """The ends of all logs, by name, to find out why a test failed."""
        parts: list[Frr | Node | Daemon] = [*self.frrs, *self.nodes, *self.daemons]
        return {name: text for part in parts for name, text in part.logs().items() if text}


def root_or_reason() -> str | None:
    """Why no laboratory can be set up here, or None."""
    if os.geteuid():
        return "root is needed for network namespaces"
    missing = [name for name in ("ip", "mount", "nsenter", "unshare") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (iproute2, mount, util-linux)"
    if not Path("/usr/lib/frr/bgpd").exists():
        return "not installed: frr"
    return None
