"""What the stock bridge plugin leaves on a node for one container: its masquerading and its MAC spoofing check.

A node may be switched from that plugin to ours while containers run. Its rules are found as that plugin finds them
itself, by names that are hashes of network and container. Nothing here is on the way of a container of ours.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from bgpcni.errors import KernelRefused
from bgpcni.kernel import iptables, nftables

MASQUERADE, CHECKS = "cni_plugins_masquerade", "masq_checks"
"""Table (family inet) and chain in which the stock plugins masquerade with nftables, from version 1.6 on."""
_SPOOF, _SPOOF_CHAIN = "nat", "PREROUTING"


def remove(network: str, container_id: str, ifname: str) -> None:
    """Take all of it away; missing is success. Raises KernelRefused, with the rest done."""
    problems: list[str] = []
    steps: tuple[Callable[[], None], ...] = (
        partial(_remove_iptables, network, container_id),
        partial(_remove_nftables, network, container_id, ifname),
        partial(_remove_spoof_check, container_id, ifname),
    )
    for step in steps:
        try:
            step()
        except KernelRefused as error:
            problems.append(error.msg)
    if problems:
        raise KernelRefused("; ".join(problems))


def collect(network: str, valid: Collection[tuple[str, str]]) -> None:
    """The nftables masquerading of a network's containers (ID, interface) that are not `valid`: as that plugin's GC.

    Raises KernelRefused.
    """
    kept = {instance_hash(network, container_id, ifname) for container_id, ifname in valid}
    found = _rules("inet", MASQUERADE, CHECKS, f"{_hash(network)}-")
    _delete("inet", MASQUERADE, [rule for rule in found if rule["comment"].partition(",")[0] not in kept])


def chain_of(network: str, container_id: str) -> str:
    """The iptables chain of a container."""
    return f"CNI-{hashlib.sha512(f'{network}{container_id}'.encode()).hexdigest()}"[:28]


def instance_hash(network: str, container_id: str, ifname: str) -> str:
    """What the comment of a container's nftables rules begins with."""
    return f"{_hash(network)}-{_hash(f'{ifname}:{container_id}')}"


def _hash(text: str) -> str:
    return hashlib.sha512(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------- iptables


def _remove_iptables(network: str, container_id: str) -> None:
    chain = chain_of(network, container_id)
    for version, program in iptables.PROGRAMS.items():
        if not shutil.which(program) or iptables.run(version, "-S", chain).returncode:
            continue
        for rule in iptables.run(version, "-S", "POSTROUTING").stdout.splitlines():
            words = shlex.split(rule)
            if words[:1] == ["-A"] and chain in words:
                iptables.run(version, "-D", *words[1:])
        iptables.run(version, "-F", chain)
        done = iptables.run(version, "-X", chain)
        if done.returncode:
            raise KernelRefused(f"{program}: chain {chain} of the stock plugin stays: {done.stderr.strip()}")


# ---------------------------------------------------------------- nftables


def _remove_nftables(network: str, container_id: str, ifname: str) -> None:
    _delete("inet", MASQUERADE, _rules("inet", MASQUERADE, CHECKS, instance_hash(network, container_id, ifname)))


def _remove_spoof_check(container_id: str, ifname: str) -> None:
    owner = f"{container_id}-{ifname}"
    rules = _rules("bridge", _SPOOF, _SPOOF_CHAIN, f"macspoofchk-{owner}")
    mine = [rule for rule in rules if rule["comment"] == f"macspoofchk-{owner}"]
    chains = [f"cni-br-iface-{owner}", f"cni-br-iface-{owner}-mac"] if mine else []
    _delete("bridge", _SPOOF, mine, chains)


def _rules(family: str, table: str, chain: str, prefix: str) -> list[dict[str, Any]]:
    """The rules of a chain whose comment begins so; none where there is no such chain, or no nft."""
    if table not in nftables.tables(family):
        return []
    listed = nftables.listed_chain(family, table, chain)
    return [rule for rule in listed if str(rule.get("comment", "")).startswith(prefix)]


def _delete(family: str, table: str, rules: Sequence[dict[str, Any]], chains: Sequence[str] = ()) -> None:
    """These rules, then these chains, in one transaction."""
    of = {"family": family, "table": table}
    commands: list[dict[str, Any]] = [
        {"delete": {"rule": of | {"chain": rule["chain"], "handle": rule["handle"]}}} for rule in rules
    ]
    commands += [{"flush": {"chain": of | {"name": chain}}} for chain in chains]
    commands += [{"delete": {"chain": of | {"name": chain}}} for chain in chains]
    if commands:
        nftables.apply(commands)
