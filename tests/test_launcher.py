"""The plugin executable, compiled and as a script: both must do the same, octet for octet.

The other end of protocol.py is played by a small server; the "Python plugin" by an interpreter that prints what it
was given. The launcher itself is the real one, built and patched as the installer does it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bgpcni import handler, paths, plugin
from bgpcni.cni.versions import SUPPORTED, version_answer
from bgpcni.launcher import launcher as script_source
from bgpcni.launcher import protocol
from bgpcni.launcher.build import SOURCE, compile_launcher
from bgpcni.launcher.install import patched, script
from bgpcni.testing.patience import SECONDS

ROOT = os.geteuid() == 0
STRANGER = 65534
"""A uid that is neither root's nor, when root runs the tests, the launcher's."""

INTERPRETER = """\
import json, os, sys
print(json.dumps({
    "argv": sys.argv,
    "environment": {os.fsencode(k).hex(): os.fsencode(v).hex() for k, v in os.environ.items()},
    "stdin": sys.stdin.buffer.read().hex(),
    "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
}))
sys.stderr.write("python was here")
sys.exit(7)
"""


@dataclass
class Call:
    """What the agent's side was sent in one connection."""

    kind: bytes = b""
    environment: dict[bytes, bytes] = field(default_factory=dict)
    block: bytes = b""
    stdin: bytes = b""
    descriptors: list[tuple[int, int]] = field(default_factory=list)
    """(device, inode) of each descriptor that rode on the first octet."""


Speak = Callable[[socket.socket, Call], None]


def take(connection: socket.socket, call: Call) -> None:
    """Read one request into `call`; the stream must hold nothing beyond it."""
    data, ancillary, flags, _ = connection.recvmsg(65536, 256, socket.MSG_CMSG_CLOEXEC)
    assert not flags & socket.MSG_CTRUNC
    for level, kind, rights in ancillary:
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (fd,) in struct.iter_unpack("i", rights):
            status = os.fstat(fd)
            call.descriptors.append((status.st_dev, status.st_ino))
            os.close(fd)
    stream = bytearray(data)
    while len(stream) < protocol.HEADER.size:
        more = connection.recv(65536)
        assert more, "the request ended early"
        stream += more
    magic, call.kind, environment, stdin = protocol.HEADER.unpack(stream[: protocol.HEADER.size])
    assert magic == protocol.MAGIC
    while len(stream) < protocol.HEADER.size + environment + stdin:
        more = connection.recv(1 << 20)
        assert more, "the request ended early"
        stream += more
    assert len(stream) == protocol.HEADER.size + environment + stdin
    call.block = bytes(stream[protocol.HEADER.size : protocol.HEADER.size + environment])
    call.environment = dict(entry.split(b"=", 1) for entry in call.block.split(b"\0")[:-1])
    call.stdin = bytes(stream[protocol.HEADER.size + environment :])


def answer(code: int = 0, out: bytes = b"", err: bytes = b"") -> bytes:
    return protocol.REPLY.pack(code, 0, len(out), len(err)) + out + err


def replying(code: int = 0, out: bytes = b"", err: bytes = b"") -> Speak:
    def speak(connection: socket.socket, call: Call) -> None:
        connection.sendall(protocol.HELLO)
        take(connection, call)
        connection.sendall(answer(code, out, err))

    return speak


class Agent:
    """The agent's end: each connection is given to `speak`; calls are kept, failures are raised at the end."""

    def __init__(self, path: Path, speak: Speak, listener: int | None = None) -> None:
        self.path, self.speak = path, speak
        self.calls: list[Call] = []
        self.failures: list[Exception] = []
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        if listener is not None:
            os.seteuid(listener)  # SO_PEERCRED tells who called listen()
        try:
            self.socket.listen()
        finally:
            if listener is not None:
                os.seteuid(0)
        path.chmod(0o666)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            call = Call()
            with connection:
                connection.settimeout(SECONDS)
                try:
                    self.speak(connection, call)
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the launcher went away, which some tests want
                except (AssertionError, OSError, ValueError, struct.error) as error:
                    self.failures.append(error)
            self.calls.append(call)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(SECONDS)
        self.socket.close()
        self.path.unlink()
        assert not self.thread.is_alive()
        if self.failures:
            raise self.failures[0]

    @property
    def call(self) -> Call:
        (call,) = self.calls
        return call


