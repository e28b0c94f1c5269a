"""`reload`: a new configuration is applied whole, or the one before stays in force, whatever goes wrong meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NoReturn

import pytest

from bgpcni import locks
from bgpcni.agent import agent as module
from bgpcni.agent.agent import Running, Unmeasured, Untraced
from bgpcni.cluster.peers import Wish
from bgpcni.config.agent import AgentConfig, NeighborTable, load
from bgpcni.convergence import catalog
from bgpcni.dataplane.dataplane import DataPlane
from bgpcni.errors import InvalidConfiguration, IoFailure, TryAgain
from bgpcni.model import Address, Announcement, Attachment, ExporterUse, Nlri, NodeFacts, State
from bgpcni.node import facts, interface, plan
from bgpcni.store import Store
from bgpcni.testing.memory import FACTS, Memory
from bgpcni.testing.patience import SECONDS, until


class Deaf:
    """Stands in for the monitor of the kernel's events."""

    def __init__(self, *told: Callable[..., None]) -> None:
        pass


class Owner(Memory):
    """It has its speaker to itself, and the speaker outlives it."""

    speaker: ClassVar[dict[Nlri, Announcement]] = {}

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.table = self.speaker

    @classmethod
    def owns(cls, config: Any) -> str:
        return "the speaker"


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """An agent that is built and has read its records, its exporter in memory, one attachment up."""
    monkeypatch.setattr(catalog, "load", lambda kind: Owner)
    monkeypatch.setattr(module, "Monitor", Deaf)
    monkeypatch.setattr(DataPlane, "restore", lambda self, attachments: None)
    monkeypatch.setattr(interface, "vanished", lambda netlink, attachment: False)
    file = tmp_path / "agent.toml"
    file.write_text(f'run_dir = "{tmp_path}/run"\ndata_dir = "{tmp_path}/data"\ndefault_exporters = ["memory"]\n')
    config = load(file)
    store = Store(Path(config.data_dir), Path(config.run_dir))
    writers = locks.WriterLocks(store.run_fd, store.data_fd)
    running = Running(file, tmp_path / "agent.sock", config, store, writers, Unmeasured(), Untraced())
    item = Attachment(
        boot_id=running.node.boot_id, network="net", container_id="c1", ifname="eth0", netns="/x", since="now",
        chained=True, addresses=(Address(address="10.1.2.3/24"),),
        exporters=(ExporterUse(name="memory", type="memory"),),
    )  # fmt: skip
    store.put(State.UP, item)
    Owner.speaker.clear()
    running.node.convergence.employ(plan.configured(config))
    running._restore()
    running.node.convergence.start()
    until(lambda: Owner.speaker)
    yield running
    running.node.nudges.close()
    running.node.convergence.stop()
    store.close()


def item_of(running: Running) -> Attachment:
    (stored,) = running.node.store.all()
    assert stored.attachment is not None
    return stored.attachment


def exporter(running: Running) -> Owner:
    """The only one at work, once it has been told all and has pruned."""
    (announcer,) = running.node.convergence.announcers().values()
    found = announcer._exporter
    assert isinstance(found, Owner)
    until(lambda: found.pruned)
    return found


def changed(config: AgentConfig, others: Sequence[NeighborTable] = ()) -> NodeFacts:
    return NodeFacts(run_dir=config.run_dir, data_dir=config.data_dir, asn=64513)


def test_a_changed_node_tells_everything_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other facts of the node need new exporters, which are given the routes of every record."""
    monkeypatch.setattr(facts, "resolve", changed)
    before = running.node.convergence.announcers()["memory"]
    running.reload()
    assert running.node.facts.asn == 64513
    assert running.node.convergence.announcers()["memory"] is not before
    assert [verb for verb, _ in exporter(running).seen] == ["announce"]


def test_a_reload_that_fails_in_the_middle_goes_back(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old exporters were closed already: they are made again, and announce what is up."""
    known = running.node.facts
    monkeypatch.setattr(facts, "resolve", changed)
    configure = DataPlane.configure

    def refusing(self: DataPlane, facts: NodeFacts, *more: Any) -> None:
        if facts.asn == 64513:
            raise OSError(12, "Cannot allocate memory")
        configure(self, facts, *more)

    monkeypatch.setattr(DataPlane, "configure", refusing)
    with pytest.raises(InvalidConfiguration, match=r"cannot be applied: .*Cannot allocate memory"):
        running.reload()
    assert running.node.facts == known
    assert [verb for verb, _ in exporter(running).seen] == ["announce"]


