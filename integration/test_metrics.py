"""The agent's Prometheus metrics, as a scraper sees them."""

from __future__ import annotations

import re

from integration.lab import Lab, Node, until

ADDRESS = "127.0.0.1:9109"


def scrape(node: Node) -> dict[str, float]:
    text = node.namespace.run("curl", "-sf", "--max-time", "20", f"http://{ADDRESS}/metrics").stdout
    lines = re.findall(r"^(bgpcni_\S+(?:\{[^}]*\})?) (\S+)$", text, re.M)
    return {name: float(value) for name, value in lines}


def test_metrics_tell_calls_routes_and_sessions(lab: Lab) -> None:
    """Calls by command and outcome, durations of calls and steps, routes and how long each took to be announced, once;
    sessions, attachments and leases."""
    frr = lab.frr()
    node = lab.node(frr)
    node.flags = ("--metrics", ADDRESS)
    node.agent()
    frr.wait_established(node.address)
    space = lab.container()
    conf = node.network(subnet6="2001:db8:1:2::/64", bgp={"wait": "sent"})
    assert node.cni("ADD", "m-1", space, conf).ok
    assert node.cni("ADD", "m-1", space, conf).error == 100
    announced = 'bgpcni_routes{exporter="exabgp",state="announced"}'
    until(lambda: scrape(node).get(announced) == 2, "both routes counted as announced")
    found = scrape(node)
    assert found['bgpcni_cni_requests_total{command="ADD",outcome="ok"}'] == 1
    assert found['bgpcni_cni_requests_total{command="ADD",outcome="100"}'] == 1
    assert found['bgpcni_cni_request_duration_seconds_count{command="ADD"}'] == 2
    for step in ("addresses", "bridge", "pair", "inside", "record", "announce"):
        assert found[f'bgpcni_cni_step_duration_seconds_count{{step="{step}"}}'] >= 1
    assert found[f'bgpcni_bgp_session_up{{asn="64512",exporter="exabgp",peer="{node.peer}"}}'] == 1
    assert found['bgpcni_attachments{network="tenant-a",state="up"}'] == 1
    for family in ("ipv4", "ipv6"):
        assert found[f'bgpcni_leases{{family="{family}",network="tenant-a"}}'] == 1
        assert found[f'bgpcni_lease_capacity{{family="{family}",network="tenant-a"}}'] > 1
    assert found['bgpcni_exporter_late{exporter="exabgp"}'] == 0
    assert 'bgpcni_routes{exporter="exabgp",state="refused"}' in found
    latency = 'bgpcni_announce_latency_seconds_{}{{exporter="exabgp"}}'
    assert found[latency.format("count")] == 2
    assert found[latency.format("sum")] > 0
    # told again, since the session fell, or by an agent that found them in the records: no route anew
    peer = frr.neighbor(node.address)["connectionsEstablished"]
    frr.text(f"clear bgp {node.address}")
    until(lambda: frr.neighbor(node.address)["connectionsEstablished"] > peer, "a new session")
    until(lambda: scrape(node).get(announced) == 2, "both routes counted as announced again")
    assert node.operator("sync").code == 0
    assert scrape(node)[latency.format("count")] == 2
    node.restart_agent()
    until(lambda: scrape(node).get(announced) == 2, "both routes counted as announced by the next agent")
    assert latency.format("count") not in scrape(node)
    assert node.cni("DEL", "m-1", space, conf).ok
    after = scrape(node)
    assert after['bgpcni_cni_requests_total{command="DEL",outcome="ok"}'] == 1
    assert not after.get('bgpcni_attachments{network="tenant-a",state="up"}')
    until(lambda: 'bgpcni_attachments{network="tenant-a",state="leaving"}' not in scrape(node), "the record's end")
