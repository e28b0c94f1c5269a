"""Bridge and VNI are one to one on a node: who uses which, so that an ADD that would break this is refused.

Two networks may share both. In memory, filled from the records when first asked; no I/O but that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from bgpcni.errors import InvalidConfiguration
from bgpcni.model import Attachment, AttachmentKey


class Claims:
    """Safe for threads. `recorded` gives the attachments that are there, or on their way, at the first question."""

    def __init__(self, recorded: Callable[[], Iterable[Attachment]]) -> None:
        self._recorded: Callable[[], Iterable[Attachment]] | None = recorded
        self._lock = threading.Lock()
        self._claims: dict[AttachmentKey, tuple[str, int]] = {}
        self._bridges: dict[str, dict[AttachmentKey, int]] = {}
        self._vnis: dict[int, dict[AttachmentKey, str]] = {}

    def take(self, attachment: Attachment) -> None:
        """Claim bridge and VNI of an EVPN attachment. Raises InvalidConfiguration; again by the same: no change."""
        found = _claim(attachment)
        if found is None:
            return
        bridge, vni = found
        with self._lock:
            self._load(attachment.key)
            for key, other in self._bridges.get(bridge, {}).items():
                if other != vni and key != attachment.key:
                    raise InvalidConfiguration(
                        f"bgp.vni: bridge {bridge} carries VNI {other} for network {key.network} on this node, "
                        f"so it cannot carry {vni}: bridge and VNI are one to one"
                    )
            for key, name in self._vnis.get(vni, {}).items():
                if name != bridge and key != attachment.key:
                    raise InvalidConfiguration(
                        f"bgp.vni: VNI {vni} is on bridge {name} for network {key.network} on this node, "
                        f"so it cannot be on {bridge}: bridge and VNI are one to one"
                    )
            self._drop(attachment.key)
            self._put(attachment.key, bridge, vni)

    def drop(self, key: AttachmentKey) -> None:
        with self._lock:
            self._drop(key)

    def _load(self, asking: AttachmentKey) -> None:
        if self._recorded is None:
            return
        for attachment in self._recorded():
            if (found := _claim(attachment)) and attachment.key != asking:
                self._put(attachment.key, *found)
        self._recorded = None

    def _put(self, key: AttachmentKey, bridge: str, vni: int) -> None:
        self._claims[key] = (bridge, vni)
        self._bridges.setdefault(bridge, {})[key] = vni
        self._vnis.setdefault(vni, {})[key] = bridge

    def _drop(self, key: AttachmentKey) -> None:
        found = self._claims.pop(key, None)
        if found is not None:
            del self._bridges[found[0]][key], self._vnis[found[1]][key]


def _claim(attachment: Attachment) -> tuple[str, int] | None:
    if attachment.bgp.family != "evpn" or attachment.bgp.vni is None or not attachment.bridge:
        return None
    return attachment.bridge, attachment.bgp.vni
