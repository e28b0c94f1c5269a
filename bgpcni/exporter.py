"""The exporter contract: what an adapter to one BGP speaker is. Import this and `bgpcni.model` to write one.

An exporter is given routes in batches and makes its speaker announce them. Only one thread calls it, except for
`peers`, `progress` and `close`. It does not remember what is wanted, and it may be asked the same thing again at any
time: every verb is idempotent. What is announced is decided elsewhere. An exporter that is in doubt raises
`NotThereYet` or calls `wake.empty()`, and is told everything again.

`docs/writing-an-exporter.md` explains it at length; `bgpcni.testing` proves an exporter against its real speaker.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict

from bgpcni.errors import InvalidConfiguration
from bgpcni.model import Announcement, Family, Nlri, NodeFacts

ATTRIBUTES = frozenset({"communities", "local_preference", "med"})
"""The attributes of an `Announcement` that not every speaker can be given."""
MESSAGES = ("open", "update", "notification", "keepalive", "refresh")
"""The types of BGP messages (RFC 4271 section 4, RFC 2918), by which a session's messages are counted."""
CONTRACT = 1
"""The version of this contract. An exporter written for another one is refused when it is loaded."""


class Reach(IntEnum):
    """How far an announcement or a withdrawal got, in order."""

    REFUSED = -1
    """The speaker will not take this route; `Outcome.reason` says why. Only this route is affected."""
    WANTED = 0
    """Not at any peer yet: there is no session, or none with this family. The speaker sends it when it can."""
    ACCEPTED = 1
    """The speaker has accepted it, and no more can be known (exporters whose `acks` is `accepted`)."""
    SENT = 2
    """In the socket of every Established session that negotiated the family."""
    ACKED = 3
    """The TCP of each of those peers has acknowledged it. That does not say that the peer's policy accepts it."""


class Outcome(NamedTuple):
    """What became of one route.

    `reason`: why it cannot get further now (`no session with 192.0.2.1`). Empty while it is under way.

    A withdrawal has two uses. At `SENT` (`ACCEPTED` where no more can be told) DEL may answer. The address is given
    to another container only at the furthest reach that `acks` names: then no peer has the route any more. A peer
    whose session is down may keep it over a graceful restart: with it the withdrawal is `SENT` with a reason once the
    sessions that are up have it, and `WANTED` with a reason where none is.
    """

    reach: Reach
    reason: str = ""


class Peer(NamedTuple):
    """One BGP session of the speaker, for `bgpcni peers`. `since`: RFC 3339 UTC; counts are of routes. `interface`:
    the link on which a link-local `address` is."""

    address: str
    asn: int
    state: str
    since: str = ""
    families: tuple[str, ...] = ()
    sent: int = 0
    received: int = 0
    last_error: str = ""
    interface: str = ""


class Process(NamedTuple):
    """The process of a speaker that is ours, for the metrics.

    `pid`: as this process sees it; 0 if it does not run now, or cannot be seen from here. `starts`: how often this
    exporter has started it, or found one that it had to connect to.
    """

    pid: int
    starts: int


class PathAttributes(NamedTuple):
    """The attributes in one UPDATE of a peer, shared by its routes. Nothing is filtered yet.

    `next_hop`: the global address. Route targets and communities: canonical text, as in `Announcement`. `as_path`:
    the AS numbers in order, sets flattened. `local_pref` and `med`: None where the attribute is absent. `origin`:
    0 IGP, 1 EGP, 2 incomplete. `mobility`, `sticky`: RFC 7432 section 7.7, 0 and False where absent. `router_mac`:
    RFC 9135 section 8.1. `encapsulation`: the tunnel type of RFC 9012 section 4.1 (8: VXLAN), None where absent.
    `tunnel`: the P-MSI tunnel's endpoint (RFC 6514 section 5). `originator`: ORIGINATOR_ID, `clusters`: CLUSTER_LIST
    (RFC 4456).
    """

    next_hop: str
    route_targets: tuple[str, ...] = ()
    communities: tuple[str, ...] = ()
    as_path: tuple[int, ...] = ()
    origin: int = 0
    local_pref: int | None = None
    med: int | None = None
    mobility: int = 0
    sticky: bool = False
    router_mac: str | None = None
    encapsulation: int | None = None
    tunnel: str | None = None
    originator: str | None = None
    clusters: tuple[str, ...] = ()


class Learned(NamedTuple):
    """A peer announces a route. It replaces an earlier one with the same (peer, nlri).

    `vni`: EVPN's label, 24 bits (type 3: that of the P-MSI tunnel); `l3_vni`: a type 2's second label. `label`:
    the MPLS label of a VPN route. `gateway`: a type 5's gateway address, None where it is zero.
    """

    peer: str
    nlri: Nlri
    attributes: PathAttributes
    vni: int | None = None
    l3_vni: int | None = None
    label: int | None = None
    gateway: str | None = None


class Gone(NamedTuple):
    """A peer withdrew a route. It is no error if that was never learned."""

    peer: str
    nlri: Nlri


