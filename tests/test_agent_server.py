"""The agent's socket: a bad client does not affect others, and every request has limits."""

from __future__ import annotations

import array
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpcni.agent import server as module
from bgpcni.agent.server import Server
from bgpcni.errors import IoFailure, TryAgain
from bgpcni.handler import Call, Reply
from bgpcni.launcher import protocol
from bgpcni.testing.patience import SECONDS, until


class Running:
    """A server on a socket of its own; `calls` and `commands` are what reached it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[Call] = []
        self.commands: list[bytes] = []
        self.files: list[tuple[int, int] | None] = []
        self.hold = threading.Event()
        self.hold.set()
        self.server = Server(self.call, self.command)
        self.server.listen(path)
        self.server.serve()

    def call(self, call: Call) -> Reply:
        self.hold.wait(SECONDS)
        self.calls.append(call)
        if call.netns_fd is not None:
            status = os.fstat(call.netns_fd)
            self.files.append((status.st_dev, status.st_ino))
        if call.stdin == b"boom":
            raise RuntimeError("a defect")
        return Reply(3, b"out", b"err")

    def command(self, stdin: bytes) -> Reply:
        self.commands.append(stdin)
        self.hold.wait(SECONDS)
        return Reply(0, b"{}")

    def close(self) -> None:
        self.hold.set()
        self.server.close()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(SECONDS)
        sock.connect(str(self.path))
        return sock

    def ask(self, data: bytes, descriptors: tuple[int, ...] = ()) -> bytes:
        """Greeting, request, and all that comes back before the server closes."""
        with self.connect() as sock:
            assert sock.recv(1) == protocol.HELLO
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                sock.sendmsg([data[:1]], rights)
                sock.sendall(data[1:])
                return b"".join(iter(lambda: sock.recv(1 << 16), b""))
            except (BrokenPipeError, ConnectionResetError):
                return b""  # refused before all of it was read


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path / "agent.sock")
    yield running
    running.close()


def request(stdin: bytes = b"{}", kind: bytes = protocol.CALL, **variables: str) -> bytes:
    block = b"".join(f"{name}={value}".encode() + b"\0" for name, value in variables.items())
    return protocol.HEADER.pack(protocol.MAGIC, kind, len(block), len(stdin)) + block + stdin


ANSWER = protocol.REPLY.pack(3, 0, 3, 3) + b"outerr"


def served(running: Running) -> None:
    """It still answers."""
    assert running.ask(request(CNI_COMMAND="ADD")) == ANSWER


def copies(path: str) -> int:
    """How many descriptors of this process are open on `path`."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{fd}") == path
        except OSError:
            pass  # closed since it was listed
    return found


def test_a_call_and_a_command_are_answered(running: Running) -> None:
    """Environment, stdin and the namespace's descriptor arrive as they were sent."""
    with open(__file__) as file:
        status = os.fstat(file.fileno())
        sent = request(b'{"a": 1}', CNI_COMMAND="ADD", CNI_ARGS="A=B;C=D", CNI_PATH="")
        assert running.ask(sent, (file.fileno(),)) == ANSWER
    (call,) = running.calls
    assert call.variables == {"CNI_COMMAND": "ADD", "CNI_ARGS": "A=B;C=D", "CNI_PATH": ""}
    assert call.stdin == b'{"a": 1}'
    assert running.files == [(status.st_dev, status.st_ino)]
    assert running.ask(request(b'{"command": "status"}', protocol.COMMAND)) == protocol.REPLY.pack(0, 0, 2, 0) + b"{}"
    assert running.commands == [b'{"command": "status"}']


def test_the_socket_is_the_owners_alone(running: Running) -> None:
    """Mode 0600, whatever the umask."""
    assert running.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0" * 16,
        protocol.HEADER.pack(protocol.MAGIC, b"X", 0, 0),
        protocol.HEADER.pack(protocol.MAGIC, protocol.CALL, 0xFFFFFFFF, 0xFFFFFFFF),
        protocol.HEADER.pack(protocol.MAGIC, protocol.CALL, 0, protocol.MAX_GC + 1),
        request(b"x" * (protocol.MAX_REQUEST + 1), CNI_COMMAND="ADD"),
        request(b"x" * (protocol.MAX_REQUEST + 1), CNI_COMMAND="XGC"),
    ],
    ids=["http", "zeros", "kind", "lengths", "beyond GC", "large ADD", "large other"],
)
def test_garbage_and_giants_are_refused_and_the_next_is_served(running: Running, data: bytes) -> None:
    """Closed without an answer; the launcher then says "try again"."""
    assert running.ask(data) == b""
    assert running.calls == []
    served(running)


