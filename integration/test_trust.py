"""Attempts to abuse the node's trust: by tenants, other users, and slow or oversized requests."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bgpcni.launcher import protocol
from bgpcni.testing.patience import SECONDS
from integration.lab import Lab, Node, until

NOBODY = 65534


@pytest.fixture
def trusting(lab: Lab) -> Node:
    """A node with an agent and without neighbours."""
    node = lab.node()
    node.agent(bgp={"neighbors": [], "next_hop6": node.address6}, default_exporters=[])
    return node


def dual(node: Node, **keys: Any) -> dict[str, Any]:
    return node.network("tenant-a", "10.1.2.0/24", "fd00:1::/64", **({"exporters": []} | keys))


# ---------------------------------------------------------------- tenants


POLICY = {
    "import_rt": ["64512:*"],
    "export_rt": ["64512:*"],
    "vni": ["5000-5999"],
    "bridges": ["cni*"],
    "prefixes": ["10.0.0.0/8", "fd00:1::/48"],
    "exporters": ["exabgp"],
    "rd": ["64512:*"],
    "communities": ["64512:*"],
    "mac": ["02:*"],
    "data_dirs": ["/var/lib/cni/*", "*/leases"],
    "resolv_conf": ["/etc/resolv.conf"],
    "annotations": ["export-rt"],
}
TRIES: list[tuple[str, dict[str, Any], str]] = [
    ("another's import", {"importRT": "65000:1"}, "importRT: 65000:1 is not allowed"),
    ("another's export", {"exportRT": ["64512:1", "65000:1"]}, "exportRT: 65000:1 is not allowed"),
    ("a VNI out of range", {"bgp": {"family": "evpn", "vni": 6000}}, "bgp.vni: 6000 is not allowed"),
    ("a VNI by its route target", {"exportRT": "64512:6000", "bgp": {"family": "evpn"}}, "bgp.vni: 6000"),
    ("the uplink's bridge", {"bridge": "br-uplink"}, "bridge: br-uplink is not allowed"),
    ("an exporter by another name", {"exporters": [{"type": "exabgp", "name": "exabgp"}]}, "exporters: exabgp-"),
    ("an exporter with a socket", {"exporters": [{"type": "exabgp", "socket": "/x"}]}, "exporters: exabgp-"),
    ("a URL elsewhere", {"exporters": [{"type": "exabgp", "url": "http://192.0.2.1/"}]}, "exporters[0].url:"),
    ("a URL by name", {"exporters": [{"type": "exabgp", "url": "http://localhost/"}]}, "exporters[0].url:"),
    (
        "another's RD",
        {"exportRT": "64512:5", "bgp": {"family": "vpn", "rd": "65000:1"}},
        "bgp.rd: 65000:1 is not allowed",
    ),
    ("a community", {"bgp": {"communities": ["no-export"]}}, "bgp.communities: 65535:65281 is not allowed"),
    ("a MAC", {"mac": "0a:00:00:00:00:01"}, "mac: 0a:00:00:00:00:01 is not allowed by [policy] mac"),
    (
        "leases elsewhere",
        {"ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": "/var/lib/cni/../../etc"}},
        "ipam.dataDir: /var/lib/cni/../../etc is not allowed by [policy] data_dirs",
    ),
    (
        "a file of root's",
        {"ipam": {"type": "host-local", "subnet": "10.1.2.0/24", "resolvConf": "/etc/shadow"}},
        "ipam.resolvConf: /etc/shadow is not allowed by [policy] resolv_conf",
    ),
    ("a URL of a file", {"exporters": [{"type": "exabgp", "url": "file:///etc/shadow"}]}, "exporters[0].url:"),
]


def test_a_tenant_does_not_get_past_the_policy(lab: Lab) -> None:
    """Error 7 that names what was not allowed, and nothing is left."""
    node, container = lab.node(), lab.container()
    node.agent(bgp={"neighbors": [], "next_hop6": node.address6}, policy=POLICY)
    for what, keys, words in TRIES:
        answer = node.cni("ADD", "c1", container, dual(node, exporters=["exabgp"]) | keys)
        assert answer.error == 7, (what, answer.document)
        assert words in answer.document["msg"], what
        assert (node.links(), node.lease_files(), node.records()) == (set(), set(), []), what
    answer = node.cni("ADD", "c1", container, dual(node, exporters=["exabgp"]), args="MAC=0a:00:00:00:00:01")
    assert answer.error == 7
    assert "CNI_ARGS: MAC: 0a:00:00:00:00:01 is not allowed by [policy] mac" in answer.document["msg"]


@pytest.mark.parametrize("version", [4, 6])
def test_no_gateway_over_a_peer(lab: Lab, version: int) -> None:
    """Its subnet would take the route to the peer: both are named, and nothing is left."""
    node, container = lab.node(), lab.container()
    local, peer, subnet = (
        (node.address, "10.99.0.7", "10.99.0.0/24") if version == 4 else (node.address6, "fd99::7", "fd99::/64")
    )
    node.agent(bgp={"local_address": local, "neighbors": [{"address": peer, "asn": 64512}]})
    conf = node.network("over", subnet, isGateway=True, bgp={"family": "unicast"})
    answer = node.cni("ADD", "c1", container, conf)
    assert answer.error == 7, answer
    assert (
        f"would take the route to the BGP peer {peer} of this node: {subnet} would lead to cni0"
        in answer.document["msg"]
    )
    assert (node.links(), node.lease_files(), node.records()) == (set(), set(), [])


def test_a_resolv_conf_that_nobody_writes(lab: Lab) -> None:
    """A FIFO: the ADD is answered, and so is the next one."""
    node = lab.node()
    node.agent(bgp={"neighbors": []})
    os.mkfifo(node.folder / "fifo")
    conf = node.network("plain", "10.1.2.0/24")
    conf["ipam"]["resolvConf"] = str(node.folder / "fifo")
    answer = node.cni("ADD", "c1", lab.container("c1"), conf)
    assert answer.error == 7, answer
    assert "not a plain file" in answer.document["msg"]
    assert (node.links(), node.lease_files(), node.records()) == (set(), set(), [])


NARROW = {"subnet": "0.0.0.0/1", "rangeStart": "10.1.2.3", "gateway": "10.1.2.1"}
"""An address that is allowed, in a subnet that is not."""
ADDRESSES: list[tuple[list[Any], dict[str, Any]]] = [
    ([[{"subnet": "192.0.2.0/24"}]], {}),
    ([[{"subnet": "2001:db8::/64"}]], {}),
    ([[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8::/64"}]], {}),
    ([[{"subnet": "10.1.2.0/24", "gateway": "198.51.100.1"}]], {}),
    ([[{"subnet": "fd00::/16", "rangeStart": "fd00:1::7", "gateway": "fd00:1::1"}]], {}),
    ([[NARROW]], {}),
    ([[NARROW]], {"isGateway": False, "bgp": {"advertise": "subnet"}}),
]


def test_a_tenant_has_no_addresses_but_his_own(lab: Lab) -> None:
    """Neither a container's nor the bridge's, and no subnet that is wider than what is allowed."""
    node, container = lab.node(), lab.container()
    node.agent(bgp={"neighbors": [], "next_hop6": node.address6}, policy=POLICY)
    for ranges, keys in ADDRESSES:
        conf = dual(node, **keys)
        conf["ipam"] |= {"ranges": ranges, "routes": []}
        answer = node.cni("ADD", "c1", container, conf)
        assert answer.error == 7, (ranges, answer.document)
        assert "is not allowed by [policy] prefixes" in answer.document["msg"]
        assert (node.links(), node.lease_files(), node.records()) == (set(), set(), []), ranges
    assert node.cni("ADD", "c1", container, dual(node)).ok


# ---------------------------------------------------------------- the socket


def connect(node: Node) -> socket.socket:
    """A connection on which the agent has said HELLO."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(SECONDS)
    client.connect(str(node.socket))
    assert client.recv(1) == protocol.HELLO
    return client


