"""Routes that several containers share, and addresses that they must not: with the agent and in calls without one."""

from __future__ import annotations

from integration.lab import Lab
from integration.seen import add, delete, nothing_left


def test_without_an_agent_the_subnet_goes_with_the_last_container(lab: Lab) -> None:
    """`advertise: subnet` by the kernel exporter: its route stays for as long as one container of the network is up."""
    node = lab.node()
    conf = node.network(subnet6="2001:db8:1:2::/64", exporters=["kernel"], bgp={"advertise": "subnet"})
    spaces = {name: lab.container() for name in ("c1", "c2")}

    def announced() -> set[str]:
        versions = ("-4", "-6")
        return {entry["dst"] for v in versions for entry in node.namespace.ip_json(v, "route", "show", "table", 100)}

    for name, space in spaces.items():
        add(node, name, space, conf)
    assert announced() == {"10.1.2.0/24", "2001:db8:1:2::/64"}
    delete(node, "c1", spaces["c1"], conf)
    assert announced() == {"10.1.2.0/24", "2001:db8:1:2::/64"}
    delete(node, "c2", spaces["c2"], conf)
    assert announced() == set()
    nothing_left(node, *spaces.values())
