"""Tells whether this node's firewall lets a packet through, by reading its forward chains and following their rules.

It reads nf_tables (and so iptables-nft) and the tables of the older iptables, and has both in the form of
libnftables-json(5). A condition that is not known here may be true or false: a packet counts as dropped only if every
way through the chains drops it. This is for operators' questions; no ADD needs it.
"""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bgpcni.errors import KernelRefused
from bgpcni.ip import ip_address, ip_network
from bgpcni.kernel import nftables

log = logging.getLogger(__name__)

Rule = Sequence[Mapping[str, Any]]
"""The expressions of one rule."""
_MOST = 64
"""How many chains are followed for one question. What comes after them counts as unknown."""
_ALL = frozenset({"accept", "drop"})
_END = "return"
_NEXT = "next"
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that is forwarded by the node. None: unknown. `state`: that of conntrack."""

    version: int
    state: str
    iif: str | None = None
    oif: str | None = None
    saddr: str | None = None
    daddr: str | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """A chain at the forward hook. `words`: where it is, for people."""

    name: str
    version: int
    """4, 6, or 0 for both."""
    policy: str
    rules: Callable[[str], Sequence[Rule] | None]
    """The rules of a chain of the same table, None if they are not known."""
    words: str


def dropped(packet: Packet, bases: Iterable[Base]) -> str:
    """The chain that certainly drops this packet, "" if the packet may pass."""
    for base in bases:
        if base.version not in (0, packet.version):
            continue
        try:
            outcomes = _walk(base, base.name, packet, [0])
        except (KernelRefused, ValueError, LookupError, TypeError) as error:  # a kind of rule that we do not know
            log.warning("%s cannot be read: %r", base.words, error)
            continue
        if _END in outcomes:
            outcomes = outcomes - {_END} | {base.policy}
        if outcomes == {"drop"}:
            return f"{base.words} (policy {base.policy})"
    return ""


def chains() -> list[Base]:
    """The node's forward chains. Their rules are read when they are needed. Empty if nothing filters."""
    try:
        return [*_nf_tables(), *_x_tables()]
    except (KernelRefused, ValueError, LookupError, TypeError) as error:
        log.warning("the firewall cannot be read: %s", error)
        return []


# ---------------------------------------------------------------- following


def _walk(base: Base, chain: str, packet: Packet, visited: list[int]) -> frozenset[str]:
    """What may become of the packet in a chain: accept, drop, or the end of the chain (`return`)."""
    visited[0] += 1
    rules = base.rules(chain) if visited[0] <= _MOST else None
    if rules is None:
        return _ALL | {_END}
    found: frozenset[str] = frozenset()
    for rule in rules:
        outcomes = _rule(base, rule, packet, visited)
        found |= outcomes - {_NEXT}
        if _NEXT not in outcomes:
            return found
    return found | {_END}


def _rule(base: Base, rule: Rule, packet: Packet, visited: list[int]) -> frozenset[str]:
    sure = True
    for expression in rule:
        (kind, what), *_ = expression.items()
        matched: bool | None = True
        if kind == "match":
            matched = _match(what, packet)
        elif kind == "xt" and what.get("type") == "match":
            matched = True if what.get("name") == "comment" else None
        elif kind in ("limit", "quota", "connlimit", "unknown"):
            matched = None
        elif (outcomes := _verdict(base, kind, what, packet, visited)) is not None:
            return outcomes if sure else outcomes | {_NEXT}
        if matched is False:
            return frozenset({_NEXT})
        sure = sure and matched is True
    return frozenset({_NEXT})


def _verdict(base: Base, kind: str, what: Any, packet: Packet, visited: list[int]) -> frozenset[str] | None:
    """What a statement does with the packet; None: it goes on to the next one of the rule."""
    if kind in ("accept", "drop", _END):
        return frozenset({kind})
    if kind == "reject" or (kind == "xt" and what.get("name") == "REJECT"):
        return frozenset({"drop"})
    if kind == "queue":
        return _ALL | {_NEXT}
    if kind == "jump":
        outcomes = _walk(base, what["target"], packet, visited)
        return outcomes - {_END} | {_NEXT} if _END in outcomes else outcomes
    if kind == "goto":
        return _walk(base, what["target"], packet, visited)
    if kind == "vmap":
        return _mapped(base, what, packet, visited)
    return None