def header(environment: int, stdin: int, magic: bytes = protocol.MAGIC, kind: bytes = protocol.CALL) -> bytes:
    return protocol.HEADER.pack(magic, kind, environment, stdin)


def ended(client: socket.socket) -> bool:
    """Whether the agent closes the connection without an answer."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


STARTS = {
    "1 MiB and one": header(0, protocol.MAX_REQUEST + 1),
    "16 MiB and one": header(protocol.MAX_GC, 1),
    "8 GiB": header(0xFFFFFFFF, 0xFFFFFFFF),
    "another magic": header(0, 0, magic=b"GET "),
    "another kind": header(0, 0, kind=b"X"),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "an ADD as large as a GC": header(16, protocol.MAX_REQUEST) + b"CNI_COMMAND=ADD\0" + bytes(protocol.MAX_REQUEST),
}


def test_what_is_no_request_of_ours_ends_at_once(trusting: Node) -> None:
    """An oversized request is not read, and another protocol is not answered; the next request is served."""
    for what, start in STARTS.items():
        with connect(trusting) as client:
            try:
                client.sendall(start)
            except (BrokenPipeError, ConnectionResetError):
                pass
            assert ended(client), what
    assert trusting.cni("VERSION").ok


def test_a_request_that_trickles_is_dropped(trusting: Node) -> None:
    """A client that sends one octet now and then is disconnected, because the whole request has one deadline."""
    with connect(trusting) as client:
        done = threading.Event()

        def trickle() -> None:
            for octet in header(1000, 1000):
                try:
                    client.sendall(bytes([octet]))
                except OSError:
                    return
                if done.wait(0.7):
                    return

        feeder = threading.Thread(target=trickle)
        feeder.start()
        try:
            assert ended(client)
        finally:
            done.set()
            feeder.join()
    assert trusting.cni("VERSION").ok


def test_a_request_brings_one_descriptor(trusting: Node) -> None:
    """Several are a refusal, and none of them stays open in the agent."""
    assert trusting.process
    folder = Path(f"/proc/{trusting.process.pid}/fd")
    before = len(list(folder.iterdir()))
    for _ in range(5):
        with connect(trusting) as client:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [client.fileno()] * 3))
            client.sendmsg([header(0, 0)], [rights])
            assert ended(client)
    until(lambda: len(list(folder.iterdir())) <= before, "the descriptors of the agent to be closed")


def test_a_crowd_that_says_nothing_delays_and_no_more(trusting: Node) -> None:
    """256 requests are read at once, the next waits in the backlog, and is served when the silent ones time out."""
    crowd = [connect(trusting) for _ in range(256)]
    try:
        # who waits as long as they may, five seconds, is told to try again
        until(lambda: trusting.cni("STATUS", conf=dual(trusting, cniVersion="1.1.0")).ok, "STATUS to be served")
    finally:
        for client in crowd:
            client.close()


DROP = f"import os, socket, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
"""Python code that goes on as another user, who need not be able to execute our interpreter."""


def test_another_user_cannot_ask(trusting: Node) -> None:
    """The socket is 0600; and where its mode was opened the agent still looks at who asks."""
    code = DROP + "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(1))"

    def ask() -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-I", "-c", code, str(trusting.socket)]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SECONDS)

    assert "PermissionError" in ask().stderr
    trusting.socket.chmod(0o666)
    done = ask()
    if "PermissionError" in done.stderr:
        pytest.skip(f"no other user may search the way to {trusting.socket}")
    assert done.stdout.strip() == "b''", done.stderr


def test_another_users_socket_is_not_asked(lab: Lab) -> None:
    """An agent of another user than root gets nothing: for the call there is no agent."""
    node = lab.node()
    folder = lab.folder / "stranger"
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    path = folder / "agent.sock"
    code = DROP + (
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); print('on', flush=True)\n"
        "c, _ = s.accept(); c.sendall(b'\\x06'); print(c.recv(9), flush=True)"
    )
    argv = [sys.executable, "-I", "-c", code, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as stranger:
        assert stranger.stdout
        try:
            assert stranger.stdout.readline() == "on\n"
            answer = node.cni("ADD", "c1", lab.container(), dual(node), env={"BGPCNI_SOCKET": str(path)})
            assert answer.error == 11
            assert "no agent answers" in answer.document["msg"]
            assert stranger.stdout.readline() in ("", "b''\n")
        finally:
            stranger.kill()


# ---------------------------------------------------------------- the folders


@pytest.fixture(params=["alone", "agent"])
def asked(request: pytest.FixtureRequest, lab: Lab) -> tuple[Node, Callable[[], tuple[int | None, str]]]:
    """A node that has worked once, and a question to it: the error's code and the words, (None, "") if all is well."""
    node = lab.node()
    assert node.cni("ADD", "first", lab.container(), dual(node)).ok

    def alone() -> tuple[int | None, str]:
        answer = node.cni("ADD", "c1", lab.container(), dual(node))
        return answer.error, answer.document.get("msg", "") + answer.stderr

    def agent() -> tuple[int | None, str]:
        try:
            node.agent(bgp={"neighbors": []})
        except RuntimeError as error:
            return 5, str(error)
        return None, node.log.read_text()

    return node, (alone if request.param == "alone" else agent)


