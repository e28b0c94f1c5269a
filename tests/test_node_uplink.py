"""A gateway whose subnet would take the route to a BGP peer away is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bgpcni.errors import InvalidConfiguration
from bgpcni.kernel import routes
from bgpcni.node import uplink

NETLINK: Any = None


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, str]]:
    """Prefix length and device of the way to each peer; to be filled by the test."""
    ways: dict[str, tuple[int, str]] = {}
    names = ["eth0", "cni0"]
    monkeypatch.setattr(routes, "reached_by", lambda _, peer: ways[peer][0] if peer in ways else None)
    monkeypatch.setattr(routes, "way_to", lambda _, peer: (None, names.index(ways[peer][1])) if peer in ways else None)
    monkeypatch.setattr(uplink.socket, "if_indextoname", names.__getitem__)
    return ways


@pytest.mark.parametrize(
    ("gateway", "peer", "way"),
    [
        ("10.1.0.1/24", "10.1.0.7", (0, "eth0")),  # by the default route
        ("10.1.0.1/24", "10.1.0.7", (24, "eth0")),  # one subnet on two links
        ("10.1.0.1/24", "10.1.0.1", None),  # it is not there for now
        ("2001:db8:1::1/64", "2001:db8:1::7", (48, "eth0")),
    ],
)
def test_a_gateway_over_a_peer_is_refused(
    reached: dict[str, tuple[int, str]], gateway: str, peer: str, way: tuple[int, str] | None
) -> None:
    """Both are named."""
    if way:
        reached[peer] = way
    with pytest.raises(InvalidConfiguration, match=f"the gateway {gateway} would take .* BGP peer {peer} .* to cni0"):
        uplink.refuse_peers(NETLINK, ["192.0.2.1/24", gateway], "cni0", {"198.51.100.1", peer})


def test_a_gateway_that_takes_nothing_is_not_refused(reached: dict[str, tuple[int, str]]) -> None:
    """No peer in its subnet; a more specific way to the peer; a peer that is on this very bridge."""
    reached |= {"10.1.0.7": (24, "eth0"), "10.2.0.7": (24, "cni0"), "2001:db8::7": (64, "eth0")}
    uplink.refuse_peers(NETLINK, ["10.1.0.1/16", "10.2.0.1/24", "2001:db8:1::1/64"], "cni0", set(reached))
