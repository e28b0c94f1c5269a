"""What the agent and ExaBGP say to each other: commands to our engine, and events from it, as frozen values. Pure.

Both ends import this module, so it needs nothing but the standard library. A command is one line of words. Each is
answered, in order, by `done` or `error`, and is applied whole or not at all. An event is one line of JSON. Besides the
events of our engine there are those of the relay, and two of ExaBGP's own, which every ExaBGP tells.

`number` and `seq` count the commands to one engine, and only grow. An NLRI comes with its key, which identifies the
route where the NLRI contains more. Octets are written in hexadecimal, and nobody here looks into them. Families have
ExaBGP's names: `ipv4/unicast`, `l2vpn/evpn`.

**Versions.** `PROTOCOL` is the version of this module. An agent and an engine work together if their versions differ by
one at most. So a new version may add events, and fields of events that have a default: the agent ignores those that it
does not know. It may add commands, which the agent gives only to an engine that has them (`EngineState.protocol`). Any
other change takes two versions.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

PROTOCOL = 4
ACCEPTED = range(PROTOCOL - 1, PROTOCOL + 2)
RELAY = 2
"""The version of what the relay itself says and understands: its two events, and signals."""
LONG_LIVED = "long-lived graceful restart"
"""Before the seconds of RFC 9494, in the description that a neighbour has in ExaBGP's configuration."""
SELECTS_SINCE = 4
"""The first version of an engine that takes a command for several of its neighbours."""
RESENDS_SINCE = 4
"""The first version of an engine that has `Resend`."""
SIGNALS_SINCE = 2
"""The first version of a relay that takes `encode_signal`."""

Name = str
"""Text that may have any character in it: on the line it is hexadecimal, `-` if it is empty."""
EncodedRoute = tuple[bytes, bytes]
"""An NLRI and its key. `NLRI:KEY` on the line, or `NLRI` if they are equal."""
Attributes = tuple[bytes | None, bytes | None]
"""Path attributes for iBGP and for eBGP neighbours, `IBGP/EBGP` on the line; None, `-`, where there is no neighbour of
that kind. They lack NEXT_HOP, MP_REACH_NLRI and MP_UNREACH_NLRI, which the engine adds."""


class Malformed(ValueError):
    """A line that breaks the protocol; the text says what is wrong."""


# --- commands ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Command:
    """One line to the engine. `peers`: the addresses of the neighbours that it is for, none of them: for all."""

    verb: ClassVar[str]
    peers: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class AskState(Command):
    """Answered by the event `EngineState`. The only command without a number."""

    verb = "state"


@dataclass(frozen=True, slots=True)
class Announce(Command):
    verb = "announce"
    family: str
    network: Name
    next_hop: str
    attributes: Attributes
    routes: tuple[EncodedRoute, ...]


@dataclass(frozen=True, slots=True)
class Withdraw(Command):
    verb = "withdraw"
    family: str
    routes: tuple[EncodedRoute, ...]


@dataclass(frozen=True, slots=True)
class Mark(Command):
    """Mark every route. `Keep`, `Spare` and a new announcement take the mark away; `Sweep` withdraws what has it."""

    verb = "mark"


@dataclass(frozen=True, slots=True)
class Keep(Command):
    verb = "keep"
    family: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Spare(Command):
    """Take the mark from all routes of these networks."""

    verb = "spare"
    networks: tuple[Name, ...]


@dataclass(frozen=True, slots=True)
class Sweep(Command):
    verb = "sweep"


@dataclass(frozen=True, slots=True)
class SendEndOfRib(Command):
    """Send End-of-RIB (RFC 4724) after what is queued now."""

    verb = "eor"
    family: str


@dataclass(frozen=True, slots=True)
class Listen(Command):
    """Whether the engine passes received UPDATEs on."""

    verb = "listen"
    wanted: bool


@dataclass(frozen=True, slots=True)
class Refresh(Command):
    """Ask established peers for all their routes of these families again (RFC 2918)."""

    verb = "refresh"
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resend(Command):
    """Send established peers all routes of these families again, as if they had asked for that (RFC 2918)."""

    verb = "resend"
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndSession(Command):
    """End the session with this NOTIFICATION."""

    verb = "end"
    code: int
    subcode: int


