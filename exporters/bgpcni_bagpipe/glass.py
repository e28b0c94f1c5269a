"""Parses what the daemon's looking glass returns: VPNs with their route targets, and their endpoints. Pure.

Raises ValueError for anything else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bgpcni_bagpipe.endpoint import MARK, Port, Vpn

_KINDS = {"EVI": "evpn", "VRF": "ipvpn"}


@dataclass(frozen=True, slots=True)
class Instance:
    """A VPN instance of the daemon. Its route targets are sorted, `64512:90`."""

    vpn: Vpn
    import_rt: tuple[str, ...]
    export_rt: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """One endpoint. `network`: the network to which it belongs; None if it is not ours."""

    port: Port
    address: str
    network: str | None


def names(document: Any) -> list[str]:
    """`/looking-glass/vpns/instances` → the names."""
    try:
        return [str(entry["id"]) for entry in document]
    except (TypeError, KeyError):
        raise ValueError("something that is not a list of VPN instances") from None


def instance(document: Any) -> Instance:
    """`/looking-glass/vpns/instances/NAME`."""
    try:
        kind, targets = _KINDS.get(document["instance_type"], "other"), document["route_targets"]
        vni = document["instance_dataplane_id"] if kind == "evpn" else None
        vpn = Vpn(kind, str(document["external_instance_id"]), vni)
        return Instance(vpn, _targets(targets["import"]), _targets(targets["export"]))
    except (TypeError, KeyError, AttributeError):
        raise ValueError("something that is not a VPN instance") from None


def endpoints(vpn: Vpn, document: Any) -> list[Shown]:
    """`/looking-glass/vpns/instances/NAME/ports`."""
    try:
        return [
            Shown(
                Port(vpn, str(item["mac_address"]), str(link)),
                str(item["ip_address"] or ""),
                _network(item["description"]),
            )
            for link, port in document.items()
            for item in port["endpoints"]
        ]
    except (TypeError, KeyError, AttributeError):
        raise ValueError("something that is not a list of ports") from None


def _targets(shown: list[str]) -> tuple[str, ...]:
    return tuple(sorted(text.removeprefix("target:") for text in shown))


def _network(description: Any) -> str | None:
    return description.removeprefix(MARK) if isinstance(description, str) and description.startswith(MARK) else None
