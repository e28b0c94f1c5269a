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
SUPPORTED = (b"0.1.0", b"0.2.0", b"0.3.0", b"0.3.1", b"0.4.0", b"1.0.0", b"1.1.0")
NO_AGENT, TOO_LARGE = range(2)
"""What became of a call before Python was to do it."""


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


def ask_agent(kind: bytes, variables: bytes, stdin: bytes) -> tuple[int, bytes, bytes]:
    """Have the agent do the call: returns exit code, stdout and stderr. Raises Nobody or OSError."""
    agent = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        reach_agent(agent)
        sizes = len(variables).to_bytes(4, "big") + len(stdin).to_bytes(4, "big")
        send_request(agent, b"".join((b"BGC1", kind, b"\0\0\0", sizes, variables, stdin)))
        header = receive(agent, 12)
        out, err = int.from_bytes(header[4:8], "big"), int.from_bytes(header[8:12], "big")
        if out + err > MAX_REPLY:
            raise Nobody
        body = receive(agent, out + err)
        return header[0], body[:out], body[out:]
    finally:
        agent.close()


def is_plain(text: bytes) -> bool:
    """Whether it can stand in JSON as it is."""
    return not any(octet < 32 or octet > 126 or octet in b'"\\' for octet in text)


def asked_version(stdin: bytes) -> bytes:
    """The first version that stdin has behind the word "cniVersion", or b""."""
    word = b'"cniVersion"'
    at = stdin.find(word)
    while at >= 0:
        rest = stdin[at + len(word) : at + len(word) + 4096].lstrip(b" \t\r\n")
        value = rest[1:].lstrip(b" \t\r\n") if rest[:1] == b":" else b""
        version, quote, _ = value[1:17].partition(b'"')
        if value[:1] == b'"' and quote and 0 < len(version) <= 15 and not version.strip(b"0123456789."):
            return version
        at = stdin.find(word, at + len(word))
    return b""


def error_version(stdin: bytes, otherwise: bytes) -> bytes:
    """The version for an error's reader: the configuration's if we speak it, else `otherwise`."""
    asked = asked_version(stdin)
    return asked if asked in SUPPORTED else otherwise


def refusal(command: bytes, stdin: bytes) -> tuple[bytes, bytes] | None:
    """stdout and stderr of the error for a call that needs an agent. None: the call does not, or it is not valid."""
    code, version, needed = REFUSALS.get(command, (b"", b"", ()))
    if not code or not all(os.environb.get(name) for name in needed):
        return None
    where, why = os.environb.get(b"BGPCNI_SOCKET") or DEFAULT_SOCKET, b"no agent answers on "
    if not os.environb.get(b"BGPCNI_SOCKET") and not os.path.lexists(DEFAULT_SOCKET):
        if not os.path.lexists(AGENT_CONFIG):
            return None
        why = AGENT_CONFIG + b" exists, but no agent answers on "
    if not is_plain(where):
        return None
    return error(command, error_version(stdin, version), code, why + where + b": start bgpcni agent")


def error(command: bytes, version: bytes, code: bytes, text: bytes) -> tuple[bytes, bytes]:
    """stdout and stderr of a call that failed."""
    out = b'{"cniVersion": "%b", "code": %b, "msg": "%b"}\n' % (version, code, text)
    return out, b"bgpcni: %b%b%b\n" % (command, b" failed: " if command else b"", text)


def do_without_python(stdin: bytes, reason: int, failure: OSError | None) -> int:
    """The exit code of a call that neither an agent nor Python answers. `failure`: of Python's start; None: there is
    none to start."""
    command = os.environb.get(b"CNI_COMMAND", b"")
    command = command if is_plain(command) else b""
    if command == b"VERSION" and reason != TOO_LARGE:
        listed = b", ".join(b'"%b"' % version for version in SUPPORTED)
        version = asked_version(stdin) or SUPPORTED[-1]
        return tell(0, b'{"cniVersion": "%b", "supportedVersions": [%b]}\n' % (version, listed), b"")
    code = b"50" if command == b"STATUS" else b"11"
    where = os.environb.get(b"BGPCNI_SOCKET") or DEFAULT_SOCKET
    where = where if is_plain(where) else b"the socket in BGPCNI_SOCKET"
    path = os.fsencode(PYTHON) if is_plain(os.fsencode(PYTHON)) else b"bgpcni's Python"
    lack = b", and bgpcni was installed on this node without its Python"
    if failure is not None:
        lack = b", and cannot execute %b: %b" % (path, os.fsencode(failure.strerror or "it failed"))
    if reason == TOO_LARGE:
        code, text = b"6", b"the network configuration is larger than %d octets" % limit_of(command)
    else:
        text = b"no agent answers on %b%b: start bgpcni agent, or look at its pod on this node" % (where, lack)
    return tell(1, *error(command, error_version(stdin, SUPPORTED[-1]), code, text))


def limit_of(command: bytes) -> int:
    return MAX_GC if command == b"GC" else MAX_REQUEST


def tell(code: int, out: bytes, err: bytes) -> int:
    """Write both, stderr first; the exit code."""
    try:
        write_whole(2, err)
    except OSError:
        pass
    try:
        write_whole(1, out)
    except OSError as error:
        return complain("cannot write the result", error)
    return code


def stdin_again(stdin: bytes) -> None:
    """Make descriptor 0 readable again, with the same content."""
    try:
        again = os.memfd_create("stdin", os.MFD_CLOEXEC | 8)  # MFD_NOEXEC_SEAL
    except OSError:  # kernels before 6.3
        again = os.memfd_create("stdin", os.MFD_CLOEXEC)
    write_whole(again, stdin)
    os.lseek(again, 0, os.SEEK_SET)
    os.dup2(again, 0)


def become_python(stdin: bytes, reason: int, ipam: bool) -> int:
    if not PYTHON:
        return do_without_python(stdin, reason, None)
    module = "bgpcni.ipam_plugin" if ipam else "bgpcni.plugin"
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
        return do_without_python(stdin, reason, error)


def main() -> int:
    while (fd := os.open("/dev/null", os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    if borrowed_privileges():
        for name in [name for name in os.environb if name.startswith(b"BGPCNI_")]:
            del os.environb[name]
    limit = limit_of(os.environb.get(b"CNI_COMMAND", b""))
    variables = b"".join(b"%b=%b\0" % pair for pair in os.environb.items() if pair[0].startswith(b"CNI_"))
    stdin = read_stdin(limit + 1)
    ipam = sys.argv[0].rpartition("/")[2] == "bgpcni-ipam"
    if len(variables) + len(stdin) > limit:
        return become_python(stdin, TOO_LARGE, ipam)
    try:
        code, out, err = ask_agent(b"I" if ipam else b"C", variables, stdin)
    except (Nobody, OSError):
        refused = refusal(os.environb.get(b"CNI_COMMAND", b""), stdin) if stdin else None
        if refused is None:
            return become_python(stdin, NO_AGENT, ipam)
        code, (out, err) = 1, refused
    return tell(code, out, err)


if __name__ == "__main__":
    os._exit(main())
