"""`make demo`: one container, from ADD to DEL, as the node and its BGP peer see it. Exit 0 only if all was observed.

FRR runs in one network namespace, the node with the agent in another, joined by a veth pair. Every step prints what
a person would type, what came back, and how long it took until that was seen.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from integration.lab import Frr, Lab, Namespace, Node, sweep, until
from integration.lab.core import root_or_reason

CONTAINER = "demo-1"
NETWORK = "demo"


class Story:
    """Prints steps. Colours only where someone looks (a terminal, and no NO_COLOR)."""

    def __init__(self) -> None:
        self.colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self.number = 0
        self.began = time.monotonic()

    def paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colours else text

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A numbered step; ends with the time it took, or with the failure, which goes on."""
        self.number += 1
        print(f"\n{self.paint('1', f'{self.number}. {title}')}", flush=True)
        began = time.monotonic()
        try:
            yield
        except BaseException:
            print(f"   {self.paint('31', 'not observed')}", flush=True)
            raise
        print(
            f"   {self.paint('32', 'ok')} {self.paint('2', f'{(time.monotonic() - began) * 1000:.0f} ms')}", flush=True
        )

    def command(self, where: str, line: str) -> None:
        print(f"   {self.paint('36', f'{where} #')} {line}", flush=True)

    def answer(self, *lines: str) -> None:
        for line in lines:
            print(f"   {line}", flush=True)


def check(true: object, what: str) -> None:
    """Check one thing that must be observed."""
    if not true:
        raise AssertionError(what)


def route_line(frr: Frr, prefix: str) -> str:
    """A prefix and its best path, in one line, from FRR's table."""
    path = next(iter(frr.paths(prefix)), {})
    hops = " ".join(sorted(frr.next_hops(prefix)))
    return f"*>i {prefix} next hop {hops} local-preference {path.get('locPrf', '-')} origin {path.get('origin', '?')}"


def add(story: Story, node: Node, container: Namespace, conf: dict[str, object]) -> tuple[str, str]:
    """The plugin's ADD; the container's IPv4 and IPv6 address."""
    story.command("node", f"CNI_COMMAND=ADD CNI_CONTAINERID={CONTAINER} CNI_NETNS={container.path} CNI_IFNAME=eth0 \\")
    story.command("node", f"    {node.bin_dir}/bgpcni <<<'{json.dumps(conf)}'")
    answer = node.cni("ADD", CONTAINER, container, conf)
    check(answer.ok, f"ADD answers with success, not {answer.document} {answer.stderr}")
    story.answer(
        *(
            f"{i['name']} mac {i.get('mac')}{' in the container' if i.get('sandbox') else ''}"
            for i in answer.document["interfaces"]
        ),
        *(f"{ip['address']} gateway {ip.get('gateway')}" for ip in answer.document["ips"]),
        *(f"stderr: {line}" for line in answer.stderr.splitlines()),
        f"the plugin took {answer.seconds * 1000:.0f} ms, the start of `ip netns exec` included",
    )
    four = next(ip for ip in answer.ips if ":" not in ip)
    six = next(ip for ip in answer.ips if ":" in ip)
    return four, six


