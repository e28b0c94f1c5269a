"""The conformance table, row by row, through real executables: ours with an agent and without, and the stock bridge."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from bgpcni.cni.versions import SUPPORTED
from bgpcni.testing.patience import SECONDS
from integration.conformance import TABLE, Row, aligned, merge, rows
from integration.lab import Lab, Namespace, Node, until
from integration.lab.namespace import run
from integration.lab.node import STOCK_PLUGINS, CniAnswer
from integration.warm import Warm

STOCK = STOCK_PLUGINS / "bridge"
AT_ONCE = 2
NETWORK = "conf"


def test_the_table_covers_what_the_specification_has() -> None:
    """Six commands, every version, at least 150 rows, each once, in aligned columns."""
    table = rows()
    assert len(table) >= 150
    assert {row.command for row in table} >= {"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"}
    for command in ("ADD", "DEL", "CHECK"):
        assert {row.version for row in table if row.command == command} >= set(SUPPORTED)
    cells = [str(row).partition(":")[2] for row in table if row.where == "both"]
    assert len(set(cells)) == len(cells)
    text = TABLE.read_text(encoding="utf-8")
    assert text == aligned(text), "run `python -m integration.conformance`"


@pytest.mark.parametrize("mode", ["alone", "agent"])
@pytest.mark.timeout(900)  # some three hundred starts of Python
def test_every_row_is_what_a_runtime_gets(lab: Lab, mode: str) -> None:
    """Code, output and what is left on the node are as the table has them, with an agent and without."""
    wrong = _run(lab, mode, [row for row in rows() if row.where in ("both", mode)])
    assert not wrong, "\n".join(wrong)


def test_the_table_is_the_fields_not_ours_alone(lab: Lab) -> None:
    """The generic rows hold for the stock bridge plugin too, but for the deviations that the table names."""
    if not STOCK.exists():
        pytest.skip(f"not installed: {STOCK} (containernetworking-plugins)")
    wrong = _run(lab, "stock", [row for row in rows() if row.stock_code() is not None])
    assert not wrong, "\n".join(wrong)


def _run(lab: Lab, mode: str, todo: Iterable[Row]) -> list[str]:
    """Each row on a node of its own worker; what is wrong, in the table's order."""
    queue: SimpleQueue[Row] = SimpleQueue()
    for row in todo:
        queue.put(row)
    nodes = [lab.node() for _ in range(AT_ONCE)]
    if mode == "agent":
        for node in nodes:
            node.agent(bgp={"neighbors": [], "next_hop6": node.address6}, default_exporters=[])
    warm = [Warm(node) if mode == "alone" else None for node in nodes]
    for one in filter(None, warm):
        lab.callback(one.close)
    wrong: dict[int, str] = {}
    broken = threading.Event()

    def work(node: Node, warm: Warm | None) -> None:
        while not broken.is_set():
            try:
                row = queue.get_nowait()
            except Empty:
                return
            try:
                if reason := Situations(node, mode, row, warm).play():
                    wrong[row.number] = f"{row}\n    {reason}"
            except (AssertionError, RuntimeError, ValueError, subprocess.TimeoutExpired) as error:
                wrong[row.number] = f"{row}\n    could not be brought about: {error}"
            except BaseException:
                broken.set()
                raise

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(work, *pair) for pair in zip(nodes, warm, strict=True)]:
            future.result()
    return [text for _, text in sorted(wrong.items())]


