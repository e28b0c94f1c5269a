"""The launcher as a script, for nodes without a compiler or a prebuilt launcher. It does exactly what launcher.c does.

The installer copies this file and fills in the interpreter's path. It runs with `-I -S` for every call of the plugin,
so it imports only built-in and frozen modules and `_socket` (`socket` would double its time), and nothing of this
package; its numbers are those of protocol.py. launcher.c says what it does and may not do.
"""

import _socket
import os
import sys

PYTHON = "@BGPCNI-PYTHON@"
DEFAULT_SOCKET = b"/run/bgpcni/agent.sock"
AGENT_CONFIG = b"/etc/bgpcni/agent.toml"
HELLO = b"\x06"
HELLO_SECONDS = 5
MAX_REQUEST = 1 << 20
MAX_GC = 16 << 20
MAX_REPLY = 16 << 20
AT_SECURE = 23
_OF_ATTACHMENT = (b"CNI_CONTAINERID", b"CNI_IFNAME", b"CNI_PATH")
REFUSALS = {
    b"ADD": (b"11", b"1.0.0", (*_OF_ATTACHMENT, b"CNI_NETNS")),
    b"DEL": (b"11", b"1.0.0", _OF_ATTACHMENT),
    b"CHECK": (b"11", b"1.0.0", (*_OF_ATTACHMENT, b"CNI_NETNS")),
    b"GC": (b"11", b"1.1.0", (b"CNI_PATH",)),
    b"STATUS": (b"50", b"1.1.0", (b"CNI_PATH",)),
}
"""For each command: the code of the error, its cniVersion, and the variables that a valid call must have."""


class Nobody(Exception):
    """No agent answered, or it ended before its reply was complete."""


def complain(what: str, error: OSError) -> int:
    try:
        os.write(2, b"bgpcni: " + os.fsencode(f"{what}: {error.strerror}\n"))
    except OSError:
        pass  # there is nobody to tell it to
    return 1


def borrowed_privileges() -> bool:
    """Whether the kernel has set AT_SECURE. If that cannot be read, the caller may not inspect this process: then,
    too."""
    word = sys.maxsize.bit_length() // 8 + 1
    try:
        with open("/proc/self/auxv", "rb", buffering=0) as file:
            numbers = file.read(4096)
    except OSError:
        return True
    values = [int.from_bytes(numbers[i : i + word], sys.byteorder) for i in range(0, len(numbers), word)]
    return dict(zip(values[::2], values[1::2], strict=False)).get(AT_SECURE, 0) != 0


def wait(fd: int, writing: bool) -> None:
    """Wait until a descriptor that the runtime has made non-blocking is ready."""
    import select

    select.select([] if writing else [fd], [fd] if writing else [], [])


def read_stdin(room: int) -> bytes:
    """Read until `room` octets are read, or until the end or an error."""
    parts: list[bytes] = []
    while room > 0:
        try:
            part = os.read(0, min(room, 1 << 20))
        except BlockingIOError:
            wait(0, writing=False)
            continue
        except OSError:
            break
        if not part:
            break
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def write_whole(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            wait(fd, writing=True)


def receive(agent: _socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        n = agent.recv_into(view)
        if n == 0:
            raise Nobody
        view = view[n:]
    return bytes(data)


def reach_agent(agent: _socket.socket) -> None:
    """Connect to an agent of root's or our own user and wait for its HELLO. Raises Nobody or OSError."""
    bound = HELLO_SECONDS.to_bytes(8, sys.byteorder) + bytes(8)  # struct timeval; settimeout would not wait in connect
    agent.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, bound)
    agent.connect(os.environb.get(b"BGPCNI_SOCKET") or DEFAULT_SOCKET)
    uid = int.from_bytes(agent.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)
    if uid not in (0, os.geteuid()):
        raise Nobody
    agent.settimeout(HELLO_SECONDS)
    if agent.recv(1) != HELLO:
        raise Nobody
    agent.settimeout(None)


def open_namespace() -> int | None:
    """Open CNI_NETNS. It may be a FIFO, so this does not block; the agent refuses a FIFO."""
    try:
        return os.open(os.environb.get(b"CNI_NETNS", b""), os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None


def send_request(agent: _socket.socket, request: bytes) -> None:
    """Send the call. Raises BlockingIOError if the agent stops reading. Other errors are ignored, because an agent that
    closes the connection may have answered first."""
    netns = open_namespace()
    try:
        rights = [] if netns is None else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, netns.to_bytes(4, sys.byteorder))]
        view = memoryview(request)
        while view:
            view = view[agent.sendmsg([view], rights, _socket.MSG_NOSIGNAL) :]
            rights = []
    except BlockingIOError:
        raise
    except OSError:
        pass
    finally:
        if netns is not None:
            os.close(netns)


