"""Addresses of the cluster for other plugins (macvlan, ptp, …) that name `bgpcni-ipam` in `ipam`.

There is a lease and no record: nothing is announced here, so an address is free again with its DEL. What is announced
by a later plugin of the chain is withdrawn by that plugin's own DEL, which a runtime calls first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bgpcni.cni.environment import Command, Environment, parse_environment
from bgpcni.cni.result import IpConfig, Result
from bgpcni.cni.versions import read_version, require_command
from bgpcni.config.network import is_name
from bgpcni.errors import InvalidConfiguration, TryAgain, Unavailable
from bgpcni.ipam.contract import Ipam, NoneFree, Wish
from bgpcni.model import AttachmentKey
from bgpcni.node import garbage
from bgpcni.node.request import Body, body_of

if TYPE_CHECKING:
    from bgpcni.node.node import Node

LOCK_SECONDS = 30.0


class Loan:
    """One call of another plugin, validated. Of its configuration only what concerns addresses is read."""

    def __init__(self, variables: Mapping[str, str], stdin: bytes) -> None:
        """Raises InvalidEnvironment, DecodingFailure, IncompatibleVersion, InvalidConfiguration."""
        self.environment: Environment = parse_environment(variables)
        self.body: Body = body_of(stdin)
        folded = {key.lower(): value for key, value in self.body.document.items()}
        self.version = read_version(folded.get("cniversion"))
        require_command(self.environment.command, self.version)
        name = folded.get("name")
        if not isinstance(name, str) or not is_name(name):
            raise InvalidConfiguration(f"name: {name!a} is not a network name")
        self.name = name
        self.variables, self.stdin = variables, stdin

    @property
    def command(self) -> Command:
        return self.environment.command

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.name, self.environment.container_id, self.environment.ifname)


def answer(node: Node, loan: Loan) -> Result | None:
    """The result of an ADD; None where the command has none. Raises CniError."""
    return _VERBS[loan.command](node, loan, node.addressing.lender(loan.name, loan.variables, loan.stdin, loan.body,
                                                                  loan.environment.args))  # fmt: skip


def _add(node: Node, loan: Loan, ipam: Ipam) -> Result:
    key = loan.key
    with node.store.locked(key, LOCK_SECONDS):
        node.addressing.reclaim(ipam)
        if ipam.leases is not None and (held := ipam.leases.held(*key[1:])):
            raise InvalidConfiguration(f"{key} has {', '.join(held)} already: there was no DEL")
        given = ipam.add((key.container_id, key.ifname), Wish())
        try:
            node.agent.policy.refuse_addresses(item.address for item in given.addresses)
        except InvalidConfiguration:
            ipam.release((key.container_id, key.ifname), [item.address for item in given.addresses])
            raise
    return Result(
        ips=tuple(IpConfig(item.address, item.gateway) for item in given.addresses), routes=given.routes, dns=given.dns
    )


def _delete(node: Node, loan: Loan, ipam: Ipam) -> None:
    with node.store.locked(loan.key, LOCK_SECONDS):
        ipam.release((loan.key.container_id, loan.key.ifname), None)


def _check(node: Node, loan: Loan, ipam: Ipam) -> None:
    ipam.check((loan.key.container_id, loan.key.ifname), _addresses(loan))


def _addresses(loan: Loan) -> list[str]:
    """Those of `prevResult`, which CHECK must have."""
    found = loan.body.document.get("prevResult")
    ips = found.get("ips") if isinstance(found, dict) else None
    if not isinstance(ips, list):
        raise InvalidConfiguration("prevResult.ips: missing")
    return [str(item["address"]) for item in ips if isinstance(item, dict) and "address" in item]


def _collect(node: Node, loan: Loan, ipam: Ipam) -> None:
    ipam.gc(garbage.valid_of(loan.body.document), ())


def _status(node: Node, loan: Loan, ipam: Ipam) -> None:
    try:
        ipam.status()
    except (NoneFree, TryAgain, InvalidConfiguration) as error:
        raise Unavailable(error.msg) from None


_VERBS: dict[Command, Callable[[Node, Loan, Ipam], Result | None]] = {
    Command.ADD: _add,
    Command.DEL: _delete,
    Command.CHECK: _check,
    Command.GC: _collect,
    Command.STATUS: _status,
}
