"""The exporter: puts unicast routes into a table of the node's kernel, marked by a protocol number.

The kernel does not forward by that table, because no rule points to it. A BGP daemon on the node reads it: FRR with
`redistribute table-direct`, BIRD with `learn`; samples are in `conf/`. A route in the kernel cannot contain the name of
a network, so if a record cannot be read, nothing is pruned at all.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, Field

from bgpcni.exporter import Exporter, NotThereYet, Outcome, Reach, Wake
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError
from bgpcni.model import Announcement, Endpoint, Family, NodeFacts
from bgpcni_kernel import routes as rt
from bgpcni_kernel.routes import Place, Route
from bgpcni_kernel.watch import Watch

CHUNK = 64
"""How many messages are in one send; their answers must fit into a socket's buffer."""
_DONE = Outcome(Reach.ACCEPTED)


def _table(value: int) -> int:
    if value in (253, 254, 255):
        raise ValueError(f"{value} is one of the system's tables: default, main or local")
    return value


def _protocol(value: int) -> int:
    if value <= 4 or value in (11, 12, 16, 42) or 186 <= value <= 198:
        raise ValueError(f"{value} is the protocol number of the kernel or of a routing daemon")
    return value


class Kernel(Exporter):
    """Announces unicast routes of both IP versions."""

    class Config(Exporter.Config):
        """`metric` becomes the MED, unless the daemon sets another one."""

        table: Annotated[int, Field(ge=1, le=0xFFFFFFFF), AfterValidator(_table)] = 100
        protocol: Annotated[int, Field(ge=1, le=255), AfterValidator(_protocol)] = 45
        metric: Annotated[int, Field(ge=1, le=0xFFFFFFFF)] = 1

    contract: ClassVar[int] = 1
    families: ClassVar[frozenset[Family]] = frozenset({Family.IPV4_UNICAST, Family.IPV6_UNICAST})
    carries: ClassVar[frozenset[str]] = frozenset()
    look_every: ClassVar[float] = 1.0

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, Kernel.Config)
        self._place = Place(config.table, config.protocol, config.metric)
        self._netlink: Netlink | None = None
        self._watch: Watch | None = None
        self._held: set[str] = set()

    @classmethod
    def owns(cls, config: BaseModel) -> str:
        assert isinstance(config, Kernel.Config)
        return f"the routes of protocol {config.protocol} in table {config.table}"

    # ---------------------------------------------------------------- verbs

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        wanted: dict[int, tuple[str, int]] = {}
        for position, route in enumerate(routes):
            found = self._device(route)
            if isinstance(found, Outcome):
                outcomes[position] = found
            else:
                wanted[position] = (str(route.nlri.prefix), found)
        self._watching(index for _, index in wanted.values())
        messages = {at: rt.add(self._place, prefix, index, replace=False) for at, (prefix, index) in wanted.items()}
        answers = self._send(messages)
        there = [at for at, error in answers.items() if error == errno.EEXIST]
        if there:
            answers |= self._replace({at: wanted[at] for at in there})
        for at, code in answers.items():
            outcomes[at] = _outcome(code, routes[at], self._place)
            if outcomes[at] is _DONE:
                self._held.add(wanted[at][0])
        return [outcomes[position] for position in range(len(routes))]

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        self._watching(())
        prefixes = dict(enumerate(str(route.nlri.prefix) for route in routes if route.nlri.kind == "unicast"))
        self._held.difference_update(prefixes.values())
        answers = self._send({at: rt.remove(self._place, prefix) for at, prefix in prefixes.items()})
        for code in answers.values():
            if code not in (0, errno.ESRCH, errno.ENOENT):
                raise NotThereYet(f"the kernel: {os.strerror(code)}")
        return [_DONE] * len(routes)

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        self._watching(())
        if spare:
            return
        wanted = {str(route.nlri.prefix) for route in keep}
        left = [found for found in self._dump() if found.prefix not in wanted or found.metric != self._place.metric]
        self._held &= wanted
        self._send({at: rt.remove(self._place, found.prefix, found) for at, found in enumerate(left)})

    def look(self, deadline: float) -> None:
        if self._watch is None:
            return
        moved, deleted = self._watch.changes()
        if moved or any(route.prefix in self._held for route in deleted):
            self.wake.empty()

    def close(self) -> None:
        """Does nothing: another thread may be using a socket, so both are closed when the exporter is deleted."""

    # ---------------------------------------------------------------- the kernel

    def _device(self, route: Announcement) -> int | Outcome:
        if route.nlri.kind != "unicast":
            return Outcome(Reach.REFUSED, f"a table of the kernel takes unicast routes only, not {route.nlri.kind}")
        if route.endpoint is None:
            return rt.NO_DEVICE
        try:
            return socket.if_nametoindex(_name(route.endpoint))
        except OSError:
            return Outcome(Reach.WANTED, f"{_name(route.endpoint)} does not exist")

    def _watching(self, indexes: Iterable[int]) -> None:
        """Open the sockets and watch these links. This runs in the first method, whose thread is in the right
        namespace."""
        try:
            if self._netlink is None:
                self._netlink = Netlink.open()
                self._watch = Watch(self._place)
        except OSError as error:
            raise NotThereYet(f"no netlink socket: {error.strerror}", untouched=True) from None
        assert self._watch is not None
        for index in indexes:
            if index != rt.NO_DEVICE:
                self._watch.expect(index)

    def _send(self, messages: dict[int, Message]) -> dict[int, int]:
        """Send in chunks. Returns the error number of each message, 0 for success."""
        assert self._netlink is not None
        codes: dict[int, int] = {}
        items = list(messages.items())
        for start in range(0, len(items), CHUNK):
            part = items[start : start + CHUNK]
            answers = self._netlink.send(*(message for _, message in part))
            for (position, _), answer in zip(part, answers, strict=True):
                codes[position] = answer.errno or 0 if isinstance(answer, NetlinkError) else 0
        return codes

    def _replace(self, wanted: dict[int, tuple[str, int]]) -> dict[int, int]:
        """Handle prefixes that the table already has: our route is moved if its device changed; others' routes stay."""
        ours = {found.prefix: found.index for found in self._dump() if found.metric == self._place.metric}
        codes = {at: 0 if prefix in ours else errno.EEXIST for at, (prefix, _) in wanted.items()}
        moving = {at: item for at, item in wanted.items() if ours.get(item[0], item[1]) != item[1]}
        moves = {at: rt.add(self._place, prefix, index, replace=True) for at, (prefix, index) in moving.items()}
        return codes | self._send(moves)

    def _dump(self) -> list[Route]:
        assert self._netlink is not None
        found: list[Route] = []
        for family in rt.families():
            try:
                answer = self._netlink.dump(rt.dump(self._place, family))
            except NetlinkError as error:
                if error.errno == errno.ENOENT:  # the table does not exist, because nothing was ever written to it
                    continue
                raise NotThereYet(f"the kernel: {error}") from None
            found += [route for data in answer if (route := rt.read(self._place, data)) is not None]
        return found


def _name(endpoint: Endpoint) -> str:
    """The name of the device that leads to a container."""
    return endpoint.bridge or endpoint.host_veth


def _outcome(code: int, route: Announcement, place: Place) -> Outcome:
    if code == 0:
        return _DONE
    if code == errno.EEXIST:
        return Outcome(
            Reach.REFUSED, f"table {place.table} already has a route to {route.nlri.prefix} that is not ours"
        )
    if code in (errno.ENETDOWN, errno.ENODEV, errno.ENETUNREACH, errno.ENONET, errno.EHOSTDOWN):
        return Outcome(Reach.WANTED, f"{_name(route.endpoint) if route.endpoint else 'the device'} is down")
    return Outcome(Reach.REFUSED, f"the kernel: {os.strerror(code).lower()}")
