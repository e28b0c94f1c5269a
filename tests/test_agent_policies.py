"""The cluster's policies at work: which attachments are looked at after a change, what they are announced with then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from at_work import AtWork
from test_node_intent import policy

from bgpcni.agent import policies as module
from bgpcni.agent import worker as worker_module
from bgpcni.agent.policies import Policies
from bgpcni.cluster.objects import RoutePolicy
from bgpcni.cluster.picture import Pictures
from bgpcni.config.agent import AgentConfig, NetworkTable
from bgpcni.convergence import catalog
from bgpcni.errors import IoFailure
from bgpcni.model import Attachment, Pod, State
from bgpcni.node import interface
from bgpcni.nudges import Nudges
from bgpcni.testing.interleaving import Halt, Running
from bgpcni.testing.memory import Memory
from bgpcni.testing.patience import until

WEB = {"podSelector": {"tier": "web"}}


def put(pictures: Pictures, *wanted: RoutePolicy) -> None:
    pictures.put({item.path: item for item in wanted})


class KnownPods:
    """In place of `cluster.pods.Pods`: what the API has told."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, str]] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.followed = 0

    def follow(self) -> None:
        self.followed += 1

    def labels(self, pod: Pod) -> dict[str, str] | None:
        return self.pods.get(pod.name)

    def namespace_labels(self, name: str) -> dict[str, str] | None:
        return self.namespaces.get(name)


def attachment(name: str, network: str = "net", tier: str = "db", pod: str = "") -> Attachment:
    return Attachment(
        boot_id="b", network=network, container_id=name, ifname="eth0", netns="/n", labels={"tier": tier},
        pod=Pod(namespace="shop", name=pod) if pod else None,
    )  # fmt: skip


def nudged(nudges: Nudges) -> set[str]:
    found = {key.container_id for key in nudges._due}
    nudges._due.clear()
    return found


class TestWhoIsLookedAt:
    def test_those_for_whom_a_change_matters(self) -> None:
        """And nobody else; nobody at all where the picture changes in something else, or they are gone."""
        pictures, nudges = Pictures(), Nudges()
        policies = Policies(pictures, lambda: {"rack": "r1"}, AgentConfig(), nudges)
        items = [attachment("web", tier="web"), attachment("db"), attachment("other", network="other")]
        for item in items:
            policies.remember(item)
        put(pictures, policy("a", WEB, med=1))
        policies._judge(pictures.last)
        assert nudged(nudges) == {"web"}
        put(pictures, policy("a", WEB, med=1), policy("b", {"networks": ["other"]}, med=1))
        policies._judge(pictures.last)
        assert nudged(nudges) == {"other"}
        put(pictures, policy("a", WEB, med=1), policy("b", {"nodeSelector": {"rack": "r2"}}, med=1))
        policies._judge(pictures.last)
        assert nudged(nudges) == {"other"}
        policies._judge(pictures.last)
        policies.forget(items[0].key)
        put(pictures)
        policies._judge(pictures.last)
        assert nudged(nudges) == set()

    def test_the_pods_and_namespaces_with_other_labels(self) -> None:
        """They are followed once a policy asks for labels; what the API says counts, else what the record says."""
        pictures, nudges, pods = Pictures(), Nudges(), KnownPods()
        policies = Policies(pictures, dict, AgentConfig(), nudges, pods)  # type: ignore[arg-type]
        one, two = attachment("c1", pod="web-0"), attachment("c2", pod="web-1")
        for item in (one, two, attachment("c3")):
            policies.remember(item)
        put(pictures, policy("a", {"networks": ["x"]}, med=1))
        policies._judge(pictures.last)
        assert pods.followed == 0
        put(pictures, policy("a", WEB, med=1), policy("b", {"namespaceSelector": {"team": "x"}}, med=2))
        policies._judge(pictures.last)
        assert (pods.followed, nudged(nudges)) == (1, set())
        pods.pods["web-0"] = {"tier": "web"}
        policies._relabelled({("shop", "web-0"), ("shop", "web-9")}, ())
        assert nudged(nudges) == {"c1"}
        assert [rule.name for rule in policies.of(one).rules] == ["a"]
        assert policies.of(two).labels == {"tier": "db"}
        pods.namespaces["shop"] = {"team": "x"}
        policies._relabelled(set(), {"shop", "elsewhere"})
        assert nudged(nudges) == {"c1", "c2"}
        assert [rule.name for rule in policies.of(two).rules] == ["b"]

    def test_threads_do_it_by_themselves(self) -> None:
        """They end when the pictures do."""
        pictures, nudges = Pictures(), Nudges()
        policies = Policies(pictures, dict, AgentConfig(), nudges)
        policies.remember(attachment("c1"))
        policies.start()
        put(pictures, policy("a", med=1))
        until(lambda: nudged(nudges) == {"c1"})
        pictures.close()
        policies.stop()

    def test_labels_of_the_node_that_change(self) -> None:
        pictures, nudges, labels = Pictures(), Nudges(), {"rack": "r1"}
        policies = Policies(pictures, lambda: dict(labels), AgentConfig(), nudges)
        policies.remember(attachment("c1"))
        put(pictures, policy("a", {"nodeSelector": {"rack": "r2"}}, med=1))
        policies._judge(pictures.last)
        policies.looks["policies"]()
        assert nudged(nudges) == set()
        labels["rack"] = "r2"
        policies.looks["policies"]()
        assert nudged(nudges) == {"c1"}

    def test_a_forbidden_policy_is_named(self) -> None:
        """Also after a reload that forbids it."""
        pictures, nudges = Pictures(), Nudges()
        put(pictures, policy("a", communities=["1:1"]))
        policies = Policies(pictures, dict, AgentConfig(), nudges)
        policies.remember(attachment("c1"))
        assert policies.looks["policies"]() == ""
        policies.renew(AgentConfig.model_validate({"policy": {"communities": ["2:*"]}}))
        assert policies.looks["policies"]().startswith("RoutePolicy a is not applied on this node: spec.set.communiti")
        assert nudged(nudges) == {"c1"}