@dataclass(frozen=True)
class Launcher:
    """One kind of launcher in a folder that any user may look into, beside a socket path and an interpreter."""

    path: Path
    python: Path
    socket: Path

    @property
    def compiled(self) -> bool:
        return self.path.read_bytes().startswith(b"\x7fELF")

    def run(
        self, stdin: bytes = b"{}", arguments: tuple[str, ...] = (), user: int | None = None, **environment: str | bytes
    ) -> subprocess.CompletedProcess[bytes]:
        # LC_ALL: else every Python adds LC_CTYPE to its own environment.
        whole = {"BGPCNI_SOCKET": str(self.socket), "LC_ALL": "C.UTF-8", "CNI_COMMAND": "ADD", **environment}
        return subprocess.run(
            [self.path, *arguments],
            input=stdin,
            env=whole,
            user=user,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )

    def agent(self, speak: Speak, listener: int | None = None) -> Agent:
        return Agent(self.socket, speak, listener)


@dataclass(frozen=True)
class Handed:
    """What the Python plugin was given."""

    argv: list[str]
    environment: dict[bytes, bytes]
    stdin: bytes
    open: list[int]


def handed(done: subprocess.CompletedProcess[bytes]) -> Handed:
    """The call must have ended in the Python plugin, with its output, stderr and exit code as they are."""
    assert (done.returncode, done.stderr) == (7, b"python was here")
    seen = json.loads(done.stdout)
    environment = {bytes.fromhex(k): bytes.fromhex(v) for k, v in seen["environment"].items()}
    return Handed(seen["argv"], environment, bytes.fromhex(seen["stdin"]), seen["open"])


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    target = tmp_path_factory.mktemp("image") / "launcher"
    if reason := compile_launcher(target):
        pytest.skip(reason)
    return target.read_bytes()


KINDS = ["compiled", "script"]


@pytest.fixture(params=KINDS)
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    with placed(request.param, request) as launcher:
        yield launcher


@contextmanager
def placed(kind: str, request: pytest.FixtureRequest) -> Iterator[Launcher]:
    folder = Path(tempfile.mkdtemp(prefix="bgpcni-launcher-"))
    try:
        folder.chmod(0o755)
        python, path = folder / "python", folder / "plugin"
        python.write_text(f"#!{sys.executable} -IS\n{INTERPRETER}")
        fixed = os.fsencode(python)
        if kind == "compiled":
            path.write_bytes(patched(request.getfixturevalue("image"), fixed))
        else:  # the one that it executes is ours, the one that runs it must be real
            path.write_bytes(script(fixed).replace(b"#!" + fixed, b"#!" + os.fsencode(sys.executable), 1))
        python.chmod(0o755)
        path.chmod(0o755)
        yield Launcher(path, python, folder / "agent.sock")
    finally:
        shutil.rmtree(folder)


def test_the_agents_answer_is_the_plugins_answer(launcher: Launcher) -> None:
    """stdout, stderr and exit code are the agent's, and the agent gets stdin and every CNI variable, no other."""
    with launcher.agent(replying(3, b'{"cniVersion": "1.0.0"}', b"a warning\n")) as agent:
        done = launcher.run(b'{"name": "n"}', CNI_CONTAINERID="c1", CNI_PATH="/opt/cni/bin:/x", HOME="/", XCNI_="no")
    assert (done.returncode, done.stdout, done.stderr) == (3, b'{"cniVersion": "1.0.0"}', b"a warning\n")
    assert agent.call.kind == protocol.CALL
    assert agent.call.stdin == b'{"name": "n"}'
    assert agent.call.environment == {
        b"CNI_COMMAND": b"ADD",
        b"CNI_CONTAINERID": b"c1",
        b"CNI_PATH": b"/opt/cni/bin:/x",
    }


@pytest.mark.parametrize("code", [0, 1, 255])
def test_every_exit_code_is_relayed(launcher: Launcher, code: int) -> None:
    with launcher.agent(replying(code)):
        done = launcher.run()
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


def test_arguments_are_ignored(launcher: Launcher) -> None:
    """The plugin is driven by its environment alone; `bgpcni status` in a plugin folder is no operator's command."""
    with launcher.agent(replying(0, b"{}")):
        assert launcher.run(arguments=("status", "--help", "-c")).stdout == b"{}"
    assert handed(launcher.run(arguments=("status",))).argv[1:] == ["-I", "-m", "bgpcni.plugin"]