def tell(story: Story, lab: Lab) -> None:
    """The demonstration itself."""
    with story.step("FRR in one network namespace, the node in another, a link between them"):
        frr = lab.frr()
        node = lab.node(frr)
        container = lab.container("container")
        story.answer(
            frr.text("show version").splitlines()[0].partition(" on ")[0],
            f"frr       {frr.namespace.name}  {node.peer}  {node.peer6}  AS {frr.asn}",
            f"node      {node.namespace.name}  {node.address}  {node.address6}  AS {node.asn}",
            f"container {container.name}",
        )

    with story.step("The agent starts on the node"):
        story.command("node", f"bgpcni agent --config {node.config} --socket {node.socket}")
        node.agent()
        story.answer("it answers on its socket")

    conf = node.network(NETWORK, "10.1.2.0/24", "2001:db8:1:2::/64", bgp={"family": "unicast"})
    with story.step("The runtime calls the plugin: ADD"):
        four, six = add(story, node, container, conf)

    with story.step("The node's speaker has a session with FRR"):
        story.command("frr", f"show bgp neighbors {node.address}")
        until(lambda: frr.established(node.address), "FRR's session with the node")
        story.answer(f"BGP state = {frr.neighbor(node.address)['bgpState']}")

    prefixes = {f"{four}/32": node.address, f"{six}/128": node.address6}
    with story.step("FRR has the container's routes, with the node as next hop"):
        for prefix, next_hop in prefixes.items():
            story.command("frr", f"show bgp ipv{6 if ':' in prefix else 4} unicast {prefix}")
            until(lambda p=prefix, n=next_hop: frr.next_hops(p) == {n}, f"{prefix} via {next_hop}")  # type: ignore[misc]
            story.answer(route_line(frr, prefix))

    with story.step("The node says the same"):
        story.command("node", "bgpcni routes")
        announced = until(lambda: node.routes() if node.operator("routes").code == 0 else [], "all routes announced")
        check({route["prefix"] for route in announced} == set(prefixes), f"just these routes: {announced}")
        for route in announced:
            states = ", ".join(f"{name}: {use['state']}" for name, use in route["exporters"].items())
            story.answer(f"{route['family']} {route['prefix']} next hop {route['nextHop']} {states}")

    with story.step("FRR's side pings the container"):
        for prefix, address in zip(prefixes, (four, six), strict=True):
            until(lambda p=prefix: frr.kernel_route(p), f"{prefix} in the kernel of FRR's side")  # type: ignore[misc]
            story.command("frr", f"ping -c 1 {address}")
            reply = until(lambda a=address: pinged(frr, a), f"an answer of {address}")  # type: ignore[misc]
            story.answer(reply)

    with story.step("The runtime calls the plugin: DEL"):
        story.command("node", f"CNI_COMMAND=DEL CNI_CONTAINERID={CONTAINER} … {node.bin_dir}/bgpcni")
        answer = node.cni("DEL", CONTAINER, container, conf)
        check(answer.ok, f"DEL answers with success, not {answer.document} {answer.stderr}")
        story.answer(f"the plugin took {answer.seconds * 1000:.0f} ms", *answer.stderr.splitlines())

    with story.step("The routes are gone"):
        for prefix in prefixes:
            story.command("frr", f"show bgp ipv{6 if ':' in prefix else 4} unicast {prefix}")
            until(lambda p=prefix: not frr.paths(p) and not frr.kernel_route(p), f"{prefix} gone")  # type: ignore[misc]
            story.answer("% Network not in table")
        until(lambda: not node.records(), "FRR's acknowledgement of the withdrawal")  # DEL does not wait for it
        check(node.routes() == [], f"bgpcni routes is empty, not {node.routes()}")

    with story.step("So are link, leases and record"):
        story.command("node", "ip link")
        check(node.links() <= {"cni0"}, f"no link but the bridge: {node.links()}")
        check(not container.ip_json("link", "show", "eth0"), "no eth0 in the container")
        story.answer(f"{', '.join(sorted(node.links() | {'lo', 'uplink'}))}; the container has lo only")
        story.command("node", f"ls {node.leases}/{NETWORK}")
        check(not node.lease_files(NETWORK), f"no leases: {node.lease_files(NETWORK)}")
        story.answer("no address is held")
        story.command("node", f"find {node.data_dir}/attachments -name '*.json'")
        check(not node.records(), f"no records: {node.records()}")
        story.answer("no record is kept")


def pinged(frr: Frr, address: str) -> str:
    """The line of one echo reply, "" without one."""
    lines = frr.namespace.run("ping", "-n", "-c", 1, "-W", 2, address, check=False).stdout.splitlines()
    return next((line for line in lines if "bytes from" in line), "")


def ended(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main() -> int:
    if reason := root_or_reason():
        print(f"make demo: {reason}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    sweep()
    story = Story()
    lab = Lab()
    try:
        tell(story, lab)
        with story.step("The namespaces are taken down"):
            lab.close()
            left = [part for part in (lab.folder, *(f.namespace.path for f in lab.frrs)) if part.exists()]
            check(not left, f"nothing is left: {left}")
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - told in full below
        print(f"\n{story.paint('31', 'FAILED')}: {error}", file=sys.stderr)
        for name, text in lab.logs().items():
            print(f"\n--- {name}\n{text}", file=sys.stderr)
        return 1
    finally:
        lab.close()
    print(f"\n{story.paint('32', 'All of it was observed')}, in {time.monotonic() - story.began:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
