"""For the probes of pods: does an agent answer on its socket, or is a file locked by the process that says it lives?

    python -m bgpcni.launcher.probe [PATH]

PATH is a socket, by default the agent's, or a file such as the speaker holds locked. Exit code 0 if so, else 1 with the
reason. Of an agent it reads the one byte that is sent on accept, so a node with many routes answers as fast as an empty
one. It may import nothing of the rest: it is started every few seconds.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import sys

from bgpcni.launcher.protocol import HELLO, HELLO_SECONDS

DEFAULT_SOCKET = "/run/bgpcni/agent.sock"


def why_not(path: str) -> str:
    """Why nobody is there, "" if somebody is."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as agent:
                agent.settimeout(HELLO_SECONDS)
                agent.connect(path)
                return "" if agent.recv(1) == HELLO else "what answers is no agent"
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return "nobody holds its lock"
    except BlockingIOError:
        return ""
    except OSError as error:
        return error.strerror or str(error)


def main() -> int:
    path = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BGPCNI_SOCKET") or DEFAULT_SOCKET
    reason = why_not(path)
    if reason:
        print(f"{path}: {reason}", file=sys.stderr)  # noqa: T201
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main())