# --- events of the engine ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NeighborState:
    """One neighbour. `started`, `sent`, `acked`: numbers as in `Up`, `Sent` and `Acked`, -1 without a session. `since`:
    seconds of the epoch. `asn4`, `graceful`, `refresh` and `long_lived`: as in `Up`."""

    peer: str
    asn: int
    configured: tuple[str, ...]
    hold: int
    state: str
    since: float
    families: tuple[str, ...]
    sent: int
    acked: int
    started: int
    eor: tuple[str, ...]
    """Families whose End-of-RIB is in the socket."""
    ended: tuple[str, ...] = ()
    """Families whose End-of-RIB is acknowledged."""
    unreached: str = ""
    asn4: bool = True
    graceful: tuple[str, ...] = ()
    refresh: bool = False
    long_lived: dict[str, int] = field(default_factory=dict)
    sent_messages: dict[str, int] = field(default_factory=dict)
    """How many messages of each type were sent in this session: `update`, `keepalive` and so on."""
    received_messages: dict[str, int] = field(default_factory=dict)

    @property
    def up(self) -> bool:
        return self.started >= 0


@dataclass(frozen=True, slots=True)
class EngineState:
    """All that an agent needs to know when it connects. `seq`: of the newest command. `digest`: as in `Configured`."""

    protocol: int
    seq: int
    digest: str
    neighbors: tuple[NeighborState, ...]
    listening: bool = False


@dataclass(frozen=True, slots=True)
class Configured:
    """ExaBGP read its configuration again. `digest`: SHA-256 of the one in force. `error`: why it refused the new."""

    digest: str
    error: str


@dataclass(frozen=True, slots=True)
class Up:
    """A session is established. `seq`: of the newest command before it. `graceful`: families in the peer's graceful
    restart capability. `refresh`: whether the peer can be asked for its routes again. `long_lived`: the families in its
    capability of RFC 9494, with the stale time in seconds. `asn`: the peer's, 0 if it is not told."""

    peer: str
    families: tuple[str, ...]
    seq: int
    asn4: bool
    graceful: tuple[str, ...]
    refresh: bool
    long_lived: dict[str, int] = field(default_factory=dict)
    asn: int = 0


@dataclass(frozen=True, slots=True)
class Unreached:
    """No connection to the peer can be made. Told once for each new reason."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class OtherAs:
    """The peer's OPEN has this AS, which is not the configured one: the session ends."""

    peer: str
    asn: int


@dataclass(frozen=True, slots=True)
class Sent:
    """Everything up to this number is in the socket of this session."""

    peer: str
    seq: int


@dataclass(frozen=True, slots=True)
class Acked:
    """The peer's TCP has acknowledged everything up to this number."""

    peer: str
    seq: int


@dataclass(frozen=True, slots=True)
class EndOfRibSent:
    """End-of-RIB of this family is in the socket."""

    peer: str
    family: str


@dataclass(frozen=True, slots=True)
class EndOfRibAcked:
    """The peer's TCP has acknowledged End-of-RIB of this family."""

    peer: str
    family: str


@dataclass(frozen=True, slots=True)
class UpdateReceived:
    """An UPDATE from the peer, without the message header. Told only after `Listen(True)`."""

    peer: str
    octets: bytes


@dataclass(frozen=True, slots=True)
class ToldAll:
    """The peer has told all its routes of a family: in a new session, or as the answer to `Refresh`.

    The peer marks the end itself: by End-of-RIB in a new session (RFC 4724), by a marker after a refresh (RFC 7313). If
    it negotiated neither, a few seconds without a route are taken for the end.
    """

    peer: str
    family: str


