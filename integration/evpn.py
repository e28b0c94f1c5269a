"""What the tests of EVPN share: nodes of one network, what is in their kernels, and what passes on the wire."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpcni.testing.patience import SECONDS
from integration.lab import CniAnswer, Frr, Lab, Namespace, Node, until
from integration.lab.wait import NeverHappened

VNI = 5001
TARGET = "64512:5001"
SUBNET, SUBNET6 = "10.1.2.0/24", "2001:db8:1:2::/64"
BRIDGE = "cni0"
DEVICE = f"vxlan{VNI}"
GATEWAY_MAC = "02:00:5e:00:13:89"


def network(node: Node, number: int, *, gateway: bool = False, **keys: Any) -> dict[str, Any]:
    """The network on the node of this number (from 1): each has 40 addresses of its own in the one subnet."""
    first, last = 40 * number, 40 * number + 39
    document = node.network("tenant-a", SUBNET, SUBNET6, **{"importRT": [TARGET], "exportRT": [TARGET]} | keys)
    document.setdefault("bgp", {"family": "evpn", "vni": VNI})
    document["isGateway"] = gateway
    document["ipam"]["ranges"] = [
        [{"subnet": SUBNET, "rangeStart": f"10.1.2.{first}", "rangeEnd": f"10.1.2.{last}"}],
        [{"subnet": SUBNET6, "rangeStart": f"2001:db8:1:2::{first:x}", "rangeEnd": f"2001:db8:1:2::{last:x}"}],
    ]
    if not gateway:
        del document["ipam"]["routes"]
    return document


@dataclass(frozen=True, slots=True)
class Container:
    """One container of the network, added."""

    id: str
    node: Node
    space: Namespace
    conf: dict[str, Any]
    answer: CniAnswer

    @property
    def four(self) -> str:
        return next(ip for ip in self.answer.ips if ":" not in ip)

    @property
    def six(self) -> str:
        return next(ip for ip in self.answer.ips if ":" in ip)

    @property
    def mac(self) -> str:
        return str(next(i["mac"] for i in self.answer.document["interfaces"] if i.get("sandbox")))

    def delete(self) -> None:
        answer = self.node.cni("DEL", self.id, self.space, self.conf)
        assert answer.ok, answer

    def reaches(self, *addresses: str) -> bool:
        """Each answers one echo request within 0.2 s."""
        ping = ("ping", "-n", "-c", "1", "-W", "0.2")
        return all(not self.space.run(*ping, address, check=False).returncode for address in addresses)


class Fabric:
    """Nodes around one FRR, which reflects between them; their agents run."""

    def __init__(self, lab: Lab, frr: Frr, count: int) -> None:
        self.lab, self.frr = lab, frr
        self.nodes = [lab.node(frr, reflect=True) for _ in range(count)]
        for node in self.nodes:
            node.agent()
        for node in self.nodes:
            frr.wait_established(node.address)

    def add(self, node: int, name: str, space: Namespace | None = None, **keys: Any) -> Container:
        """ADD on a node (from 0). `keys`: of the network, `gateway` among them."""
        where = self.nodes[node]
        space = space or self.lab.container(name)
        conf = network(where, node + 1, **keys)
        answer = where.cni("ADD", name, space, conf)
        assert answer.ok, answer
        return Container(name, where, space, conf, answer)


def connected(one: Container, other: Container) -> None:
    """Both reach each other, over IPv4 and IPv6."""
    until(lambda: one.reaches(other.four, other.six), f"{one.id} reaches {other.id}")
    until(lambda: other.reaches(one.four, one.six), f"{other.id} reaches {one.id}")


# --- the kernel of a node ------------------------------------------------------------------------


def behind(node: Node, device: str = DEVICE) -> dict[str, set[str]]:
    """The VXLAN device's own entries: MAC to VTEPs; the zero MAC has the flood list."""
    found: dict[str, set[str]] = {}
    listed = node.namespace.run("bridge", "-json", "fdb", "show", "dev", device, check=False).stdout
    for entry in json.loads(listed or "[]"):
        if "dst" in entry:
            found.setdefault(entry["mac"], set()).add(entry["dst"])
    return found


def remote(node: Node) -> dict[str, str]:
    """Unicast MACs and the VTEP each is behind."""
    return {mac: next(iter(vteps)) for mac, vteps in behind(node).items() if mac != "00:00:00:00:00:00"}


def flood(node: Node) -> set[str]:
    return behind(node).get("00:00:00:00:00:00", set())


def neighbours(node: Node) -> dict[str, str]:
    """The addresses that the bridge answers for, and their MACs."""
    listed = [*node.namespace.ip_json("neigh", "show", "dev", BRIDGE, "proto", "182")]
    listed += node.namespace.ip_json("-6", "neigh", "show", "dev", BRIDGE, "proto", "182")
    return {entry["dst"]: entry["lladdr"] for entry in listed if "lladdr" in entry}


