"""ipMasq as documents for nft and rules for iptables; what they do is shown in integration/test_parity_filters.py."""

import json

import pytest

from bgpcni.kernel import masquerade, spoofcheck


def rules(commands: list[dict], chain: str) -> list[dict]:
    """The expressions of a chain's rules, in order."""
    added = [command["add"]["rule"] for command in commands if "rule" in command.get("add", {})]
    return [part for rule in added if rule["chain"] == chain for part in rule["expr"]]


def test_subnet_and_multicast_are_spared():
    """Nothing within the subnet, nor to a multicast group, is masqueraded: as with the stock plugin."""
    made = rules(masquerade.table_commands(["10.1.2.3/24"]), "outside-10.1.2.0/24")
    spared = [part["match"]["right"]["prefix"] for part in made[:-1]]
    assert {(one["addr"], one["len"]) for one in spared} == {("10.1.2.0", 24), ("224.0.0.0", 4)}
    assert {part["match"]["op"] for part in made[:-1]} == {"!="}
    assert made[-1] == {"masquerade": None}


def test_addresses_of_a_subnet_share_a_chain():
    """A chain for each subnet, never for each container; single addresses share one for each family."""
    chain_of = masquerade.chain_of
    assert chain_of("10.1.2.3/24") == chain_of("10.1.2.99/24") == "outside-10.1.2.0/24"
    assert chain_of("fd00::3/64") == "outside-fd00__/64"
    assert chain_of("10.9.9.9/32") == chain_of("10.9.9.8/32") == "outside4"
    assert chain_of("fd00::9/128") == "outside6"


def test_the_table_is_made_again_without_harm():
    """Every chain is emptied before it is filled, and nothing but chains of this call is touched."""
    commands = masquerade.table_commands(["10.1.2.3/24", "10.1.2.4/24", "fd00::3/64"])
    flushed = [command["flush"]["chain"]["name"] for command in commands if "flush" in command]
    assert flushed == ["postrouting", "outside-10.1.2.0/24", "outside-fd00__/64"]
    text = json.dumps(commands)
    assert text.count('"table": "bgpcni"') + text.count('"name": "bgpcni"') == len(commands)


def test_iptables_rules_are_the_stock_ones():
    """The subnet accepted, the rest but multicast masqueraded, and a jump for each address of the family."""
    made = masquerade._iptables_rules("net/c1/eth0", ["10.1.2.3/24", "fd00::3/64", "10.1.2.4/24"], 4)
    chain = made[0][0]
    assert len(chain) <= 28
    assert made == [
        [chain, "-d", "10.1.2.0/24", "-j", "ACCEPT"],
        [chain, "!", "-d", "224.0.0.0/4", "-j", "MASQUERADE"],
        ["POSTROUTING", "-s", "10.1.2.3", "-j", chain],
        ["POSTROUTING", "-s", "10.1.2.4", "-j", chain],
    ]


@pytest.mark.parametrize("value", ["10.1.2.3/24; drop", "x", "10.1.2.3/99", '"'])
def test_only_addresses_reach_a_rule(value):
    """What is no address raises before anything is run."""
    with pytest.raises(ValueError):
        masquerade.table_commands([value])
    with pytest.raises(ValueError):
        masquerade._elements("owner", [value])


def test_port_and_mac_are_one_key():
    """The kernel's key of a port and its MAC: 16 octets of name, 6 of MAC, padded to four."""
    allowed, checked = spoofcheck._elements("owner", "veth0123456789a", "02:00:00:00:00:07")
    assert allowed.key == b"veth0123456789a\0\x02\0\0\0\0\x07\0\0"
    assert checked.key == b"veth0123456789a\0"


def test_the_mac_check_is_one_rule():
    """A frame of a checked port passes only with the MAC that is allowed there."""
    made = rules(spoofcheck.table_commands(), "prerouting")
    assert [part["match"]["right"] for part in made[:-1]] == ["@checked", "@allowed"]
    assert made[-1] == {"drop": None}
