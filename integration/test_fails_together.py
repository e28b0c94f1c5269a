"""Two ADDs that fail at the same moment leave nothing, whichever of them made the bridge."""

from __future__ import annotations

import json
import os
import sys

import pytest

from integration.lab import Lab

_FOREIGN = "192.0.2.1/24"


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("order", ["maker first", "other first", "at once"])
def test_two_adds_fail_on_a_bridge_that_neither_found(lab: Lab, order: str, theirs: bool) -> None:
    """The bridge goes, or of one that was there the gateway addresses; an ADD that then succeeds keeps its own."""
    node, spaces = lab.node(), [lab.container() for _ in range(2)]
    if theirs:
        node.namespace.ip("link", "add", "name", "cni0", "type", "bridge")
        node.namespace.ip("link", "set", "cni0", "up")
        node.namespace.ip("address", "add", _FOREIGN, "dev", "cni0")
    conf = node.network("tenant-a", "10.1.2.0/24", "2001:db8:1:2::/64", exporters=[], isGateway=True)
    broken = conf | {"ipam": conf["ipam"] | {"routes": [{"dst": "198.51.100.0/24", "gw": "203.0.113.1"}]}}
    environment = {"BGPCNI_RUN_DIR": str(node.run_dir), "BGPCNI_DATA_DIR": str(node.data_dir)}
    argv = (sys.executable, "-m", "integration.fails_together", order, json.dumps(broken))
    where = [str(space.path) for space in spaces]
    ran = node.namespace.run(*argv, *where, env=dict(os.environ) | environment, seconds=400)
    assert [answer["code"] for answer in json.loads(ran.stdout)] == [101, 101], ran
    assert (node.links(), node.lease_files()) == ({"cni0"} if theirs else set(), set())
    assert node.records() == []
    if theirs:
        shown = node.namespace.ip_json("address", "show", "dev", "cni0", "scope", "global")
        present = [f"{item['local']}/{item['prefixlen']}" for item in shown[0]["addr_info"] if "local" in item]
        assert present == [_FOREIGN]

    added = node.cni("ADD", "c1", spaces[0], conf)
    assert added.ok, added
    assert node.cni("ADD", "c2", spaces[1], broken).error == 101
    assert node.cni("DEL", "c1", spaces[0], conf).ok
    assert node.cni("ADD", "c2", spaces[1], broken).error == 101
    assert "cni0" in node.links()
