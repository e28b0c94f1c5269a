"""`python -m integration.killed`: one call of the plugin, repeated and killed before each of its system calls in turn.

Runs in a node's network namespace, without an agent. The call is run in a forked child whose profiler hears of each
call into the operating system just before it is made, and kills the process (SIGKILL) at the Nth; N grows until the
call comes to its end. After each kill another child makes the calls that follow, and what is left is looked at.
The product knows nothing of this.

Arguments: the call to kill (ADD or DEL), the container's namespace, its network configuration, a second container's
namespace. The environment is that of a call of the plugin. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from bgpcni import plugin
from bgpcni.handler import Call, Reply

CHANGES = {"open", "write", "rename", "unlink", "mkdir", "send", "sendto", "sendmsg", "ftruncate"}
"""Of posix, _socket and fcntl: what may change something that outlives the process."""


class Killer:
    """A profiler that kills its process before the Nth change."""

    def __init__(self, number: int) -> None:
        self.number, self.count = number, 0

    def __call__(self, frame: FrameType, event: str, what: Any) -> None:
        if event != "c_call" or getattr(what, "__name__", "") not in CHANGES:
            return
        owner = getattr(what, "__module__", None) or type(getattr(what, "__self__", None)).__module__
        if owner not in ("posix", "fcntl", "_socket", "socket", "io", "_io"):
            return
        self.count += 1
        if self.count == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def call(command: str, container: str, netns: str, conf: dict[str, Any], killer: Killer | None = None) -> Reply:
    """One call of the plugin in this very process."""
    variables = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nowhere",
    }
    sys.setprofile(killer)
    try:
        return plugin.answer(Call(variables, json.dumps(conf).encode()), os.environ)
    finally:
        sys.setprofile(None)


def child(work: Callable[[], Reply]) -> tuple[int | None, Any]:
    """Run `work` in a fork: its exit code and its answer, or None if it was killed."""
    source, sink = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(source)
        try:
            reply = work()
            os.write(sink, json.dumps([reply.code, json.loads(reply.stdout or b"{}")]).encode())
        finally:
            os._exit(0)
    os.close(sink)
    with os.fdopen(source, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    code, document = json.loads(said) if said else (None, {})
    return code, document


def main() -> None:
    command, netns, text, other = sys.argv[1:]
    conf = json.loads(text)
    for verb in ("ADD", "DEL"):  # all modules are loaded now, and the bridge is there
        assert call(verb, "c0", other, conf).code == 0
    story: list[dict[str, Any]] = []
    number = 0
    while True:
        number += 1
        if command == "DEL":
            code, document = child(lambda: call("ADD", "c1", netns, conf))
            assert code == 0, document
        killer = Killer(number)
        code, _ = child(lambda killer=killer: call(command, "c1", netns, conf, killer))  # type: ignore[misc]
        turn: dict[str, Any] = {"step": number, "killed": code is None, "code": code}
        if number % 2:  # another container's call first: it finds what the kill left
            turn["other"] = child(lambda: call("ADD", "c2", other, conf))
            turn["gone"] = child(lambda: call("DEL", "c2", other, conf))
        elif command == "ADD":  # the runtime tries again at once
            turn["again"] = child(lambda: call("ADD", "c1", netns, conf))
            turn["routes"] = len(announced())
        turn["delete"] = child(lambda: call("DEL", "c1", netns, conf))
        turn["left"] = left(netns)
        story.append(turn)
        if code is not None:
            break
    print(json.dumps(story))


def announced() -> list[str]:
    """What the kernel exporter has in its table."""
    from bgpcni.kernel.library import iproute

    with iproute() as library:
        return [str(route.get_attr("RTA_DST")) for route in library.get_routes(table=100)]


def left(netns: str) -> list[str]:
    """What is left on the node: records, leases, links but the bridge and the uplink, links of the container, routes
    in the kernel exporter's table."""
    import pathlib

    from bgpcni.kernel import links, namespace
    from bgpcni.kernel.netlink import Netlink

    found = [str(path) for path in pathlib.Path(os.environ["BGPCNI_DATA_DIR"]).glob("attachments/*/*.json")]
    found += [str(path) for path in pathlib.Path(os.environ["LEASES"]).glob("*/[0-9]*")]
    found += announced()
    with Netlink.open() as netlink:
        found += [link.name for link in links.dump(netlink) if link.name not in ("lo", "cni0")]
    with namespace.Namespace.open(netns) as space:
        found += [link.name for link in links.dump(space.netlink) if link.name != "lo"]
    return found


if __name__ == "__main__":
    main()
