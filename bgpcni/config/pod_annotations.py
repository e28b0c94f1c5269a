"""What a pod asks for by its annotations `bgpcni.dev/…`. Pure.

A runtime passes a pod's annotations in `runtimeConfig` when the configuration declares the capability
`io.kubernetes.cri.pod-annotations`. The authors of pods write them, so `[policy] annotations` says which are obeyed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from bgpcni import bgp
from bgpcni.config import anycast
from bgpcni.config.anycast import HealthSection
from bgpcni.config.lists import texts
from bgpcni.config.network import describe, mac_address, nearest
from bgpcni.errors import InvalidConfiguration
from bgpcni.ip import ip_address

PREFIX = "bgpcni.dev/"


@dataclass(frozen=True, slots=True)
class Annotations:
    """The annotations of one pod, validated. `names`: which of them it has, without the prefix.

    `export_rt` replaces the network's, `import_rt` and `communities` join it, as with `args.cni`. `ips` have no prefix
    length. `anycast`: addresses that the pod shares with others. `warnings`: annotations with our prefix that we do not
    know.
    """

    names: tuple[str, ...] = ()
    export_rt: tuple[str, ...] = ()
    import_rt: tuple[str, ...] = ()
    communities: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    mac: str | None = None
    anycast: tuple[str, ...] = ()
    health: HealthSection | None = None
    warnings: tuple[str, ...] = ()


NONE = Annotations()


def _each(check: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    return lambda text: tuple(dict.fromkeys(check(part) for part in texts(text)))


def _health(text: str) -> HealthSection:
    try:
        return HealthSection.model_validate(json.loads(text))
    except ValidationError as error:
        raise ValueError(describe(error, model=HealthSection)) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from None


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "export-rt": ("export_rt", _each(bgp.route_target)),
    "import-rt": ("import_rt", _each(bgp.route_target)),
    "communities": ("communities", _each(bgp.community)),
    "ips": ("ips", _each(lambda text: str(ip_address(text)))),
    "mac": ("mac", lambda text: mac_address(text.strip())),
    "anycast": ("anycast", anycast.read_addresses),
    "health": ("health", _health),
}
"""Of each annotation: the field that it fills, and what reads it, which raises ValueError."""


def read(annotations: Mapping[str, str] | None) -> Annotations:
    """All annotations of a pod → ours. Raises InvalidConfiguration (7) that names the annotation."""
    found = NONE
    for key, text in (annotations or {}).items():
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        if name not in _READERS:
            found = replace(found, warnings=(*found.warnings, f"annotation {key}: unknown{_meant(name)}"))
            continue
        field, reader = _READERS[name]
        try:
            value = reader(text)
        except ValueError as error:
            raise InvalidConfiguration(f"annotation {key}: {error}") from None
        found = replace(found, names=(*found.names, name), **{field: value})
    return found


def _meant(name: str) -> str:
    near = nearest(name, _READERS)
    return f"; did you mean {PREFIX}{near}?" if near else ""
