"""500 nonsensical calls of the real executable, with an agent and without: JSON each time, and no change on error."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bgpcni.cni.environment import Command
from bgpcni.testing.patience import SECONDS
from integration.cni_inputs import environments, sound, stdins
from integration.lab import Lab, Namespace, Node
from integration.lab.node import STOCK_PLUGINS

CALLS = {"agent": 400, "alone": 100}
AT_ONCE = 2

calls = st.tuples(environments, stdins, st.sampled_from([*Command, *[Command.ADD] * 4]), st.integers(-20, 20))
"""Environment, stdin, command; and from 0 on: the usual configuration with two members of stdin's from that one on."""


@pytest.mark.parametrize("mode", CALLS)
def test_no_call_of_the_executable_ends_in_a_defect(lab: Lab, mode: str) -> None:
    """Never a traceback, never an exit without valid JSON; a call that fails leaves the node as it was."""
    node, space = lab.node(), lab.container()
    if mode == "agent":
        node.agent(bgp={"neighbors": [], "next_hop6": node.address6}, default_exporters=[])
    usual = node.network("net", "10.1.0.0/16", "fd00:1::/64", exporters=[])

    with ThreadPoolExecutor(AT_ONCE) as pool:

        @settings(
            max_examples=CALLS[mode] // AT_ONCE,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(calls, min_size=AT_ONCE, max_size=AT_ONCE))
        def run(some: list[tuple[dict[str, str], bytes, Command, int]]) -> None:
            before = footprint(node, space)
            codes = list(pool.map(lambda one: call(node, space, usual, *one), some))
            if all(codes):
                assert footprint(node, space) == before, some
            else:
                clear(node, space)

        run()


def call(
    node: Node, space: Namespace, usual: dict[str, Any], some: dict[str, str], stdin: bytes, command: Command, at: int
) -> int:
    """One call, its answer judged; the exit code. Leases stay in this test's own folder."""
    variables = {
        "CNI_NETNS": str(space.path),
        "CNI_PATH": f"{node.bin_dir}:{STOCK_PLUGINS}",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
    } | {key: value for key, value in some.items() if key in ("CNI_ARGS", "CNI_IFNAME", "CNI_CONTAINERID") or not value}
    environment = node._environment() | variables | {"CNI_COMMAND": command.value}
    done = subprocess.run(
        node.namespace.command(*node._private(), node.bin_dir / "bgpcni"),
        input=at_home(stdin, usual, at),
        env={os.fsencode(key): _octets(value) for key, value in environment.items()},
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )
    sound(done.returncode, done.stdout, done.stderr, command.value)
    return done.returncode


def _octets(text: str) -> bytes:
    """A variable as the kernel takes it: any octets but NUL."""
    return text.encode(errors="surrogatepass").replace(b"\0", b"")


def at_home(stdin: bytes, usual: dict[str, Any], at: int) -> bytes:
    """The same configuration with `ipam.dataDir` below this node's folder, and an `ipam` that works if it has none."""
    try:
        document = json.loads(stdin)
    except (ValueError, RecursionError):
        return stdin
    if not isinstance(document, dict):
        return stdin
    if at >= 0:
        document = usual | dict(list(document.items())[at % (len(document) or 1) :][:2])
    ipam = document.setdefault("ipam", usual["ipam"])
    if isinstance(ipam, dict):
        kept = {key: value for key, value in ipam.items() if key.lower() != "datadir"}
        document["ipam"] = kept | {"dataDir": usual["ipam"]["dataDir"]}
    return json.dumps(document).encode()


def footprint(node: Node, space: Namespace) -> Any:
    """What a failed call must leave as it was. A bridge may stay: two calls at once may both need it."""
    outside = [link for link in node.namespace.ip_json("-details", "link", "show") if not _is_bridge(link)]
    kernel = [_without_counters(link) for link in outside]
    inside = [space.ip("address", "show"), space.ip("route", "show", "table", "all"), space.ip("-6", "route", "show")]
    leases = sorted(
        str(path) for path in node.leases.rglob("*") if path.name[0] in "0123456789abcdef" and path.is_file()
    )
    return kernel, inside, leases, node.records()


def _is_bridge(link: dict[str, Any]) -> bool:
    return bool(link.get("linkinfo", {}).get("info_kind") == "bridge")


def _without_counters(link: dict[str, Any]) -> dict[str, Any]:
    return {
        key: link.get(key) for key in ("ifname", "ifindex", "mtu", "master", "flags", "address", "ifalias", "group")
    }


def clear(node: Node, space: Namespace) -> None:
    """Give back what succeeded."""
    for path in node.records():
        record = json.loads(path.read_text())
        conf = {"cniVersion": "1.0.0", "name": record["network"], "type": "bgpcni"}
        answer = node.cni("DEL", record["container_id"], space, conf, record["ifname"])
        assert answer.ok, answer.document