# --- events of the relay, and of every ExaBGP ----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The relay's first line. `up`: the established sessions, with their families. `down`: peers whose session ended.
    `lost`: how many lines ExaBGP wrote while no agent was connected."""

    version: int
    up: dict[str, tuple[str, ...]]
    down: tuple[str, ...]
    lost: int


@dataclass(frozen=True, slots=True)
class Negotiated:
    """The families that a session has."""

    peer: str
    families: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """ExaBGP tells that a session came up or ended."""

    peer: str
    up: bool
    asn: int
    reason: str


@dataclass(frozen=True, slots=True)
class FsmChanged:
    """ExaBGP tells the new state of a session, in capital letters: `IDLE` to `ESTABLISHED`."""

    peer: str
    state: str


@dataclass(frozen=True, slots=True)
class Answer:
    """ExaBGP has done, or refused, the oldest command that was not answered yet."""

    done: bool


Progress = Sent | Acked | EndOfRibSent | EndOfRibAcked
EngineEvent = EngineState | Configured | Up | Unreached | OtherAs | Progress | UpdateReceived | ToldAll
RelayEvent = Hello | Negotiated
SessionEvent = Up | Unreached | OtherAs | Progress | SessionChanged | FsmChanged
Event = EngineEvent | RelayEvent | SessionChanged | FsmChanged | Answer

COMMANDS: dict[str, type[Command]] = {
    kind.verb: kind
    for kind in (
        AskState,
        Announce,
        Withdraw,
        Mark,
        Keep,
        Spare,
        Sweep,
        SendEndOfRib,
        Listen,
        Refresh,
        Resend,
        EndSession,
    )
}
EVENTS: dict[str, type[Any]] = {
    "state": EngineState,
    "configured": Configured,
    "up": Up,
    "unreached": Unreached,
    "as": OtherAs,
    "sent": Sent,
    "acked": Acked,
    "eor": EndOfRibSent,
    "ended": EndOfRibAcked,
    "update": UpdateReceived,
    "told": ToldAll,
}
_KINDS = {kind: name for name, kind in EVENTS.items()}


# --- lines of commands ---------------------------------------------------------------------------


def encode_command(command: Command, number: int) -> str:
    """The line without its end."""
    words = [f"neighbor {','.join(command.peers)} bgpcni" if command.peers else "bgpcni", command.verb]
    if not isinstance(command, AskState):
        words.append(str(number))
    for name, to_words, _ in _FIELDS[type(command)]:
        words += to_words(getattr(command, name))
    return " ".join(words)


def decode_command(line: str) -> tuple[int, Command]:
    """Number and command; the number of `AskState` is 0. Raises Malformed."""
    words = line.split(" ")
    words.reverse()  # they are taken from the end
    peers: tuple[str, ...] = ()
    if words[-1] == "neighbor":
        words.pop()
        peers = tuple(_word(words, "the address of the neighbour").split(","))
    if _word(words, "bgpcni") != "bgpcni" or (kind := COMMANDS.get(_word(words, "the verb"))) is None:
        raise Malformed(f"no such command: {line[:80]!r}")
    try:
        number = 0 if kind is AskState else _number(words, "the number")
        values = [from_words(words, name) for name, _, from_words in _FIELDS[kind]]
        if words:
            raise Malformed(f"there is more than a command: {words[-1][:40]!r}")
    except Malformed as error:
        raise Malformed(f"{kind.verb}: {error}") from None
    return number, kind(*values, peers=peers)


def _word(words: list[str], name: str) -> str:
    if not words:
        raise Malformed(f"{name} is missing")
    return words.pop()


def _number(words: list[str], name: str) -> int:
    word = _word(words, name)
    if not (word.isascii() and word.isdigit()):
        raise Malformed(f"{name} is not a number: {word[:40]!r}")
    return int(word)


def _yes_or_no(words: list[str], name: str) -> bool:
    word = _word(words, name)
    if word not in ("yes", "no"):
        raise Malformed(f"{name} is neither yes nor no: {word[:40]!r}")
    return word == "yes"


def _octets(word: str, name: str) -> bytes:
    try:
        return bytes.fromhex(word)
    except ValueError:
        raise Malformed(f"{name}: not hexadecimal: {word[:40]!r}") from None


def _hidden(name: str) -> str:
    return name.encode("utf-8", "surrogatepass").hex() or "-"


def _shown(word: str, name: str) -> str:
    try:
        return "" if word == "-" else _octets(word, name).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise Malformed(f"{name}: not UTF-8: {word[:40]!r}") from None


def _attributes(words: list[str], name: str) -> Attributes:
    found = _word(words, name).split("/")
    if len(found) != 2:
        raise Malformed(f"{name}: not IBGP/EBGP: {'/'.join(found)[:40]!r}")
    ibgp, ebgp = (None if word == "-" else _octets(word, name) for word in found)
    return ibgp, ebgp


def _routes(words: list[str], name: str) -> tuple[EncodedRoute, ...]:
    found = []
    for word in _rest(words):
        text, _, key = word.partition(":")
        try:
            nlri = bytes.fromhex(text)
            found.append((nlri, bytes.fromhex(key) if key else nlri))
        except ValueError:
            raise Malformed(f"{name}: neither NLRI nor NLRI:KEY in hexadecimal: {word[:40]!r}") from None
    return tuple(found)


def _rest(words: list[str]) -> list[str]:
    taken = words[::-1]
    words.clear()
    return taken


_WORDS: dict[str, tuple[Callable[[Any], Iterable[str]], Callable[[list[str], str], Any]]] = {
    "str": (lambda value: (value,), _word),
    "int": (lambda value: (str(value),), _number),
    "bool": (lambda value: ("yes" if value else "no",), _yes_or_no),
    "Name": (lambda value: (_hidden(value),), lambda words, name: _shown(_word(words, name), name)),
    "Attributes": (lambda value: ("/".join("-" if o is None else o.hex() for o in value),), _attributes),
    "tuple[EncodedRoute, ...]": (
        lambda value: [nlri.hex() if nlri == key else f"{nlri.hex()}:{key.hex()}" for nlri, key in value],
        _routes,
    ),
    "tuple[bytes, ...]": (
        lambda value: [octets.hex() for octets in value],
        lambda words, name: tuple(_octets(word, name) for word in _rest(words)),
    ),
    "tuple[Name, ...]": (
        lambda value: map(_hidden, value),
        lambda words, name: tuple(_shown(word, name) for word in _rest(words)),
    ),
    "tuple[str, ...]": (lambda value: value, lambda words, name: tuple(_rest(words))),
}
"""How the fields of commands are written, by their type: to words, and from words, which it takes. A tuple takes the
rest of the line, so it comes last."""
_FIELDS = {
    kind: [(one.name, *_WORDS[str(one.type)]) for one in fields(kind) if one.name != "peers"]
    for kind in COMMANDS.values()
}


_SIGNAL = "relay signal "
SIGNALS = frozenset({signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL})
"""Those that a relay passes on: reload, end in order, end at once."""


def encode_signal(number: int) -> bytes:
    """A line by which the relay sends ExaBGP a signal. It has no number, and is not answered."""
    return f"{_SIGNAL}{int(number)}\n".encode()


def decode_signal(line: bytes) -> int | None:
    """The signal that the relay is to send; None if this is a line for ExaBGP, 0 if there is no such signal."""
    if not line.startswith(_SIGNAL.encode()):
        return None
    word = line[len(_SIGNAL) :].strip()
    return int(word) if word.isdigit() and int(word) in SIGNALS else 0


# --- lines of events -----------------------------------------------------------------------------


def encode_event(event: EngineEvent | RelayEvent) -> str:
    """The line without its end."""
    if isinstance(event, Hello | Negotiated):
        return json.dumps({"relay": _object(event)})
    return json.dumps({"bgpcni": _KINDS[type(event)], **_object(event)})


def decode_event(line: bytes) -> Event | None:
    """The event, None if it is none that is known here. Raises Malformed."""
    if line in (b"done", b"error"):
        return Answer(line == b"done")
    try:
        found = json.loads(line)
    except ValueError:
        return None  # some of what ExaBGP itself writes is no JSON
    if not isinstance(found, dict):
        return None
    if "bgpcni" in found:
        kind, what = EVENTS.get(str(found["bgpcni"])), f"event {found['bgpcni']}"
    elif "relay" in found:
        found = found["relay"] if isinstance(found["relay"], dict) else {}
        kind, what = Hello if "version" in found else Negotiated, "event of the relay"
    else:
        return _stock_event(found)
    event: Event | None = _from_json(kind, found, what) if kind is not None else None
    return event


def _stock_event(found: dict[str, Any]) -> SessionChanged | FsmChanged | None:
    try:
        neighbor = found["neighbor"]
        peer, state = str(neighbor["address"]["peer"]), str(neighbor["state"])
        if found["type"] == "state" and state in ("up", "down"):
            asn = int(neighbor.get("asn", {}).get("peer", 0))
            return SessionChanged(peer, state == "up", asn, str(neighbor.get("reason", "")))
        return FsmChanged(peer, state) if found["type"] == "fsm" else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_to_json(one) for one in value]
    return _object(value) if isinstance(value, NeighborState) else value


def _object(value: Any) -> dict[str, Any]:
    return {one.name: _to_json(getattr(value, one.name)) for one in fields(value)}


def _from_json(kind: type[Any], found: dict[str, Any], what: str) -> Any:
    values = {}
    for one in fields(kind):
        if one.name in found:
            try:
                values[one.name] = _VALUES[str(one.type)](found[one.name])
            except (TypeError, ValueError) as error:
                raise Malformed(f"{what}: {one.name}: {error}") from None
        elif one.default is MISSING and one.default_factory is MISSING:
            raise Malformed(f"{what}: {one.name} is missing")
    return kind(**values)


def _of(*types: type) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if type(value) not in types:
            raise TypeError(f"{value!r:.40} is not {types[0].__name__}")
        return value

    return check


_text = _of(str)
_texts: Callable[[Any], tuple[str, ...]] = lambda value: tuple(map(_text, _of(list)(value)))  # noqa: E731
_VALUES: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "int": _of(int),
    "float": _of(float, int),
    "bool": _of(bool),
    "bytes": lambda value: bytes.fromhex(_text(value)),
    "tuple[str, ...]": _texts,
    "tuple[NeighborState, ...]": lambda value: tuple(
        _from_json(NeighborState, _of(dict)(one), "neighbour") for one in _of(list)(value)
    ),
    "dict[str, int]": lambda value: {_text(name): _of(int)(number) for name, number in _of(dict)(value).items()},
    "dict[str, tuple[str, ...]]": lambda value: {
        _text(peer): _texts(names) for peer, names in _of(dict)(value).items()
    },
}
"""How the fields of events are read from JSON, by their type."""
