"""An L3VPN (RFC 4364) of a network that is in no VRF: its routes are imported for the control plane alone."""

from __future__ import annotations

from collections.abc import Collection

from bgpcni.dataplane.places.place import Place, Surroundings
from bgpcni.dataplane.program import Program
from bgpcni.dataplane.rib import VPN, VpnRule
from bgpcni.model import Attachment, AttachmentKey, Family


class VpnPlace(Place):
    """It has no entries in the kernel."""

    def __init__(self, name: str, around: Surroundings) -> None:
        self.name, self.around, self.program = name, around, Program()
        self._targets: dict[AttachmentKey, tuple[str, ...]] = {}

    @classmethod
    def of(cls, attachment: Attachment, around: Surroundings) -> VpnPlace | None:
        if attachment.bgp.family != "vpn" or attachment.bgp.table is not None:
            return None
        name = f"vpn {attachment.network}"
        known = around.places.get(name)
        return known if isinstance(known, VpnPlace) else cls(name, around)

    @property
    def used(self) -> bool:
        return bool(self._targets)

    @property
    def families(self) -> Collection[Family]:
        return VPN if any(self._targets.values()) else ()

    def attach(self, attachment: Attachment) -> None:
        self._targets[attachment.key] = attachment.bgp.import_rt
        self.configure()

    def detach(self, key: AttachmentKey) -> None:
        if self._targets.pop(key, None) is not None:
            self.configure()

    def configure(self) -> None:
        targets = frozenset(target for own in self._targets.values() for target in own)
        if targets:
            rule = VpnRule(targets, self.around.own, self.around.bounds)
            self.around.rib.configure(self.name, rule, self.around.bounds.maximum)
        else:
            self.around.rib.drop(self.name)

    def refresh(self) -> None:
        if table := self.around.rib.tables.get(self.name):
            table.changed.clear()
