"""What a plugin left behind, in words that are the same for two plugins that did the same: for tests of parity.

Names and MACs that each run draws anew become HOST and "right"; link-local addresses, counters and
timers are left out, and so is what is meant to differ everywhere:

- our bridge has a MAC of its own; stock's, without a gateway, takes its ports';
- our alias and link group on the host end (how we know it again); stock has none;
- the transmit queue length: stock sets 0 by an oversight of its library, ours is the kernel's;
- a bridge's gateway address is usable at once with ours, tentative for two seconds with stock;
- accept_ra on the host end, which stock writes: a port of a bridge takes no router advertisements anyway.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from integration.lab import Namespace

State = dict[str, Any]
_LATER = {"NO-CARRIER", "LOWER_UP"}
"""Flags that the kernel sets in its own time."""
_PORT = ("hairpin", "guard", "root_block", "fastleave", "learning", "flood", "isolated", "locked", "state")
_NODE_SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv6/conf/{bridge}/accept_ra")
_CONTAINER_SYSCTLS = (
    "net/ipv4/conf/{ifname}/arp_notify",
    "net/ipv6/conf/{ifname}/accept_dad",
    "net/ipv6/conf/{ifname}/enhanced_dad",
    "net/ipv6/conf/{ifname}/disable_ipv6",
    "net/ipv6/conf/lo/disable_ipv6",
    "net/ipv4/ip_forward",
)


def observe(
    node: Namespace, container: Namespace, result: Mapping[str, Any], leases: Path, bridge: str, ifname: str
) -> State:
    """Everything to compare, flat: `links.HOST.mtu` → 1500. `leases`: the folder of host-local's files."""
    names = _names(node)
    found: dict[str, Any] = {
        "result": _result(result, names, node, container),
        "node": _links(node, names) | {"sysctl": _sysctls(node, _NODE_SYSCTLS, bridge=bridge)},
        "container": _links(container, names) | {"sysctl": _sysctls(container, _CONTAINER_SYSCTLS, ifname=ifname)},
        "leases": _leases(leases),
    }
    return dict(_flatten(found, ""))


def _names(node: Namespace) -> dict[str, str]:
    """Drawn name → word. Read from the kernel: before 0.3.0 a result has no interfaces.

    A VLAN's gateway, BRIDGE.VLAN, is a veth too, and has a name of its own; the other end of it has not.
    """
    veths = {link["ifname"]: link.get("link", "") for link in node.ip_json("link", "show", "type", "veth")}
    drawn = {name: other for name, other in veths.items() if name != "uplink" and "." not in name}
    return {name: "GATEWAY PORT" if "." in other else "HOST" for name, other in drawn.items()}


def _result(result: Mapping[str, Any], names: dict[str, str], node: Namespace, container: Namespace) -> str:
    """The result; a MAC that is the kernel's becomes "right", one that was asked for stays."""
    document = json.loads(json.dumps(result))
    for interface in document.get("interfaces", []):
        place = container if interface.get("sandbox") else node
        actual = [link["address"] for link in place.ip_json("link", "show", "dev", interface["name"])]
        if actual == [interface.get("mac")] and not actual[0].startswith("02:00:00:00:00"):
            interface["mac"] = "right"
        interface["name"] = names.get(interface["name"], interface["name"])
        if interface.get("sandbox") == str(container.path):
            interface["sandbox"] = "NETNS"
    if not document.get("dns"):
        document.pop("dns", None)  # stock writes an empty object
    return json.dumps(document, sort_keys=True)


def _links(space: Namespace, names: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    listed = space.ip_json("-details", "address", "show")
    vlans = _vlans(space) if any("vlan_default_pvid" in str(link.get("linkinfo")) for link in listed) else {}
    for link in listed:
        if link["ifname"] in ("lo", "uplink"):
            continue
        info = link.get("linkinfo", {})
        port = info.get("info_slave_data", {})
        found[names.get(link["ifname"], link["ifname"])] = {
            "kind": info.get("info_kind"),
            "mtu": link["mtu"],
            "master": names.get(link.get("master", ""), link.get("master")),
            "flags": ",".join(sorted(set(link["flags"]) - _LATER)),
            "promiscuity": link.get("promiscuity"),
            "allmulti": link.get("allmulti"),
            "vlan_filtering": info.get("info_data", {}).get("vlan_filtering"),
            "port": {key: port[key] for key in _PORT if key in port},
            "vlans": vlans.get(link["ifname"], ""),
            "addresses": sorted(
                f"{item['local']}/{item['prefixlen']} brd {item.get('broadcast')} scope {item['scope']}"
                for item in link["addr_info"]
                if not item["local"].startswith("fe80")
            ),
        }
    routes = [
        f"{route['dst']} via {route.get('gateway')} dev {names.get(route['dev'], route['dev'])}"
        f" scope {route.get('scope')} src {route.get('prefsrc')} table {route.get('table', 'main')}"
        for family in ("-4", "-6")
        for route in space.ip_json(family, "route", "show", "table", "main")
        if route.get("dev") != "uplink" and not route["dst"].startswith("fe80")
    ]
    return {"links": found, "routes": sorted(routes)}


def _vlans(space: Namespace) -> dict[str, str]:
    """Of each port, and of the bridge itself: `1 PVID Egress Untagged, 5, 7-9`."""
    listed = json.loads(space.run("bridge", "-json", "-compressvlans", "vlan", "show").stdout or "[]")
    return {port["ifname"]: ", ".join(map(_vlan, port["vlans"])) for port in listed}


def _vlan(found: Mapping[str, Any]) -> str:
    span = f"{found['vlan']}-{found['vlanEnd']}" if "vlanEnd" in found else str(found["vlan"])
    return " ".join([span, *found.get("flags", [])])


def _sysctls(space: Namespace, wanted: tuple[str, ...], **names: str) -> dict[str, str]:
    paths = [f"/proc/sys/{name.format(**names)}" for name in wanted]
    values = space.run("sh", "-c", 'for p; do cat "$p" 2>/dev/null || echo -; done', "sh", *paths).stdout.split()
    return dict(zip(wanted, values, strict=True))


def _leases(folder: Path) -> dict[str, str]:
    if not folder.exists():
        return {}
    return {file.name: file.read_bytes().decode() for file in folder.iterdir() if file.name != "lock"}


def _flatten(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(item, Mapping):
            yield from _flatten(item, path)
        else:
            yield path, item
