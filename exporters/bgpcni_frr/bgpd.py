"""What FRR's bgpd makes of the kernel: its VNIs with their route targets, and what it announces of each."""

from __future__ import annotations

from dataclasses import dataclass

from bgpcni.exporter import NotThereYet
from bgpcni.model import Nlri
from bgpcni_frr.vty import Vty


@dataclass(frozen=True, slots=True)
class Vni:
    """A VNI as bgpd has it. `live`: its VXLAN device is there, else it is only configured."""

    rd: str
    imports: frozenset[str]
    exports: frozenset[str]
    live: bool


def vni(vty: Vty, number: int, deadline: float) -> Vni | None:
    """None: bgpd knows nothing of it. Raises NotThereYet."""
    found = vty.ask(f"show bgp l2vpn evpn vni {number}", deadline)
    if "vni" not in found:
        return None
    rd, imports, exports = found.get("rd"), found.get("importRts"), found.get("exportRts")
    if not isinstance(rd, str) or not isinstance(imports, list) or not isinstance(exports, list):
        raise NotThereYet(f"what bgpd says of VNI {number} cannot be understood")
    live = found.get("inKernel") == "True"
    return Vni(rd, frozenset(map(str, imports)), frozenset(map(str, exports)), live)


def takes_all(vty: Vty, deadline: float) -> bool:
    """Whether `advertise-all-vni` is set. Raises NotThereYet."""
    return vty.ask("show bgp l2vpn evpn vni", deadline).get("advertiseAllVnis") == "Enabled"


def announces(vty: Vty, of: Vni, nlri: Nlri, deadline: float) -> bool:
    """Whether bgpd announces this route of type 2 or 3, whose RD is FRR's own. Raises NotThereYet."""
    if nlri.kind == "multicast":
        found = vty.ask(f"show bgp l2vpn evpn route rd {of.rd} type multicast", deadline)
        inner = found.get(of.rd)
        return isinstance(inner, dict) and str(nlri).removeprefix(f"{nlri.rd}:") in inner
    address = f" ip {nlri.prefix.partition('/')[0]}" if nlri.prefix else ""
    return bool(vty.ask(f"show bgp l2vpn evpn route rd {of.rd} mac {nlri.mac}{address}", deadline).get("paths"))
