"""`bgpcni ipam show`, `check` and `release` on a real node, with an agent and without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from integration.lab import Lab, Node
from integration.seen import add, announced, cut_off, delete, dual, ready


@pytest.fixture(params=["agent", "no agent"])
def site(request: pytest.FixtureRequest, lab: Lab) -> Node:
    return ready(lab)[1] if request.param == "agent" else lab.node(lab.frr())


def ipam(node: Node, *argv: str) -> tuple[int, dict[str, Any]]:
    """The exit code and document. Without an agent $BGPCNI_SOCKET must not be set, nor --socket given."""
    words: tuple[str | Path, ...] = ("ipam", *argv, "--data-dir", node.leases)
    if node.process is not None:
        answer = node.operator(*words)
        return answer.code, answer.document
    answer = node.alone(*words)
    return answer.code, answer.document


def codes(node: Node) -> list[tuple[str, str]]:
    code, document = ipam(node, "check")
    found = [(one["code"], one["address"]) for one in document["contradictions"]]
    assert code == int(bool(found))
    return found


def network(node: Node) -> dict[str, Any]:
    return dual(node) if node.process is not None else dual(node) | {"exporters": [], "bgp": {}}


def test_addresses_from_the_first_to_the_last(site: Node, lab: Lab) -> None:
    """Each address with its owner, of both families; a leaked lease is named by `check`, and `release` gives it back; a
    lease that a container has is refused with the container's name."""
    conf, space = network(site), lab.container()
    four, six = add(site, "c1", space, conf).ips
    _, document = ipam(site, "show")
    rows = {row["address"]: row for row in document["addresses"]}
    assert set(rows) == {four, six}
    assert [(row["containerID"], row["state"], row["leased"]) for row in rows.values()] == [("c1", "used", True)] * 2
    assert ipam(site, "show", six)[1]["addresses"] == [rows[six]]
    code, document = ipam(site, "show", "192.0.2.99")
    assert (code, "nobody here has 192.0.2.99" in document["error"]) == (1, True)
    assert codes(site) == []

    folder = site.leases / "tenant-a"
    for leaked in ("10.1.2.77", "2001:db8:1:2::77"):
        (folder / leaked).write_text("ghost\r\neth0")
        assert codes(site) == [("lease-without-owner", leaked)]
        code, document = ipam(site, "release", leaked)
        assert (code, document["released"][0]["containerID"]) == (0, "ghost")
        assert not (folder / leaked).exists()
        code, document = ipam(site, "release", leaked)
        assert (code, f"no lease of {leaked}" in document["error"]) == (1, True)
    code, document = ipam(site, "release", four)
    assert (code, "tenant-a/c1/eth0" in document["error"], "--force" in document["error"]) == (1, True, True)
    assert (folder / four).exists()

    (folder / six).unlink()
    assert codes(site) == [("no-lease", six)]
    (folder / six).write_text("c1\r\neth0")
    space.ip("addr", "del", f"{four}/24", "dev", "eth0")
    assert codes(site) == [("not-in-kernel", four)]
    space.ip("addr", "add", f"{four}/24", "dev", "eth0")
    assert codes(site) == []
    assert ipam(site, "release", four, "--force")[0] == 0
    assert not (folder / four).exists()
    delete(site, "c1", space, conf)
    assert codes(site) == []


def test_a_container_of_the_stock_plugin(site: Node, lab: Lab) -> None:
    """It has a lease in the same folder and no record: that is no contradiction, and its address is not released."""
    conf = network(site)
    stock = {key: conf[key] for key in ("cniVersion", "name", "bridge", "isGateway", "ipam")} | {"type": "bridge"}
    with lab.container() as space:
        answer = site.cni("ADD", "s1", space, stock, plugin="../../../usr/lib/cni/bridge")
        assert answer.ok, answer
        assert codes(site) == []
        assert {row["state"] for row in ipam(site, "show")[1]["addresses"]} == {"other"}
        code, document = ipam(site, "release", answer.ips[0])
        assert (code, "without a record" in document["error"]) == (1, True)
        assert site.cni("DEL", "s1", space, stock, plugin="../../../usr/lib/cni/bridge").ok


def test_a_held_address(lab: Lab) -> None:
    """Its withdrawal cannot be confirmed: `show` says held, `release` refuses, `--force` ends the attachment."""
    frr, node = ready(lab)
    conf, space = dual(node), lab.container()
    answer = add(node, "c1", space, conf)
    announced(frr, node, answer)
    with cut_off(frr, node.address):
        delete(node, "c1", space, conf)
        rows = ipam(node, "show")[1]["addresses"]
        assert [row["state"] for row in rows] == ["held", "held"]
        assert codes(node) == []
        code, document = ipam(node, "release", answer.ips[0])
        assert (code, "is held for tenant-a/c1/eth0" in document["error"]) == (1, True)
        assert ipam(node, "release", answer.ips[0], "--force")[0] == 0
        assert node.records() == []
        assert node.lease_files() == set()


def test_leases_of_another_plugin_alone(site: Node) -> None:
    """A network in which our plugin never gave an address, such as one of macvlan: who has its leases cannot be seen
    from here, so none is called leaked, and none released but with --force."""
    folder = site.leases / "macvlan-net"
    folder.mkdir()
    (folder / "10.9.9.9").write_text("m1\r\nnet1")
    assert codes(site) == []
    code, document = ipam(site, "release", "10.9.9.9")
    assert (code, "another plugin's" in document["error"]) == (1, True)
    assert ipam(site, "release", "10.9.9.9", "--force")[0] == 0
