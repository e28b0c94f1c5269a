"""What to do about what is wrong, by the code of the problem: for commands and pages. Pure."""

from __future__ import annotations

REMEDIES = {
    "add-failed": "Mend what the error names. The runtime tries again, or start the container again.",
    "bridge-down": "Set the bridge up: ip link set BRIDGE up. One that is missing comes back with the next container.",
    "cluster-store": "Look why the store cannot be reached. Until then everything stays as it was.",
    "conflict": "Start the container again, so that it gets an address of this node: this one is another's by now.",
    "disk": "Make room on that file system, or mount it writable.",
    "drained": "Restart the agent: systemctl restart bgpcni.",
    "duplicate-address": "Stop one of the two containers, or move it to another address.",
    "exporter-late": "See that the speaker runs and answers; what it last said is in the agent's log.",
    "exporter-unusable": "Install the exporter or mend its table in agent.toml, then run bgpcni reload.",
    "firewall": "Accept this traffic in the chain that is named, for example: iptables -I FORWARD -o BRIDGE -j ACCEPT.",
    "forwarding-off": "Set the sysctl that is named to 1, also in /etc/sysctl.d, so that it stays.",
    "gateway-missing": "Give the address back: ip address add ADDRESS dev BRIDGE.",
    "handing-over": "Wait: the routes move to other exporters. If it does not end, look at these exporters.",
    "harmful-route": "Find out who announces this route, and stop it there. This node refuses it.",
    "leaving": "Wait until the peers confirm the withdrawal, or run bgpcni release ID --force.",
    "link-down": "Set it up again: ip link set VETH up. bgpcni unreachable names the links.",
    "link-gone": "Start the container again: somebody removed its interface. Its addresses are released by themselves.",
    "local-address": "Give the address to an interface of this node, or mend local_address in agent.toml.",
    "maximum-prefix": "Filter at the peer, or raise maximum_prefix in agent.toml and run bgpcni reload.",
    "no-bgp": "Add [bgp] to agent.toml and run bgpcni reload.",
    "no-neighbors": "Add [[bgp.neighbors]] to agent.toml and run bgpcni reload.",
    "no-next-hop": "Give this node an address of that family, or set next_hop or next_hop6 in [bgp] of agent.toml.",
    "numbers": "Mend or remove the file that is named; see the agent's log.",
    "orphans": "Start these containers again: somebody removed their interfaces. bgpcni unreachable names them.",
    "peer-down": "See that the peer runs, answers on TCP port 179, and has the AS numbers and password of agent.toml.",
    "route-refused": "Mend what the speaker's reason names, in the network's configuration or at the speaker.",
    "route-wanted": "See the reason. The agent goes on trying; bgpcni sync tries at once.",
    "routes-refused": "Mend what the reason names: bgpcni routes shows it for each route.",
    "routes-wanted": "See why: bgpcni routes shows the reason for each route. The agent goes on trying.",
    "routes-withdrawing": "Wait until the peers confirm it.",
    "service-down": "Mend the service in the container: it does not answer its health check as it should.",
    "unreachable": "See ip route get ADDRESS and ip rule: another route or rule takes what is sent to the container.",
    "unreadable-record": "Delete the container: its DEL removes the record.",
    "vrf-missing": "Run bgpcni sync, which makes the VRF again; if it does not help, see the agent's log.",
    "vxlan-down": "Set it up again: ip link set VXLAN up.",
    "vxlan-missing": "Wait a second: the agent makes the VXLAN again. If it stays away, see the agent's log.",
}


def remedy(code: str) -> str:
    """What an operator can do; "" where the text of the problem has to do."""
    return REMEDIES.get(code, "")
