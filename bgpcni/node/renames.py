"""Exporters that agent.toml has under another name now: the records follow, and nothing is withdrawn.

What owns a speaker is its type and configuration, and a name is only what the operator calls it. So a name that
changed is no hand-over, in which the one would have to announce before the other withdraws: it is the same speaker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from bgpcni.convergence import catalog
from bgpcni.errors import CniError, InvalidConfiguration
from bgpcni.model import ExporterUse
from bgpcni.store import Store

log = logging.getLogger(__name__)


def renamed(uses: Iterable[ExporterUse], configured: Sequence[ExporterUse]) -> tuple[ExporterUse, ...]:
    """The exporters of a record by the names that the configuration has for them, each once."""
    found: list[ExporterUse] = []
    for use in uses:
        successor = _successor(use, configured)
        if successor not in found:  # two may have one name: it was given to another speaker by a reload
            found.append(successor)
    return tuple(found)


def _successor(use: ExporterUse, configured: Sequence[ExporterUse]) -> ExporterUse:
    """The one of the configuration that this one is; itself, where that is not certain or it owns nothing."""
    if use in configured:
        return use
    same = [other for other in configured if _is_same(use, other)]
    return same[0] if len(same) == 1 else use


def _is_same(one: ExporterUse, other: ExporterUse) -> bool:
    """Whether two names are for one speaker that it has to itself, configured alike."""
    if one.type != other.type:
        return False
    try:
        place = f"exporters.{other.name}"
        return bool(catalog.owned(other)) and catalog.configure(one, place) == catalog.configure(other, place)
    except InvalidConfiguration:
        return False


def concerned(store: Store, configured: Sequence[ExporterUse]) -> bool:
    """Whether some record has an exporter by another name than the configuration."""
    return any(
        renamed(stored.attachment.exporters, configured) != stored.attachment.exporters
        for stored in store.all()
        if stored.attachment is not None
    )


def follow(store: Store, configured: Sequence[ExporterUse], seconds: float) -> None:
    """Write the names of now into every record that has others, before any exporter is told of one.

    One that cannot be written now, or that a call holds for longer than `seconds`, keeps its names on disk; the
    reconciler takes it by the names of now all the same.
    """
    for stored in store.all():
        if stored.attachment is None or renamed(stored.attachment.exporters, configured) == stored.attachment.exporters:
            continue
        key = stored.attachment.key
        try:
            with store.locked(key, seconds):
                again = store.find(key)
                if again is None or again.attachment is None:
                    continue
                names = renamed(again.attachment.exporters, configured)
                store.put(again.state, again.attachment.model_copy(update={"exporters": names}))
                called = ", ".join(use.name for use in names)
                log.info("%s: its exporters are called %s now", key, called, extra=key.fields)
        except CniError as error:
            log.warning("%s: its record keeps the old exporter names: %s", key, error.msg, extra=key.fields)
