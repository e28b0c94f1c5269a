"""The plugin in a process of its own: what the launcher executes when no agent answers.

Without an agent the call does the work itself, with the same handler, unless an agent should be there: then the
runtime is told to try again, for there is never a second writer.
"""

from __future__ import annotations

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # this process ends after one call: to look for garbage while it starts takes a tenth of its time

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from bgpcni import locks, paths
from bgpcni.cni.environment import Command
from bgpcni.config.agent import AgentConfig
from bgpcni.errors import DecodingFailure, TryAgain, Unavailable
from bgpcni.handler import Call, Reply, failure, handle
from bgpcni.launcher import protocol
from bgpcni.node.node import Node
from bgpcni.node.request import Request
from bgpcni.store import Store


def main() -> int:
    """One call of the plugin."""
    return run(lambda call: answer(call, os.environ))


def run(answer: Callable[[Call], Reply]) -> int:
    """Read the call from environment and stdin, write the reply, return the exit code."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="bgpcni: %(levelname)s: %(message)s")
    variables = {name: value for name, value in os.environ.items() if name.startswith("CNI_")}
    most = protocol.limit(variables.get("CNI_COMMAND", ""))
    call = Call(variables, sys.stdin.buffer.read(most + 1))
    reply = answer(call) if len(call.stdin) <= most else too_large(call, most)
    sys.stderr.buffer.write(reply.stderr)
    sys.stderr.flush()
    sys.stdout.buffer.write(reply.stdout)
    sys.stdout.flush()
    reply.finish()
    return reply.code


def too_large(call: Call, most: int) -> Reply:
    """The reply (error 6) to a call of more than `most` octets. Its stdin is not parsed."""
    error = DecodingFailure(f"the network configuration is larger than {most} octets")
    return failure(Call(call.variables, b"{}"), error)


def answer(call: Call, environment: Mapping[str, str]) -> Reply:
    """Answer one call in this process, if that is allowed."""
    work = Work(environment)
    try:
        return handle(call, work.node)
    finally:
        work.close()


def why_not(environment: Mapping[str, str]) -> str:
    """Why a call must not work in its own process: there is an agent, or should be one. "" if it may."""
    configured = environment.get("BGPCNI_SOCKET")
    if configured:
        return f"no agent answers on {configured}"
    if os.path.lexists(paths.SOCKET):  # False if this user may not look there
        return f"no agent answers on {paths.SOCKET}"
    if os.path.lexists(paths.AGENT_CONFIG):
        return f"{paths.AGENT_CONFIG} exists, but no agent answers on {paths.SOCKET}"
    return ""


class Work:
    """The node of one call without an agent. It is opened only for a valid request."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._writers: locks.WriterLocks | None = None

    def node(self, request: Request) -> Node:
        """Raises TryAgain (11) if an agent should do this; for STATUS Unavailable (50)."""
        try:
            return self._node(request)
        except TryAgain as error:
            if request.command is Command.STATUS:
                raise Unavailable(error.msg) from None
            raise

    def _node(self, request: Request) -> Node:
        if reason := why_not(self._environment):
            raise TryAgain(f"{reason}: start bgpcni agent")
        node = open_node(self._environment)
        self._writers = locks.WriterLocks(node.store.run_fd, node.store.data_fd)
        try:
            self._writers.as_call()
        except locks.Busy:
            raise TryAgain("an agent is starting or does not answer") from None
        from bgpcni.node import without_agent

        for late in without_agent.settle_all(node):
            logging.getLogger(__name__).warning("%s", late)
        return node

    def close(self) -> None:
        if self._writers is not None:
            self._writers.release()


def open_node(environment: Mapping[str, str]) -> Node:
    """A node without an agent, in `$BGPCNI_RUN_DIR` and `$BGPCNI_DATA_DIR` or the default folders."""
    from bgpcni import extensions
    from bgpcni.convergence.convergence import Convergence
    from bgpcni.kernel.namespace import boot_id
    from bgpcni.model import NodeFacts
    from bgpcni.node.without_agent import Others
    from bgpcni.nudges import Nudges

    run_dir = environment.get("BGPCNI_RUN_DIR") or str(paths.RUN_DIR)
    data_dir = environment.get("BGPCNI_DATA_DIR") or str(paths.DATA_DIR)
    store = Store(Path(data_dir), Path(run_dir))
    extensions.cache_in(store.run_path)
    facts = NodeFacts(run_dir=run_dir, data_dir=data_dir)
    nudges = Nudges()
    convergence = Convergence(facts, nudges, others=Others(store, boot_id(), facts))
    return Node(store, AgentConfig.model_construct(run_dir=run_dir, data_dir=data_dir), facts, convergence, nudges)


if __name__ == "__main__":
    code = main()
    gc.freeze()  # or Python looks through all that was imported once more when it ends
    sys.exit(code)