def _mapped(base: Base, what: Mapping[str, Any], packet: Packet, visited: list[int]) -> frozenset[str]:
    """A verdict map: the first key that matches the packet decides."""
    data = what.get("data")
    if not isinstance(data, Mapping) or "set" not in data:
        return _ALL | {_END, _NEXT}  # a named one: not read
    found: frozenset[str] = frozenset()
    for key, verdict in data["set"]:
        matched = _match({"op": "==", "left": what["key"], "right": key}, packet)
        if matched is False:
            continue
        (kind, target), *_ = verdict.items()
        found |= _verdict(base, kind, target, packet, visited) or frozenset({_NEXT})
        if matched:
            return found
    return found | {_NEXT}


def _match(what: Mapping[str, Any], packet: Packet) -> bool | None:
    """Whether the packet matches, None if that is not known."""
    left, right = what["left"], what["right"]
    if not isinstance(left, Mapping):
        return None
    found: bool | None = None
    if "meta" in left:
        key = left["meta"]["key"]
        if key in ("iif", "iifname", "oif", "oifname"):
            found = _any(right, lambda item: _is_link(packet.iif if key[0] == "i" else packet.oif, item))
        elif key == "nfproto":
            found = _any(right, lambda item: item == f"ipv{packet.version}")
    elif "ct" in left and left["ct"].get("key") == "state":
        found = _any(right, lambda item: item == packet.state)
    elif "payload" in left and left["payload"].get("field") in ("saddr", "daddr"):
        protocol = left["payload"].get("protocol")
        if protocol not in ("ip", "ip6"):
            return None
        if protocol != ("ip" if packet.version == 4 else "ip6"):
            return False
        address = packet.saddr if left["payload"]["field"] == "saddr" else packet.daddr
        found = _any(right, lambda item: _is_in(address, item))
    return found if found is None or what["op"] != "!=" else not found


def _any(right: Any, same: Callable[[Any], bool | None]) -> bool | None:
    """Whether one of the values on the right matches."""
    if isinstance(right, Mapping) and "set" in right:
        right = right["set"]
    answers = [same(item) for item in (right if isinstance(right, list) else [right])]
    if True in answers:
        return True
    return None if None in answers else False


def _is_link(name: str | None, wanted: Any) -> bool | None:
    if name is None or not isinstance(wanted, str) or wanted.startswith("@"):
        return None
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted


def _is_in(address: str | None, wanted: Any) -> bool | None:
    if address is None:
        return None
    try:
        if isinstance(wanted, Mapping) and "prefix" in wanted:
            prefix = wanted["prefix"]
            return ip_address(address) in ip_network(f"{prefix['addr']}/{prefix['len']}")
        if isinstance(wanted, Mapping) and "range" in wanted:
            first, last = map(ip_address, wanted["range"])
            return int(first) <= int(ip_address(address)) <= int(last)
        return ip_address(address) == ip_address(wanted)
    except (ValueError, TypeError, KeyError):
        return None  # a named set, a name


# ---------------------------------------------------------------- nf_tables

_STATE = re.compile(r"ct state (!= )?([a-z,]+)")
_HANDLE = re.compile(r"# handle (\d+)\s*$")


def _nf_tables() -> Iterator[Base]:
    for chain in nftables.listed("chains"):
        family = chain.get("family")
        if chain.get("hook") == "forward" and family in ("ip", "ip6", "inet"):
            table = chain["table"]
            yield Base(
                name=chain["name"],
                version={"ip": 4, "ip6": 6}.get(family, 0),
                policy=chain.get("policy", "accept"),
                rules=cache(lambda name, family=family, table=table: _nf_rules(family, table, name)),
                words=f"chain {chain['name']} of nftables' table {family} {table}",
            )