def ask_agent(variables: bytes, stdin: bytes) -> tuple[int, bytes, bytes]:
    """Have the agent do the call: returns exit code, stdout and stderr. Raises Nobody or OSError."""
    agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        reach_agent(agent)
        sizes = len(variables).to_bytes(4, "big") + len(stdin).to_bytes(4, "big")
        send_request(agent, b"".join((b"BGC1C\0\0\0", sizes, variables, stdin)))
        header = receive(agent, 12)
        out, err = int.from_bytes(header[4:8], "big"), int.from_bytes(header[8:12], "big")
        if out + err > MAX_REPLY:
            raise Nobody
        body = receive(agent, out + err)
        return header[0], body[:out], body[out:]
    finally:
        agent.close()


def refusal(command: bytes) -> tuple[bytes, bytes] | None:
    """stdout and stderr of the error for a call that needs an agent. None: the call does not, or it is not valid."""
    code, version, needed = REFUSALS.get(command, (b"", b"", ()))
    if not code or not all(os.environb.get(name) for name in needed):
        return None
    where, why = os.environb.get(b"BGPCNI_SOCKET") or DEFAULT_SOCKET, b"no agent answers on "
    if not os.environb.get(b"BGPCNI_SOCKET") and not os.path.lexists(DEFAULT_SOCKET):
        if not os.path.lexists(AGENT_CONFIG):
            return None
        why = AGENT_CONFIG + b" exists, but no agent answers on "
    if any(octet < 32 or octet > 126 or octet in b'"\\' for octet in where):
        return None  # it would have to be escaped in JSON
    text = why + where + b": start bgpcni agent"
    out = b'{"cniVersion": "%b", "code": %b, "msg": "%b"}\n' % (version, code, text)
    return out, b"bgpcni: %b failed: %b\n" % (command, text)


def stdin_again(stdin: bytes) -> None:
    """Make descriptor 0 readable again, with the same content."""
    try:
        again = os.memfd_create("stdin", os.MFD_CLOEXEC | 8)  # MFD_NOEXEC_SEAL
    except OSError:  # kernels before 6.3
        again = os.memfd_create("stdin", os.MFD_CLOEXEC)
    write_whole(again, stdin)
    os.lseek(again, 0, os.SEEK_SET)
    os.dup2(again, 0)


def become_python(stdin: bytes, module: str) -> int:
    try:
        stdin_again(stdin)
    except OSError as error:
        return complain("cannot pass on stdin", error)
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            os.set_inheritable(fd, fd <= 2)
        except OSError:
            pass  # the descriptor of the listing itself, which is closed by now
    try:
        os.execv(PYTHON, [PYTHON, "-I", "-m", module])
    except OSError as error:
        return complain(f"cannot execute {PYTHON}", error)


def main() -> int:
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    if borrowed_privileges():
        for name in [name for name in os.environb if name.startswith(b"BGPCNI_")]:
            del os.environb[name]
    limit = MAX_GC if os.environb.get(b"CNI_COMMAND") == b"GC" else MAX_REQUEST
    variables = b"".join(b"%b=%b\0" % pair for pair in os.environb.items() if pair[0].startswith(b"CNI_"))
    stdin = read_stdin(limit + 1)
    ipam = sys.argv[0].rpartition("/")[2] == "bgpcni-ipam"
    module = "bgpcni.ipam_plugin" if ipam else "bgpcni.plugin"
    if ipam or len(variables) + len(stdin) > limit:
        return become_python(stdin, module)
    try:
        code, out, err = ask_agent(variables, stdin)
    except (Nobody, OSError):
        refused = refusal(os.environb.get(b"CNI_COMMAND", b"")) if stdin else None
        if refused is None:
            return become_python(stdin, module)
        code, (out, err) = 1, refused
    try:
        write_whole(2, err)
    except OSError:
        pass
    try:
        write_whole(1, out)
    except OSError as error:
        return complain("cannot write the result", error)
    return code


if __name__ == "__main__":
    os._exit(main())