def index(node: Node, device: str = DEVICE) -> int | None:
    return next((link["ifindex"] for link in node.namespace.ip_json("link", "show", "dev", device)), None)


def empty(node: Node) -> None:
    """Nothing of any network is left: no device, no entry, no table, no record, no lease."""
    until(lambda: not node.records(), f"no record on {node.address}")
    assert node.links() <= {BRIDGE}, node.links()
    assert neighbours(node) == {}
    assert "bgpcni" not in node.namespace.run("nft", "list", "tables", check=False).stdout
    assert node.lease_files() == set()
    assert node.routes() == []


# --- the wire ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Frame:
    """One Ethernet frame in VXLAN: the VTEP it was sent to, and what tcpdump says of it."""

    vtep: str
    source: str
    destination: str
    words: str


_OUTER = re.compile(r"> (?P<to>\d+\.\d+\.\d+\.\d+)\.4789: VXLAN")
_INNER = re.compile(r"^\s*(?P<source>[0-9a-f:]{17}) > (?P<destination>[0-9a-f:]{17}), (?P<words>.*)")


_MARK_VNI = 16777213
_MARK = r"\x08\0\0\0\xff\xff\xfd\0" + r"\x02\0\0\0\0\x01" * 2 + r"\x88\xb5" + r"\0" * 50
"""A VXLAN frame of an experimental type and a VNI of nobody: after it, all that came before was seen."""


class Capture:
    """What a node sends into VXLAN, as tcpdump tells it; `frames` after the block."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.frames: list[Frame] = []

    @contextmanager
    def running(self) -> Iterator[Capture]:
        """Captures the block: from when tcpdump says it listens, until it has written all it saw."""
        log, said = self.node.folder / "tcpdump.log", self.node.folder / "tcpdump.out"
        log.write_text("")
        argv = ("tcpdump", "-n", "-e", "-l", "--immediate-mode", "-Q", "out", "-i", "uplink", "udp", "port", "4789")
        with said.open("w") as out:
            process = self.node.namespace.popen(*argv, log=log, stdout=out)
        try:
            until(lambda: "listening on" in log.read_text(), "tcpdump listens")
            yield self
            self.node.namespace.run("bash", "-c", f"printf '{_MARK}' >/dev/udp/{self.node.peer}/4789")
            until(lambda: f"vni {_MARK_VNI}" in said.read_text(), "tcpdump has seen all")
        finally:
            process.terminate()
            process.wait(SECONDS)
        text = said.read_text()
        vtep = ""
        for line in text.splitlines():
            if outer := _OUTER.search(line):
                vtep = outer["to"]
            elif inner := _INNER.match(line):
                self.frames.append(Frame(vtep, inner["source"], inner["destination"], inner["words"]))

    def resolutions(self, addresses: Sequence[str]) -> list[Frame]:
        """Questions and answers of ARP and ND about these addresses."""
        return [f for f in self.frames if _resolves(f.words) and any(_names(f.words, a) for a in addresses)]

    def to(self, vtep: str, mac: str) -> list[Frame]:
        """Frames for one MAC that were sent to one VTEP."""
        return [frame for frame in self.frames if frame.vtep == vtep and frame.destination == mac]


def _resolves(words: str) -> bool:
    return "ARP" in words or "neighbor solicitation" in words or "neighbor advertisement" in words


def _names(words: str, address: str) -> bool:
    return re.search(rf"(?<![0-9a-f:.]){re.escape(address)}(?![0-9a-f:.]*[0-9a-f])", words) is not None


class Pings:
    """Echo requests in the background, one in so many seconds; `lost` counts those without an answer."""

    def __init__(self, space: Namespace, address: str, every: float = 0.02) -> None:
        argv = ("ping", "-n", "-i", f"{every:g}", "-W", "2", address)
        self.process = space.popen(*argv, stdout=subprocess.PIPE)

    def stop(self) -> tuple[int, int]:
        """(sent, lost)."""
        self.process.send_signal(2)
        assert self.process.stdout is not None
        text, _ = self.process.communicate(timeout=SECONDS)
        found = re.search(r"(\d+) packets transmitted, (\d+) received", text)
        assert found, text
        sent, received = int(found[1]), int(found[2])
        return sent, max(0, sent - received - 1)  # the last may have been on its way


def same_for(seconds: float, look: Any, what: str) -> None:
    """Check that the value of `look` does not change for a while, because something must not happen."""
    first = look()
    try:
        changed = until(lambda: (found := look()) != first and [found], what, seconds)
    except NeverHappened:
        return
    raise AssertionError(f"{what}: {first} became {changed[0]}")


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""
