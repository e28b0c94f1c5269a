"""Exporters by name: loads them through stevedore from the entry-point group `bgpcni.exporters`, checks and configures
them.

A broken exporter is an error only for a network or an agent.toml that names it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ValidationError

from bgpcni.config.network import describe
from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import CONTRACT, Exporter, Wake
from bgpcni.model import ExporterUse, Family, NodeFacts

GROUP = "bgpcni.exporters"
log = logging.getLogger(__name__)


def cache_in(run_dir: Path) -> None:
    """Keep stevedore from writing its cache of entry points into a home directory. Call it before the first `load`."""
    os.environ["XDG_CACHE_HOME"] = str(run_dir / "cache")


def installed() -> list[str]:
    """The names of the installed exporters, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


@cache
def load(kind: str) -> type[Exporter]:
    """The exporter class of a type. Raises InvalidConfiguration: it is not installed (names those that are), or broken,
    or of another contract."""
    from stevedore.driver import DriverManager
    from stevedore.exception import NoMatches

    try:
        found = DriverManager(GROUP, kind, invoke_on_load=False).driver
    except NoMatches:
        known = ", ".join(installed()) or "none"
        raise InvalidConfiguration(f"exporters: {kind!r} is not installed; installed: {known}") from None
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
    kind = load(use.type)
    config = configure(use, f"exporters.{use.name}")
    try:
        return kind(use.name, config, node, wake)
    except Exception as error:  # an exporter's defect is its own
        raise InvalidConfiguration(f"exporters: {use.name!r} cannot be made: {_words(error)}") from error


def objection(use: ExporterUse, node: NodeFacts, place: str) -> str | None:
    """Why this exporter cannot be used on this node; None if it can. Raises InvalidConfiguration as `load` does."""
    kind, config = load(use.type), configure(use, place)
    try:
        return kind.check(config, node)
    except Exception as error:  # an exporter's defect is its own
        raise InvalidConfiguration(f"exporters: {use.name!r} cannot be checked: {_words(error)}") from error


def owned(use: ExporterUse) -> str:
    """What only this exporter may write to; "" if nothing. Raises InvalidConfiguration as `load` does."""
    kind, config = load(use.type), configure(use, f"exporters.{use.name}")
    try:
        return kind.owns(config)
    except Exception as error:  # an exporter's defect is its own
        raise InvalidConfiguration(f"exporters: {use.name!r} cannot be asked what it owns: {_words(error)}") from error


def refuse_rivals(uses: Iterable[ExporterUse]) -> None:
    """Raises InvalidConfiguration if two of them would own the same. A broken exporter owns nothing."""
    owners: dict[tuple[str, str], ExporterUse] = {}
    for use in uses:
        try:
            what = owned(use)
        except InvalidConfiguration:
            continue
        other = owners.setdefault((use.type, what), use) if what else use
        if other != use:
            before = " as it was before" if other.name == use.name else ""
            raise InvalidConfiguration(f"exporters: {use.name} and {other.name}{before} would both own {what}")


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