def test_under_its_ipam_name_it_is_another_plugin(launcher: Launcher) -> None:
    """The agent is told so, and without an agent it is another module of Python."""
    launcher = replace(launcher, path=launcher.path.rename(launcher.path.with_name("bgpcni-ipam")))
    with launcher.agent(replying(0, b"{}")) as agent:
        assert launcher.run(b"{}").stdout == b"{}"
    assert agent.call.kind == b"I"
    done = launcher.run(b"{}", CNI_COMMAND="VERSION")
    assert handed(done).argv[1:] == ["-I", "-m", "bgpcni.ipam_plugin"]
    assert handed(done).stdin == b"{}"


def test_the_namespace_is_sent_as_a_descriptor(launcher: Launcher) -> None:
    """What the agent works on is what the launcher opened, whatever the path means later."""
    here = os.stat("/proc/self/ns/net")
    with launcher.agent(replying()) as agent:
        launcher.run(CNI_NETNS="/proc/self/ns/net")
    assert agent.call.descriptors == [(here.st_dev, here.st_ino)]
    assert agent.call.environment[b"CNI_NETNS"] == b"/proc/self/ns/net"


@pytest.mark.parametrize("netns", ["", "/nonexistent/netns"])
def test_a_namespace_that_cannot_be_opened_is_the_agents_to_judge(launcher: Launcher, netns: str) -> None:
    with launcher.agent(replying()) as agent:
        done = launcher.run(CNI_NETNS=netns)
    assert done.returncode == 0
    assert agent.call.descriptors == []


