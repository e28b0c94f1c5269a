"""What is announced of an attachment with: what its network and itself ask for, then what agent.toml and the cluster's
policies say. Pure.

The record keeps the outcome in `bgp`, so that a restart announces the same although the cluster's store is away. Where
that differs from what network and attachment ask for, the record keeps their wish too (`plain`), and everything can be
planned anew when a policy, a label or agent.toml changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bgpcni.config.agent import NetworkTable
from bgpcni.model import Attachment, AttachmentKey, Attributes

if TYPE_CHECKING:
    from bgpcni.cluster.policies import Rule

KEYS = {
    "communities": "communities",
    "local_preference": "localPreference",
    "med": "med",
    "export_rt": "exportRT",
    "import_rt": "importRT",
}
"""The fields of `Attributes`, and their keys in configurations and objects."""


class Ruling(NamedTuple):
    """What the cluster says of an attachment now: its labels, those of its namespace, and the policies for it."""

    labels: Mapping[str, str]
    namespace_labels: Mapping[str, str]
    rules: Sequence[Rule] = ()


class Policies(Protocol):
    """The cluster's policies, as a node asks for them. They nudge an attachment when `of` would say something else."""

    def of(self, attachment: Attachment) -> Ruling:
        """What is said of it now."""
        ...

    def remember(self, attachment: Attachment) -> None:
        """From now on nudge this attachment. Called before `of`, so that no change comes in between."""
        ...

    def forget(self, key: AttachmentKey) -> None:
        """It ends."""
        ...


class NoPolicies:
    """A node without a cluster."""

    def of(self, attachment: Attachment) -> Ruling:
        return Ruling(attachment.labels, attachment.namespace_labels)

    def remember(self, attachment: Attachment) -> None:
        pass

    def forget(self, key: AttachmentKey) -> None:
        pass


def revised(attachment: Attachment, table: NetworkTable | None, ruling: Ruling) -> Attachment:
    """The attachment as it should be announced now; the same one if nothing changes."""
    labelled = ruling.labels == attachment.labels and ruling.namespace_labels == attachment.namespace_labels
    if labelled and not ruling.rules and not _says_something(table) and attachment.plain is None:
        return attachment  # as most nodes have it, at no cost
    plain = attachment.plain or attributes_of(attachment)
    wanted, sources = _planned(plain, attachment, table, ruling.rules)
    common, _ = _planned(plain, attachment, table, [rule for rule in ruling.rules if not rule.by_labels])
    changes: dict[str, Any] = {
        "bgp": attachment.bgp.model_copy(update=dict(wanted)),
        "plain": None if plain == wanted == common else plain,
        "common": None if common == wanted else common,
        "policies": sources,
        "labels": dict(ruling.labels),
        "namespace_labels": dict(ruling.namespace_labels),
    }
    if all(getattr(attachment, name) == value for name, value in changes.items()):
        return attachment
    return attachment.model_copy(update=changes)


def _says_something(table: NetworkTable | None) -> bool:
    return table is not None and (table.local_preference is not None or table.med is not None)


def attributes_of(attachment: Attachment) -> Attributes:
    """What it is announced with now."""
    return Attributes(**{name: getattr(attachment.bgp, name) for name in KEYS})


def _planned(
    plain: Attributes, attachment: Attachment, table: NetworkTable | None, rules: Sequence[Rule]
) -> tuple[Attributes, dict[str, tuple[str, ...]]]:
    """The attributes, and by its key which policies set each. Lists join, of single values the last one counts."""
    values = dict(plain)
    sources: dict[str, tuple[str, ...]] = {}
    if table is not None:
        values |= {name: found for name in ("local_preference", "med") if (found := getattr(table, name)) is not None}
    for rule in rules:
        for name, key in KEYS.items():
            said = getattr(rule.set, name)
            if said in (None, ()) or (name == "export_rt" and attachment.own_export_rt):
                continue
            if isinstance(said, tuple):
                values[name] = tuple(dict.fromkeys((*values[name], *said)))
                sources[key] = (*sources.get(key, ()), rule.name)
            else:
                values[name], sources[key] = said, (rule.name,)
    return Attributes(**values), sources


def uncarried(attachment: Attachment, carried: Collection[str]) -> Iterator[str]:
    """What policies set and an exporter does not announce: `RoutePolicy web: communities`."""
    for name, key in KEYS.items():
        if name not in carried and key in attachment.policies:
            yield f"RoutePolicy {', '.join(attachment.policies[key])}: {key}"


def difference(before: Attachment, after: Attachment) -> str:
    """What changes, for the log: `announced with communities 64512:1 from now on (RoutePolicy web)`."""
    words = []
    for name, key in KEYS.items():
        value = getattr(after.bgp, name)
        if value != getattr(before.bgp, name):
            words.append(f"{key} {shown(value)}{by(after, key)}")
    return f"from now on announced with {', '.join(words)}" if words else "its labels or policies have changed"


def shown(value: object) -> str:
    return " ".join(value) or "none" if isinstance(value, tuple) else "the speaker's" if value is None else str(value)


def by(attachment: Attachment, key: str) -> str:
    """Which policies set it: ` (RoutePolicy web)`, "" for none."""
    names = attachment.policies.get(key, ())
    return f" (RoutePolicy {', '.join(names)})" if names else ""
