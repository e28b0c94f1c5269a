"""`reload`: a new configuration is applied whole, or the one before stays in force, whatever goes wrong meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from memory_exporter import FACTS, Memory
from waiting import until

from bgpcni import locks
from bgpcni.agent import agent as module
from bgpcni.agent import facts
from bgpcni.agent.agent import Running, Unmeasured
from bgpcni.config.agent import AgentConfig, load
from bgpcni.convergence import catalog
from bgpcni.dataplane.dataplane import DataPlane
from bgpcni.errors import InvalidConfiguration, TryAgain
from bgpcni.model import Address, Attachment, ExporterUse, NodeFacts, State
from bgpcni.node import interface
from bgpcni.store import Store


class Deaf:
    """In the place of what tells of the kernel's events."""

    def __init__(self, *told: Callable[..., None]) -> None:
        pass


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """An agent that is built and has read its records, its exporter in memory, one attachment up."""
    monkeypatch.setattr(catalog, "load", lambda kind: Memory)
    monkeypatch.setattr(module, "Monitor", Deaf)
    monkeypatch.setattr(DataPlane, "restore", lambda self, attachments: None)
    monkeypatch.setattr(interface, "vanished", lambda netlink, attachment: False)
    file = tmp_path / "agent.toml"
    file.write_text(f'run_dir = "{tmp_path}/run"\ndata_dir = "{tmp_path}/data"\ndefault_exporters = ["memory"]\n')
    config = load(file)
    store = Store(Path(config.data_dir), Path(config.run_dir))
    writers = locks.WriterLocks(store.run_fd, store.data_fd)
    running = Running(file, tmp_path / "agent.sock", config, store, writers, Unmeasured())
    item = Attachment(
        boot_id=running.node.boot_id, network="net", container_id="c1", ifname="eth0", netns="/x", since="now",
        chained=True, addresses=(Address(address="10.1.2.3/24"),),
        exporters=(ExporterUse(name="memory", type="memory"),),
    )  # fmt: skip
    store.put(State.UP, item)
    running._restore()
    running.node.convergence.start()
    until(lambda: table(running))
    yield running
    running.node.nudges.close()
    running.node.convergence.stop()
    store.close()


def table(running: Running) -> dict[Any, Any]:
    announcers = running.node.convergence.announcers()
    exporter = announcers["memory"]._exporter if "memory" in announcers else Memory()
    assert isinstance(exporter, Memory)
    return exporter.table


def changed(config: AgentConfig) -> NodeFacts:
    return NodeFacts(run_dir=config.run_dir, data_dir=config.data_dir, asn=64513)


def test_a_changed_node_tells_everything_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other facts of the node: other exporters, which are told of every record."""
    monkeypatch.setattr(facts, "resolve", changed)
    before = running.node.convergence.announcers()["memory"]
    running.reload()
    assert running.node.facts.asn == 64513
    assert running.node.convergence.announcers()["memory"] is not before
    until(lambda: table(running))


def test_a_reload_that_fails_in_the_middle_goes_back(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporters of before were let go of already: they are made again, and announce what is up."""
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
    until(lambda: table(running))


def test_the_facts_of_these_tests_are_others(running: Running) -> None:
    """Else the two tests above would reload nothing."""
    assert changed(running.node.agent) != running.node.facts
    assert FACTS.asn is None


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
