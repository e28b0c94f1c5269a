"""What an attachment is announced with: its network, agent.toml, the cluster's policies, and its own wishes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.cluster.objects import RoutePolicy, parse
from bgpcni.cluster.policies import Rules, Subject, rules_of
from bgpcni.config.agent import NetworkTable, PolicyTable
from bgpcni.convergence.derive import ALL, derive
from bgpcni.model import Address, Attachment, Attributes, Bgp, NodeFacts
from bgpcni.node import intent
from bgpcni.node.intent import Ruling, revised

NODE = NodeFacts(
    run_dir="/r", data_dir="/d", asn=64512, router_id="192.0.2.9", local_address="192.0.2.9", next_hop="192.0.2.9",
    has_bgp=True,
)  # fmt: skip


def policy(name: str, match: dict[str, Any] | None = None, **wanted: Any) -> RoutePolicy:
    document = {"apiVersion": "bgpcni.dev/v1alpha1", "kind": "RoutePolicy", "metadata": {"name": name}}
    found = parse({**document, "spec": {"match": match or {}, "set": wanted}})
    assert isinstance(found, RoutePolicy)
    return found


def rules(*policies: RoutePolicy, allowed: PolicyTable | None = None, **node_labels: str) -> Rules:
    return rules_of(policies, node_labels, allowed or PolicyTable())


def attachment(bgp: dict[str, Any] | None = None, **more: Any) -> Attachment:
    return Attachment(
        boot_id="b", network="tenant-a", container_id="c1", ifname="eth0", netns="/n", mac="02:00:00:00:00:01",
        addresses=(Address(address="10.1.2.3/24"),), bgp=Bgp(**bgp or {}), **more,
    )  # fmt: skip


def said(*policies: RoutePolicy, item: Attachment | None = None, table: NetworkTable | None = None) -> Attachment:
    item = item or attachment()
    subject = Subject(item.network, item.labels, item.namespace_labels)
    return revised(item, table, Ruling(item.labels, item.namespace_labels, rules(*policies).of(subject)))


class TestWhatCounts:
    def test_lists_join_and_of_single_values_the_last_one_by_name_counts(self) -> None:
        item = attachment({"communities": ("64512:1",), "med": 5})
        found = said(
            policy("b", communities=["64512:3", "64512:1"], med=20), policy("a", communities=["64512:2"], med=10),
            item=item,
        )  # fmt: skip
        assert (found.bgp.communities, found.bgp.med) == (("64512:1", "64512:2", "64512:3"), 20)
        assert found.policies == {"communities": ("a", "b"), "med": ("b",)}

    def test_zero_is_a_value(self) -> None:
        found = said(policy("a", localPreference=0, med=0), item=attachment({"local_preference": 200, "med": 10}))
        assert (found.bgp.local_preference, found.bgp.med) == (0, 0)

    def test_a_policy_is_above_the_operators_word_for_the_network_and_that_above_the_network(self) -> None:
        table = NetworkTable(local_preference=200, med=7)
        item = attachment({"local_preference": 100, "med": 1})
        assert (said(item=item, table=table).bgp.local_preference, said(item=item, table=table).bgp.med) == (200, 7)
        assert said(policy("a", localPreference=300), item=item, table=table).bgp.local_preference == 300

    def test_the_attachments_own_export_rt_stays(self) -> None:
        """It replaces the network's; import targets and communities join."""
        item = attachment({"export_rt": ("64512:1",), "import_rt": ("64512:1",)}, own_export_rt=True)
        found = said(policy("a", exportRT=["64512:9"], importRT=["64512:9"]), item=item)
        assert (found.bgp.export_rt, found.bgp.import_rt) == (("64512:1",), ("64512:1", "64512:9"))
        assert found.policies == {"importRT": ("a",)}

    def test_without_policies_nothing_is_different(self) -> None:
        item = attachment({"communities": ("64512:1",)})
        assert said(item=item) is item
        assert said(policy("a", {"networks": ["other"]}, med=1), item=item) is item

    def test_it_is_as_before_when_the_policy_is_gone(self) -> None:
        item = attachment({"communities": ("64512:1",), "local_preference": 50})
        assert said(item=said(policy("a", communities=["64512:2"], localPreference=7, med=7), item=item)) == item


