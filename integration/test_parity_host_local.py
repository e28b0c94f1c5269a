"""Addresses as host-local gives them, from the same files, and both plugins on one folder at once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from integration.lab import CniAnswer, Lab, Namespace, Node, until
from integration.lab.node import STOCK_PLUGINS

pytestmark = pytest.mark.skipif(
    not (STOCK_PLUGINS / "host-local").exists(), reason="not installed: containernetworking-plugins"
)
Config = dict[str, Any]
NETWORK = "pool"
HOUR = 3600


@dataclass(frozen=True)
class Case:
    """One pool. `adds`: the CNI_ARGS of each ADD in turn; `ips`: the runtime's wishes, by the ADD's number.

    `deletes`: those that are deleted again before the last ADD.
    """

    name: str
    ipam: Config
    adds: tuple[str, ...] = ("",) * 4
    ips: dict[int, list[str]] = field(default_factory=dict)
    deletes: tuple[int, ...] = ()


SMALL = {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.13"}
CASES = [
    Case("one subnet", {"ranges": [[{"subnet": "10.1.2.0/24"}]]}),
    Case("the old form", {"subnet": "10.1.2.0/24", "gateway": "10.1.2.254"}),
    Case("round and round", {"ranges": [[SMALL]]}, adds=("",) * 6, deletes=(0, 2)),
    Case("exhausted", {"ranges": [[SMALL]]}, adds=("",) * 5),
    Case("gateway inside the range", {"ranges": [[SMALL | {"gateway": "10.1.2.11"}]]}, adds=("",) * 4),
    Case(
        "two ranges in a set",
        {"ranges": [[SMALL, {"subnet": "10.1.4.0/30"}]]},
        adds=("",) * 7,
        deletes=(1,),
    ),
    Case(
        "two families, two sets, a /126 of IPv6",
        {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/126"}], [{"subnet": "10.1.3.0/24"}]]},
        adds=("",) * 4,
    ),
    Case("IPv6 written in full", {"ranges": [[{"subnet": "fd00:0:0:1:0:0:0:0/64", "rangeStart": "FD00:0:0:1::00AA"}]]}),
    Case(
        "an address asked for in CNI_ARGS",
        {"ranges": [[SMALL], [{"subnet": "fd00::/64"}]]},
        adds=("", "IgnoreUnknown=1;IP=10.1.2.13", "", "IgnoreUnknown=1;IP=10.1.2.13"),
    ),
    Case(
        "addresses asked for by the runtime",
        {"ranges": [[SMALL], [{"subnet": "fd00::/64"}]]},
        ips={1: ["fd00::77", "10.1.2.12"], 2: ["fd00::77"], 3: ["10.1.2.12/24"]},
    ),
    Case(
        "the gateway is asked for", {"ranges": [[SMALL | {"gateway": "10.1.2.11"}]]}, ips={0: ["10.1.2.11"]}, adds=("",)
    ),
    Case("outside is asked for", {"ranges": [[SMALL]]}, ips={0: ["10.9.9.9"]}, adds=("",)),
    Case("ranges overlap", {"ranges": [[SMALL, {"subnet": "10.1.2.0/25"}]]}, adds=("",)),
    Case("host bits", {"ranges": [[{"subnet": "10.1.2.1/24"}]]}, adds=("",)),
    Case("too small", {"ranges": [[{"subnet": "10.1.2.0/31"}]]}, adds=("",)),
    Case("mixed families in a set", {"ranges": [[SMALL, {"subnet": "fd00::/64"}]]}, adds=("",)),
    Case("no ranges", {}, adds=("",)),
    Case("start after end", {"ranges": [[SMALL | {"rangeEnd": "10.1.2.5"}]]}, adds=("",)),
    Case("a range outside its subnet", {"ranges": [[SMALL | {"rangeEnd": "10.1.3.5"}]]}, adds=("",)),
    Case(
        "routes and resolvConf",
        {
            "ranges": [[SMALL]],
            "routes": [{"dst": "192.0.2.0/24", "gw": "10.1.2.1"}, {"dst": "198.51.100.0/24"}],
            "resolvConf": "RESOLV_CONF",
        },
        adds=("",),
    ),
]


@dataclass
class Party:
    """One node and who gives addresses there; layer 3 without a gateway, so that the pool is all there is."""

    node: Node
    plugin: str

    def conf(self, ipam: Config, **keys: Any) -> Config:
        text = json.dumps(ipam).replace("RESOLV_CONF", str(self.node.folder / "resolv.conf"))
        section = {"type": "host-local", "dataDir": str(self.node.leases)} | json.loads(text)
        document = {"cniVersion": "1.0.0", "name": NETWORK, "type": self.plugin, "bridge": "cni9"}
        return document | {"exporters": [], "ipam": section} | keys

    def call(self, command: str, container: str, netns: Namespace, conf: Config, args: str = "") -> CniAnswer:
        return self.node.cni(command, container, netns, conf, args=args, plugin=self.plugin)

    def leases(self, *, last: bool = True) -> dict[str, bytes]:
        """The files, with or without those that say how far the round has come."""
        files = {file.name: file.read_bytes() for file in (self.node.leases / NETWORK).glob("*") if file.name != "lock"}
        return {name: text for name, text in files.items() if last or not name.startswith("last_reserved_ip")}


@pytest.fixture(scope="module")
def parties(here: None) -> Iterator[dict[str, Party]]:
    """stock, ours alone, ours with an agent."""
    with Lab() as lab:
        made = {"stock": Party(lab.node(), "bridge"), "agent": Party(lab.node(), "bgpcni")}
        made["stock"].node.bin_dir = STOCK_PLUGINS
        made["agent"].node.agent(bgp=None, default_exporters=[])
        for party in made.values():
            (party.node.folder / "resolv.conf").write_text("nameserver 192.0.2.1\nsearch a\n")
        yield made


def play(party: Party, case: Case) -> list[Any]:
    """What each step gave: addresses with gateways, routes, or that it failed; and the files after it."""
    script: list[Any] = []
    held: dict[int, Namespace] = {}
    conf = party.conf(case.ipam)
    try:
        for number, args in enumerate(case.adds):
            if number == len(case.adds) - 1:
                for gone in case.deletes:
                    assert party.call("DEL", f"c{gone}", held[gone], conf).ok
                    script.append(("DEL", gone, party.leases()))
            held[number] = Namespace("container")
            asked = {"runtimeConfig": {"ips": case.ips[number]}} if number in case.ips else {}
            answer = party.call("ADD", f"c{number}", held[number], conf | asked, args)
            given = [{"address": ip["address"], "gateway": ip.get("gateway")} for ip in answer.document.get("ips", [])]
            script.append(("ADD", number, answer.ok, given, answer.document.get("routes")))
            # stock moves on also for a request that it refuses; we do not
            script.append(party.leases(last=answer.ok))
        for number, container in held.items():
            assert party.call("DEL", f"c{number}", container, conf).ok or party.plugin == "bridge"
        script.append(("end", party.leases(last=False)))
    finally:
        for container in held.values():
            container.close()
        party.node.namespace.run("rm", "-rf", party.node.leases / NETWORK)
    return script


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_same_addresses_and_files(case: Case, parties: dict[str, Party]) -> None:
    """The same calls in the same order give the same addresses and leave the same files, octet for octet."""
    assert play(parties["agent"], case) == play(parties["stock"], case)


@pytest.mark.parametrize("mode", ["alone", "agent"])
def test_both_on_one_folder(lab: Lab, mode: str) -> None:
    """Stock and ours interleaved and at once on one dataDir: no address twice, each gives back what the other took."""
    node = lab.node()
    if mode == "agent":
        node.agent(bgp=None, default_exporters=[])
    stock, ours = Party(node, "bridge"), Party(node, "bgpcni")
    node.namespace.run("ln", "-sf", STOCK_PLUGINS / "bridge", node.bin_dir / "bridge")
    pool = {"ranges": [[{"subnet": "10.1.2.0/26"}], [{"subnet": "fd00::/64"}]]}
    containers = [lab.container() for _ in range(20)]

    def add(number: int) -> CniAnswer:
        party = (stock, ours)[number % 2]
        return party.call("ADD", f"c{number}", containers[number], party.conf(pool))

    with ThreadPoolExecutor(6) as pool_of_threads:
        answers = list(pool_of_threads.map(add, range(20)))
    assert all(answer.ok for answer in answers), answers
    given = [ip for answer in answers for ip in answer.ips]
    assert len(given) == len(set(given)) == 40
    assert node.lease_files(NETWORK) == set(given)
    for number, answer in enumerate(answers):
        other = (ours, stock)[number % 2]
        assert other.call("DEL", f"c{number}", containers[number], other.conf(pool)).ok
        assert not node.lease_files(NETWORK) & set(answer.ips)


@pytest.mark.parametrize("mode", ["alone", "agent"])
def test_leases_of_an_earlier_boot(lab: Lab, mode: str) -> None:
    """What a reboot left is given out again; a lease with a record of this boot, or one made since, never.

    The boot is simulated: the lease is older than this one, and no record or an earlier boot's speaks of it.
    """
    node = lab.node()
    ours = Party(node, "bgpcni")
    pool = ours.conf({"ranges": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.13"}]]})
    if mode == "agent":
        node.agent(bgp=None, default_exporters=[])
    alive, dead = lab.container("alive"), lab.container("dead")
    first = ours.call("ADD", "alive", alive, pool)
    second = ours.call("ADD", "rebooted", dead, pool)
    assert first.ok, first
    assert second.ok, second
    # From here on as after a reboot in which "alive" was added at once, and nothing else yet.
    if mode == "agent":
        node.kill_agent()
    dead.close()
    until(lambda: len(node.links()) == 2, "the end of the link of the container that did not come again")
    (record,) = [path for path in node.records("up") if json.loads(path.read_text())["container_id"] == "rebooted"]
    record.write_text(json.dumps(json.loads(record.read_text()) | {"boot_id": "0" * 32}))
    for marker in node.run_dir.glob("leases/leases-*.json"):
        marker.unlink()
    folder = node.leases / NETWORK
    _lease(folder, "10.1.2.12", "stock-of-old", HOUR)
    _lease(folder, "10.1.2.13", "stock-of-today", 0)
    os.utime(folder / first.ips[0], (time.time(), _booted() - HOUR))  # a clock that stepped makes it look old
    if mode == "agent":
        node.start_agent()
    given = [ours.call("ADD", f"new{number}", lab.container(), pool) for number in range(3)]
    assert sorted(ip for answer in given for ip in answer.ips) == ["10.1.2.11", "10.1.2.12"]
    assert [answer.error for answer in given] == [None, None, 11]
    assert (folder / first.ips[0]).read_bytes().decode() == "alive\r\neth0"
    assert (folder / "10.1.2.13").read_bytes().decode() == "stock-of-today\r\neth0"


def _lease(folder: Path, address: str, owner: str, seconds_before_boot: int) -> None:
    (folder / address).write_bytes(f"{owner}\r\neth0".encode())
    if seconds_before_boot:
        os.utime(folder / address, (0, _booted() - seconds_before_boot))


def _booted() -> int:
    text = Path("/proc/stat").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("btime "))