class Situations:
    """One row on one node: brings its situation about, makes the call, looks at what is left, and clears up."""

    def __init__(self, node: Node, mode: str, row: Row, warm: Warm | None) -> None:
        self.node, self.mode, self.row, self.warm = node, mode, row, warm
        self.stock = mode == "stock"
        self.id = f"row{row.number}"
        self.container = Namespace("c")
        self.other = Namespace("o") if {"another", "another-so", "elsewhere"} & set(row.steps) else None
        self.prev: dict[str, Any] | None = None
        self.usual = node.network(
            NETWORK, "10.1.0.0/16", "fd00:1::/64", bridge="br0", exporters=[], type="bridge" if self.stock else "bgpcni"
        )
        self.version = row.version if row.version in SUPPORTED[: 6 if self.stock else 7] else "1.0.0"
        self.usual["cniVersion"] = self.version

    def play(self) -> str:
        """What is wrong, "" if all is as the row has it."""
        try:
            for step in self.row.steps:
                STEPS[step](self)
            answer = self.call()
            return "; ".join(filter(None, (self.judge(answer), self.look())))
        finally:
            self.clear()

    # ---------------------------------------------------------------- calls

    def call(self) -> CniAnswer:
        """The call that the row is about."""
        row, folder = self.row, self.node.folder
        for name, make in (("fifo", os.mkfifo), ("file", Path.touch), ("folder", os.mkdir)):
            if not (folder / name).exists():
                make(folder / name)
        words = {name: str(folder / name) for name in ("missing", "file", "folder", "fifo")}
        words["own"] = str(self.node.namespace.path)
        base = {
            "CNI_COMMAND": row.command,
            "CNI_CONTAINERID": self.id,
            "CNI_NETNS": str(self.container.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.node.bin_dir}:{STOCK_PLUGINS}",
        }
        prev = self.prev if row.command in ("DEL", "CHECK") or "chained" in row.steps else None
        without = {key: value for key, value in self.usual.items() if key != "cniVersion"}
        return self.run(row.variables(base, words), row.stdin(without, prev).replace("{id}", self.id))

    def run(self, variables: dict[str, str], stdin: str, plugin: str | None = None) -> CniAnswer:
        name = plugin or (str(STOCK) if self.stock else "bgpcni")
        return self.node.cni(
            "", "", None, stdin, ifname="", env={"CNI_PATH": ""} | variables, plugin=name, seconds=SECONDS
        )

    def ask(
        self, command: str, conf: dict[str, Any], name: str, space: Namespace, plugin: str | None = None
    ) -> dict[str, Any]:
        """A call that has to succeed, on the way to the situation."""
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": name,
            "CNI_NETNS": str(space.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.node.bin_dir}:{STOCK_PLUGINS}",
        }
        if self.warm and plugin is None:
            code, document, stderr = self.warm.call(variables, json.dumps(conf))
        else:
            answer = self.run(variables, json.dumps(conf), plugin)
            code, document, stderr = answer.code, answer.document, answer.stderr
        if code:
            raise AssertionError(f"{command} before the call failed: {document} {stderr}")
        return document

    def configured(self) -> dict[str, Any]:
        """The row's configuration, for steps that use it."""
        text = self.row.configuration
        found = merge(self.usual, {} if text == "-" else json.loads(text))
        assert isinstance(found, dict)
        return found | ({"prevResult": self.prev} if "chained" in self.row.steps else {})

    # ---------------------------------------------------------------- verdict

    def judge(self, answer: CniAnswer) -> str:
        code = 0 if answer.ok else int(answer.document.get("code", -1))
        if answer.code not in (0, 1):
            return f"exit code {answer.code}: {answer.stderr}"
        if "Traceback" in answer.stderr:
            return answer.stderr
        if self.stock:
            wanted = self.row.stock_code()
            if code != wanted:
                return f"stock: code {code}, not {wanted}: {answer.document}"
            return self.row.wrong(code, answer.document, words=False) if self.row.stock == "=" else ""
        said = answer.document.get("cniVersion")
        if code and self.row.version in SUPPORTED and not self.row.configuration.startswith("stdin:"):
            if said != self.row.version and "cniVersion" not in self.row.configuration.partition("prevResult")[0]:
                return f"the error's cniVersion is {said}"
        elif code and said not in SUPPORTED:
            return f"the error's cniVersion is {said}"
        return self.row.wrong(code, answer.document)

    def look(self) -> str:
        """What is left on the node."""
        if self.stock and self.row.stock != "=":
            return ""
        ends = sum("link_netnsid" in link for link in self.node.namespace.ip_json("link", "show", "type", "veth"))
        leases = len(self.node.lease_files(NETWORK))
        if f"{ends}/{leases}" != self.row.left:
            return f"left {ends}/{leases}, not {self.row.left}"
        records = self.node.records()
        if self.row.left == "0/0" and records:
            return f"records left: {records}"
        return ""

    def clear(self) -> None:
        """Nothing of the row is left; an agent is told by DELs."""
        node = self.node
        if self.mode == "agent":
            for name in {path.stem for path in node.records()}:
                self.forget(name)
        self.container.close()
        if self.other:
            self.other.close()
        for link in node.namespace.ip_json("link", "show"):
            if link["ifname"] != "lo":
                node.namespace.ip("link", "delete", link["ifname"], check=False)
        shutil.rmtree(node.leases, ignore_errors=True)
        node.leases.mkdir()
        if self.mode == "alone":
            for path in node.records():
                path.unlink()

    def forget(self, stem: str) -> None:
        """DEL by what a record's file says, in whatever state it is."""
        for path in self.node.records():
            if path.stem == stem:
                try:
                    record = json.loads(path.read_text())
                    conf = self.usual | {"name": record["network"]}
                    who, ifname = record["container_id"], record["ifname"]
                except (ValueError, KeyError):
                    conf, who, ifname = self.usual, self.id, "eth0"
                variables = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": who, "CNI_IFNAME": ifname, "CNI_PATH": "/x"}
                self.run(variables, json.dumps(conf))
                self.node.operator("release", who, "--force")

    # ---------------------------------------------------------------- steps

    def added(self) -> None:
        self.prev = self.ask("ADD", self.usual, self.id, self.container)

    def added_so(self) -> None:
        self.prev = self.ask("ADD", self.configured(), self.id, self.container)

    def another(self) -> None:
        assert self.other
        self.ask("ADD", self.usual, f"{self.id}b", self.other)

    def another_so(self) -> None:
        assert self.other
        self.ask("ADD", self.configured(), f"{self.id}b", self.other)

    def elsewhere(self) -> None:
        assert self.other
        ipam = self.usual["ipam"] | {"ranges": [[{"subnet": "10.3.0.0/16"}]]}
        self.ask("ADD", self.usual | {"name": "elsewhere", "isGateway": False, "ipam": ipam}, f"{self.id}b", self.other)

    def deleted(self) -> None:
        self.ask("DEL", self.usual, self.id, self.container)

    def chained(self) -> None:
        """The stock bridge made the interface, and its result is prevResult."""
        version = "1.0.0" if self.version == "1.1.0" else self.version
        conf = self.usual | {"type": "bridge", "cniVersion": version}
        self.prev = self.ask("ADD", conf, self.id, self.container, str(STOCK)) | {"cniVersion": self.version}

    def gone(self) -> None:
        self.container.close()
        until(lambda: not self.host_ends(), "the end of the link of a namespace that is gone")

    def moved(self) -> None:
        """The path is another namespace now."""
        self.gone()
        run("ip", "netns", "add", self.container.name)

    def record(self, change: Callable[[Path], object]) -> None:
        (path,) = self.node.records("up")
        change(path)

    def record_of_another_boot(self) -> None:
        def change(path: Path) -> None:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "another"}))

        self.record(change)

    def host_ends(self) -> list[str]:
        found = self.node.namespace.ip_json("link", "show", "type", "veth")
        return [link["ifname"] for link in found if "link_netnsid" in link]

    def inside(self, *words: str) -> None:
        self.container.ip(*words)

    def outside(self, *words: str) -> None:
        self.node.namespace.ip(*words)

    def port(self, *words: str) -> None:
        (name,) = self.host_ends()
        self.node.namespace.ip("link", "set", name, *words)

    def address(self, version: int) -> None:
        found = self.container.ip_json(f"-{version}", "address", "show", "dev", "eth0", "scope", "global")
        (info,) = [info for item in found for info in item.get("addr_info", []) if info]
        self.container.ip("address", "delete", f"{info['local']}/{info['prefixlen']}", "dev", "eth0")

    def lose_leases(self) -> None:
        for name in self.node.lease_files(NETWORK):
            (self.node.leases / NETWORK / name).unlink()

    def nobodys_leases(self) -> None:
        folder = self.node.leases / NETWORK
        folder.mkdir()
        for name in ("10.1.0.9", "fd00:1::9"):
            (folder / name).write_text("nobody\r\neth0")

    def others(self) -> None:
        """Addresses, routes, a link, a port of the bridge: what other plugins and people add."""
        self.inside("address", "add", "192.0.2.9/32", "dev", "eth0")
        self.inside("address", "add", "2001:db8::9/128", "dev", "eth0", "nodad")
        self.inside("route", "add", "198.51.100.0/24", "via", "10.1.0.1")
        self.inside("-6", "route", "add", "2001:db8:1::/48", "via", "fd00:1::1")
        self.inside("link", "add", "net1", "type", "veth", "peer", "name", "net2")
        self.outside("link", "add", "port", "master", "br0", "type", "veth", "peer", "name", "beyond")
        self.outside("address", "add", "192.0.2.10/32", "dev", "br0")

    def stranger(self) -> None:
        self.outside("link", "add", "vethstranger", "type", "veth", "peer", "name", "x", "netns", self.container.name)


