"""How many attachments there are, in memory: the store notes each change here, so that nobody reads records to count.

Only an agent that serves metrics has one.
"""

from __future__ import annotations

from typing import NamedTuple

from bgpcni.model import Attachment, AttachmentKey, State


class Counted(NamedTuple):
    """One record. `key`: None if it cannot be read. `leases`: how many addresses of IPv4 and of IPv6 an IPAM gave."""

    network: str
    state: State
    key: AttachmentKey | None = None
    namespace: str = ""
    pod: str = ""
    leases: tuple[int, int] = (0, 0)


class Census:
    """The records by the names of their files. Safe for threads: of one record, its attachment's lock holds the order,
    and each change is one operation on a dictionary."""

    def __init__(self) -> None:
        self._known: dict[str, Counted] = {}

    def written(self, name: str, network: str, state: State, attachment: Attachment | None) -> None:
        """A record was written in this state. `attachment`: None if it cannot be read."""
        if attachment is None:
            self._known[name] = Counted(network, state)
            return
        leased = attachment.addresses if attachment.ipam else ()
        of_ipv6 = sum(":" in item.address for item in leased)
        pod = attachment.pod
        self._known[name] = Counted(
            network, state, attachment.key,
            pod.namespace if pod else "", pod.name if pod else "", (len(leased) - of_ipv6, of_ipv6),
        )  # fmt: skip

    def moved(self, name: str, state: State) -> None:
        """A record is in another state now."""
        known = self._known.get(name)
        if known is not None:
            self._known[name] = known._replace(state=state)

    def gone(self, name: str) -> None:
        """A record was deleted."""
        self._known.pop(name, None)

    def all(self) -> dict[str, Counted]:
        """Every record of this moment."""
        return self._known.copy()