class EndOfRib(NamedTuple):
    """A peer has told everything that it has in a family, since its session came up or since `listen` was called.

    What was learned from it before and was not told again is gone (RFC 4724 section 4.2).
    """

    peer: str
    family: Family


class SessionDown(NamedTuple):
    """The session with a peer ended, or the speaker did. What the peer told stays for a while, or goes at once.

    `graceful`: it may be used until `EndOfRib` or the restart time: the peer negotiated graceful restart for the
    family and its session ended without a NOTIFICATION, or it was our speaker that went away. `long_lived`: the
    families whose routes may be used after that as a last resort, and for how many seconds (RFC 9494).
    """

    peer: str
    graceful: bool
    long_lived: tuple[tuple[Family, int], ...] = ()


Event = Learned | Gone | EndOfRib | SessionDown
Heard = Callable[[Sequence[Event]], None]


class NotThereYet(Exception):
    """The speaker cannot be reached now. The caller asks everything of this call again later.

    `untouched`: the speaker was certainly given nothing of this call, so nothing has to be taken back.
    """

    def __init__(self, reason: str, *, untouched: bool = False) -> None:
        super().__init__(reason)
        self.untouched = untouched


class Wake(Protocol):
    """How an exporter calls back, from any thread."""

    def progress(self) -> None:
        """Some route got further: ask `progress` again of those that are under way."""

    def sessions(self) -> None:
        """A session came or went: ask `progress` again of every route."""

    def empty(self) -> None:
        """The speaker came back knowing nothing (or not what): announce everything again, then `prune`.

        Allowed within a verb; what that verb answers then counts for nothing, and its routes are asked again.
        """

    def speaker(self, running: bool, reason: str = "") -> None:
        """The speaker runs, or has ended (`reason`), for operators. To say the same again changes nothing."""