STEPS: dict[str, Callable[[Situations], object]] = {
    "added": Situations.added,
    "added-so": Situations.added_so,
    "announced": Situations.added_so,
    "another": Situations.another,
    "another-so": Situations.another_so,
    "elsewhere": Situations.elsewhere,
    "deleted": Situations.deleted,
    "chained": Situations.chained,
    "gone": Situations.gone,
    "moved": Situations.moved,
    "vanished": lambda s: s.inside("link", "delete", "eth0"),
    "taken": lambda s: s.inside("link", "add", "eth0", "type", "veth", "peer", "name", "x"),
    "not-a-bridge": lambda s: s.outside("link", "add", "br0", "type", "veth", "peer", "name", "x"),
    "others": Situations.others,
    "no-address4": lambda s: s.address(4),
    "no-address6": lambda s: s.address(6),
    "no-route4": lambda s: s.inside("route", "delete", "default"),
    "no-route6": lambda s: s.inside("-6", "route", "delete", "default"),
    "down": lambda s: s.inside("link", "set", "eth0", "down"),
    "other-mac": lambda s: s.inside("link", "set", "eth0", "address", "02:00:00:00:00:99"),
    "other-mtu": lambda s: s.inside("link", "set", "eth0", "mtu", "1300"),
    "host-down": lambda s: s.port("down"),
    "unplugged": lambda s: s.port("nomaster"),
    "hairpin": lambda s: s.port("type", "bridge_slave", "hairpin", "on"),
    "no-hairpin": lambda s: s.port("type", "bridge_slave", "hairpin", "off"),
    "not-isolated": lambda s: s.port("type", "bridge_slave", "isolated", "off"),
    "not-promiscuous": lambda s: s.outside("link", "set", "br0", "promisc", "off"),
    "bridge-down": lambda s: s.outside("link", "set", "br0", "down"),
    "bridge-gone": lambda s: s.outside("link", "delete", "br0"),
    "no-gateway4": lambda s: s.outside("address", "delete", "10.1.0.1/16", "dev", "br0"),
    "no-gateway6": lambda s: s.outside("address", "delete", "fd00:1::1/64", "dev", "br0"),
    "no-forwarding4": lambda s: s.node.namespace.sysctl(net__ipv4__ip_forward=0),
    "no-forwarding6": lambda s: s.node.namespace.sysctl(net__ipv6__conf__all__forwarding=0),
    "lease-gone": Situations.lose_leases,
    "lease-of-nobody": Situations.nobodys_leases,
    "link-of-a-stranger": Situations.stranger,
    "record-gone": lambda s: s.record(Path.unlink),
    "record-broken": lambda s: s.record(lambda path: path.write_text('{"schema": 99}')),
    "record-empty": lambda s: s.record(lambda path: path.write_text("")),
    "record-leaving": lambda s: s.record(lambda path: path.rename(path.parents[1] / "leaving" / path.name)),
    "record-of-another-boot": Situations.record_of_another_boot,
}
"""What a row's `before` may say."""
