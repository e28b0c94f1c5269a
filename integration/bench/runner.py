"""Times plugin processes: spawn to exit, as a runtime sees it. Runs inside the node's network namespace.

Reads jobs as JSON lines on stdin, answers each with one JSON line. A job is a list of waves, done one after the
other; the calls of a wave are started together. A call: `{"argv", "env", "stdin", "keep"}`. The answer for a wave:
its wall time and each call's time and exit code, and stdout where it failed or `keep` is set. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any


def spawn(call: dict[str, Any], stdin: int, stdout: int) -> int:
    actions = [
        (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_DUP2, stdout, 1),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    return os.posix_spawn(call["argv"][0], call["argv"], call["env"], file_actions=actions)


def wave(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Start all, wait for all. Files are prepared before the clock starts."""
    inputs, outputs = [], []
    for call in calls:
        fd = os.memfd_create("stdin")
        os.write(fd, call["stdin"].encode())
        os.lseek(fd, 0, os.SEEK_SET)
        inputs.append(fd)
        outputs.append(tempfile.TemporaryFile())  # noqa: SIM115 - closed below, with the inputs
    started: dict[int, tuple[int, float]] = {}
    done: list[dict[str, Any]] = [{} for _ in calls]
    began = time.monotonic()
    for place, call in enumerate(calls):
        at = time.monotonic()
        started[spawn(call, inputs[place], outputs[place].fileno())] = (place, at)
    while started:
        pid, status = os.wait()
        now = time.monotonic()
        place, at = started.pop(pid)
        done[place] = {"seconds": now - at, "code": os.waitstatus_to_exitcode(status), "ended": now}
    wall = time.monotonic() - began
    for place, call in enumerate(calls):
        os.close(inputs[place])
        with outputs[place] as file:
            if done[place]["code"] or call.get("keep"):
                file.seek(0)
                done[place]["stdout"] = file.read().decode(errors="replace")
    return {"wall": wall, "calls": done}


def main() -> None:
    for line in sys.stdin:
        answer = [wave(calls) for calls in json.loads(line)]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
