"""The plugin under its third name, `bgpcni-ipam`, in a process of its own: what the launcher executes without an agent.

The addresses of a cluster are the agent's to give. Where there should be one, the runtime is told to try again. Where
there should be none, this node has no cluster and no addresses: ADD, CHECK and STATUS are errors that say so. DEL and
GC then have nothing to release, which is success: if they failed, a pod could never be deleted.
"""

from __future__ import annotations

import gc
import sys

if __name__ == "__main__":
    gc.disable()  # as in plugin.py

import os

from bgpcni import plugin
from bgpcni.cni.environment import Command
from bgpcni.errors import CniError, InvalidConfiguration, TryAgain, Unavailable
from bgpcni.handler import Call, Reply, failure, version_reply
from bgpcni.ipam.cluster import NO_CLUSTER
from bgpcni.node.lending import Loan


def answer(call: Call) -> Reply:
    """Answer one call of a plugin that names us in `ipam`."""
    try:
        return _answer(call)
    except CniError as error:
        return failure(call, error)


def _answer(call: Call) -> Reply:
    if call.variables.get("CNI_COMMAND") == Command.VERSION:
        return version_reply(call)
    command = Loan(call.variables, call.stdin).command
    reason = plugin.why_not(os.environ)
    if reason:
        text = f"{reason}: start bgpcni agent"
        raise Unavailable(text) if command is Command.STATUS else TryAgain(text)
    if command in (Command.DEL, Command.GC):
        return Reply(0, stderr=f"bgpcni: warning: ipam.type: {NO_CLUSTER}; nothing to release\n".encode())
    if command is Command.STATUS:
        raise Unavailable(f"ipam.type: {NO_CLUSTER}")
    raise InvalidConfiguration(f"ipam.type: {NO_CLUSTER}")


if __name__ == "__main__":
    code = plugin.run(answer)
    gc.freeze()
    sys.exit(code)