@pytest.fixture
def pictures() -> Pictures:
    return Pictures()


@pytest.fixture
def place(tmp_path: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> Iterator[AtWork]:
    monkeypatch.setattr(catalog, "load", lambda kind: Memory)
    monkeypatch.setattr(interface, "vanished", lambda *_: False)
    for name in ("BUSY_SECONDS", "FIRST_RETRY"):
        monkeypatch.setattr(worker_module, name, 0.005)
    made = AtWork(tmp_path, AgentConfig(default_exporters=("memory",)), pictures)
    with made:
        yield made


def up(place: AtWork, **more: Any) -> Attachment:
    """One that runs and is announced."""
    item = place.attachment(since="T", **more)
    place.store.put(State.UP, item)
    place.nudges.nudge(item.key)
    until(lambda: said(place))
    return item


def said(place: AtWork) -> list[tuple[Any, ...]]:
    return [(route.communities, route.med) for route in place.exporter().table.values()]


def rule(place: AtWork, pictures: Pictures, *wanted: RoutePolicy) -> None:
    put(pictures, *wanted)
    place.policies._judge(pictures.last)


def recorded(place: AtWork, item: Attachment) -> Attachment:
    found = place.store.find(item.key)
    assert found is not None
    assert found.attachment is not None
    return found.attachment


def test_a_running_container_gets_what_policies_say(place: AtWork, pictures: Pictures) -> None:
    """The record first, then the speaker; it is never withdrawn, and it is as before when the policy is gone."""
    item = up(place, bgp={"communities": ("64512:1",)})
    rule(place, pictures, policy("a", communities=["64512:2"], med=7))
    until(lambda: said(place) == [(("64512:1", "64512:2"), 7)])
    assert recorded(place, item).policies == {"communities": ("a",), "med": ("a",)}
    rule(place, pictures)
    until(lambda: said(place) == [(("64512:1",), None)])
    until(lambda: recorded(place, item) == item)
    assert {verb for verb, _ in place.exporter().seen} <= {"announce", "prune"}


def test_a_full_disk_takes_nothing_away(place: AtWork, pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was true is announced until the record can say what is true now."""
    item = up(place, bgp={"communities": ("64512:1",)})
    real, tries = place.store.put, []

    def full(state: State, attachment: Attachment) -> None:
        tries.append(attachment)
        if len(tries) < 3:
            raise IoFailure("the disk is full")
        real(state, attachment)

    monkeypatch.setattr(place.store, "put", full)
    rule(place, pictures, policy("a", med=7))
    until(lambda: len(tries) == 2)
    assert (said(place), recorded(place, item)) == ([(("64512:1",), None)], item)
    until(lambda: said(place) == [(("64512:1",), 7)])


def test_import_targets_reach_the_data_path_before_the_record(
    place: AtWork, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two is mended at the next start, which finds the old record. Other changes leave it alone."""
    done: list[tuple[str, tuple[str, ...]]] = []

    class DataPlane:
        def attach(self, attachment: Attachment) -> None:
            done.append(("data path", attachment.bgp.import_rt))

    item = up(place)
    monkeypatch.setattr(place.node, "dataplane", DataPlane())
    real = place.store.put
    monkeypatch.setattr(
        place.store, "put", lambda state, one: (done.append(("record", one.bgp.import_rt)), real(state, one))
    )
    rule(place, pictures, policy("a", importRT=["64512:9"]))
    until(lambda: recorded(place, item).bgp.import_rt)
    rule(place, pictures, policy("a", importRT=["64512:9"], med=1))
    until(lambda: recorded(place, item).bgp.med)
    assert done == [("data path", ("64512:9",)), ("record", ("64512:9",)), ("record", ("64512:9",))]


def test_the_operators_word_for_a_network_changes_running_containers(place: AtWork) -> None:
    """`[networks.NAME]` after a reload: the attachment is among those that are to be looked at."""
    item = up(place)
    table = NetworkTable(local_preference=300, med=3)
    place.node.agent = place.node.agent.model_copy(update={"networks": {"net": table}})
    assert place.node.is_outdated(recorded(place, item))
    place.nudges.nudge(item.key)
    until(lambda: said(place) == [((), 3)])
    assert not place.node.is_outdated(recorded(place, item))


class TestAnAddAndAPolicyAtOnce:
    """The ADD was planned with what was said before. Whichever is first, the container gets what the policy says."""

    @pytest.fixture(autouse=True)
    def _reachable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(interface, "reach", lambda *_: "")

    def test_the_policy_comes_before_the_add_is_remembered(
        self, place: AtWork, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        item = place.attachment()
        halt = Halt(monkeypatch, place.policies, "remember")
        adding = Running(lambda: place.node.announce(item))
        halt.reached()
        rule(place, pictures, policy("a", med=7))
        halt.go_on()
        assert adding.result().bgp.med is None
        until(lambda: said(place) == [((), 7)])

    def test_the_add_ends_before_the_policy_is_in_force(
        self, place: AtWork, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(pictures, policy("a", med=7))
        halt = Halt(monkeypatch, module, "rules_of", after=True)
        judging = Running(lambda: place.policies._judge(pictures.last))
        halt.reached()
        place.node.announce(place.attachment())
        place.convergence.wake()
        until(lambda: said(place) == [((), None)])
        halt.go_on()
        judging.result()
        until(lambda: said(place) == [((), 7)])
