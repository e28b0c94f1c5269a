"""Which IPAM a name stands for: one that is built in, or else the plugin with that name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bgpcni.ipam.contract import Ipam, Terms
from bgpcni.ipam.delegate import DelegatedIpam
from bgpcni.ipam.host_local import HostLocalIpam
from bgpcni.ipam.leases import CLUSTER


def _cluster(terms: Terms) -> Ipam:
    from bgpcni.ipam.cluster import ClusterIpam  # most nodes have no cluster

    return ClusterIpam(terms)


BUILT_IN: Mapping[str, Callable[[Terms], Ipam]] = {"host-local": HostLocalIpam, CLUSTER: _cluster}


def open_ipam(terms: Terms) -> Ipam:
    """The IPAM for these terms. No file is opened yet."""
    return BUILT_IN.get(terms.type, DelegatedIpam)(terms)
