"""By which names the stock plugins' rules are found, and which of them go."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bgpcni.kernel import nftables
from bgpcni.node import stock

Rule = dict[str, Any]


def test_names_are_hashes_of_fixed_length() -> None:
    """As the stock plugins form them: 28 characters for iptables, twice 16 digits for nftables."""
    digest = hashlib.sha512(b"bluec1").hexdigest()
    assert stock.chain_of("blue", "c1") == f"CNI-{digest[:24]}"
    network, container = stock.instance_hash("blue", "c1", "eth0").split("-")
    assert network == hashlib.sha512(b"blue").hexdigest()[:16]
    assert container == hashlib.sha512(b"eth0:c1").hexdigest()[:16]


@pytest.fixture
def deleted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The handles of rules that were deleted, on a node where three containers of two networks are masqueraded."""
    owners = [("blue", "c1"), ("blue", "c2"), ("red", "c1")]
    rules: list[Rule] = [
        {"chain": stock.CHECKS, "handle": at, "comment": f"{stock.instance_hash(*owner, 'eth0')}, net: {owner[0]}"}
        for at, owner in enumerate(owners)
    ]
    rules.append({"chain": stock.CHECKS, "handle": 9})
    handles: list[int] = []

    def apply(commands: Sequence[Mapping[str, Any]]) -> None:
        handles.extend(command["delete"]["rule"]["handle"] for command in commands)

    monkeypatch.setattr(nftables, "tables", lambda family: [stock.MASQUERADE] if family == "inet" else [])
    monkeypatch.setattr(nftables, "listed_chain", lambda *place: rules)
    monkeypatch.setattr(nftables, "apply", apply)
    monkeypatch.setattr("shutil.which", lambda program: None)
    return handles


def test_one_container_is_forgotten(deleted: list[int]) -> None:
    """Its rules alone, not those of its namesake in another network, nor a rule without comment."""
    stock.remove("blue", "c1", "eth0")
    assert deleted == [0]
    stock.remove("blue", "c1", "net1")
    stock.remove("green", "c1", "eth0")
    assert deleted == [0]


def test_a_network_is_collected(deleted: list[int]) -> None:
    """What is valid stays, and so does all of another network."""
    stock.collect("blue", {("c2", "eth0"), ("c1", "net1")})
    assert deleted == [0]