def test_a_fifo_for_a_namespace_does_not_hang(launcher: Launcher, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with launcher.agent(replying()) as agent:
        assert launcher.run(CNI_NETNS=str(tmp_path / "fifo")).returncode == 0
    assert len(agent.call.descriptors) == 1


@pytest.mark.parametrize(("command", "limit"), [("ADD", protocol.MAX_REQUEST), ("GC", protocol.MAX_GC)])
def test_the_largest_request_arrives_whole(launcher: Launcher, command: str, limit: int) -> None:
    """1 MiB of environment and stdin together, 16 MiB for GC, through as many partial sends as it takes."""
    block = f"CNI_COMMAND={command}\0CNI_NETNS=/proc/self/ns/net\0".encode()
    stdin = os.urandom(limit - len(block))
    with launcher.agent(replying(0, stdin[:100])) as agent:
        done = launcher.run(stdin, CNI_COMMAND=command, CNI_NETNS="/proc/self/ns/net")
    assert (done.returncode, done.stdout) == (0, stdin[:100])
    assert (agent.call.block, agent.call.stdin == stdin) == (block, True)
    assert len(agent.call.descriptors) == 1
    with launcher.agent(replying()) as agent:
        done = launcher.run(stdin + b"x", CNI_COMMAND=command, CNI_NETNS="/proc/self/ns/net")
    assert agent.calls == []
    assert handed(done).stdin == stdin + b"x"


@pytest.mark.parametrize(("command", "limit"), [("ADD", protocol.MAX_REQUEST), ("GC", protocol.MAX_GC)])
def test_a_request_beyond_the_bound_goes_to_python_cut_yet_too_long(
    launcher: Launcher, command: str, limit: int
) -> None:
    """The agent never sees it; Python gets bound + 1 octets, can tell, and says so in JSON."""
    stdin = os.urandom(limit + 4096)
    with launcher.agent(replying()) as agent:
        done = launcher.run(stdin, CNI_COMMAND=command)
    assert agent.calls == []
    assert handed(done).stdin == stdin[: limit + 1]


@pytest.mark.parametrize("there", ["nothing", "stale socket", "plain file", "path too long"])
def test_without_an_agent_python_gets_the_same_call(launcher: Launcher, there: str) -> None:
    """Absent, stale, or no socket at all: the same stdin and environment, three descriptors, isolated mode."""
    path = str(launcher.socket)
    if there == "stale socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
    elif there == "plain file":
        launcher.socket.touch()
    elif there == "path too long":
        path = "/" + "x" * 200
    stdin = os.urandom(200_000)
    seen = handed(launcher.run(stdin, BGPCNI_SOCKET=path, CNI_ARGS="A=b;C=d", OTHER="x y", EMPTY=""))
    assert seen.argv == [str(launcher.python), "-I", "-m", "bgpcni.plugin"]
    assert seen.stdin == stdin
    assert seen.open == [0, 1, 2]
    assert seen.environment == {
        b"BGPCNI_SOCKET": os.fsencode(path),
        b"LC_ALL": b"C.UTF-8",
        b"CNI_COMMAND": b"ADD",
        b"CNI_ARGS": b"A=b;C=d",
        b"OTHER": b"x y",
        b"EMPTY": b"",
    }


def test_no_descriptor_of_the_runtime_leaks_into_python(launcher: Launcher) -> None:
    with open("/dev/null", "rb") as extra:
        done = subprocess.run(
            [launcher.path],
            input=b"",
            env={"BGPCNI_SOCKET": str(launcher.socket), "LC_ALL": "C.UTF-8"},
            pass_fds=[extra.fileno()],
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    assert handed(done).open == [0, 1, 2]


def test_closed_standard_descriptors_are_no_trap(launcher: Launcher) -> None:
    """Started without stdin and stderr: the agent's socket must not become one of them."""
    with launcher.agent(replying(4, b"{}", b"lost")) as agent:
        done = subprocess.run(
            ["sh", "-c", 'exec "$0" 0<&- 2>&-', launcher.path],
            env={"BGPCNI_SOCKET": str(launcher.socket), "CNI_COMMAND": "DEL", "PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            timeout=SECONDS,
            check=False,
        )
    assert (done.returncode, done.stdout) == (4, b"{}")
    assert agent.call.stdin == b""


def test_a_mute_agent_counts_as_nobody(request: pytest.FixtureRequest) -> None:
    """Accepted and no word for five seconds (a hung agent, or systemd's socket with nothing behind): Python."""
    with ExitStack() as stack, ThreadPoolExecutor() as pool:  # both kinds at once: they wait for as long
        launchers = [stack.enter_context(placed(kind, request)) for kind in KINDS]
        for done in pool.map(before_a_mute_agent, launchers):
            assert handed(done).stdin == b"abc"


def before_a_mute_agent(launcher: Launcher) -> subprocess.CompletedProcess[bytes]:
    """One run of a launcher whose agent accepts and says nothing."""

    def mute(connection: socket.socket, call: Call) -> None:
        call.stdin = connection.recv(1)  # ends when the launcher gives up

    with launcher.agent(mute) as agent:
        done = launcher.run(b"abc")
    assert agent.call.stdin == b""
    return done


def test_another_servers_greeting_is_not_an_agents(launcher: Launcher) -> None:
    def other(connection: socket.socket, call: Call) -> None:
        connection.sendall(b"220 smtp")
        call.stdin = connection.recv(1)

    with launcher.agent(other) as agent:
        assert handed(launcher.run(b"abc")).stdin == b"abc"
    assert agent.call.stdin == b""


WHOLE = answer(0, b'{"cniVersion": "1.0.0"}', b"warning")


@pytest.mark.parametrize("size", [0, 1, 11, 12, 20, len(WHOLE) - 1])
def test_an_agent_that_dies_before_its_answer_is_whole_leaves_stdout_clean(launcher: Launcher, size: int) -> None:
    """A half answer never reaches the runtime: Python writes the only one."""

    def die(connection: socket.socket, call: Call) -> None:
        connection.sendall(protocol.HELLO)
        take(connection, call)
        connection.sendall(WHOLE[:size])

    with launcher.agent(die) as agent:
        assert handed(launcher.run(b"abc")).stdin == b"abc"
    assert agent.call.stdin == b"abc"


def test_an_agent_that_dies_while_it_is_sent_to_is_no_signal(launcher: Launcher) -> None:
    """A broken pipe in the middle of a large request does not kill the plugin: Python does the call."""

    def hang_up(connection: socket.socket, call: Call) -> None:
        connection.sendall(protocol.HELLO)
        connection.recv(100)

    stdin = os.urandom(900_000)
    with launcher.agent(hang_up):
        assert handed(launcher.run(stdin)).stdin == stdin


def test_an_answer_given_before_the_request_was_read_counts(launcher: Launcher) -> None:
    """An agent that refuses early, and closes, is heard."""

    def refuse(connection: socket.socket, call: Call) -> None:
        connection.sendall(protocol.HELLO)
        connection.recv(16)
        connection.sendall(answer(1, b'{"code": 11}'))

    with launcher.agent(refuse):
        done = launcher.run(os.urandom(900_000))
    assert (done.returncode, done.stdout) == (1, b'{"code": 11}')


def test_an_answer_of_absurd_size_is_none(launcher: Launcher) -> None:
    def boast(connection: socket.socket, call: Call) -> None:
        connection.sendall(protocol.HELLO)
        take(connection, call)
        connection.sendall(protocol.REPLY.pack(0, 0, 0xFFFFFFFF, 0xFFFFFFFF))

    with launcher.agent(boast):
        handed(launcher.run())


def test_a_trickling_agent_is_read_to_the_end(launcher: Launcher) -> None:
    """One octet at a time, and no deadline of its own once the request is sent."""

    def trickle(connection: socket.socket, call: Call) -> None:
        connection.sendall(protocol.HELLO)
        take(connection, call)
        for octet in WHOLE:
            connection.sendall(bytes([octet]))

    with launcher.agent(trickle):
        done = launcher.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, b'{"cniVersion": "1.0.0"}', b"warning")


def test_a_runtime_that_went_away_gets_no_signal_death(launcher: Launcher) -> None:
    """With nobody reading stdout the plugin ends with exit code 1 and says why on stderr."""
    with launcher.agent(replying(0, b"x" * 300_000)):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [launcher.path],
                stdin=subprocess.DEVNULL,
                env={"BGPCNI_SOCKET": str(launcher.socket)},
                stdout=writer,
                stderr=subprocess.PIPE,
                timeout=SECONDS,
                check=False,
            )
        finally:
            os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"bgpcni: cannot write the result: Broken pipe\n")


