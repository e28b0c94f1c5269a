"""The text of `attach` and `detach`."""

from __future__ import annotations

from bgpcni.commands import Document


def attach(document: Document) -> str:
    """Interface, index of the other end, and routes, as `ip` and `ethtool -S` show them."""
    interface, peer = document["interface"] or {}, document["peer"]
    lines = [f"{document['containerID']}: {document['ifname']} in {document['netns']} is on {document['network']}"]
    if interface:
        facts = f"index {interface['index']}  MAC {interface['mac']}  MTU {interface['mtu']}"
        lines.append(f"  {interface['name']}  {facts}  {'up' if interface['up'] else 'down'}")
    if peer:
        lines.append(f"  peer_ifindex {peer['index']}" + (f" ({peer['name']})" if peer["name"] else ""))
    for ip in document["ips"]:
        lines.append(f"  address {ip['address']}" + (f" gateway {ip['gateway']}" if ip["gateway"] else ""))
    for route in document["routes"]:
        lines.append(f"  route {route['dst']}" + (f" via {route['gw']}" if route["gw"] else ""))
    for route in document["announcements"]:
        for name, state in route["exporters"].items():
            reason = f": {state['reason']}" if state["reason"] else ""
            lines.append(f"  {route['nlri']} next hop {route['nextHop']} is {state['state']} by {name}{reason}")
    return "\n".join(lines) + "\n"


def detach(document: Document) -> str:
    network = document["network"]
    return "".join(f"{item['containerID']}: {item['ifname']} is off {network}\n" for item in document["detached"])