def test_gc_may_be_large(running: Running) -> None:
    """GC may send more, because its list of valid attachments grows with the node."""
    assert running.ask(request(b" " * (2 << 20), CNI_COMMAND="GC")) == ANSWER
    assert len(running.calls[0].stdin) == 2 << 20


def test_a_request_in_single_octets_is_served(running: Running) -> None:
    with running.connect() as sock:
        sock.recv(1)
        for octet in request(CNI_COMMAND="DEL"):
            sock.sendall(bytes([octet]))
        assert b"".join(iter(lambda: sock.recv(1 << 16), b"")) == ANSWER


def test_a_slow_request_ends_by_its_deadline(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends half a request and stops occupies a thread for five seconds, not for ever."""
    monkeypatch.setattr(module, "READ_SECONDS", 0.05)
    for part in (request(CNI_COMMAND="ADD")[:-1], request()[:5], b""):
        with running.connect() as sock:
            assert sock.recv(1) == protocol.HELLO
            sock.sendall(part)
            assert sock.recv(1) == b""
    monkeypatch.undo()
    served(running)


@pytest.mark.parametrize("end", [0, 1, 10, 20])
def test_a_client_that_goes_away_is_no_event(running: Running, end: int) -> None:
    with running.connect() as sock:
        sock.recv(1)
        sock.sendall(request(CNI_COMMAND="ADD")[:end])
    served(running)
    assert len(running.calls) == 1


@pytest.mark.parametrize(("kind", "said"), [(protocol.COMMAND, 0), (protocol.CALL, 1)])
def test_an_interrupted_command_is_not_worth_a_line_but_a_lost_caller_is(
    running: Running, caplog: pytest.LogCaptureFixture, kind: bytes, said: int
) -> None:
    """`bgpcni events` always ends that way."""
    running.hold.clear()
    with running.connect() as sock:
        sock.recv(1)
        sock.sendall(request(kind=kind, CNI_COMMAND="ADD"))
        sock.shutdown(socket.SHUT_WR)
        if kind == protocol.COMMAND:
            until(lambda: bool(running.commands))
    running.hold.set()
    running.server.close()
    assert sum("not served" in message for message in caplog.messages) == said


@pytest.mark.parametrize("number", [2, 4, 20])
def test_more_than_one_descriptor_is_refused_and_none_is_kept(running: Running, number: int) -> None:
    """A request with more than one descriptor is refused, and none of them stays open in the agent."""
    with open(__file__) as file:
        assert running.ask(request(CNI_COMMAND="ADD"), (file.fileno(),) * number) == b""
        served(running)
        running.ask(request(CNI_COMMAND="ADD"), (file.fileno(),))
        assert copies(os.path.realpath(__file__)) == 1
    assert len(running.calls) == 2


def test_a_defect_in_one_request_is_that_requests(running: Running) -> None:
    assert running.ask(request(b"boom")) == b""
    served(running)


def test_a_strangers_request_is_not_read(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root and our own user may ask: SO_PEERCRED decides."""
    monkeypatch.setattr(module.os, "geteuid", lambda: 4242)
    if os.getuid() == 0:
        # root is welcome everywhere: show the server another peer
        monkeypatch.setattr(
            module, "_CREDENTIALS", type("Other", (), {"size": 12, "unpack": lambda self, raw: (1, 7, 7)})()
        )
    with running.connect() as sock:
        assert sock.recv(1) == b""
    monkeypatch.undo()
    served(running)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_another_user_gets_no_greeting(running: Running) -> None:
    """Another user is refused even if the mode of the socket allows the connection."""
    running.path.chmod(0o666)
    for folder in (running.path.parent, *list(running.path.parent.parents)[:-2]):
        folder.chmod(0o711)
    child = os.fork()
    if not child:
        try:
            os.setuid(65534)
            with running.connect() as sock:
                os._exit(0 if sock.recv(1) == b"" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_at_most_so_many_at_once_and_the_next_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request beyond the limit waits in the backlog, without a greeting, until another one has ended."""
    monkeypatch.setattr(module, "AT_ONCE", 2)
    running = Running(tmp_path / "agent.sock")
    running.hold.clear()
    try:
        socks = [running.connect() for _ in range(2)]
        for sock in socks:
            sock.recv(1)
            sock.sendall(request(CNI_COMMAND="ADD"))
        third = running.connect()
        third.setblocking(False)
        with pytest.raises(BlockingIOError):
            third.recv(1)
        running.hold.set()
        third.settimeout(SECONDS)
        assert third.recv(1) == protocol.HELLO
        for sock in (*socks, third):
            sock.close()
    finally:
        running.close()


def test_requests_that_run_are_finished_when_the_agent_ends(tmp_path: Path) -> None:
    """SIGTERM in the middle of an ADD: it is answered."""
    running = Running(tmp_path / "agent.sock")
    running.hold.clear()
    sock = running.connect()
    sock.recv(1)
    sock.sendall(request(CNI_COMMAND="ADD"))
    ending = threading.Thread(target=running.server.close)
    ending.start()
    running.hold.set()
    answer = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    ending.join(SECONDS)
    sock.close()
    assert answer == ANSWER


def test_who_comes_as_the_agent_ends_is_let_go(tmp_path: Path) -> None:
    """Closed without a greeting, so that the launcher tells the runtime to try again."""
    running = Running(tmp_path / "agent.sock")
    running.server._closing = True
    with running.connect() as sock:
        assert sock.recv(1) == b""
    running.close()


def test_a_dead_agents_socket_is_replaced_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    Running(path).close()
    assert path.exists()
    again = Running(path)
    served(again)
    again.close()
    path.unlink()
    path.write_text("a file")
    with pytest.raises(IoFailure, match="in use"):
        Server(lambda call: Reply(0), lambda data: Reply(0)).listen(path)
    assert path.read_text() == "a file"
    with pytest.raises(IoFailure, match="No such file"):
        Server(lambda call: Reply(0), lambda data: Reply(0)).listen(tmp_path / "none" / "agent.sock")


def test_the_header_is_sixteen_octets() -> None:
    assert (protocol.HEADER.size, protocol.REPLY.size, struct.calcsize("=iII")) == (16, 12, 12)


def test_a_socket_that_was_removed_is_bound_again(running: Running) -> None:
    """Requests that are being served go on; new ones find the new socket, with the same mode."""
    assert not running.server.renew()
    running.hold.clear()
    with running.connect() as early:
        assert early.recv(1) == protocol.HELLO
        early.sendall(request(b"{}"))
        running.path.unlink()
        assert running.server.renew()
        assert not running.server.renew()
        assert stat.S_IMODE(running.path.stat().st_mode) == 0o600
        running.hold.set()
        assert early.recv(1 << 16)
    for _ in range(3):
        assert running.ask(request(b"{}"))


def test_the_socket_of_another_is_left_alone(tmp_path: Path) -> None:
    """Two agents never take the socket from each other in turns: the one that answers keeps it."""
    one, path = Running(tmp_path / "a.sock"), tmp_path / "b.sock"
    two = Running(path)
    try:
        path.unlink()
        one.path.rename(path)
        with pytest.raises(TryAgain, match="another process answers there"):
            two.server.renew()
        with pytest.raises(TryAgain, match="another process answers there"):
            Server(two.call, two.command).listen(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(SECONDS)
            sock.connect(str(path))
            assert sock.recv(1) == protocol.HELLO
    finally:
        one.close()
        two.close()


def test_a_socket_that_is_removed_while_the_agent_ends_stays_away(running: Running) -> None:
    """A look at run_dir that comes after the end has begun makes no socket that nobody would serve."""
    running.hold.clear()
    with running.connect() as last:
        assert last.recv(1) == protocol.HELLO
        last.sendall(request(b"{}"))
        ending = threading.Thread(target=running.server.close)
        ending.start()
        until(lambda: running.server._closing)
        running.path.unlink()
        assert not running.server.renew()
        assert not running.path.exists()
        running.hold.set()
        assert last.recv(1 << 16)
        ending.join(SECONDS)
    assert not ending.is_alive()