def test_a_large_answer_goes_through_a_pipe_that_does_not_block(launcher: Launcher) -> None:
    out = os.urandom(3_000_000)
    with launcher.agent(replying(0, out)):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        process = subprocess.Popen(
            [launcher.path],
            stdin=subprocess.DEVNULL,
            env={"BGPCNI_SOCKET": str(launcher.socket)},
            stdout=writer,
        )
        os.close(writer)
        with open(reader, "rb") as pipe:
            assert pipe.read() == out
        assert process.wait(SECONDS) == 0


def without_python(launcher: Launcher, how: str) -> str:
    """Take the launcher's Python away; the words for it."""
    launcher.python.unlink()
    if how == "gone":
        return f"cannot execute {launcher.python}: No such file or directory"
    field = os.fsencode(launcher.python)
    image = launcher.path.read_bytes()
    launcher.path.write_bytes(image.replace(field, bytes(len(field)) if launcher.compiled else b"", 1))
    return "bgpcni was installed on this node without its Python"


MISSING = pytest.mark.parametrize("how", ["gone", "never installed"])


@MISSING
@pytest.mark.parametrize(
    ("command", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50), ("FROB", 11), ("", 11)]
)
def test_without_an_agent_and_without_python_the_call_is_an_error_of_cni(
    launcher: Launcher, how: str, command: str, code: int
) -> None:
    """What a runtime shows is an error with a code, in the version asked for, that says where to look."""
    words = without_python(launcher, how)
    done = launcher.run(b'{ "name": "n", "cniVersion" : "0.4.0" }', CNI_COMMAND=command)
    text = f"no agent answers on {launcher.socket}, and {words}: start bgpcni agent, or look at its pod on this node"
    assert json.loads(done.stdout) == {"cniVersion": "0.4.0", "code": code, "msg": text}
    assert (done.returncode, done.stderr.decode()) == (1, f"bgpcni: {command + ' failed: ' if command else ''}{text}\n")


@MISSING
def test_without_python_an_agent_is_asked_as_ever(launcher: Launcher, how: str) -> None:
    without_python(launcher, how)
    with launcher.agent(replying(0, b"{}")):
        assert launcher.run().stdout == b"{}"


@MISSING
def test_without_python_addresses_for_other_plugins_are_refused_with_the_remedy(launcher: Launcher, how: str) -> None:
    words = without_python(launcher, how)
    path = launcher.path.rename(launcher.path.with_name("bgpcni-ipam"))
    done = replace(launcher, path=path).run(b'{"cniVersion": "1.0.0"}')
    text = f"no agent answers on {launcher.socket}, and {words}: start bgpcni agent, or look at its pod on this node"
    assert (done.returncode, json.loads(done.stdout)) == (1, {"cniVersion": "1.0.0", "code": 11, "msg": text})


