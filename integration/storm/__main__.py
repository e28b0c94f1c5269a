"""`python -m integration.storm [NODES [ADDS]]`: what a cluster costs, as a table. Needs root."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from integration.lab import Lab, Namespace, until
from integration.storm.site import Host, Site

IDLE_SECONDS = 30


def main(nodes: int, adds: int) -> None:
    with Lab() as lab:
        site = Site(lab, nodes, block_size=26)
        began = time.monotonic()
        site.start()
        line(f"agents started, one `apply` of a BGPPeer, all {nodes} sessions up", f"{time.monotonic() - began:.2f} s")
        line("`apply` of a BGPPeer to sessions up", f"{_sessions(site):.2f} s")
        spaces = {host.name: [lab.container() for _ in range(adds // nodes)] for host in site.hosts}
        before, began = _requests(site), time.monotonic()
        took = _everywhere(site, spaces, site.conf)
        asked = _requests(site) - before
        line(f"{len(took)} ADDs over {nodes} nodes from empty", f"{time.monotonic() - began:.2f} s in all")
        line("ADD, addresses of the cluster", _percentiles(took))
        line("requests to etcd for each ADD", f"{asked / len(took):.3f}")
        until(lambda: len(site.ending().routes) == len(took), "all routes", 120)
        line("all routes at FRR", f"{time.monotonic() - began:.2f} s after the first ADD began")
        _everywhere(site, spaces, site.conf, "DEL")
        took = _everywhere(site, spaces, lambda host: host.node.network(subnet=f"10.1.{host.number}.0/24"))
        line("ADD, host-local", _percentiles(took))
        _everywhere(site, spaces, lambda host: host.node.network(subnet=f"10.1.{host.number}.0/24"), "DEL")
        line(f"octets that etcd sends to an idle node of {nodes}", f"{_idle(site):.0f} a second")


def line(what: str, value: str) -> None:
    print(f"{what:75} {value}", flush=True)


def _everywhere(
    site: Site,
    spaces: dict[str, list[Namespace]],
    conf: Callable[[Host], dict[str, Any]],
    command: str = "ADD",
) -> list[float]:
    """The same calls on all nodes at once, one after the other on each; the seconds of each."""
    took: list[float] = []

    def work(host: Host) -> None:
        for number, space in enumerate(spaces[host.name]):
            answer = host.node.cni(command, f"{host.name}-{number}", space, conf(host))
            if not answer.ok:
                print(f"{command} on {host.name}: {answer.document}", file=sys.stderr)
            took.append(answer.seconds)

    threads = [threading.Thread(target=work, args=(host,)) for host in site.hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def _sessions(site: Site) -> float:
    """Delete the BGPPeer of all nodes and apply it again."""
    site.run("delete", "BGPPeer", "reflector")
    until(lambda: not any(site.frr.established(host.node.address) for host in site.hosts), "the end of all sessions")
    began = time.monotonic()
    site.peer()
    until(lambda: all(site.frr.established(host.node.address) for host in site.hosts), "all sessions", 120)
    return time.monotonic() - began


def _percentiles(took: Sequence[float]) -> str:
    found = sorted(took)
    return f"p50 {found[len(found) // 2] * 1000:.0f} ms, p99 {found[int(len(found) * 0.99)] * 1000:.0f} ms"


def _requests(site: Site) -> float:
    """All requests of clients that the members have answered, watches not counted."""
    return _metric(site, "grpc_server_handled_total{")


def _idle(site: Site) -> float:
    before, began = _metric(site, "etcd_network_client_grpc_sent_bytes_total"), time.monotonic()
    time.sleep(IDLE_SECONDS)
    sent = _metric(site, "etcd_network_client_grpc_sent_bytes_total") - before
    return sent / (time.monotonic() - began) / len(site.hosts)


def _metric(site: Site, name: str) -> float:
    total = 0.0
    for member in site.members:
        text = member.namespace.run("curl", "-s", f"{member.endpoint}/metrics").stdout
        total += sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
    return total


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(given[0] if given else 10, given[1] if len(given) > 1 else 1000)
