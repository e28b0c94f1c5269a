"""What happened in a storm, and what of it must not be. Pure.

Times are seconds on one clock. An answer is known from its `end` on; what was going on before it is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from itertools import combinations

FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class Call:
    """One ADD or DEL. `error`: None where it succeeded; `ips`: what an ADD gave."""

    command: str
    node: str
    container: str
    begin: float
    end: float
    ips: tuple[str, ...] = ()
    error: int | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class Death:
    """A node and its containers ended. `declared`: when its object was deleted, which asserts that it is dead."""

    node: str
    at: float
    declared: float = FOREVER


@dataclass(frozen=True, slots=True)
class Outage:
    """From `begin` to `end` this node could not ask the store."""

    node: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Ending:
    """What there is at the end, when nothing fails any more. Addresses are without a length.

    `blocks`: owner by block; `leases`: container by address, of each node; `routes`: next hops by address, at the peer.
    """

    nodes: Mapping[str, str] = field(default_factory=dict)
    """The next hop of each node that lives."""
    blocks: Mapping[str, str] = field(default_factory=dict)
    leases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    routes: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class History:
    """`room`: addresses for containers in one block; `patience`: seconds until an address of an ended container is
    free again while its peers hear of it."""

    calls: Sequence[Call]
    deaths: Sequence[Death] = ()
    outages: Sequence[Outage] = ()
    ending: Ending = Ending()
    room: int = 60
    patience: float = 10.0


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when a container certainly had an address."""

    address: str
    node: str
    container: str
    begin: float
    end: float


def contradictions(history: History) -> list[str]:
    """Everything in it that must not be, in sentences."""
    return [*_twice(history), *_refused_in_vain(history), *_left_over(history)]


def lives(history: History) -> list[Life]:
    """An address is a container's from the answer of its ADD to the call of its DEL, or to its node's end."""
    found = []
    ends = {death.node: min(death.at, death.declared) for death in history.deaths}
    gone = defaultdict(list)
    for call in history.calls:
        if call.command == "DEL":
            gone[call.node, call.container].append(call.begin)
    for call in history.calls:
        if call.command == "ADD" and call.error is None:
            later = [at for at in gone[call.node, call.container] if at >= call.end]
            end = min([*later, ends.get(call.node, FOREVER) if call.end <= ends.get(call.node, 0) else FOREVER])
            found += [Life(ip, call.node, call.container, call.end, end) for ip in call.ips]
    return found


def _twice(history: History) -> Iterator[str]:
    """No address is ever two living containers'."""
    by_address = defaultdict(list)
    for life in lives(history):
        by_address[str(ip_address(life.address))].append(life)
    for address, owners in by_address.items():
        for one, other in combinations(owners, 2):
            if max(one.begin, other.begin) < min(one.end, other.end):
                yield (
                    f"{address} was {one.container}'s on {one.node} and {other.container}'s on {other.node} at"
                    f" {max(one.begin, other.begin):.3f}"
                )


def _refused_in_vain(history: History) -> Iterator[str]:
    """No ADD fails while a block has room, whatever happens to the store; without an outage none fails at all."""
    deaths = {death.node: death.at for death in history.deaths}
    for call in history.calls:
        if call.command != "ADD" or call.error is None or call.end >= deaths.get(call.node, FOREVER):
            continue
        away = any(o.node == call.node and o.begin <= call.end and call.begin <= o.end for o in history.outages)
        said = f"ADD of {call.container} on {call.node} failed at {call.end:.3f} (error {call.error}: {call.message})"
        if not away:
            yield f"{said}, and the store could be asked"
        elif _had_a_block(history, call) and (used := _used(history, call)) < history.room:
            yield f"{said}, and {used} of {history.room} addresses of a block can have been in use"


def _had_a_block(history: History, failed: Call) -> bool:
    return any(
        c.command == "ADD" and c.error is None and c.node == failed.node and c.end < failed.begin for c in history.calls
    )


def _used(history: History, failed: Call) -> int:
    """How many addresses of its node can have been in use at most."""
    over = {
        (c.node, c.container, c.end) for c in history.calls
        if c.command == "DEL" and c.error is None and c.end + history.patience < failed.begin
    }  # fmt: skip
    used = 0
    for call in history.calls:
        if call.command == "ADD" and call.node == failed.node and call.begin < failed.end and call is not failed:
            ended = any(n == call.node and c == call.container and end > call.begin for n, c, end in over)
            used += call.error is None and not ended
    return used


def _left_over(history: History) -> Iterator[str]:
    """At the end blocks, leases, routes and containers agree."""
    ending = history.ending
    if not ending.nodes:
        return
    living = {(life.node, str(ip_address(life.address))): life.container for life in lives(history)
              if life.end == FOREVER and life.node in ending.nodes}  # fmt: skip
    blocks = {ip_network(cidr): node for cidr, node in ending.blocks.items()}
    for one, other in combinations(blocks, 2):
        if one.version == other.version and one.overlaps(other):
            yield f"the blocks {one} of {blocks[one]} and {other} of {blocks[other]} overlap"
    for block, node in blocks.items():
        if node not in ending.nodes:
            yield f"the block {block} is {node}'s, which is no node any more"
    leases = {(node, str(ip_address(ip))): owner for node, its in ending.leases.items() for ip, owner in its.items()}
    for (node, ip), owner in leases.items():
        if (node, ip) not in living:
            yield f"{node} keeps {ip} for {owner}, which has ended"
        elif living[node, ip] != owner:
            yield f"{node} keeps {ip} for {owner}, and it is {living[node, ip]}'s"
        if not any(ip_address(ip) in block for block, its in blocks.items() if its == node):
            yield f"{node} keeps {ip} for {owner}, and no block of it has that address"
    for (node, ip), container in living.items():
        if (node, ip) not in leases:
            yield f"{container} on {node} lives with {ip}, of which no lease is left"
        hops = ending.routes.get(ip, frozenset())
        if hops != {ending.nodes[node]}:
            yield f"{ip} of {container} on {node} is routed to {', '.join(sorted(hops)) or 'nobody'}"
    addresses = {ip for _, ip in living}
    for ip in ending.routes:
        if ip not in addresses:
            yield f"{ip} is routed to {', '.join(sorted(ending.routes[ip]))}, and no container has it"
