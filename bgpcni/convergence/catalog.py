"""Exporters by name: loads them through stevedore from the entry-point group `bgpcni.exporters`, checks and configures
them.

A broken exporter is an error only for a network or an agent.toml that names it.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError

from bgpcni import extensions
from bgpcni.config.network import describe
from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import CONTRACT, Exporter, Wake
from bgpcni.model import ExporterUse, Family, NodeFacts

GROUP = "bgpcni.exporters"
R = TypeVar("R")
log = logging.getLogger(__name__)


@cache
def load(kind: str) -> type[Exporter]:
    """The exporter class of a type. Raises InvalidConfiguration: it is not installed (names those that are), or broken,
    or of another contract."""
    try:
        found = extensions.load(GROUP, kind)
    except extensions.NotInstalled as error:
        raise InvalidConfiguration(f"exporters: {kind!r} is not installed; installed: {error.known}") from None
    except (Exception, SystemExit) as error:  # importing an exporter may raise anything
        raise InvalidConfiguration(f"exporters: {kind!r} cannot be loaded: {_words(error)}") from error
    if reason := unfit(found):
        raise InvalidConfiguration(f"exporters: {kind!r} {reason}")
    return cast(type[Exporter], found)


def unfit(found: object) -> str:
    """Why we cannot use this class as an exporter; "" if we can."""
    if not (isinstance(found, type) and issubclass(found, Exporter)):
        return "is not an Exporter class"
    contract = getattr(found, "contract", None)
    if contract is None:
        return f"does not say which contract it is written for; this is contract {CONTRACT}"
    if contract != CONTRACT:
        return f"is written for contract {contract}, this is contract {CONTRACT}"
    if found.__abstractmethods__:
        return f"lacks {', '.join(sorted(found.__abstractmethods__))}"
    families = getattr(found, "families", None)
    if not isinstance(families, frozenset) or not all(isinstance(family, Family) for family in families):
        return "does not say which families it can announce"
    if not (isinstance(found.Config, type) and issubclass(found.Config, BaseModel)):
        return "has a Config that is not a pydantic model"
    return ""


def make(use: ExporterUse, node: NodeFacts, wake: Wake) -> Exporter:
    """Make an exporter. Raises InvalidConfiguration, also for whatever its own code raises."""
    facts = node_of(use, node)
    return _asked(use, f"exporters.{use.name}", "made", lambda kind, config: kind(use.name, config, facts, wake))


def objection(use: ExporterUse, node: NodeFacts, place: str) -> str | None:
    """Why this exporter cannot be used on this node; None if it can. Raises InvalidConfiguration as `load` does."""
    return _asked(use, place, "checked", lambda kind, config: kind.check(config, node))


def source(use: ExporterUse, local_address: str | None) -> str | None:
    """The address of its own sessions with `[[bgp.neighbors]]`, None if it has none. `local_address`: `[bgp]`'s.

    Raises InvalidConfiguration as `load` does.
    """
    return _asked(
        use, f"exporters.{use.name}", "asked for its address", lambda k, config: k.source(config, local_address or "")
    )


def node_of(use: ExporterUse, node: NodeFacts) -> NodeFacts:
    """The node as one exporter sees it: with its own address and neighbours. Raises InvalidConfiguration."""
    address = source(use, node.local_address)
    if address is None:
        return replace(node, neighbors=())
    names = (use.name, None) if not node.speakers or use.name in node.speakers else (use.name,)
    neighbors = tuple(neighbor for neighbor in node.neighbors if neighbor.exporter in names)
    return replace(node, local_address=address or None, neighbors=neighbors)


def owned(use: ExporterUse, node: NodeFacts) -> frozenset[str]:
    """What this exporter has to itself on this node, in words. Raises InvalidConfiguration as `load` does."""
    what = _asked(use, f"exporters.{use.name}", "asked what it owns", lambda kind, config: kind.owns(config))
    mine = node_of(use, node)
    sessions = (f"the session between {n.local_address or mine.local_address} and {n.address}" for n in mine.neighbors)
    return frozenset([*sessions, *filter(None, [what])])


def refuse_rivals(
    uses: Iterable[ExporterUse], node: NodeFacts, before: Iterable[tuple[ExporterUse, NodeFacts]] = ()
) -> None:
    """Raises InvalidConfiguration where two of them would own the same; those that are broken own nothing.

    `before`: exporters that are at work until these have taken over, each with the node as it is for them.
    """
    owners: dict[tuple[str, str], ExporterUse] = {}
    for use, facts in (*before, *((use, node) for use in uses)):
        try:
            own = owned(use, facts)
        except InvalidConfiguration:
            continue
        for what in sorted(own):
            other = owners.setdefault((use.type, what), use)
            if other != use:
                earlier = " as it was before" if other.name == use.name else ""
                raise InvalidConfiguration(f"exporters: {use.name} and {other.name}{earlier} would both own {what}")


def _asked(use: ExporterUse, place: str, what: str, ask: Callable[[type[Exporter], BaseModel], R]) -> R:
    """What the class of an exporter answers for its configuration. Raises InvalidConfiguration as `load` does."""
    kind, config = load(use.type), configure(use, place)
    try:
        return ask(kind, config)
    except Exception as error:  # an exporter's defect is its own
        raise InvalidConfiguration(f"exporters: {use.name!r} cannot be {what}: {_words(error)}") from error


def counterpart(
    use: ExporterUse, known: Iterable[ExporterUse], node: NodeFacts, beside: Iterable[ExporterUse] = ()
) -> ExporterUse:
    """The one of `known` that has the same speaker; `use` itself, where none or several have.

    What makes a speaker the same is its type, and its configuration or the address of its sessions; a name is only what
    the operator calls it. So a name that changed is no hand-over, in which the one would have to announce before the
    other withdraws. `beside`: others that are certainly not the same, since both were used at once.
    """
    known, beside = list(known), list(beside)
    if use in known:
        return use
    same = [other for other in known if _is_same(use, other, node, beside=other in beside)]
    return same[0] if len(same) == 1 else use


def counterparts(uses: Iterable[ExporterUse], known: Iterable[ExporterUse], node: NodeFacts) -> tuple[ExporterUse, ...]:
    """The exporters of a record by the names that they have among `known`, each once: two may have one speaker now."""
    uses, known, found = list(uses), list(known), list[ExporterUse]()
    for use in uses:
        if (now := counterpart(use, known, node, uses)) not in found:
            found.append(now)
    return tuple(found)


def _is_same(one: ExporterUse, other: ExporterUse, node: NodeFacts, *, beside: bool) -> bool:
    """Whether two names are for one speaker that it has to itself: its sessions, or what its configuration leads to.

    Two that are `beside` each other may have sessions from one address, and are two speakers then.
    """
    if one.type != other.type:
        return False
    try:
        if (address := source(other, node.local_address)) is not None:
            return not beside and address == source(one, node.local_address)
        place = f"exporters.{other.name}"
        return bool(owned(other, node)) and configure(one, place) == configure(other, place)
    except InvalidConfiguration:
        return False


def are_one(one: ExporterUse, node: NodeFacts, other: ExporterUse, others_node: NodeFacts) -> bool:
    """Whether two names are for one speaker, since they would own the same. Each is given the node as it is for it."""
    if one.type != other.type:
        return False
    try:
        return _is_same(one, other, node, beside=False) and bool(owned(one, node) & owned(other, others_node))
    except InvalidConfiguration:
        return False


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def configure(use: ExporterUse, place: str) -> BaseModel:
    """The exporter's own configuration, validated by its model. `place`: for errors, `exporters[0]`."""
    model = load(use.type).Config
    try:
        return model.model_validate(use.config)
    except ValidationError as error:
        raise InvalidConfiguration(describe(error, place, model)) from None


def identify(kind: str, options: dict[str, object], name: str | None) -> ExporterUse:
    """An exporter as a network configuration defines it; equal options share one instance.

    With a name or options, its name ends in a digest of type and options. So a network configuration can take neither
    the name of an exporter in agent.toml nor that of another network's exporter with other options.
    """
    if name is None and not options:
        return ExporterUse(name=kind, type=kind)
    text = json.dumps([kind, options], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return ExporterUse(name=f"{name or kind}-{digest}", type=kind, config=options)
