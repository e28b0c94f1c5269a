"""The plugin under its third name, `bgpcni-ipam`: addresses of a cluster, for any plugin that names it in `ipam`.

This node has no cluster and so no addresses: ADD, CHECK and STATUS are errors that say so. DEL and GC have nothing to
release, which is success: if they failed, a pod could never be deleted.
"""

from __future__ import annotations

import json
import sys

from bgpcni import paths, plugin
from bgpcni.cni.environment import Command, parse_environment
from bgpcni.cni.versions import read_version, require_command
from bgpcni.errors import CniError, DecodingFailure, InvalidConfiguration, Unavailable
from bgpcni.handler import Call, Reply, failure, version_reply

NAME = "bgpcni-ipam"
REASON = (
    f"{NAME} gives addresses of a cluster, and {paths.AGENT_CONFIG} of this node has no [cluster]: use another IPAM "
    "plugin, such as host-local"
)


def answer(call: Call) -> Reply:
    """Answer one call of a plugin that names us in `ipam`."""
    try:
        return _answer(call)
    except CniError as error:
        return failure(call, error)


def _answer(call: Call) -> Reply:
    if call.variables.get("CNI_COMMAND") == Command.VERSION:
        return version_reply(call)
    command = parse_environment(call.variables).command
    try:
        document = json.loads(call.stdin)
    except (ValueError, RecursionError) as error:
        raise DecodingFailure(f"stdin: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise DecodingFailure("stdin: expected a JSON object")
    require_command(command, read_version(document.get("cniVersion")))
    if command in (Command.DEL, Command.GC):
        return Reply(0, stderr=f"bgpcni: warning: ipam.type: {REASON}; nothing to release\n".encode())
    if command is Command.STATUS:
        raise Unavailable(f"ipam.type: {REASON}")
    raise InvalidConfiguration(f"ipam.type: {REASON}")


if __name__ == "__main__":
    sys.exit(plugin.run(answer))
