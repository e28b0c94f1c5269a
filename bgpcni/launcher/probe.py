"""Does an agent answer on this node? For the probes of its pod: exit code 0 if it does, else 1 with the reason.

It reads the one byte that an agent sends on accept, and asks nothing, so a node with many routes answers as fast as an
empty one. It may import nothing of the rest: it is started every few seconds.
"""

from __future__ import annotations

import os
import socket
import sys

from bgpcni.launcher.protocol import HELLO, HELLO_SECONDS

DEFAULT_SOCKET = "/run/bgpcni/agent.sock"


def main() -> int:
    path = os.environ.get("BGPCNI_SOCKET") or DEFAULT_SOCKET
    try:
        with socket.socket(socket.AF_UNIX) as agent:
            agent.settimeout(HELLO_SECONDS)
            agent.connect(path)
            if agent.recv(1) == HELLO:
                return 0
            reason = "what answers is no agent"
    except OSError as error:
        reason = str(error)
    print(f"{path}: {reason}", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main())
