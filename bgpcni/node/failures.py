"""ADDs that failed, for `explain`: the last one of each attachment, in memory, the newest few hundred.

The runtime's log has the error too, but it is hard to find, and by then the container is gone.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import NamedTuple

from bgpcni import clock
from bgpcni.cni.environment import parse_args
from bgpcni.errors import CniError
from bgpcni.model import Pod
from bgpcni.node.request import pod_of

MOST = 256
"""For how many attachments a failure is kept; the oldest is forgotten first."""
LONGEST = 2000
"""How many characters are kept of a message, and of a name that came from the caller."""


class Failure(NamedTuple):
    """`code`, `msg` and `details` are those that the runtime got.

    `network` is "" where not even that could be read, `pod` is None outside of Kubernetes.
    """

    network: str
    container_id: str
    ifname: str
    at: str
    code: int
    msg: str
    details: str = ""
    pod: Pod | None = None

    def names(self, what: str) -> bool:
        """Whether an operator's word means this: its network, pod, container ID or the first 6 characters of that."""
        same = what in (self.network, self.container_id, str(self.pod or ""))
        return bool(what) and (same or (len(what) >= 6 and self.container_id.startswith(what)))


class Failures:
    """The failures of one node. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str, str], Failure] = {}

    def failed(self, variables: Mapping[str, str], stdin: bytes, stdout: bytes) -> Failure:
        """Note that an ADD with these CNI variables and this stdin was answered with the error on `stdout`."""
        error = json.loads(stdout)
        failure = Failure(
            network=network_named_by(stdin)[:LONGEST],
            container_id=variables.get("CNI_CONTAINERID", "")[:LONGEST],
            ifname=variables.get("CNI_IFNAME", "")[:LONGEST],
            at=clock.now(),
            code=error["code"],
            msg=error["msg"][:LONGEST],
            details=error.get("details", "")[:LONGEST],
            pod=pod_named_by(variables.get("CNI_ARGS", "")),
        )
        key = failure.network, failure.container_id, failure.ifname
        with self._lock:
            self._last.pop(key, None)
            self._last[key] = failure
            while len(self._last) > MOST:
                del self._last[next(iter(self._last))]
        return failure

    def worked(self, variables: Mapping[str, str]) -> None:
        """Forget an earlier failure of the interface: an ADD with these variables has succeeded."""
        if not self._last:
            return
        attached = variables.get("CNI_CONTAINERID", ""), variables.get("CNI_IFNAME", "")
        with self._lock:
            for key in [key for key in self._last if key[1:] == attached]:
                del self._last[key]

    def all(self) -> list[Failure]:
        with self._lock:
            return list(self._last.values())

    def about(self, what: str) -> list[Failure]:
        """The failures that the operator's argument names, the newest last."""
        with self._lock:
            return [failure for failure in self._last.values() if failure.names(what)]


def network_named_by(stdin: bytes) -> str:
    """The network of a call that may have failed; "" where not even that can be read."""
    try:
        name = json.loads(stdin)["name"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


def pod_named_by(args: str) -> Pod | None:
    """The pod of a call that may have failed, from its CNI_ARGS."""
    try:
        return pod_of(parse_args(args))
    except CniError:
        return None