@MISSING
@pytest.mark.parametrize("command", ["ADD", "GC"])
def test_without_python_a_request_beyond_the_bound_is_refused_in_the_same_words(
    launcher: Launcher, how: str, command: str
) -> None:
    without_python(launcher, how)
    most = protocol.limit(command)
    done = launcher.run(b" " * (most + 1), CNI_COMMAND=command)
    reply = plugin.too_large(handler.Call({"CNI_COMMAND": command}, b""), most)
    assert json.loads(done.stdout) == json.loads(reply.stdout) | {"cniVersion": "1.1.0"}


@MISSING
@pytest.mark.parametrize("asked", ["0.3.1", "1.1.0", "9.9.9", None])
def test_without_python_version_answers_all_the_same(launcher: Launcher, how: str, asked: str | None) -> None:
    """Word for word what the plugin in Python says: a runtime may ask before the agent's pod is there."""
    without_python(launcher, how)
    done = launcher.run(json.dumps({"cniVersion": asked} if asked else {}).encode(), CNI_COMMAND="VERSION")
    assert (done.returncode, json.loads(done.stdout)) == (0, version_answer(asked))


@MISSING
@pytest.mark.parametrize("variable", [{"BGPCNI_SOCKET": '/a"b'}, {"CNI_COMMAND": 'A"\n'}], ids=["socket", "command"])
def test_without_python_what_json_cannot_hold_is_left_out(
    launcher: Launcher, how: str, variable: dict[str, str]
) -> None:
    without_python(launcher, how)
    answer = json.loads(launcher.run(b"{}", **variable).stdout)
    assert answer["code"] == 11
    assert answer["msg"].startswith("no agent answers on ")


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.3.0"}', "0.3.0"), (b'{"cniVersion"\n:\t"0.3.0"', "0.3.0"),
        (b'{"a": "cniVersion", "cniVersion": "0.3.0"}', "0.3.0"), (b'"cniVersion":"cniVersion":"0.3.0"', "0.3.0"),
        (b'{"cniVersion": 1, "cniVersion": "0.3.0"}', "0.3.0"), (b'{"cniVersion": "9.9.9"}', "1.1.0"),
        (b'{"cniVersion": "0.3.0', "1.1.0"), (b'{"cniVersion": ""}', "1.1.0"), (b'{"cniVersion"', "1.1.0"),
        (b'{"cniVersion":"0000000000000000"}', "1.1.0"), (b'{"cniVersion"\0:"0.3.0"}', "1.1.0"), (b"", "1.1.0"),
    ],
)  # fmt: skip
def test_the_version_of_an_error_is_the_one_asked_for_if_it_can_be_found(
    launcher: Launcher, stdin: bytes, version: str
) -> None:
    """Else the newest. Without Python nobody reads the JSON, only the text behind the word."""
    without_python(launcher, "never installed")
    assert json.loads(launcher.run(stdin).stdout)["cniVersion"] == version


@pytest.mark.skipif(not ROOT, reason="needs root, to listen as another user")
def test_a_strangers_socket_is_not_spoken_to(launcher: Launcher) -> None:
    """A listener that is neither root nor ourselves gets no octet of the call."""
    with launcher.agent(replying(0, b"forged"), listener=STRANGER) as agent:
        agent.speak = lambda connection, call: setattr(call, "stdin", connection.recv(1))
        assert handed(launcher.run(b"secret")).stdin == b"secret"
    assert agent.call.stdin == b""


def public_interpreter() -> bytes:
    """A Python that any user of this machine may start."""
    for path in (Path(sys.executable), Path("/usr/bin/python3")):
        real = Path(os.path.realpath(path))
        if real.is_file() and all(folder.stat().st_mode & stat.S_IXOTH for folder in (real, *real.parents)):
            return os.fsencode(real)
    pytest.skip("needs a Python that other users may start")


@pytest.mark.skipif(not ROOT, reason="needs root, to run as other users")
@pytest.mark.parametrize(("listener", "answered"), [(0, True), (STRANGER - 1, True), (STRANGER, False)])
def test_a_user_trusts_root_and_himself(launcher: Launcher, listener: int, answered: bool) -> None:
    if not launcher.compiled:
        _, _, body = launcher.path.read_bytes().partition(b"\n")
        launcher.path.write_bytes(b"#!" + public_interpreter() + b" -IS\n" + body)

    def speak(connection: socket.socket, call: Call) -> None:
        connection.sendall(protocol.HELLO)
        if connection.recv(1, socket.MSG_PEEK):  # empty: the launcher hung up
            take(connection, call)
            connection.sendall(answer(0, b"{}"))

    with launcher.agent(speak, listener=listener) as agent:
        done = launcher.run(b"secret", user=STRANGER - 1)
    assert (done.stdout == b"{}") is answered
    assert agent.call.stdin == (b"secret" if answered else b"")


