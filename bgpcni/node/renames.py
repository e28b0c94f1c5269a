"""Exporters that agent.toml has renamed: the records get the new name, and nothing is withdrawn.

Type and configuration identify a speaker; the name is only the operator's label. So a changed name is the same
speaker, and not a hand-over in which one exporter has to announce before the other withdraws.
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
    """The exporters of a record, under the names that the configuration gives them, each once."""
    found: list[ExporterUse] = []
    for use in uses:
        successor = _successor(use, configured)
        if successor not in found:  # two may have one name, if a reload gave it to another speaker
            found.append(successor)
    return tuple(found)


def _successor(use: ExporterUse, configured: Sequence[ExporterUse]) -> ExporterUse:
    """The exporter of the configuration that is the same as `use`; `use` itself if that is uncertain or it owns
    nothing."""
    if use in configured:
        return use
    same = [other for other in configured if _is_same(use, other)]
    return same[0] if len(same) == 1 else use


def _is_same(one: ExporterUse, other: ExporterUse) -> bool:
    """Whether two names stand for one speaker: same configuration, and no other exporter may use that speaker."""
    if one.type != other.type:
        return False
    try:
        place = f"exporters.{other.name}"
        return bool(catalog.owned(other)) and catalog.configure(one, place) == catalog.configure(other, place)
    except InvalidConfiguration:
        return False


def concerned(store: Store, configured: Sequence[ExporterUse]) -> bool:
    """Whether a record names an exporter differently from the configuration."""
    return any(
        renamed(stored.attachment.exporters, configured) != stored.attachment.exporters
        for stored in store.all()
        if stored.attachment is not None
    )


def follow(store: Store, configured: Sequence[ExporterUse], seconds: float) -> None:
    """Write the present names into every record that has others, before any exporter is given its routes.

    A record that cannot be written now, or that a call holds for longer than `seconds`, keeps its names on disk; the
    reconciler uses the present names all the same.
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
                log.info("%s: its exporters are now called %s", key, ", ".join(use.name for use in names))
        except CniError as error:
            log.warning("%s: its record keeps the old names of its exporters: %s", key, error.msg)
