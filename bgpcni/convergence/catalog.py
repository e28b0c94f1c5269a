"""Exporters by name: loaded through stevedore from the entry-point group `bgpcni.exporters`, checked, configured.

A broken exporter is an error in words for those who ask for it, and nobody else's (rule 8).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from pydantic import BaseModel, ValidationError

from bgpcni.config.network import describe
from bgpcni.errors import InvalidConfiguration
from bgpcni.exporter import CONTRACT, Exporter
from bgpcni.model import ExporterUse

GROUP = "bgpcni.exporters"
log = logging.getLogger(__name__)


def cache_in(run_dir: Path) -> None:
    """Keep stevedore's cache of entry points out of anybody's home. Before the first `load`."""
    os.environ["XDG_CACHE_HOME"] = str(run_dir / "cache")


def installed() -> list[str]:
    """The names that can be used, in order."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


@cache
def load(kind: str) -> type[Exporter]:
    """The exporter class of a type. Raises InvalidConfiguration: not installed (and what is), broken, too old."""
    from stevedore.driver import DriverManager
    from stevedore.exception import NoMatches

    try:
        found = DriverManager(GROUP, kind, invoke_on_load=False).driver
    except NoMatches:
        known = ", ".join(installed()) or "none"
        raise InvalidConfiguration(f"exporters: {kind!r} is not installed; installed: {known}") from None
    except Exception as error:  # an exporter's import may raise anything
        raise InvalidConfiguration(f"exporters: {kind!r} cannot be loaded: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Exporter)):
        raise InvalidConfiguration(f"exporters: {kind!r} is not an Exporter class")
    if found.contract != CONTRACT:
        raise InvalidConfiguration(
            f"exporters: {kind!r} is written for contract {found.contract}, this is contract {CONTRACT}"
        )
    return found


def configure(use: ExporterUse, place: str) -> BaseModel:
    """The exporter's own configuration, validated by its model. `place`: for errors, `exporters[0]`."""
    try:
        return load(use.type).Config.model_validate(use.config)
    except ValidationError as error:
        raise InvalidConfiguration(describe(error, place)) from None


def identify(kind: str, options: dict[str, object], name: str | None) -> ExporterUse:
    """The use of an exporter that a network configuration spells out; equal options share one instance.

    The name always ends in a digest of type and options: whoever writes a network configuration can neither take
    the name of an exporter of agent.toml, nor that of another network's with other options.
    """
    text = json.dumps([kind, options], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return ExporterUse(name=f"{name or kind}-{digest}", type=kind, config=options)
