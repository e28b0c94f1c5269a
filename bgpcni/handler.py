"""`handle(call) -> reply`: how every CNI call is answered, in the agent and in a process of its own.

Errors become JSON here and nowhere else. Whatever happens, stdout is one JSON object (or empty after DEL, CHECK,
GC and STATUS that succeed) and the exit code says whether it is an error.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from bgpcni.cni.environment import Command
from bgpcni.cni.errors import encode_error
from bgpcni.cni.versions import SUPPORTED, version_answer
from bgpcni.errors import CniError
from bgpcni.node import lending, transaction
from bgpcni.node.node import Node
from bgpcni.node.request import Request, asked_version, parse_request
from bgpcni.node.transaction import Answer

log = logging.getLogger(__name__)


class Call(NamedTuple):
    """What a runtime gave: CNI_* variables, stdin, and a descriptor of CNI_NETNS if the launcher could open it.

    `hung_up`: whether the caller does not wait for the answer any more. `ipam`: another plugin asks for addresses.
    """

    variables: Mapping[str, str]
    stdin: bytes
    netns_fd: int | None = None
    hung_up: Callable[[], bool] = lambda: False
    ipam: bool = False


class Reply(NamedTuple):
    """What the runtime gets: exit code, stdout, stderr. `error`: the CNI error code in stdout, 0 if there is none.

    `after`: what is left to do once the runtime has it; whoever delivers the reply calls `finish`, come what may.
    """

    code: int
    stdout: bytes = b""
    stderr: bytes = b""
    error: int = 0
    after: Sequence[Callable[[], None]] = ()

    def finish(self) -> None:
        for job in self.after:
            try:
                job()
            except Exception:  # the runtime has its answer already
                log.exception("what follows a call failed because of a defect")


def handle(call: Call, node: Callable[[Request], Node]) -> Reply:
    """Answer one call. `node` returns the node to work on, or raises the error for the answer (no agent, …)."""
    return _guarded(call, lambda: _handle(call, node))


def _guarded(call: Call, answer: Callable[[], Reply]) -> Reply:
    """The answer, or the error that it ended with, as JSON."""
    try:
        return answer()
    except CniError as error:
        return failure(call, error)
    except Exception as error:  # whatever went wrong, the runtime gets JSON
        about = {"container": call.variables.get("CNI_CONTAINERID", ""), "ifname": call.variables.get("CNI_IFNAME", "")}
        log.exception("a CNI call failed because of a defect of bgpcni", extra=about)
        return failure(call, CniError(f"internal error: {type(error).__name__}: {error}"))


def lend(call: Call, node: Node) -> Reply:
    """Answer one call of another plugin that asks our IPAM for addresses."""
    return _guarded(call, lambda: _lend(call, node))


def _lend(call: Call, node: Node) -> Reply:
    if call.variables.get("CNI_COMMAND") == Command.VERSION:
        return version_reply(call)
    loan = lending.Loan(call.variables, call.stdin)
    result = lending.answer(node, loan)
    return Reply(0, b"" if result is None else _json(result.encode(loan.version)))


def _handle(call: Call, node: Callable[[Request], Node]) -> Reply:
    if call.variables.get("CNI_COMMAND") == Command.VERSION:
        return version_reply(call)
    request = parse_request(call.variables, call.stdin, call.netns_fd, call.hung_up)
    target = node(request)
    answer = _VERBS[request.command](target, request)
    stdout = _json(answer.result.encode(request.version)) if answer.result is not None else b""
    stderr = "".join(f"bgpcni: warning: {warning}\n" for warning in answer.warnings)
    return Reply(0, stdout, stderr.encode(errors="replace"), after=answer.after)


def version_reply(call: Call) -> Reply:
    """The answer to VERSION, whatever stdin is."""
    return Reply(0, _json(version_answer(asked_version(call.stdin) if call.stdin.strip() else None)))


def failure(call: Call, error: CniError) -> Reply:
    """The reply for an error, as the specification asks: JSON on stdout, in the configuration's version if possible."""
    asked = asked_version(call.stdin)
    version = asked if asked in SUPPORTED else SUPPORTED[-2]
    text = f"bgpcni: {call.variables.get('CNI_COMMAND', '')} failed: {error.msg}\n"
    return Reply(1, _json(encode_error(error, version)), text.encode(errors="replace"), error.code)


def _json(document: object) -> bytes:
    return json.dumps(document).encode() + b"\n"


_VERBS: dict[Command, Callable[[Node, Request], Answer]] = {
    Command.ADD: transaction.add,
    Command.DEL: transaction.delete,
    Command.CHECK: transaction.check_attachment,
    Command.GC: transaction.collect,
    Command.STATUS: transaction.status,
}