def _nf_rules(family: str, table: str, chain: str) -> Sequence[Rule] | None:
    found = nftables.listed("chain", family, table, chain, kind="rule")
    if not any(_is_state(expression) for rule in found for expression in rule.get("expr", ())):
        return [rule.get("expr", ()) for rule in found]
    states = {}  # nft's JSON leaves out what iptables' own extensions match, its text does not
    for line in nftables.text("-a", "list", "chain", family, table, chain).splitlines():
        if (handle := _HANDLE.search(line)) and (state := _STATE.search(line)):
            right = state[2].split(",")
            match = {"op": "!=" if state[1] else "in", "left": {"ct": {"key": "state"}}, "right": right}
            states[int(handle[1])] = {"match": match}
    return [
        [states.get(rule["handle"], each) if _is_state(each) else each for each in rule.get("expr", ())]
        for rule in found
    ]


def _is_state(expression: Mapping[str, Any]) -> bool:
    what = expression.get("xt")
    return isinstance(what, Mapping) and what.get("name") in ("conntrack", "state")


# ---------------------------------------------------------------- iptables' own tables


def _x_tables() -> Iterator[Base]:
    for version, names, program in (
        (4, "/proc/net/ip_tables_names", "iptables-legacy-save"),
        (6, "/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
    ):
        try:
            if "filter" not in Path(names).read_text().split():  # reading the table would make it
                continue
        except OSError:
            continue
        executable = shutil.which(program)
        if executable is None:
            continue
        try:
            done = subprocess.run(
                [executable, "-t", "filter"], capture_output=True, text=True, check=False, timeout=_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        policies, rules = parse_saved(done.stdout)
        if "FORWARD" in policies:
            yield Base("FORWARD", version, policies["FORWARD"], rules.get, f"chain FORWARD of {program[:-5]}")


def parse_saved(text: str) -> tuple[dict[str, str], dict[str, list[Rule]]]:
    """What iptables-save(8) prints: the policies of the built-in chains, and the rules of all, in nft's form."""
    policies: dict[str, str] = {}
    rules: dict[str, list[Rule]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy, *_ = line[1:].split()
            rules[name] = []
            if policy != "-":
                policies[name] = policy.lower()
        elif line.startswith("-A "):
            words = shlex.split(line)
            rules.setdefault(words[1], []).append(_saved_rule(words[2:]))
    return policies, rules


_LINKS = {"-i": "iifname", "-o": "oifname"}
_ADDRESSES = {"-s": "saddr", "-d": "daddr"}
_VERDICTS = {
    "ACCEPT": "accept",
    "DROP": "drop",
    "REJECT": "reject",
    "RETURN": _END,
    "QUEUE": "queue",
    "NFQUEUE": "queue",
}
_GO_ON = ("LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "TRACE", "CT", "SET", "CLASSIFY", "DSCP", "AUDIT")
_KNOWN_EXTENSIONS = ("comment", "conntrack", "state")


def _saved_rule(words: Sequence[str]) -> Rule:
    """One rule. What is not known here becomes `unknown`, which may match or not."""
    rule: list[Mapping[str, Any]] = []
    at, negated = 0, False
    while at < len(words):
        word, value = words[at], words[at + 1] if at + 1 < len(words) else ""
        at += 2
        op = "!=" if negated else "=="
        if word == "!":
            at, negated = at - 1, True
            continue
        if word in _LINKS:
            link = value[:-1] + "*" if value.endswith("+") else value
            rule.append({"match": {"op": op, "left": {"meta": {"key": _LINKS[word]}}, "right": link}})
        elif word in _ADDRESSES:
            address, _, length = value.partition("/")
            protocol = "ip6" if ":" in address else "ip"
            right = {"prefix": {"addr": address, "len": length}} if length else address
            left = {"payload": {"protocol": protocol, "field": _ADDRESSES[word]}}
            rule.append({"match": {"op": op, "left": left, "right": right}})
        elif word in ("--ctstate", "--state"):
            states = value.lower().split(",")
            rule.append({"match": {"op": op, "left": {"ct": {"key": "state"}}, "right": states}})
        elif word == "-j":
            if value in _VERDICTS:
                rule.append({_VERDICTS[value]: None})
            elif value not in _GO_ON:
                rule.append({"jump": {"target": value}})
            break  # what follows is the target's own
        elif word == "-g":
            rule.append({"goto": {"target": value}})
            break
        elif word == "--comment" or (word == "-m" and value in _KNOWN_EXTENSIONS):
            pass
        else:
            rule.append({"unknown": None})
            at -= bool(value.startswith("-"))  # an option that has no value
        negated = False
    return rule
