"""Fast calls without an agent: an interpreter that has already imported the plugin forks for each call.

The same code runs as in the executable, without its start. It is used for preparing a situation, never for the call
that a test is about.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import IO, Any

from bgpcni.testing.patience import SECONDS
from integration.lab import Node


class Warm:
    """One such interpreter in a node's namespace. Not safe for threads; `close` ends it."""

    def __init__(self, node: Node) -> None:
        self._process = subprocess.Popen(
            node.namespace.command(*node._private(), sys.executable, "-m", "integration.warm"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=node._environment(),
        )

    def call(self, variables: Mapping[str, str], stdin: str) -> tuple[int, dict[str, Any], str]:
        """Exit code, stdout as JSON, stderr."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"variables": variables, "stdin": stdin}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return answer["code"], json.loads(answer["stdout"] or "{}"), answer["stderr"]

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(SECONDS)
        self._process.stdout.close()


def _serve() -> None:
    from bgpcni import plugin
    from bgpcni.convergence import catalog, convergence
    from bgpcni.node import without_agent

    assert catalog
    assert convergence
    assert without_agent
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            stdin.write(asked["stdin"].encode())
            stdin.seek(0)
            child = os.fork()
            if child == 0:
                _become(plugin.main, asked["variables"], stdin, out, err)
            _, status = os.waitpid(child, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        answer = {"code": os.waitstatus_to_exitcode(status), "stdout": texts[0], "stderr": texts[1]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _become(main: Any, variables: Mapping[str, str], stdin: IO[bytes], out: IO[bytes], err: IO[bytes]) -> None:
    """In the child: the plugin, with descriptors of its own."""
    for number, file in enumerate((stdin, out, err)):
        os.dup2(file.fileno(), number)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    os.environ.update(variables)
    code = 99
    try:
        code = main()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