class Exporter(abc.ABC):
    """An adapter to one speaker.

    Life: `__init__` (no I/O), then calls in any order, each of which may raise `NotThereYet`; `close` leaves
    the routes in place. After `__init__` and after each `wake.empty()` the caller announces all that is
    wanted, withdraws all that is leaving, and then calls `prune` once: only then is the speaker's table whole
    (and End-of-RIB may be sent). A call of the plugin without an agent never prunes, since it does not know
    what others add meanwhile; it announces what is wanted and then calls `replayed` alone.

    `deadline`, in every verb: time.monotonic() seconds by which it returns or raises.
    """

    contract: ClassVar[int]
    """The version of the contract that this exporter was written for, as a number: `contract = 1`."""

    class Config(BaseModel):
        """The exporter's own configuration; subclass it. Unknown keys are errors."""

        model_config = ConfigDict(frozen=True, extra="forbid")

    families: ClassVar[frozenset[Family]]
    """The families that it can announce. The caller refuses others with a clear error."""
    acks: Literal["accepted", "sent", "acked"] = "accepted"
    """The furthest that it can tell, and what a withdrawal has to reach before its address is free; an instance may
    lower it once it knows its speaker. An exporter without a `progress` of its own can tell `accepted` at most; what
    it left `WANTED` is asked for again every few seconds."""
    imports: ClassVar[Literal["none", "routes", "datapath"]] = "none"
    needs_agent: ClassVar[bool] = False
    """True: it works only in the resident agent. False: it also works within one call of the plugin."""
    takes_neighbors: ClassVar[bool] = False
    """True: its peers are the `[[bgp.neighbors]]` of agent.toml, and without any it is not started."""
    targets_per_route: ClassVar[bool] = True
    """False: route targets belong to the speaker's VPN, and an attachment with its own is refused (code 7)."""
    carries: ClassVar[frozenset[str]] = frozenset({"communities"})
    """Which of `ATTRIBUTES` its speaker announces. ADD warns of what a network asks for
    beyond that, and neither a policy nor maintenance sets it here."""
    programs: ClassVar[Mapping[str, Sequence[str]]] = {}
    """The programs that it speaks to on this node, and the command that prints the version of each."""
    look_every: ClassVar[float] = 0.0
    """Seconds between two calls of `look` while there is nothing to do in the agent; 0: none."""

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        self.name = name
        self.config = config
        self.node = node
        self.wake = wake

    @classmethod
    def check(cls, config: BaseModel, node: NodeFacts) -> str | None:
        """Why this exporter cannot be used on this node at all, or None. A reason makes ADD fail (code 7)."""
        return None

    @classmethod
    def source(cls, config: BaseModel, local_address: str) -> str | None:
        """The address from which it opens its sessions with `[[bgp.neighbors]]`; None: its speaker has others.

        `local_address`: that of `[bgp]`, which counts unless `config` has its own. Of two exporters that would have
        the same session the second is refused (code 7).
        """
        return None

    @classmethod
    def owns(cls, config: BaseModel) -> str:
        """What an exporter of this configuration has to itself, in words: `table 100`; "" if nothing.

        Two exporters at work that own the same would undo each other's routes: the second is refused (code 7).
        """
        return ""

    @classmethod
    def speak(cls, run_dir: Path, name: str) -> None:
        """`bgpcni speaker`: run the speaker of the exporter `name` of an agent elsewhere that has the same `run_dir`,
        until SIGTERM.

        Raises CniError, as here: most exporters have no speaker to run.
        """
        raise InvalidConfiguration("it has no speaker that bgpcni runs")

    @abc.abstractmethod
    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        """Give routes to the speaker. Returns one outcome for each, in order.

        If the deadline comes first, it returns the outcomes of those that were done, and is asked for the rest again.
        """

    @abc.abstractmethod
    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        """Withdraw routes. Outcomes as in `announce`, never REFUSED; for a route that is not there the furthest."""

    @abc.abstractmethod
    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        """Withdraw what was announced for us in any life and is not in `keep`; never what others announced.

        `spare`: networks whose routes must not be pruned, because a record of theirs could not be read.
        """

    def replayed(self) -> None:
        """Everything that is wanted was told since `wake.empty()`. Only I/O on this machine's own files is allowed."""
        return

    def look(self, deadline: float) -> None:
        """Is the speaker there, and still the one that was told? Raises NotThereYet; may call `wake.empty()`."""
        return

    def progress(self, routes: Sequence[Announcement]) -> list[Outcome]:
        """How far each route has got, as last asked. Cheap, without I/O. Needed to report more than `accepted`."""
        return [Outcome(Reach.ACCEPTED)] * len(routes)

    def listen(self, families: frozenset[Family], heard: Heard) -> None:
        """From now on tell `heard` of the routes of these families (only if `imports` is `routes`).

        Asked from any thread at any time, the last call counts; it only notes the wish and returns. For each peer
        and family: all that the peer has, `EndOfRib`, then every change; the same for a family that was not
        listened to before. Before everything is told again, after each `wake.empty()` too, comes `SessionDown` of
        the peer. `heard` gets events in order, many at once where many came, in a thread of the exporter's; it
        returns quickly and never raises.
        """
        return

    def want_targets(self, targets: frozenset[str]) -> None:
        """This node imports routes with these route targets only, and peers may leave out all others (RFC 4684).

        Called as `listen` is; the last call counts, and it only notes the wish. An exporter that does not know how to
        say so hears more than it needs.
        """
        return

    def peers(self) -> list[Peer]:
        """The speaker's sessions, as far as they are known. It does not wait: what was seen last is good enough."""
        return []

    def reached(self, route: Announcement) -> Mapping[str, float]:
        """When the route, as it is now, was in the socket of each peer, by the peer's address; seconds since the epoch.

        For traces, so an exporter that does not know it says nothing. From any thread, without I/O.
        """
        return {}

    def process(self) -> Process | None:
        """The speaker's process, if it is ours. From any thread, without I/O."""
        return None

    def advertised(self, peer: str) -> Collection[Nlri] | None:
        """The routes in the socket of the session with this peer, and not withdrawn since; None if it cannot tell.

        From any thread, and without I/O.
        """
        return None

    def session(self, peer: str) -> Mapping[str, object]:
        """More of one session, for `bgpcni peers ADDRESS`: what JSON can say, by name.

        From any thread. It may ask the speaker, waits for a second or two at most, and leaves out what it cannot tell.
        """
        return {}

    def reset(self, peer: str, *, soft: bool) -> None:
        """End the session with this peer, so that it comes up anew. `soft`: keep it, and exchange all routes again.

        From any thread. Raises CniError where the speaker cannot do it, or cannot be reached.
        """
        raise InvalidConfiguration("it cannot reset sessions: do it at the speaker itself")

    def drain(self, deadline: float) -> None:
        """Everything was withdrawn. A speaker that is ours ends now; others go on."""
        return

    def lacking(self) -> str:
        """Why the peers of its speaker do not have all its routes just now; "" if they do. From any thread."""
        return ""

    def restart(self, deadline: float) -> str:
        """Have the speaker that is ours end and begin anew, as after a crash: peers with graceful restart keep routes.

        Returns once the peers that had a session have everything again, or at the deadline, with the reason why they
        have not. From any thread. Raises CniError, as here, if the speaker is not ours.
        """
        raise InvalidConfiguration(f"exporters: {self.name} has no speaker that bgpcni runs")

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the speaker; its routes stay. Any thread may call it, also while a verb runs: that ends soon."""


def counted(sent: Mapping[str, int], received: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """`messages` of `Exporter.session`: how many messages of each type went both ways, as the speaker counts them."""
    return {
        "sent": {name: sent.get(name, 0) for name in MESSAGES},
        "received": {name: received.get(name, 0) for name in MESSAGES},
    }


def carried_by(kind: type[Exporter]) -> frozenset[str]:
    """What an exporter can set for each route, as the fields of `Attributes`: what a policy can change there."""
    return kind.carries | ({"import_rt", "export_rt"} if kind.targets_per_route else set())
