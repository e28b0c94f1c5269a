"""Which RoutePolicies are for an attachment of this node, and which of them this node must not apply. Pure."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bgpcni.cluster.objects import Match, RoutePolicy, Setting
from bgpcni.config.agent import PolicyTable
from bgpcni.errors import InvalidConfiguration


class Subject(NamedTuple):
    """What a policy can match of an attachment: its network, its own labels, and those of its namespace."""

    network: str
    labels: Mapping[str, str]
    namespace_labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """What a policy sets on this node. `by_labels`: only for the containers that its selectors choose."""

    name: str
    match: Match
    set: Setting

    @property
    def by_labels(self) -> bool:
        return self.match.pod_selector is not None or self.match.namespace_selector is not None

    def is_for(self, subject: Subject) -> bool:
        match = self.match
        return (
            (match.networks is None or any(fnmatch.fnmatchcase(subject.network, one) for one in match.networks))
            and (match.pod_selector is None or match.pod_selector.matches(subject.labels))
            and (match.namespace_selector is None or match.namespace_selector.matches(subject.namespace_labels))
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """The policies of this node, in order of their names. `refused`: those that `[policy]` forbids here, and why."""

    rules: tuple[Rule, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def by_labels(self) -> bool:
        """Whether any policy asks for the labels of containers or namespaces."""
        return any(rule.by_labels for rule in self.rules)

    def of(self, subject: Subject) -> tuple[Rule, ...]:
        """Those that are for an attachment; all of them apply, in this order."""
        return tuple(rule for rule in self.rules if rule.is_for(subject))


def rules_of(policies: Iterable[RoutePolicy], node_labels: Mapping[str, str], allowed: PolicyTable) -> Rules:
    """The policies that are for this node. One that asks for anything that `[policy]` forbids is refused as a whole."""
    rules: list[Rule] = []
    refused: list[str] = []
    for item in sorted(policies, key=lambda one: one.metadata.name):
        match = item.spec.match
        if match.node_selector is not None and not match.node_selector.matches(node_labels):
            continue
        rule = Rule(item.metadata.name, match, item.spec.set)
        if reason := next(_forbidden(rule.set, allowed), ""):
            refused.append(f"RoutePolicy {rule.name} is not applied on this node: {reason}")
        else:
            rules.append(rule)
    return Rules(tuple(rules), tuple(refused))


def _forbidden(wanted: Setting, allowed: PolicyTable) -> Iterator[str]:
    for key, values, patterns, place in (
        ("communities", wanted.communities, allowed.communities, "spec.set.communities"),
        ("export_rt", wanted.export_rt, allowed.export_rt, "spec.set.exportRT"),
        ("import_rt", wanted.import_rt, allowed.import_rt, "spec.set.importRT"),
    ):
        try:
            allowed.refuse_names(key, values, patterns, place)
        except InvalidConfiguration as error:
            yield error.msg