class TestWhatMatches:
    @pytest.mark.parametrize(
        ("match", "is_for"),
        [
            ({}, True),
            ({"networks": ["tenant-*"]}, True),
            ({"networks": ["Tenant-*"]}, False),
            ({"networks": []}, False),
            ({"podSelector": {"tier": "web"}}, True),
            ({"podSelector": {}}, True),
            ({"podSelector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}}, False),
            ({"namespaceSelector": {"team": "shop"}}, True),
            ({"namespaceSelector": {"team": "shop"}, "podSelector": {"tier": "db"}}, False),
            ({"nodeSelector": {"rack": "r1"}}, True),
            ({"nodeSelector": {"rack": "r2"}}, False),
        ],
    )
    def test_everything_that_is_given_has_to_match(self, match: dict[str, Any], is_for: bool) -> None:
        subject = Subject("tenant-a", {"tier": "web"}, {"team": "shop"})
        assert bool(rules(policy("a", match, med=1), rack="r1").of(subject)) is is_for

    def test_what_the_node_forbids_is_refused_as_a_whole(self) -> None:
        """The other policies apply."""
        allowed = PolicyTable(communities=("64512:*",), import_rt=())
        found = rules(
            policy("a", communities=["64512:1", "1:1"], med=3), policy("b", communities=["64512:2"]),
            policy("c", importRT=["64512:1"]), allowed=allowed,
        )  # fmt: skip
        assert [rule.name for rule in found.rules] == ["b"]
        assert found.refused == (
            "RoutePolicy a is not applied on this node: spec.set.communities: 1:1 is not allowed by [policy] "
            "communities of this node",
            "RoutePolicy c is not applied on this node: spec.set.importRT: 64512:1 is not allowed by [policy] "
            "import_rt of this node",
        )


class TestWhatIsAnnounced:
    def test_a_route_that_several_share_follows_no_labels(self) -> None:
        """A subnet's route does not depend on which of its containers came first."""
        item = attachment({"advertise": "subnet"}, labels={"tier": "web"})
        found = said(policy("a", {"podSelector": {"tier": "web"}}, med=1), policy("b", localPreference=7), item=item)
        (route,) = derive(found, NODE)
        assert (route.med, route.local_preference) == (None, 7)
        (own,) = derive(said(policy("a", {"podSelector": {}}, med=1)), NODE)
        assert own.med == 1

    def test_an_exporter_gets_what_it_can_carry(self) -> None:
        """The network's own wish is never hidden from it: FRR refuses communities that it cannot announce."""
        item = attachment({"communities": ("64512:1",)})
        found = said(policy("a", communities=["64512:2"], med=5, localPreference=9), item=item)
        (bare,) = derive(found, NODE, frozenset())
        assert (bare.communities, bare.med, bare.local_preference) == (("64512:1",), None, None)
        (some,) = derive(found, NODE, frozenset({"med"}))
        assert (some.communities, some.med, some.local_preference) == (("64512:1",), 5, None)
        assert list(intent.uncarried(found, {"med"})) == [
            "RoutePolicy a: communities",
            "RoutePolicy a: localPreference",
        ]


rts = st.lists(st.sampled_from(["64512:1", "64512:2", "64512:3"]), max_size=2, unique=True)
selectors = st.sampled_from([None, {}, {"tier": "web"}, {"tier": "db"}])
settings_of = st.fixed_dictionaries(
    {"med": st.integers(0, 3)},
    optional={"communities": rts, "exportRT": rts, "importRT": rts, "localPreference": st.integers(0, 3)},
)
matches = st.builds(
    lambda pod, networks: {k: v for k, v in (("podSelector", pod), ("networks", networks)) if v is not None},
    selectors, st.sampled_from([None, ["tenant-*"], ["other"]]),
)  # fmt: skip
policies = st.lists(st.builds(lambda m, s: (m, s), matches, settings_of), max_size=4).map(
    lambda found: [policy(f"p{at}", match, **wanted) for at, (match, wanted) in enumerate(found)]
)
items = st.builds(
    lambda c, e, lp, own, tier: attachment(
        {"communities": tuple(c), "export_rt": tuple(e), "local_preference": lp},
        own_export_rt=own, labels={"tier": tier},
    ),
    rts, rts, st.none() | st.integers(0, 3), st.booleans(), st.sampled_from(["web", "db"]),
)  # fmt: skip
tables = st.none() | st.builds(NetworkTable, local_preference=st.none() | st.integers(0, 3))


@given(items, st.lists(st.tuples(policies, tables), max_size=3), policies, tables)
def test_only_what_is_said_now_counts(
    item: Attachment, before: list[tuple[list[RoutePolicy], Any]], now: list[RoutePolicy], table: Any
) -> None:
    """Whatever policies came and went, and however often it is planned anew; and the record reads back."""
    found = item
    for policies_then, table_then in before:
        found = said(*policies_then, item=found, table=table_then)
    found = said(*now, item=found, table=table)
    assert found == said(*now, item=item, table=table)
    assert said(*now, item=found, table=table) is found
    assert Attachment.model_validate_json(found.model_dump_json(by_alias=True)) == found
    assert said(item=found) == item


def test_the_names_of_attributes_are_those_of_the_model() -> None:
    assert set(Attributes.model_fields) == ALL == set(intent.KEYS)
