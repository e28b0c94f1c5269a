"""Rare cases that must do no harm: long names, names that collide, full bridges and disks, calls that race."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bgpcni.model import AttachmentKey
from bgpcni.node.plan import host_veth
from integration.lab import Lab, Node, until
from integration.lab.namespace import run

LONG = "c" + "0123456789" * 20


@pytest.fixture(params=["alone", "agent"])
def node(request: pytest.FixtureRequest, lab: Lab) -> Node:
    """A node, with an agent and without."""
    node = lab.node()
    if request.param == "agent":
        node.agent(bgp={"neighbors": [], "next_hop6": node.address6}, default_exporters=[])
    return node


def dual(node: Node, **keys: Any) -> dict[str, Any]:
    return node.network("tenant-a", "10.1.2.0/24", "fd00:1::/64", **({"exporters": []} | keys))


def empty(node: Node) -> bool:
    """Whether nothing of any attachment is left: no host end, no lease, no record."""
    return (node.links() <= {"cni0"}, node.lease_files(), node.records()) == (True, set(), [])


def state_of(node: Node) -> tuple[set[str], set[str], list[str]]:
    return node.links(), node.lease_files(), [path.name for path in node.records()]


def answers(node: Node, address: str) -> bool:
    return node.namespace.ping(address, seconds=10)


@pytest.mark.parametrize(("name", "ifname"), [(LONG[:200], "eth0"), ("c", "abcdefghijklmno"), (LONG[:200], "a" * 15)])
def test_the_longest_names(node: Node, lab: Lab, name: str, ifname: str) -> None:
    """A container ID of 200 characters, an interface name of 15: a whole life."""
    container, conf = lab.container(), dual(node)
    added = node.cni("ADD", name, container, conf, ifname)
    assert added.ok, added.document
    assert all(answers(node, address) for address in added.ips)
    assert len(added.ips) == 2
    assert node.cni("CHECK", name, container, conf | {"prevResult": added.document}, ifname).ok
    assert node.cni("ADD", name, container, conf, ifname).error == 100
    valid = [{"containerID": name, "ifname": ifname}]
    listing = conf | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    assert node.cni("GC", conf=listing).ok
    assert len(node.records()) == 1
    assert node.cni("DEL", name, container, conf, ifname).ok
    assert empty(node)


def test_two_long_names_that_differ_in_the_end(node: Node, lab: Lab) -> None:
    """What is cut for a link's name or alias does not make one of two containers."""
    conf = dual(node)
    one, two = lab.container(), lab.container()
    first, second = node.cni("ADD", LONG + "a", one, conf), node.cni("ADD", LONG + "b", two, conf)
    assert first.ok
    assert second.ok
    assert node.cni("DEL", LONG + "a", one, conf).ok
    assert node.cni("CHECK", LONG + "b", two, conf | {"prevResult": second.document}).ok
    assert node.cni("DEL", LONG + "b", two, conf).ok
    assert empty(node)


def test_a_strangers_link_has_our_name(node: Node, lab: Lab) -> None:
    """Names may collide after shortening: ours gets another one, and DEL never touches the stranger's."""
    container, conf = lab.container(), dual(node)
    name = host_veth(AttachmentKey("tenant-a", "c1", "eth0"))
    node.namespace.ip("link", "add", name, "type", "veth", "peer", "name", "strange")
    added = node.cni("ADD", "c1", container, conf)
    assert added.ok
    assert added.document["interfaces"][1]["name"] != name
    assert all(answers(node, address) for address in added.ips)
    for record in node.records() if node.process is None else []:
        record.unlink()  # DEL without a record looks for the names
    assert node.cni("DEL", "c1", container, conf).ok
    assert node.links() == {"cni0", name, "strange"}
    assert (node.lease_files(), node.records()) == (set(), [])
    assert node.cni("DEL", "c1", container, conf).ok
    assert node.links() == {"cni0", name, "strange"}