@pytest.mark.skipif(not ROOT, reason="needs root, to make a file that changes the user")
def test_borrowed_privileges_ignore_the_callers_socket(launcher: Launcher) -> None:
    """Set-uid: BGPCNI_SOCKET is neither used nor handed on; a caller cannot choose whom a privileged plugin asks."""
    if not launcher.compiled:
        pytest.skip("Linux ignores the set-uid bit of scripts")
    launcher.python.write_text("#!/bin/sh\nenv\n")
    os.chown(launcher.path, STRANGER, STRANGER)
    launcher.path.chmod(0o4755)
    with launcher.agent(replying(0, b"{}")) as agent:
        done = launcher.run(user=STRANGER - 1, BGPCNI_RUN_DIR="/tmp/mine")
    assert agent.calls == []
    assert b"CNI_COMMAND=ADD" in done.stdout
    assert b"BGPCNI_" not in done.stdout


SOUND = {"CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt"}


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_where_an_agent_should_be_no_python_is_started_to_say_so(launcher: Launcher, command: str) -> None:
    """Byte for byte what the plugin in Python answers."""
    launcher.python.unlink()
    body = {"cniVersion": "1.1.0" if command in ("GC", "STATUS") else "0.4.0", "name": "net", "type": "bgpcni"}
    body |= {"cni.dev/valid-attachments": []} if command == "GC" else {}
    body |= {"prevResult": {"cniVersion": "0.4.0"}} if command == "CHECK" else {}
    stdin = json.dumps(body).encode()
    done = launcher.run(stdin, CNI_COMMAND=command, **SOUND)
    variables = {**SOUND, "CNI_COMMAND": command}
    reply = plugin.answer(handler.Call(variables, stdin), {"BGPCNI_SOCKET": str(launcher.socket)})
    assert json.loads(done.stdout)["code"] == (50 if command == "STATUS" else 11)
    assert (done.returncode, done.stdout, done.stderr) == (reply.code, reply.stdout, reply.stderr)


def test_an_agent_that_dies_over_a_call_is_no_reason_to_start_python(launcher: Launcher) -> None:
    """The socket is named, so another agent will come: the runtime tries again."""

    def die(connection: socket.socket, call: Call) -> None:
        connection.sendall(protocol.HELLO)
        take(connection, call)

    with launcher.agent(die):
        done = launcher.run(**SOUND)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)


@pytest.mark.parametrize(
    ("environment", "stdin"),
    [
        ({"CNI_COMMAND": "VERSION"}, b"{}"), ({"CNI_COMMAND": "FROB"}, b"{}"), ({"CNI_COMMAND": ""}, b"{}"),
        ({"CNI_CONTAINERID": ""}, b"{}"), ({"CNI_NETNS": ""}, b"{}"), ({"CNI_IFNAME": ""}, b"{}"),
        ({"CNI_PATH": ""}, b"{}"), ({"CNI_COMMAND": "GC", "CNI_PATH": ""}, b"{}"), ({}, b""),
        ({"BGPCNI_SOCKET": '/a"b'}, b"{}"), ({"BGPCNI_SOCKET": "/a\\b"}, b"{}"), ({"BGPCNI_SOCKET": "/\u00e4"}, b"{}"),
        ({"BGPCNI_SOCKET": "/a\n"}, b"{}"),
    ],
    ids=["VERSION", "unknown", "none", "no ID", "no namespace", "no name", "no path", "GC, no path", "no stdin",
         "quote", "backslash", "not ASCII", "line"],
)  # fmt: skip
def test_what_is_not_sound_or_cannot_be_said_here_is_pythons(
    launcher: Launcher, environment: dict[str, str], stdin: bytes
) -> None:
    """VERSION repeats what stdin says; what is wrong with a call is said in words; a path may need escaping."""
    assert handed(launcher.run(stdin, **{**SOUND, **environment})).stdin == stdin


