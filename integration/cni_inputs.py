"""Hypothesis strategies for what a runtime, a tenant or a broken disk may send, and a check that every answer must
pass.

Most inputs are nearly valid, so that their errors get past the first checks.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from bgpcni.cni.versions import SUPPORTED

numbers = st.one_of(st.integers(-3, 70000), st.integers(), st.floats(), st.booleans())
texts = st.one_of(
    st.sampled_from(["banana", "../x", "/tmp", "a/b", "", "-1", "fe80::1%eth0", "::ffff:10.0.0.0/96", "10.1.0.5/16"]),
    st.text(max_size=12),
    st.text(st.characters(codec=None), max_size=4),
)
leaves = st.one_of(st.none(), numbers, texts)
values = st.recursive(leaves, lambda i: st.lists(i, max_size=3) | st.dictionaries(texts, i, max_size=3), max_leaves=6)
"""Anything that JSON can say, and some things that it cannot."""


def mostly(*good: Any) -> st.SearchStrategy[Any]:
    """One of `good` (values or strategies), and now and then anything."""
    fine = st.one_of(*(item if isinstance(item, st.SearchStrategy) else st.just(item) for item in good))
    return st.integers(0, 11).flatmap(lambda chance: values if chance == 0 else fine)


def some(**members: Any) -> st.SearchStrategy[dict[str, Any]]:
    """An object with some of these members."""
    return st.fixed_dictionaries({}, optional=members)


flag = mostly(True, False)
mac = mostly("02:00:00:00:00:01", "02-00-00-00-00-01", "01:00:00:00:00:01")
subnet = mostly("10.1.0.0/16", "fd00:1::/64", "10.2.0.0/30", "::/0")
address = mostly("10.1.0.7", "fd00:1::7", "10.1.0.1", "::1", "fe80::1")
interface = mostly("10.1.0.7/16", "fd00:1::7/64", "0.0.0.0/0", "fd00::1/128")
target = mostly("64512:90", "4200000000:7", "192.0.2.1:7", "64512:5001", "65536:99999999")
targets = mostly(st.lists(target, max_size=2), target, "64512:1,64512:2")
link = mostly("eth0", "cni0", "abcdefghijklmno")
route = some(dst=mostly("0.0.0.0/0", "::/0", "192.0.2.0/24"), gw=address, mtu=numbers, table=numbers, scope=numbers)
routes = mostly(st.lists(route, max_size=2))
ranges = mostly(
    st.lists(
        st.lists(
            st.fixed_dictionaries(
                {"subnet": subnet}, optional={"rangeStart": address, "rangeEnd": address, "gateway": address}
            ),
            min_size=1,
            max_size=2,
        ),
        min_size=1,
        max_size=2,
    )
)
results = st.builds(
    lambda some, version: {"cniVersion": version} | some,
    some(
        interfaces=mostly(st.lists(some(name=link, mac=mac, sandbox=mostly("/x"), mtu=numbers), max_size=2)),
        ips=mostly(
            st.lists(
                some(address=interface, gateway=address, interface=mostly(0, 1, 2), version=mostly("4", "6")),
                max_size=2,
            )
        ),
        ip4=mostly(some(ip=interface, gateway=address, routes=routes)),
        routes=routes,
        dns=mostly(some(nameservers=mostly(st.lists(address, max_size=2)), search=values)),
    ),
    st.sampled_from(SUPPORTED),
)
ipam = st.builds(
    lambda some, inner: {"type": "host-local", "ranges": inner} | some,
    some(type=mostly("host-local", "static", ""), routes=routes, subnet=subnet, dataDir=mostly("/x")),
    ranges,
)
exporter = mostly("exabgp", "no-such", some(type=mostly("exabgp"), name=texts, url=mostly("http://127.0.0.1/")))
bgp = some(
    family=mostly("evpn", "vpn", "unicast"),
    vni=mostly(5001, "90", 0, 16777216),
    rd=mostly("auto", "192.0.2.1:7", "64512:7"),
    advertise=mostly("host", "subnet"),
    communities=mostly(st.lists(mostly("no-export", "64512:1", "64512:1:2"), max_size=2)),
    waitSeconds=numbers,
    drainSeconds=numbers,
)
usual = ("0.4.0", "1.0.0", "1.1.0", "1.1.0", "1.1.0")
documents = st.fixed_dictionaries(
    {"cniVersion": st.sampled_from((*SUPPORTED, *usual, "9.9.9", "")), "name": mostly("net", "tenant-a")},
    optional={
        "type": mostly("bgpcni", "bagpipe"),
        "bridge": link,
        "isGateway": flag,
        "IsDefaultGateway": flag,
        "mtu": mostly(1500, "1400", numbers),
        "vlan": mostly(0, 7),
        "importRT": targets,
        "exportrt": targets,
        "exporters": mostly(st.lists(exporter, max_size=2)),
        "bgp": mostly(bgp),
        "ipam": mostly(ipam),
        "runtimeConfig": mostly(some(mac=mac, ips=mostly(st.lists(address | interface, max_size=2)), ipRanges=ranges)),
        "args": mostly(some(cni=mostly(some(ips=mostly(st.lists(address, max_size=2)), importRT=targets, mac=mac)))),
        "prevResult": mostly(results),
        "cni.dev/valid-attachments": mostly(st.lists(some(containerID=mostly("c1"), ifname=link), max_size=2)),
        "dns": mostly(some(nameservers=mostly(st.lists(address, max_size=2)))),
        "capabilities": values,
    },
)
encoded = documents.map(lambda document: json.dumps(document).encode())
stdins = st.integers(0, 11).flatmap(
    lambda chance: (
        st.builds(lambda text, at: text[:at], encoded, st.integers(0, 200))
        if chance == 0
        else st.binary(max_size=40) | values.map(lambda value: json.dumps(value).encode())
        if chance == 1
        else encoded
    )
)
environments = some(
    CNI_CONTAINERID=mostly("c1", "c" * 200),
    CNI_NETNS=mostly("/nowhere", ""),
    CNI_IFNAME=link,
    CNI_ARGS=mostly("", "IP=10.1.0.9", "IgnoreUnknown=1;EXPORT_RT=64512:7", "IMPORT_RT=x", "MAC=02:00:00:00:00:07"),
    CNI_PATH=mostly("/nowhere", "/usr/lib/cni"),
).map(
    lambda some: (
        {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/nowhere", "CNI_IFNAME": "eth0", "CNI_PATH": "/x"}
        | {key: value if isinstance(value, str) else str(value) for key, value in some.items()}
    )
)


def sound(code: int, stdout: bytes, stderr: bytes, command: str) -> None:
    """An answer as the specification has it: JSON and a matching exit code, and not the sign of a defect."""
    assert b"Traceback" not in stderr, stderr
    if code == 0:
        assert not stdout or command in ("ADD", "VERSION")
        assert isinstance(json.loads(stdout or b"{}"), dict)
        return
    assert code == 1
    document = json.loads(stdout)
    assert document["cniVersion"] in SUPPORTED
    assert isinstance(document["code"], int)
    assert isinstance(document["msg"], str)
    assert document["msg"]
    assert not document["msg"].startswith("internal error"), document  # 999 may be a delegated plugin's own