def test_the_last_port_of_a_bridge(node: Node, lab: Lab) -> None:
    """Port 1,024 is more than the kernel has: error 11, nothing left; once there is room the same ADD succeeds."""
    container, conf = lab.container(), dual(node)
    lines = ["link add cni0 type bridge", "link set cni0 up"]
    for number in range(512):
        lines.append(f"link add a{number} master cni0 type veth peer name b{number}")
        if number < 511:
            lines.append(f"link set b{number} master cni0")
    batch = node.folder / "batch"
    batch.write_text("\n".join(lines) + "\n")
    node.namespace.ip("-batch", str(batch))
    before = state_of(node)
    refused = node.cni("ADD", "c1", container, conf)
    assert refused.error == 11, refused.document
    assert "no port left" in refused.document["msg"]
    assert state_of(node) == before
    assert not container.ip_json("link", "show", "eth0")
    node.namespace.ip("link", "delete", "a0")
    assert node.cni("ADD", "c1", container, conf).ok
    assert node.cni("DEL", "c1", container, conf).ok


def test_a_namespace_that_is_gone_and_its_path_anothers(node: Node, lab: Lab) -> None:
    """DEL of the first leaves the second, which has the path now, alone; also with interfaces of the same name."""
    container, conf = lab.container(), dual(node)
    assert node.cni("ADD", "c1", container, conf).ok
    container.close()
    run("ip", "netns", "add", container.name)
    second = node.cni("ADD", "c2", container, conf)
    assert second.ok, second.document
    assert node.cni("DEL", "c1", container, conf).ok
    assert len(node.records()) == 1
    assert node.cni("CHECK", "c2", container, conf | {"prevResult": second.document}).ok
    assert all(answers(node, address) for address in second.ips)
    assert node.cni("DEL", "c2", container, conf).ok
    assert empty(node)


def test_two_adds_of_one_attachment_at_once(node: Node, lab: Lab) -> None:
    """Of two simultaneous ADDs one succeeds completely and the other is error 100, in every round."""
    conf = dual(node)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            container = lab.container()
            both = list(pool.map(lambda _, space=container: node.cni("ADD", "c1", space, conf), range(2)))
            assert sorted((answer.error or 0) for answer in both) == [0, 100]
            (added,) = [answer for answer in both if answer.ok]
            assert node.cni("CHECK", "c1", container, conf | {"prevResult": added.document}).ok
            assert len(node.lease_files()) == 2
            assert node.cni("DEL", "c1", container, conf).ok
            assert empty(node)


def test_del_races_add(node: Node, lab: Lab) -> None:
    """Whatever the order, both answer; after one more DEL nothing is left, and a new ADD has a free way."""
    conf = dual(node)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            container = lab.container()
            adding = pool.submit(node.cni, "ADD", "c1", container, conf)
            deleting = pool.submit(node.cni, "DEL", "c1", container, conf)
            assert deleting.result().ok
            assert adding.result().ok
            leases, records = len(node.lease_files()), len(node.records())
            assert (leases, records) in ((2, 1), (0, 0))
            assert node.cni("DEL", "c1", container, conf).ok
            assert empty(node)


# ---------------------------------------------------------------- full disks


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, lab: Lab, node: Node) -> Iterator[Path]:
    """A small disk of its own for data_dir, with an attachment's record on it."""
    node.kill_agent(15) if node.process else None
    if request.param == "tmpfs":
        words = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", str(node.data_dir)]
    else:
        image = node.folder / "image"
        image.write_bytes(bytes(2 << 20))
        made = subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-N", "64", str(image)], check=False, capture_output=True)
        if made.returncode:
            pytest.skip(f"mkfs.ext4: {made.stderr.decode()}")
        words = ["mount", "-o", "loop", str(image), str(node.data_dir)]
    node.data_dir.mkdir(mode=0o700, exist_ok=True)
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{' '.join(words)}: {done.stderr}")
    lab.callback(lambda: run("umount", "--lazy", node.data_dir, check=False))
    node.data_dir.chmod(0o700)
    if node.process:
        node.start_agent()
    yield node.data_dir
    if node.process:
        node.kill_agent(15)