def test_where_no_agent_is_meant_to_be_python_does_the_call(launcher: Launcher) -> None:
    """Neither a socket nor agent.toml, nor the variable; with either of the files it is refused."""
    folder, image = launcher.path.parent, launcher.path.read_bytes()
    for name, fixed in ((b"s", script_source.DEFAULT_SOCKET), (b"toml", script_source.AGENT_CONFIG)):
        image = image.replace(fixed, b"." + b"/" * (len(fixed) - 1 - len(name)) + name)  # in the folder we are in
    launcher.path.write_bytes(image)

    def run() -> subprocess.CompletedProcess[bytes]:
        whole = {"LC_ALL": "C.UTF-8", "CNI_COMMAND": "ADD", **SOUND}
        return subprocess.run(
            [launcher.path], input=b"{}", env=whole, cwd=folder, capture_output=True, timeout=60, check=False
        )

    assert handed(run()).stdin == b"{}"
    (folder / "toml").touch()
    assert b"toml exists, but no agent answers on ./" in run().stderr
    (folder / "s").touch()
    assert b"failed: no agent answers on ./" in run().stderr
    assert (run().returncode, json.loads(run().stdout)["code"]) == (1, 11)


NAMES = st.from_regex(rb"\ACNI_[A-Za-z0-9_.]{0,20}\Z")
VALUES = st.binary(max_size=200).map(lambda value: value.replace(b"\0", b"="))
ENVIRONMENTS = st.dictionaries(NAMES, VALUES, max_size=8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stdin=st.binary(max_size=5000), environment=ENVIRONMENTS, out=st.binary(max_size=500), err=st.binary())
def test_any_octets_arrive_unchanged(
    launcher: Launcher, stdin: bytes, environment: dict[bytes, bytes], out: bytes, err: bytes
) -> None:
    """stdin and variables to the agent, stdout and stderr back, whatever they hold."""
    with launcher.agent(replying(0, out, err)) as agent:
        done = run_raw(launcher, stdin, environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, out, err)
    assert (agent.call.stdin, agent.call.environment) == (stdin, environment)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stdin=st.binary(max_size=5000), environment=ENVIRONMENTS)
def test_any_octets_reach_python_unchanged(launcher: Launcher, stdin: bytes, environment: dict[bytes, bytes]) -> None:
    seen = handed(run_raw(launcher, stdin, environment))
    assert seen.stdin == stdin
    assert {k: v for k, v in seen.environment.items() if k.startswith(b"CNI_")} == environment


def run_raw(launcher: Launcher, stdin: bytes, environment: dict[bytes, bytes]) -> subprocess.CompletedProcess[bytes]:
    whole = {b"BGPCNI_SOCKET": os.fsencode(launcher.socket), b"LC_ALL": b"C.UTF-8", **environment}
    return subprocess.run([launcher.path], input=stdin, env=whole, capture_output=True, timeout=SECONDS, check=False)


def test_both_launchers_keep_to_the_protocols_numbers() -> None:
    """protocol.py is the contract; neither launcher can import it, so their numbers are compared here."""
    source = SOURCE.read_text()
    defined = {name: value for name, value in re.findall(r"^#define (\w+) \(?(.+?)\)?$", source, re.MULTILINE) if value}
    compiled = {name: eval(defined[name], {}) for name in ("HELLO", "HELLO_SECONDS", "MAX_REQUEST", "MAX_GC")}
    expected = {
        "HELLO": protocol.HELLO[0],
        "HELLO_SECONDS": protocol.HELLO_SECONDS,
        "MAX_REQUEST": protocol.MAX_REQUEST,
        "MAX_GC": protocol.MAX_GC,
    }
    assert compiled == expected
    assert {**{name: getattr(script_source, name) for name in expected}, "HELLO": script_source.HELLO[0]} == expected
    assert (eval(defined["HEADER_SIZE"]), eval(defined["REPLY_SIZE"])) == (protocol.HEADER.size, protocol.REPLY.size)
    assert eval(defined["DEFAULT_SOCKET"]) == script_source.DEFAULT_SOCKET.decode() == str(paths.SOCKET)
    (supported,) = re.findall(r"supported\[\] = \{(.*), NULL\}", source)
    assert eval(f"({supported})") == tuple(one.decode() for one in script_source.SUPPORTED) == SUPPORTED
    assert eval(defined["AGENT_CONFIG"]) == script_source.AGENT_CONFIG.decode() == str(paths.AGENT_CONFIG)
