"""If a runtime does not wait for the answer of its ADD, nothing is set up for a container that is being deleted."""

from __future__ import annotations

import array
import fcntl
import json
import os
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from bgpcni.launcher import protocol
from bgpcni.model import AttachmentKey
from integration.lab import Lab, Node, until
from integration.lab.namespace import Namespace


@contextmanager
def busy(node: Node, key: AttachmentKey) -> Iterator[None]:
    """Somebody else has the attachment."""
    path = node.run_dir / "locks" / key.digest
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def unread(connection: socket.socket) -> int:
    """How many octets of ours the agent has not read."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def call(node: Node, container: Namespace, conf: dict[str, object]) -> socket.socket:
    """An ADD as the launcher sends it, which the agent has taken; nobody has read an answer."""
    variables = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_NETNS": str(container.path), "CNI_IFNAME": "eth0",
                 "CNI_PATH": str(node.bin_dir)}  # fmt: skip
    environment = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items())
    stdin = json.dumps(conf).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(str(node.socket))
    assert connection.recv(1) == protocol.HELLO
    netns = os.open(container.path, os.O_RDONLY)
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [netns]))
    header = protocol.HEADER.pack(protocol.MAGIC, protocol.CALL, len(environment), len(stdin))
    connection.sendmsg([header + environment + stdin], [rights])
    os.close(netns)
    until(lambda: not unread(connection), "that the agent has read the call")
    return connection


def test_an_add_whose_caller_is_gone_adds_nothing(lab: Lab) -> None:
    """An ADD waits for the attachment's lock, its caller is killed, and a DEL is answered: the ADD then adds
    nothing."""
    node = lab.node()
    node.agent(bgp={"neighbors": []}, default_exporters=[])
    conf = node.network(exporters=[])
    lock = node.run_dir / "locks" / AttachmentKey("tenant-a", "c1", "eth0").digest
    container = lab.container()
    with busy(node, AttachmentKey("tenant-a", "c1", "eth0")):
        call(node, container, conf).close()
    until(lambda: not lock.exists(), "that the ADD has let go of the attachment, and left no record")
    assert node.cni("DEL", "c1", container, conf).code == 0
    assert (node.records(), node.lease_files(), node.links() - {"cni0"}) == ([], set(), set())
    assert node.cni("ADD", "c1", container, conf).code == 0  # the runtime's next try


def test_an_add_whose_caller_goes_at_its_very_end_is_undone(lab: Lab) -> None:
    """If the caller is gone when the ADD is about to answer, the whole ADD is undone."""
    node = lab.node()
    node.prelude = ""
    node.agent(bgp={"neighbors": []}, default_exporters=[])
    conf = node.network(subnet="10.1.2.0/24", subnet6="2001:db8:1:2::/64", exporters=[], enabledad=True)
    container = lab.container()
    connection = call(node, container, conf)
    until(lambda: node.records("adding"), "that the ADD is under way, and waits for DAD")
    connection.close()
    until(lambda: not node.records(), "that it is undone")
    assert (node.lease_files(), node.links() - {"cni0"}) == (set(), set())
    assert node.cni("ADD", "c1", container, conf).code == 0