def test_an_agent_that_cannot_go_back_either_goes_on_trying(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` says so, and when it can, what is up is announced as before."""
    known = running.node.facts
    monkeypatch.setattr(facts, "resolve", changed)
    with monkeypatch.context() as patch:
        patch.setattr(DataPlane, "configure", refuse)
        with pytest.raises(IoFailure, match=r"nor the one before can be applied: .*Cannot allocate memory"):
            running.reload()
        running._watch.look()
        assert "Cannot allocate memory" in running.node.amiss["configuration"]
    monkeypatch.setattr(facts, "resolve", lambda config, others: known)
    running._watch.look()
    assert "configuration" not in running.node.amiss
    assert running.node.facts == known
    assert [verb for verb, _ in exporter(running).seen] == ["announce"]


def refuse(*_: object) -> NoReturn:
    raise OSError(12, "Cannot allocate memory")


RENAMED = """default_exporters = ["fabric"]
[exporters.fabric]
type = "memory"
"""


def test_a_call_by_the_old_name_amid_a_rename(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ADD that was planned before, or the worker, is at an attachment while the exporters are made anew: it gets
    the one that is called otherwise now, and nothing is withdrawn."""
    item, configure = item_of(running), DataPlane.configure

    def overtaken(self: DataPlane, *given: Any) -> None:
        thread = threading.Thread(target=running.node.convergence.want, args=[item])
        thread.start()
        thread.join(SECONDS)
        configure(self, *given)

    monkeypatch.setattr(DataPlane, "configure", overtaken)
    rename(running)
    running.reload()
    assert list(running.node.convergence.announcers()) == ["fabric"]
    assert {verb for verb, _ in exporter(running).seen} == {"announce"}
    assert Owner.speaker
    running.worker.look_at(item.key)
    assert [use.name for use in item_of(running).exporters] == ["fabric"]


def test_a_call_waits_for_the_exporters_of_now(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that asks while those of before are let go of gets none of them."""
    item, close, threads = item_of(running), Owner.close, []

    def overtaken(self: Owner) -> None:
        thread = threading.Thread(target=running.node.convergence.want, args=[item])
        thread.start()
        threads.append(thread)
        close(self)

    monkeypatch.setattr(Owner, "close", overtaken)
    rename(running)
    running.reload()
    monkeypatch.setattr(Owner, "close", close)
    for thread in threads:
        thread.join(SECONDS)
    (announcer,) = running.node.convergence.announcers().values()
    assert announcer.name == "fabric"
    assert item.key in announcer._ledger._owned
    assert {verb for verb, _ in exporter(running).seen} == {"announce"}


def test_a_rename_amid_a_look_of_the_worker(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look goes on with the configuration with which it began; the record never has both names."""
    monkeypatch.setattr(Owner, "source", lambda config, local_address: "192.0.2.1")
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.0)
    item, names, put = item_of(running), list[list[str]](), running.node.store.put

    def overtaken(netlink: object, attachment: Attachment) -> bool:
        monkeypatch.setattr(interface, "vanished", lambda netlink, attachment: False)
        rename(running)
        thread = threading.Thread(target=running.reload)
        thread.start()
        thread.join(SECONDS)
        return False

    def recorded(state: State, attachment: Attachment) -> None:
        names.append([use.name for use in attachment.exporters])
        put(state, attachment)

    monkeypatch.setattr(interface, "vanished", overtaken)
    monkeypatch.setattr(running.node.store, "put", recorded)
    running.worker.look_at(item.key)
    running.worker.look_at(item.key)
    assert names == [["fabric"]]
    again = exporter(running)
    until(lambda: again.seen)
    assert {verb for verb, _ in again.seen} == {"announce"}
    assert list(running.node.convergence.announcers()) == ["fabric"]


def rename(running: Running) -> None:
    """agent.toml calls the exporter otherwise."""
    path = running._config_path
    path.write_text(path.read_text().replace('default_exporters = ["memory"]\n', RENAMED))


def test_what_could_not_be_told_is_not_pruned(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call holds an attachment all through a reload: its routes stay with the speaker until it can be looked at."""
    item = item_of(running)
    monkeypatch.setattr(facts, "resolve", changed)
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.0)
    with running.node.store.locked(item.key, SECONDS):
        running.reload()
        again = exporter(running)
        assert again.pruned == [{"net"}]
        assert Owner.speaker
    running.worker.look_at(item.key)
    until(lambda: len(again.pruned) == 2)
    assert again.pruned[1] == set()
    assert {verb for verb, _ in again.seen} == {"announce"}
    assert Owner.speaker


def test_the_facts_of_these_tests_are_others(running: Running) -> None:
    """The two tests above need facts that differ; otherwise they would reload nothing."""
    assert changed(running.node.agent) != running.node.facts
    assert FACTS.asn is None


def test_a_reload_that_touches_no_exporter_goes_back_too(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the data path refuses is in force nowhere."""
    before, path, configure = running.node.agent, running._config_path, DataPlane.configure
    path.write_text(f"orphan_grace = 7\n{path.read_text()}")
    given: list[object] = []

    def once(self: DataPlane, *arguments: Any) -> None:
        given.append(arguments)
        if len(given) == 1:
            refuse()
        configure(self, *arguments)

    monkeypatch.setattr(DataPlane, "configure", once)
    at_work = running.node.convergence.announcers()
    with pytest.raises(InvalidConfiguration, match="Cannot allocate memory"):
        running.reload()
    assert running.node.agent == before
    assert running.node.convergence.announcers() == at_work
    running.reload()
    assert running.node.agent.orphan_grace == 7


def test_of_two_reloads_at_once_the_later_one_has_the_later_file(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file changes while the first reload is under way: what it says last is what holds in the end."""
    file = running._config_path
    under_way, go_on = threading.Event(), threading.Event()

    def slow(config: AgentConfig) -> None:
        if not under_way.is_set():
            under_way.set()
            assert go_on.wait(SECONDS)

    monkeypatch.setattr(facts, "refuse_passwords", slow)
    text = file.read_text()
    file.write_text(f"orphan_grace = 61\n{text}")
    threads = [threading.Thread(target=running.reload) for _ in range(2)]
    threads[0].start()
    assert under_way.wait(SECONDS)
    file.write_text(f"orphan_grace = 62\n{text}")
    threads[1].start()
    threads[1].join(0.2)  # were it not kept waiting, it would be through by then, and the first would overwrite it
    go_on.set()
    for thread in threads:
        thread.join(SECONDS)
    assert running.node.agent.orphan_grace == 62


def test_a_reload_waits_while_exporters_are_let_go_of(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It might put the very exporter to use that is on its way out."""
    order = []
    reload = threading.Thread(target=running.reload)

    def retire(*_: object) -> list[str]:
        reload.start()
        reload.join(0.2)  # were it not kept waiting, it would be through by then
        order.append("let go")
        return []

    monkeypatch.setattr(running.node.convergence, "retire", retire)
    monkeypatch.setattr(facts, "refuse_passwords", lambda config: order.append("reloaded"))
    running.worker._retire()
    reload.join(SECONDS)
    assert order == ["let go", "reloaded"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'store = "kubernetes"'),
        ('store = "kubernetes"', 'store = "kubernetes"\nnode = "other"'),
        ('store = "kubernetes"', 'store = "kubernetes"\nkubernetes = {kubeconfig = "/other"}'),
    ],
)
def test_a_reload_does_not_move_the_node_to_another_cluster(running: Running, before: str, after: str) -> None:
    """Who this node is in its cluster is settled at the agent's start; the refusal names the keys."""
    file = running._config_path
    text = file.read_text()
    file.write_text(f"{text}[cluster]\n{before}\n" if before else text)
    running.node.agent = load(file)
    file.write_text(f"{text}[cluster]\n{after}\n")
    with pytest.raises(TryAgain, match=r"cluster\.store, cluster\.node, .* cannot change while the agent runs"):
        running.reload()


def test_a_reload_takes_up_what_else_the_cluster_is_told(running: Running) -> None:
    """`network` and `unready_after` are read anew by whoever needs them."""
    file = running._config_path
    text = file.read_text() + '[cluster]\nstore = "kubernetes"\n'
    file.write_text(text)
    running.node.agent = load(file)
    file.write_text(f'{text}kubernetes = {{network = "/other", unready_after = 60}}\n')
    running.reload()
    assert running.node.agent.cluster is not None
    assert running.node.agent.cluster.kubernetes.unready_after == 60


def test_what_the_cluster_says_is_taken_up_once(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is one reload; one that is refused is told, and tried again later; a drained node takes up nothing."""
    reloads: list[bool] = []
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Running, "reload", lambda self, *, again: reloads.append(again))
    wishes = [Wish("BGPPeer a", None, "spec.port: no")]
    cluster = SimpleNamespace(generation=1, wishes=lambda config: wishes, configured=lambda config: config)
    running._cluster = cluster  # type: ignore[assignment]
    assert running._keep_cluster() == running._keep_cluster() == ""
    assert reloads == [True]
    _, *running._unfit = running._resolve(running.node.agent)
    assert running._keep_cluster() == "BGPPeer a: spec.port: no"

    def refuse(self: Running, *, again: bool) -> None:
        reloads.append(again)
        raise TryAgain("not now")

    monkeypatch.setattr(Running, "reload", refuse)
    cluster.generation = 2
    with pytest.raises(TryAgain):
        running._keep_cluster()
    running._keep_cluster()
    assert len(reloads) == 2
    clock[0] += module.FOLLOW_SECONDS
    with pytest.raises(TryAgain):
        running._keep_cluster()
    running.node.drained, clock[0] = True, clock[0] + module.FOLLOW_SECONDS
    running._keep_cluster()
    assert len(reloads) == 3
