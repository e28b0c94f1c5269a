"""A link of the node is cut silently, so that both its ends stay up: how its sessions to the fabric notice, by what the
node's own FRR was told. With `-s` the packets that were lost are shown."""

from __future__ import annotations

import re
import signal

import pytest

from bgpcni.testing.patience import SECONDS
from integration.lab import Frr, Lab, Node, link, until
from integration.lab.frr import DAEMONS
from integration.test_frr_session import SAMPLE, agents_part

OUTSIDE = "203.0.113.1"
INTERVAL = 0.02
"""Seconds between two pings."""
CUT = """
table inet cut {
  chain in { type filter hook prerouting priority -400
    iifname "uplink" drop
  }
  chain out { type filter hook output priority 400
    oifname "uplink" drop
  }
  chain through { type filter hook forward priority 400
    oifname "uplink" drop
  }
}
"""
PROFILE = ("bfd", "profile fast", "detect-multiplier 3", "receive-interval 100", "transmit-interval 100")


def sessions(*lines: str) -> str:
    """Two unnumbered sessions, of which the first is preferred; `lines` come after `neighbor NAME`."""
    both = [("uplink", "FIRST"), ("uplink2", "IN")]
    out = [" neighbor {0} interface remote-as external", " neighbor {0} timers connect 1"]
    out += [" neighbor {0} advertisement-interval 0", *(f" neighbor {{0}} {line}" for line in lines)]
    family = ["  neighbor {0} activate", "  neighbor {0} route-map {1} in", "  neighbor {0} route-map OUT out"]
    return "\n".join(
        [line.format(*one) for one in both for line in out]
        + [" address-family ipv4 unicast", *(line.format(*one) for one in both for line in family)]
        + [" exit-address-family"]
    )


def cabled(lab: Lab, *lines: str) -> tuple[Frr, Frr, Node]:
    """A router, the node's FRR as in the sample but for its sessions to the router, and the node."""
    daemons = (*DAEMONS, "bfdd")
    router = lab.frr(asn=64513, daemons=daemons, start=False)
    router.namespace.ip("address", "add", f"{OUTSIDE}/32", "dev", "lo")
    node = lab.node(asn=64512)
    for number, name in enumerate(("uplink", "uplink2"), 1):
        link(node.namespace, router.namespace, name, name, (f"198.18.{number}.2/24",), (f"198.18.{number}.1/24",))
    for address in ("169.254.45.1/32", "169.254.45.2/32"):
        node.namespace.ip("address", "add", address, "dev", "lo")
    sample = SAMPLE.read_text().replace("192.0.2.1", "198.18.1.2")
    own = "\n".join(line for line in sample.splitlines() if "192.0.2.2" not in line)
    head, _, rest = own.partition(" address-family ipv4 unicast")
    first = "route-map FIRST permit 10\n set local-preference 200\nexit\n"
    host = Frr(node.namespace, lab.folder / "hostfrr", 64512, daemons)
    lab.callback(host.close)
    config = f"{first}{head}{sessions(*lines)}\n address-family ipv4 unicast{rest}"
    if "timers 1 3" in lines:
        config = config.replace("bgp graceful-restart", "bgp graceful-restart-disable")
    host.start(config)
    router.start(
        f"{first}route-map IN permit 10\nexit\nroute-map OUT permit 10\nexit\nrouter bgp 64513\n"
        f" bgp router-id 198.18.255.3\n no bgp default ipv4-unicast\n{sessions(*lines)}\n"
        f" address-family ipv4 unicast\n  network {OUTSIDE}/32\n exit-address-family\nexit\n"
    )
    for frr in (router, host):
        frr.configure(*PROFILE, daemon="bfdd")
    node.agent(bgp=agents_part(SAMPLE.read_text())["bgp"])
    return router, host, node


def way(frr: Frr, prefix: str) -> set[str]:
    """The links by which a namespace leads to a prefix."""
    found = frr.namespace.ip_json("route", "show", prefix)
    return {hop["dev"] for route in found for hop in route.get("nexthops", [route])}


@pytest.mark.parametrize("by", ["bfd", "hold time"])
def test_traffic_takes_the_other_link(lab: Lab, by: str) -> None:
    """With BFD at 3 x 100 ms, and with nothing but a hold time of 3 s; unnumbered sessions in both.

    Without BFD there is no graceful restart either: a router keeps the routes of a neighbour that has it when the hold
    time is over, because such a neighbour may only be restarting.
    """
    router, host, node = cabled(lab, *(["bfd profile fast"] if by == "bfd" else ["timers 1 3"]))
    conf = node.network(bgp={"communities": ["64512:100"]})
    answer = node.cni("ADD", "c1", lab.container(), conf)
    assert answer.ok, answer
    prefix = f"{answer.ips[0]}/32"
    until(lambda: way(router, prefix) == way(host, OUTSIDE) == {"uplink"}, "the preferred link")
    until(lambda: len(router.paths(prefix)) == 2, "two paths")
    if by == "bfd":
        until(lambda: [one["status"] for one in router.json("show bfd peers", "bfdd")] == ["up", "up"], "BFD")
    until(lambda: router.ping(answer.ips[0], OUTSIDE), "the container answers")
    log = lab.folder / "ping.log"
    with log.open("w") as out:
        ping = router.namespace.popen("ping", "-n", "-i", str(INTERVAL), "-I", OUTSIDE, answer.ips[0], stdout=out)
    until(lambda: log.read_text().count("bytes from") > 10, "some answers")
    node.namespace.run("nft", "-f", "-", stdin=CUT)
    until(lambda: way(router, prefix) == way(host, OUTSIDE) == {"uplink2"}, "the other link")
    seen = log.read_text().count("bytes from")
    until(lambda: log.read_text().count("bytes from") > seen + 10, "answers again")
    ping.send_signal(signal.SIGINT)
    ping.wait(SECONDS)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", log.read_text())
    assert found, log.read_text()
    lost = int(found[1]) - int(found[2])
    print(f"\n{by}: {lost} of {found[1]} packets lost, {lost * INTERVAL:.2f} s without traffic")
    links = {one["ifname"]: one["operstate"] for one in node.namespace.ip_json("link", "show")}
    assert links["uplink"] == "UP", "nobody but the sessions could notice"
    if by == "bfd":
        assert sorted(one["status"] for one in router.json("show bfd peers", "bfdd")) == ["down", "up"]
    else:
        assert "Hold Timer Expired" in router.text("show bgp neighbors uplink")
