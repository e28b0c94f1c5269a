"""The exporter: announces and withdraws paths in a gobgpd.

A thread watches the daemon's events. GoBGP does not say when it started or that it has restarted. So every end of the
event stream counts as a restart, and nothing is sent while the stream is not open. This needs the agent.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field

from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import ATTRIBUTES, Exporter, Heard, NotThereYet, Outcome, Peer, Reach, Wake
from bgpcni.model import ROUTES, Announcement, Family, Nlri, NodeFacts
from bgpcni.wire.values import Unencodable
from bgpcni_gobgp import gobgp_pb2 as api
from bgpcni_gobgp.client import Client, Refused
from bgpcni_gobgp.paths import NUMBERS, announced, identifier, is_ours, nlri_of, taken_back, withdrawn
from bgpcni_gobgp.reader import TableReader
from bgpcni_gobgp.sessions import Sessions

HEARTBEAT = 3.0
"""The most seconds that a healthy daemon takes to answer GetBgp (usually it takes one millisecond)."""
SLACK = 30
"""After hold time, restart time and so many seconds a peer has certainly removed our routes."""
_TARGET = re.compile(r"unix:///[^\s?#%]+|(127\.\d+\.\d+\.\d+|\[::1\]):\d{1,5}")


def _target(value: str) -> str:
    if not _TARGET.fullmatch(value):
        raise ValueError(
            f"{value!r} is not an address of a gobgpd on this node: unix:///PATH, 127.0.0.1:PORT or [::1]:PORT"
        )
    return value


class GoBGP(Exporter):
    """Announces and learns all five families through a GoBGP 3 on this node."""

    class Config(Exporter.Config):
        """`target`: the address of gobgpd's API (its `--api-hosts`). `owner`: the first octet of our path identifiers;
        if several agents share a daemon, each needs its own."""

        target: Annotated[str, AfterValidator(_target)] = "127.0.0.1:50051"
        owner: Annotated[int, Field(ge=1, le=255)] = 0xB6

    contract: ClassVar[int] = 1
    families: ClassVar[frozenset[Family]] = ROUTES
    acks: Literal["accepted", "sent", "acked"] = "accepted"
    imports: ClassVar[Literal["none", "routes", "datapath"]] = "routes"
    programs: ClassVar[Mapping[str, Sequence[str]]] = {"gobgpd": ("gobgpd", "--version")}
    needs_agent: ClassVar[bool] = True
    carries: ClassVar[frozenset[str]] = ATTRIBUTES
    look_every: ClassVar[float] = 1.0

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, GoBGP.Config)
        self._owner = config.owner
        self._target = config.target
        self._change = threading.Condition()
        self._noting = threading.Lock()
        self._sessions = Sessions(node.hold_time + node.graceful_restart + SLACK)
        self._client: Client | None = None
        self._closed = False
        self._asked = self._watching = False
        self._attempts = 0
        self._reason = ""
        self._doubtful = False  # something that was sent may still take effect
        self._reader = TableReader(name, node.maximum_prefix, node.asn)
        self._held: dict[Nlri, api.Path] = {}  # replaced, not cleared, because a running method still uses the old one

    @classmethod
    def owns(cls, config: BaseModel) -> str:
        assert isinstance(config, GoBGP.Config)
        return f"the paths of owner {config.owner} in gobgpd at {config.target}"

    # ---------------------------------------------------------------- verbs

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        client, held = self._watched(deadline)
        outcomes: dict[int, Outcome] = {}
        paths: dict[int, api.Path] = {}
        others: list[api.Path] = []
        for at, route in enumerate(routes):
            try:
                path = announced(route, identifier(self._owner, route.network))
            except Unencodable as error:
                outcomes[at] = Outcome(Reach.REFUSED, str(error))
                continue
            before = held.pop(route.nlri, None)
            if before is not None and before.identifier != path.identifier:
                others.append(taken_back(before))
            if before == path:  # the daemon may raise the MAC mobility of a type 2 route that is sent again unchanged
                held[route.nlri] = path
            else:
                paths[at] = path
        for at, reason in self._send(client, paths, deadline, others).items():
            outcomes[at] = Outcome(Reach.REFUSED, reason)
        held.update({routes[at].nlri: path for at, path in paths.items() if at not in outcomes})
        return [outcomes.get(at) or self._announced(route.nlri) for at, route in enumerate(routes)]

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        """Withdraw routes. The sessions are read again after each batch, because a session may have ended before the
        withdrawal was sent, with its event still on the way. Only sessions that still exist confirm it."""
        client, held = self._watched(deadline)
        paths: dict[int, api.Path] = {}
        others: list[api.Path] = []
        for at, route in enumerate(routes):
            try:
                paths[at] = withdrawn(route.nlri, identifier(self._owner, route.network))
            except Unencodable:
                continue  # it was never announced
            before = held.pop(route.nlri, None)
            if before is not None and before.identifier != paths[at].identifier:
                others.append(taken_back(before))
        for reason in self._send(client, paths, deadline, others).values():
            raise NotThereYet(reason)
        self._note_sessions(client)
        return [self._withdrawn() for _ in routes]

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        client, _ = self._watched(deadline)
        wanted = {(route.nlri, identifier(self._owner, route.network)) for route in keep}
        spared = {identifier(self._owner, network) for network in spare}
        left: list[api.Path] = []
        for numbers in NUMBERS.values():
            for path in client.paths(numbers, deadline):
                if not is_ours(path, self._owner) or path.identifier in spared:
                    continue
                if (nlri := nlri_of(path)) is None or (nlri, path.identifier) not in wanted:
                    left.append(taken_back(path))
        with self._writing():
            client.send(left, deadline)

    def look(self, deadline: float) -> None:
        client, _ = self._watched(deadline)
        client.greet(min(deadline, time.monotonic() + HEARTBEAT))
        self._note_sessions(client)

    def progress(self, routes: Sequence[Announcement]) -> list[Outcome]:
        held = self._held
        return [self._announced(route.nlri) if route.nlri in held else self._withdrawn() for route in routes]

    def peers(self) -> list[Peer]:
        """The sessions. `sent` counts only our routes; to count all, gobgpd would have to read its whole table."""
        ours = Counter(nlri.family for nlri in list(self._held))
        return [
            peer._replace(
                sent=sum(ours[Family(name)] for name in peer.families),
                last_error=self._reader.words(peer.address),
            )
            for peer in self._sessions.peers
        ]

    def session(self, peer: str) -> Mapping[str, object]:
        return self._sessions.more.get(peer, {})

    def reset(self, peer: str, *, soft: bool) -> None:
        """GoBGP keeps what peers announce, so a soft reset does not ask the peer for it again.

        After the other it waits before it connects anew: for `idle-hold-time-after-reset`, which is 30 seconds if its
        configuration does not say otherwise.
        """
        client, reason = self._client, self._reason
        if client is None or not self._watching:
            raise InvalidConfiguration(reason or f"gobgpd at {self._target} is not connected")
        try:
            client.reset(peer, soft=soft, deadline=time.monotonic() + HEARTBEAT)
        except (NotThereYet, Refused) as error:
            raise InvalidConfiguration(f"gobgpd: {error}" if isinstance(error, Refused) else str(error)) from None

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        self._reader.listen(families, heard)

    def close(self) -> None:
        self._reader.close()
        with self._change:
            self._closed = True
            self._change.notify_all()
            client = self._client
        if client is not None:
            client.close()

    # ---------------------------------------------------------------- sending

    def _send(
        self,
        client: Client,
        paths: dict[int, api.Path],
        deadline: float,
        others: Sequence[api.Path],
    ) -> dict[int, str]:
        """Send paths, `others` first. Returns the reasons of those that the daemon refused, by their keys."""
        if not paths and not others:
            return {}
        with self._writing():
            try:
                client.send([*others, *paths.values()], deadline)
                return {}
            except Refused:
                client.send(others, deadline)
            refused: dict[int, str] = {}
            for at, path in paths.items():  # find out which one was refused
                try:
                    client.send([path], deadline)
                except Refused as error:
                    refused[at] = f"gobgpd: {error}"
            return refused

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """If the daemon did not answer, what was sent may take effect later, after newer messages. So once it answers
        again, everything is announced again."""
        try:
            yield
        except NotThereYet:
            self._doubtful = True
            raise
        except Refused as error:
            raise NotThereYet(f"gobgpd: {error}") from None
        if self._doubtful:
            self._doubtful = False
            self._held = {}
            self.wake.empty()

    def _announced(self, nlri: Nlri) -> Outcome:
        reason = self._sessions.unheard(nlri.family)
        return Outcome(Reach.WANTED, reason) if reason else Outcome(Reach.ACCEPTED)

    def _withdrawn(self) -> Outcome:
        reason = self._sessions.holding()
        return Outcome(Reach.WANTED, reason) if reason else Outcome(Reach.ACCEPTED)

    # ---------------------------------------------------------------- watching

    def _watched(self, deadline: float) -> tuple[Client, dict[Nlri, api.Path]]:
        """The client, once the event stream is open, and the paths that this run of the daemon was given.

        Raises NotThereYet at the deadline, or if the daemon cannot be reached.
        """
        with self._change:
            if self._client is None and not self._closed:
                self._client = Client(self._target)
                threading.Thread(target=self._watch, name=f"watch-{self.name}", daemon=True).start()
            attempts = self._attempts
            self._asked = True
            self._change.notify_all()
            while not (self._watching or self._closed or self._attempts != attempts):
                if (left := deadline - time.monotonic()) <= 0:
                    raise NotThereYet(f"gobgpd at {self._target} does not answer", untouched=True)
                self._change.wait(left)
            if self._closed:
                raise NotThereYet("closed", untouched=True)
            if not self._watching:
                raise NotThereYet(self._reason, untouched=True)
            assert self._client is not None
            return self._client, self._held

    def _watch(self) -> None:
        """The thread that watches events. It tries to open the stream once for each request of `_watched`."""
        client = self._client
        assert client is not None
        while True:
            with self._change:
                while not (self._asked or self._closed):
                    self._change.wait()
                if self._closed:
                    return
                self._asked = False
            reason = f"gobgpd at {self._target} ended"
            try:
                client.greet(time.monotonic() + HEARTBEAT)
                for event in client.watch():
                    if event.peer.type != api.WatchEventResponse.PeerEvent.INIT:
                        self._note_sessions(client)
                        self._note_watching()
            except (NotThereYet, Refused) as error:
                reason = str(error)
            self._note_lost(reason)

    def _note_sessions(self, client: Client) -> None:
        """Read and note the sessions under one lock, so that an older list never replaces a newer one."""
        with self._noting:
            found = client.peers(time.monotonic() + HEARTBEAT)
            with self._change:
                changed = self._sessions.note(found, time.monotonic())
        if changed:
            self._reader.connected(client)
            self.wake.sessions()

    def _note_watching(self) -> None:
        with self._change:
            self._watching = True
            self._change.notify_all()

    def _note_lost(self, reason: str) -> None:
        with self._change:
            was, self._watching = self._watching, False
            self._reason = reason
            self._attempts += 1
            self._sessions.lost(time.monotonic())
            if was:
                self._held = {}
            self._change.notify_all()
            closed = self._closed
        if was and not closed:
            self._reader.lost()
            self.wake.empty()
