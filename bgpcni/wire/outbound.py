"""What one neighbour hears of a route, by its export policy. Pure."""

from __future__ import annotations

import fnmatch
from dataclasses import replace
from functools import lru_cache

from bgpcni.bgp import WELL_KNOWN
from bgpcni.ip import ip_address
from bgpcni.model import Announcement, ExportPolicy, IpPrefixNlri, MacIpNlri, Nlri, UnicastNlri, VpnNlri

_EVERYTHING = ExportPolicy()
_SHUTDOWN = WELL_KNOWN["graceful-shutdown"]
Prefixed = UnicastNlri | VpnNlri | IpPrefixNlri


def adapt(route: Announcement, policy: ExportPolicy) -> Announcement | None:
    """The route as these neighbours hear it; None if it is withheld from them.

    A route that announces a graceful shutdown (RFC 8326) keeps its local preference, which has to be the lowest.
    """
    if policy == _EVERYTHING:
        return route
    if not hears(route, policy):
        return None
    leaves = any(WELL_KNOWN.get(each, each) == _SHUTDOWN for each in route.communities)
    prefer = None if leaves else policy.local_preference
    return replace(
        route,
        next_hop=_next_hop(route, policy),
        communities=tuple(dict.fromkeys((*route.communities, *policy.communities))),
        local_preference=route.local_preference if prefer is None else prefer,
        med=route.med if policy.med is None else policy.med,
    )


def hears(route: Announcement, policy: ExportPolicy) -> bool:
    """Whether these neighbours hear the route at all."""
    kind = _kind(route.nlri) if policy.only else ""
    return _named(route.network, policy.networks) and (not kind or kind == policy.only)


@lru_cache(1024)
def _named(network: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(network, pattern) for pattern in patterns)


def _kind(nlri: Nlri) -> str:
    """ "hosts" for a single address or MAC, "blocks" for a larger prefix, "" for what is neither (EVPN's type 3)."""
    if isinstance(nlri, MacIpNlri):
        return "hosts"
    if not isinstance(nlri, Prefixed):
        return ""
    return "hosts" if nlri.prefix.endswith("/128" if ":" in nlri.prefix else "/32") else "blocks"


def _next_hop(route: Announcement, policy: ExportPolicy) -> str:
    """EVPN routes keep theirs, the VTEP. A link-local one is for unicast alone."""
    if not isinstance(route.nlri, UnicastNlri | VpnNlri):
        return route.next_hop
    hop = policy.next_hop6 if ":" in route.nlri.prefix else policy.next_hop
    if hop and isinstance(route.nlri, VpnNlri) and ip_address(hop).is_link_local:
        return route.next_hop
    return hop or route.next_hop
