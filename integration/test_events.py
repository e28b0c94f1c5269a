"""`bgpcni events`: what happens on a node is told as it happens, and it is told what was missed."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integration.evpn import network as evpn_network
from integration.lab import Lab, Node, until
from integration.lab.node import BGPCNI
from integration.seen import add, announced, delete, dual, ready, settled, speaker, withdrawn
from integration.test_evpn_frr import VTEP, make_router


class Stream:
    """`bgpcni events --json` in another process, and what it has printed."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if event["kind"] == kind and fields.items() <= event.items()]

    def wait(self, kind: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        until(lambda: len(self.all(kind, **fields)) >= count, f"{count} events {kind} with {fields}")
        return self.all(kind, **fields)


@contextmanager
def streamed(node: Node, *argv: str) -> Iterator[Stream]:
    """A stream that ends when it is interrupted, without a word of complaint."""
    file = node.folder / "events.log"
    process = node.namespace.popen(BGPCNI, "events", "--json", "--socket", node.socket, *argv, log=file)
    try:
        yield Stream(file)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "Traceback" not in file.read_text()


def test_the_life_of_a_container_is_told(lab: Lab) -> None:
    """Each line names the container and its address. The stream goes on when the agent restarts."""
    frr, node = ready(lab)
    conf, space = dual(node), lab.container()
    with streamed(node) as stream:
        stream.wait("session-up", exporter="exabgp", peer=node.peer)
        answer = add(node, "c1", space, conf)
        announced(frr, node, answer)
        (up,) = stream.wait("attachment-up", containerID="c1", network="tenant-a", ifname="eth0")
        assert up["address"] == answer.ips[0]
        for address in answer.ips:
            stream.wait("route-announced", containerID="c1", address=address, exporter="exabgp")
        node.restart_agent()
        stream.wait("agent-started", 2)
        delete(node, "c1", space, conf)
        withdrawn(frr, answer)
        stream.wait("attachment-gone", containerID="c1", address=answer.ips[0])
        for address in answer.ips:
            stream.wait("route-withdrawn", containerID="c1", address=address)
        stream.wait("attachment-released", containerID="c1")
        numbers = [event["number"] for event in stream.all("attachment-gone")]
        assert len(numbers) == 1


def test_what_goes_wrong_is_told_with_its_reason(lab: Lab) -> None:
    """A NOTIFICATION ends a session, ExaBGP is killed, a link deleted, an ADD fails, agent.toml has an error."""
    frr, node = ready(lab)
    conf, space = dual(node), lab.container()
    with streamed(node, "--since", "1h") as stream:
        stream.wait("session-up")
        answer = add(node, "c1", space, conf)
        announced(frr, node, answer)
        frr.configure(f"router bgp {frr.asn}", f"neighbor {node.address} shutdown")
        (down,) = stream.wait("session-down", peer=node.peer)
        assert "shutdown" in down["detail"].lower()
        assert down["level"] == "warning"
        frr.configure(f"router bgp {frr.asn}", f"no neighbor {node.address} shutdown")
        stream.wait("session-up", 2)
        (peer,) = node.operator("peers").document["peers"]
        assert peer["flaps"] == 1
        send = speaker(node)
        node.namespace.run("kill", "-9", str(send))
        stream.wait("speaker-ended", exporter="exabgp")
        stream.wait("speaker-started", 2, exporter="exabgp")
        stream.wait("route-announced", 2, address=answer.ips[0])
        (attached,) = node.attachments()
        node.namespace.run("ip", "link", "delete", attached["hostVeth"])
        stream.wait("orphan", containerID="c1", address=answer.ips[0])
        refused = node.cni("ADD", "c2", space, conf | {"exporters": ["exabpg"]})
        assert refused.error == 7
        (failed,) = stream.wait("add-failed", containerID="c2")
        assert "exabpg" in failed["detail"]
        node.config.write_text("nonsense = 1\n" + node.config.read_text())
        assert node.operator("reload").code == 1
        assert "nonsense" in stream.wait("reload-refused")[0]["detail"]
    log = node.log.read_text()
    assert f"warning bgpcni.events: {down['text']}" in log
    text = node.namespace.run(BGPCNI, "events", "--no-follow", "--socket", node.socket).stdout
    assert f"{down['time']}  warning: {down['text']}\n" in text


def test_peers_are_asked_about_and_reset(lab: Lab) -> None:
    """What a peer was sent and has sent, what is known of its session, its messages, and both ways to reset it."""
    frr, node = ready(lab)
    conf, space = dual(node), lab.container()
    with streamed(node) as stream:
        answer = add(node, "c1", space, conf)
        announced(frr, node, answer)
        sent = node.operator("routes", "--peer", node.peer, "advertised").document["routes"]
        assert {route["prefix"].partition("/")[0] for route in sent} == set(answer.ips)
        assert node.operator("routes", answer.ips[0]).document["routes"][0]["containerID"] == "c1"
        assert node.operator("routes", "10.99.0.0/16").document["routes"] == []
        assert node.operator("routes", "--state", "wanted").document["routes"] == []
        (peer,) = node.operator("peers", node.peer).document["peers"]
        assert peer["capabilities"]["routeRefresh"]
        theirs = messages(frr, node)
        assert (peer["messages"]["sent"]["open"], theirs["opensRecv"]) == (1, 1)
        assert 1 <= peer["messages"]["sent"]["update"] <= theirs["updatesRecv"]
        assert 1 <= peer["messages"]["received"]["keepalive"] <= theirs["keepalivesSent"]
        assert node.operator("explain", node.peer).document["peers"][0]["steps"][1]["state"] == "Established"
        (attached,) = node.operator("explain", attachment_bridge(node)).document["attachments"]
        assert attached["containerID"] == "c1"

        before = messages(frr, node)
        assert node.operator("peers", "reset", node.peer, "--soft").code == 0
        until(lambda: messages(frr, node)["updatesRecv"] > before["updatesRecv"], "the routes, sent again")
        until(lambda: messages(frr, node)["routeRefreshRecv"] > before["routeRefreshRecv"], "a route refresh")
        assert not stream.all("session-down")

        assert node.operator("peers", "reset", node.peer).code == 0
        stream.wait("session-down", peer=node.peer)
        stream.wait("session-up", 2, peer=node.peer)
        announced(frr, node, answer)
        (again,) = node.operator("peers", node.peer).document["peers"]
        assert again["messages"]["received"]["open"] == 1, "those of this session alone"
        assert again["messages"]["sent"]["update"] < messages(frr, node)["updatesRecv"]
        settled(node)
        assert node.operator("peers", "reset", "192.0.2.99").code == 1


def attachment_bridge(node: Node) -> str:
    (attached,) = node.attachments()
    links = node.namespace.ip_json("link", "show", "dev", attached["hostVeth"])
    return str(links[0]["master"])


def messages(frr: Any, node: Node) -> dict[str, int]:
    """How many messages of each kind FRR has had from the node."""
    return dict(frr.neighbor(node.address)["messageStats"])


def test_an_answer_is_watched_and_a_process_explained(lab: Lab) -> None:
    """`--watch --json` prints a document for each change; `explain PID` finds the container of a process."""
    frr, node = ready(lab)
    conf, space = dual(node), lab.container()
    file = node.folder / "watch.log"
    process = node.namespace.popen(BGPCNI, "routes", "--watch", "--json", "--socket", node.socket, log=file)

    def documents() -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    try:
        until(lambda: documents() == [{"schema": 1, "routes": []}], "the answer before the ADD")
        answer = add(node, "c1", space, conf)
        announced(frr, node, answer)
        until(lambda: len(documents()[-1]["routes"]) == 2, "the routes")
        inside = space.popen("sleep", "infinity", log=node.folder / "sleep.log")
        try:
            (found,) = node.operator("explain", str(inside.pid)).document["attachments"]
            assert found["containerID"] == "c1"
        finally:
            inside.kill()
            inside.wait()
        delete(node, "c1", space, conf)
        until(lambda: documents()[-1]["routes"] == [], "the answer after the DEL")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_peer_s_routes_of_every_kind_are_shown_both_ways(lab: Lab) -> None:
    """IPv4, IPv6 and EVPN: what the peer was sent and what it announced are what its own tables have. A peer that
    nobody has is an error both ways."""
    frr = lab.frr(networks=["203.0.113.0/24", "2001:db8:cafe::/48"])
    make_router(lab, frr)
    node = lab.node(frr)
    node.agent()
    frr.wait_established(node.address)
    asked = {"wait": "sent", "waitSeconds": 30, "import": ["203.0.113.0/24", "2001:db8:cafe::/48"]}
    conf, evpn = dual(node, bgp=asked), evpn_network(node, 1, bridge="cni1") | {"name": "tenant-b"}
    plain = add(node, "c1", lab.container("c1"), conf)
    announced(frr, node, plain)
    inside = add(node, "c2", lab.container("c2"), evpn)

    def shown(way: str) -> dict[str, dict[str, Any]]:
        document = node.operator("routes", "--peer", node.peer, way).document
        return {route["nlri"]: route for route in document["received" if way == "received" else "routes"]}

    def kinds(way: str) -> set[tuple[str, str]]:
        return {(route["family"], route["prefix"] or "") for route in shown(way).values()}

    for ip, length in zip(inside.ips, (32, 128), strict=True):
        until(lambda p=f"{ip}/{length}": ("l2vpn-evpn", p) in kinds("advertised"), f"{ip} sent")  # type: ignore[misc]
        until(lambda a=ip: a in str(frr.evpn_routes("macip")), f"{ip} at FRR")  # type: ignore[misc]
    sent = kinds("advertised")
    assert {("ipv4-unicast", f"{plain.ips[0]}/32"), ("ipv6-unicast", f"{plain.ips[1]}/128")} <= sent
    assert {prefix.partition("/")[0] for _, prefix in sent if prefix} == {*plain.ips, *inside.ips}

    theirs = {("ipv4-unicast", "203.0.113.0/24"), ("ipv6-unicast", "2001:db8:cafe::/48")}
    until(lambda: theirs <= kinds("received"), "FRR's unicast routes")
    until(lambda: any(VTEP in nlri for nlri in shown("received")), "FRR's type 3")
    assert {route["peer"] for route in shown("received").values()} == {node.peer}
    assert not {prefix for _, prefix in kinds("received")} & {prefix for _, prefix in sent if prefix}
    for way in ("advertised", "received"):
        answer = node.operator("routes", "--peer", "192.0.2.99", way)
        assert (answer.code, "no exporter has a peer 192.0.2.99" in answer.document["error"]) == (1, True)