def test_a_folder_that_others_can_read_is_used_with_a_warning(asked: Any) -> None:
    """It works; 0700 is recommended."""
    node, ask = asked
    node.data_dir.chmod(0o755)
    code, text = ask()
    assert code is None
    assert "can be read by other users" in text


def test_the_folders_are_made_for_root_alone(lab: Lab) -> None:
    """0700, whatever the umask; records 0600."""
    node = lab.node()
    conf, container = dual(node), lab.container()
    before = os.umask(0)
    try:
        assert node.cni("ADD", "c1", container, conf).ok
    finally:
        os.umask(before)
    for folder in (node.run_dir, node.data_dir, node.data_dir / "attachments/up"):
        assert folder.stat().st_mode & 0o777 == 0o700
    for record in node.records():
        assert record.stat().st_mode & 0o777 == 0o600


def test_a_link_in_the_place_of_a_record_is_not_followed(lab: Lab) -> None:
    """A DEL removes the link; what it points to stays."""
    node = lab.node()
    container = lab.container()
    assert node.cni("ADD", "c1", container, dual(node)).ok
    (record,) = node.records("up")
    target = node.folder / "target"
    record.rename(target)
    record.symlink_to(target)
    before = target.read_text()
    assert node.cni("DEL", "c1", container, dual(node)).ok
    assert target.read_text() == before
    assert (node.records(), node.lease_files()) == ([], set())


def test_a_password_file_that_others_can_read_is_refused_in_words(lab: Lab) -> None:
    """status says which file and what to do; no session is tried without the password."""
    node = lab.node()
    secret = node.folder / "secret"
    secret.write_text("s3cret\n")
    secret.chmod(0o644)
    neighbor = {"address": node.peer, "asn": 64512, "password_file": str(secret)}
    node.agent(bgp={"neighbors": [neighbor], "next_hop6": node.address6})
    container = lab.container()
    assert node.cni("ADD", "c1", container, dual(node, exporters=["exabgp"])).ok

    def said() -> bool:
        return "chmod 0600" in json.dumps(node.operator("status").document)

    until(said, "the words on the password file in status")
    answer = node.cni("STATUS", conf=dual(node, exporters=["exabgp"], cniVersion="1.1.0"))
    assert answer.error == 51
    assert "chmod 0600" in answer.document["msg"]
