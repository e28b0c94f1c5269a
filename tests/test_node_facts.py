"""Which exporter has which neighbour: agent.toml says it where there are several speakers; else it is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bgpcni.config.agent import AgentConfig
from bgpcni.errors import InvalidConfiguration
from bgpcni.node import facts

ONE: dict[str, Any] = {}
TWO = {"a": {"type": "exabgp", "local_address": "192.0.2.1"}, "b": {"type": "exabgp", "local_address": "192.0.2.2"}}
MIXED = {"a": {"type": "exabgp"}, "six": {"type": "exabgp", "local_address": "2001:db8::1"}, "kernel": {}}
BROKEN = {"a": {"type": "exabgp"}, "worse": {"type": "none-such"}, "typo": {"type": "exabgp", "local": "192.0.2.2"}}
SAME = {"a": {"type": "exabgp"}, "b": {"type": "exabgp"}}


def resolved(exporters: dict[str, Any], *neighbors: dict[str, Any]) -> list[str | None]:
    """The exporters of the neighbours, in order."""
    table = {"asn": 64512, "router_id": "192.0.2.1", "local_address": "192.0.2.1", "next_hop6": "2001:db8::9"}
    config = AgentConfig.model_validate(
        {"bgp": table | {"neighbors": [{"asn": 64512} | each for each in neighbors]}, "exporters": exporters}
    )
    return [neighbor.exporter for neighbor in facts.resolve(config).neighbors]


@pytest.mark.parametrize(
    ("exporters", "neighbors", "owners"),
    [
        (ONE, [{"address": "192.0.2.254"}], [None]),
        (ONE, [{"address": "192.0.2.254", "exporter": "exabgp"}], ["exabgp"]),
        ({"a": {"type": "exabgp"}, "frr": {}}, [{"address": "192.0.2.254"}], [None]),
        (TWO, [{"address": "192.0.2.254", "exporter": name} for name in "ab"], ["a", "b"]),
        (
            MIXED,
            [{"address": "2001:db8::2", "exporter": "six"}, {"address": "192.0.2.3", "exporter": "a"}],
            ["six", "a"],
        ),
        (SAME, [{"address": f"192.0.2.25{at}", "exporter": name} for at, name in enumerate("ab")], ["a", "b"]),
    ],
    ids=[
        "nothing is said",
        "said of one",
        "others have no neighbours",
        "two of one neighbour",
        "by family",
        "one address",
    ],
)
def test_a_neighbour_belongs_to_an_exporter(
    exporters: dict[str, Any], neighbors: list[dict[str, Any]], owners: list[str | None]
) -> None:
    assert resolved(exporters, *neighbors) == owners


@pytest.mark.parametrize(
    ("exporters", "neighbor", "words"),
    [
        (TWO, {}, r"bgp\.neighbors\[0\]\.exporter: missing: say which of a, b has the session with 192\.0\.2\.254"),
        (TWO, {"exporter": "c"}, r"bgp\.neighbors\[0\]\.exporter: no exporter is called c"),
        (TWO, {"exporter": "exabgp"}, r"bgp\.neighbors\[0\]\.exporter: no exporter is called exabgp"),
        (
            MIXED,
            {"exporter": "kernel"},
            r"\.exporter: kernel is of type kernel and takes no neighbours from agent\.toml",
        ),
        ({"u": {"type": "exabgp", "socket": "/s"}}, {"exporter": "u"}, "u is of type exabgp and takes no neighbours"),
        (BROKEN, {"exporter": "worse"}, "'none-such' is not installed"),
        (BROKEN, {"exporter": "typo"}, r"exporters\.typo\.local: unknown key"),
        (MIXED, {"exporter": "six"}, r"\.address: 192\.0\.2\.254 is not of the family of 2001:db8::1"),
        (TWO, {"exporter": "b", "address": "192.0.2.2"}, r"\.address: 192\.0\.2\.2 is our own local_address"),
        (ONE, {"address": "192.0.2.1"}, r"bgp\.neighbors\[0\]\.address: 192\.0\.2\.1 is our own local_address"),
        (ONE, {"address": "2001:db8::2"}, r"bgp\.neighbors\[0\]\.address: 2001:db8::2 is not of the family of 192"),
    ],
)
def test_a_neighbour_of_nobody_is_refused(exporters: dict[str, Any], neighbor: dict[str, Any], words: str) -> None:
    """The error says which neighbour, and what to write."""
    with pytest.raises(InvalidConfiguration, match=words):
        resolved(exporters, {"address": "192.0.2.254"} | neighbor)


def test_one_of_two_waits_for_connections_at_an_address() -> None:
    """Port 179 of an address is one speaker's."""
    passive = [{"address": f"192.0.2.25{at}", "exporter": name, "passive": True} for at, name in enumerate("ab")]
    assert resolved(TWO, *passive) == ["a", "b"]
    with pytest.raises(InvalidConfiguration, match=r"neighbors\[1\]\.passive: b cannot wait for .*, because a does"):
        resolved(SAME, *passive)