def fill(folder: Path) -> None:
    """Until not an octet more goes in, nor a file."""
    with open(folder / "filler", "wb", buffering=0) as file:
        for size in (1 << 16, 4096, 512, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    for number in range(10000):
        try:
            (folder / f"empty{number}").touch(exist_ok=False)
        except OSError:
            return


def test_a_record_on_a_full_disk(node: Node, lab: Lab, disk: Path) -> None:
    """ADD is error 5 and leaves nothing; DEL of what is there succeeds; with room again all is as before."""
    conf = dual(node)
    one, two = lab.container(), lab.container()
    assert node.cni("ADD", "c1", one, conf).ok
    fill(disk)
    before = state_of(node)
    refused = node.cni("ADD", "c2", two, conf)
    assert refused.error == 5, refused.document
    assert state_of(node) == before
    assert not two.ip_json("link", "show", "eth0")
    status = node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"})
    assert status.error == 50
    assert "No space left on device" in status.document["msg"]
    deleted = node.cni("DEL", "c1", one, conf)
    assert deleted.ok, deleted.document
    assert empty(node)
    for path in disk.iterdir():
        if path.name.startswith(("filler", "empty")):
            path.unlink()
    assert node.cni("ADD", "c2", two, conf).ok
    assert node.cni("DEL", "c2", two, conf).ok
    assert empty(node)
    assert not [path for path in disk.rglob(".*") if path.is_file()], "half-written files are left"


def test_a_del_on_a_read_only_disk(node: Node, lab: Lab, disk: Path) -> None:
    """It succeeds and says what is left: link and routes are gone. The record goes by itself when the disk can be
    written again, or with the next call."""
    conf = dual(node)
    container = lab.container()
    assert node.cni("ADD", "c1", container, conf).ok
    run("mount", "-o", "remount,ro", disk)
    assert node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"}).error == 50
    for _ in range(2):
        deleted = node.cni("DEL", "c1", container, conf)
        assert deleted.ok, deleted.document
        assert "Read-only file system" in deleted.stderr
        assert not container.ip_json("link", "show", "eth0")
        assert node.links() == {"cni0"}
    assert node.cni("DEL", "never", container, conf).ok
    assert node.cni("ADD", "c1", container, conf).error == 5
    assert len(node.records()) == 1
    run("mount", "-o", "remount,rw", disk)
    if node.process:
        until(lambda: not node.records(), "the record to go")
    else:
        assert node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"}).ok
    assert empty(node)
    assert node.cni("ADD", "c1", container, conf).ok
    assert node.cni("DEL", "c1", container, conf).ok
    assert empty(node)


LATE: dict[str, tuple[dict[str, Any], int]] = {
    "an IPv4 route whose gateway is not on the link": ({"routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}, 101),
    "an IPv6 route whose gateway is not on the link": ({"routes": [{"dst": "2001:db8::/32", "gw": "fd00:9::1"}]}, 101),
    "a gateway that the bridge cannot have": ({"ranges": [[{"subnet": "10.1.0.0/16"}]]}, 7),
    "an address that is taken": ({"ranges": [[{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.2"}]]}, 11),
}
"""What of `ipam` makes an ADD fail when much of it is done already, and how."""


def test_an_add_that_fails_late_leaves_nothing(node: Node, lab: Lab) -> None:
    """No link, no lease, no record, in the container nothing; the first attachment goes on working."""
    first, container, conf = lab.container(), lab.container(), dual(node)
    added = node.cni("ADD", "c1", first, conf)
    assert added.ok
    before = state_of(node)
    for what, (ipam, code) in LATE.items():
        refused = node.cni("ADD", "c2", container, conf | {"ipam": conf["ipam"] | ipam})
        assert refused.error == code, (what, refused.document)
        assert state_of(node) == before, what
        assert {link["ifname"] for link in container.ip_json("link", "show")} == {"lo"}, what
    refused = node.cni("ADD", "c2", container, conf | {"mtu": 1000})
    assert (refused.error, "would lose its IPv6" in refused.document["msg"]) == (7, True), refused.document
    assert state_of(node) == before
    assert node.cni("CHECK", "c1", first, conf | {"prevResult": added.document}).ok
    assert all(answers(node, address) for address in added.ips)
