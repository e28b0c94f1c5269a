"""What operators ask: the JSON that scripts rely on, and the same as text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bgpcni import paths
from bgpcni.commands import answers, render
from bgpcni.commands.answers import orders
from bgpcni.config.agent import AgentConfig, ExporterTable
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.errors import InvalidConfiguration
from bgpcni.events import Events, Kind
from bgpcni.exporter import counted
from bgpcni.model import Address, Attachment, ExporterUse, State
from bgpcni.node.node import Node
from bgpcni.node.reachability import Reachability
from bgpcni.node.without_agent import Others
from bgpcni.nudges import Nudges
from bgpcni.operator.cli import main
from bgpcni.store import Store
from bgpcni.testing.memory import FACTS, Memory


def attachment(container: str = "c1", address: str = "10.1.2.3/24", network: str = "net", **more: Any) -> Attachment:
    values = {
        "boot_id": "boot", "network": network, "container_id": container, "ifname": "eth0", "netns": "/x",
        "chained": True, "mac": "02:00:00:00:00:01", "created": "2026-01-31T12:00:00Z",
        "addresses": (Address(address=address),), "exporters": (ExporterUse(name="memory", type="memory"),), **more,
    }  # fmt: skip
    return Attachment.model_validate(values)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Resident, its exporter in memory, one attachment up and announced."""
    monkeypatch.setattr(catalog, "load", lambda kind: Memory)
    monkeypatch.setattr(Reachability, "of", lambda self, attachment: [])  # this machine has none of these containers
    store = Store(tmp_path / "data", tmp_path / "run")
    nudges = Nudges()
    convergence = Convergence(FACTS, nudges)
    node = Node(store, AgentConfig(default_exporters=("memory",)), FACTS, convergence, nudges, events=Events())
    convergence.start()
    item = attachment(boot_id=node.boot_id)
    store.put(State.UP, item)
    convergence.want(item)
    assert convergence.wait_quiet(30) == []
    yield node
    convergence.stop()
    store.close()


def exporter(node: Node) -> Memory:
    found = node.convergence.announcers()["memory"]._exporter
    assert isinstance(found, Memory)
    return found


def test_a_healthy_node_has_no_problems(node: Node) -> None:
    document, code = answers.status(node)
    assert (code, document["healthy"], document["problems"], document["mode"]) == (0, True, [], "agent")
    assert document["schema"] == 1
    assert set(document["exporters"]["memory"]) == {"state", "since", "reason"}


def test_an_exporter_that_cannot_be_used_is_a_problem(node: Node) -> None:
    """Its place in agent.toml is named; the log of the agent's start may be long gone."""
    broken = {"fabric": ExporterTable(type="bagpipe", urll="x")}
    node.agent = AgentConfig(default_exporters=("memory",), exporters={"memory": ExporterTable(), **broken})
    document, code = answers.status(node)
    assert code == 1
    assert [(problem["code"], problem["text"]) for problem in document["problems"]] == [
        ("exporter-unusable", "fabric: exporters.fabric.urll: unknown key; did you mean 'url'?")
    ]


def test_each_problem_is_counted_and_said(node: Node) -> None:
    """Exit 1, a code for scripts and words for people."""
    exporter(node).established = False
    node.store.put(State.LEAVING, attachment("c2"))
    node.store.put(State.UP, attachment("c3", host_veth="vethgone", host_index=(1 << 31) - 7))
    (node.store.path / "attachments" / "up" / "net@0.json").write_text("{")
    node.drained = True
    document, code = answers.status(node)
    assert code == 1
    assert {problem["code"] for problem in document["problems"]} == {
        "drained", "peer-down", "orphans", "unreadable-record", "leaving",
    }  # fmt: skip
    assert "not healthy" in render.status(document)


def test_what_keeps_containers_from_being_reached_is_said_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same words in `status`, for all whom it concerns, and in `explain` of one of them."""
    monkeypatch.setattr(Reachability, "of", lambda self, attachment: [("bridge-down", "bridge cni0 is down")])
    node.store.put(State.UP, attachment("c2", "10.1.2.4/24"))
    document, code = answers.status(node)
    assert code == 1
    assert document["problems"] == [{"code": "bridge-down", "text": "bridge cni0 is down (2 attachments)"}]
    (found,) = answers.explain(node, "c1")[0]["attachments"]
    (step,) = [step for step in found["steps"] if step["step"] == "reachability"]
    assert (step["state"], step["detail"]) == ("no", "bridge cni0 is down")


def test_routes_that_are_left_out_are_a_problem(node: Node) -> None:
    """An Established session is not enough where maximum_prefix is reached; being close to it is none."""
    exporter(node).last_error = "18 routes received, maximum_prefix is 20; odd"
    assert answers.status(node)[0]["problems"] == []
    exporter(node).last_error = "maximum_prefix 20 is reached: 9900 routes are left out; odd"
    assert answers.status(node)[0]["problems"] == [
        {
            "code": "maximum-prefix",
            "text": "memory: 192.0.2.1: maximum_prefix 20 is reached: 9900 routes are left out",
        }
    ]


def test_attachments_say_what_the_specification_of_their_json_says(node: Node) -> None:
    document, code = answers.attachments(node)
    assert code == 0
    assert document["attachments"] == [
        {
            "network": "net", "containerID": "c1", "ifname": "eth0", "state": "up", "netns": "/x", "hostVeth": None,
            "mac": "02:00:00:00:00:01", "ips": ["10.1.2.3/24"], "since": "2026-01-31T12:00:00Z",
        }
    ]  # fmt: skip
    assert "10.1.2.3/24" in render.attachments(document)


def test_an_attachment_whose_link_is_gone_is_not_up(node: Node) -> None:
    """A container died and no DEL came: its record is still in `up`."""
    dead = attachment("dead", "10.1.2.9/24", chained=False, boot_id=node.boot_id, host_index=(1 << 31) - 7)
    node.store.put(State.UP, dead)
    document, code = answers.attachments(node)
    assert code == 0
    assert {item["containerID"]: item["state"] for item in document["attachments"]} == {"c1": "up", "dead": "gone"}


def test_routes_are_announced_or_the_exit_code_says_so(node: Node) -> None:
    """Every key of the interface; a record without an exporter's word is `wanted`."""
    document, code = answers.routes(node)
    (route,) = document["routes"]
    assert code == 0
    assert set(route) == {
        "network", "containerID", "ifname", "family", "nlri", "prefix", "mac", "rd", "vni", "nextHop", "exportRT",
        "communities", "localPreference", "med", "policies", "datapath", "exporters",
    }  # fmt: skip
    assert (route["prefix"], route["family"]) == ("10.1.2.3/32", "ipv4-unicast")
    assert route["exporters"]["memory"]["state"] == "announced"
    exporter(node).established = False
    leaving = attachment("c2", "10.1.2.4/24")
    node.store.put(State.LEAVING, leaving)
    node.convergence.leave(leaving)
    document, code = answers.routes(node)
    assert code == 1
    assert sorted(found["exporters"]["memory"]["state"] for found in document["routes"]) == ["announced", "withdrawing"]
    assert "10.1.2.4/32" in render.routes(document)


def test_without_an_agent_a_record_that_is_up_says_announced(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an exporter that needs none: the call that added it had the speaker's word. The others are only wanted."""
    nudges = Nudges()
    convergence = Convergence(FACTS, nudges, others=Others(node.store, node.boot_id, FACTS))
    alone = Node(node.store, AgentConfig(default_exporters=()), FACTS, convergence, nudges)
    document, code = answers.routes(alone)
    assert code == 0
    assert document["routes"][0]["exporters"]["memory"]["state"] == "announced"
    monkeypatch.setattr(Memory, "needs_agent", True)
    document, code = answers.routes(alone)
    assert code == 1
    assert document["routes"][0]["exporters"]["memory"]["reason"] == "no agent is running"


def test_peers_are_established_or_the_exit_code_says_so(node: Node) -> None:
    document, code = answers.peers(node)
    assert code == 0
    assert document["peers"][0] == {
        "exporter": "memory", "address": "192.0.2.1", "asn": 64512, "state": "Established",
        "since": "2026-01-31T12:00:00Z", "families": ["ipv4-unicast"], "sent": 1, "received": 0, "lastError": "",
        "flaps": 0, "interface": "",
    }  # fmt: skip
    exporter(node).established = False
    document, code = answers.peers(node)
    assert code == 1
    assert "Active" in render.peers(document)


@pytest.mark.parametrize("what", ["c1", "net", "10.1.2.3", "10.1.2.0/24", "10.1.2.3/32", "02:00:00:00:00:01"])
def test_explain_finds_by_any_handle(node: Node, what: str) -> None:
    """The way from request to route in order."""
    document, code = answers.explain(node, what)
    assert code == 0
    (found,) = document["attachments"]
    assert [step["step"] for step in found["steps"]][:4] == ["request", "addresses", "link", "record"]
    assert found["steps"][-1]["state"] == "announced"
    assert "announced" in render.explain(document)


def failed(node: Node, container: str) -> None:
    variables = {"CNI_CONTAINERID": container, "CNI_IFNAME": "eth0"}
    error = {"cniVersion": "1.0.0", "code": 7, "msg": "bgp.vni: missing", "details": "could not undo the link: disk"}
    node.failures.failed(variables, b'{"name": "net"}', json.dumps(error).encode())


def test_an_add_that_failed_is_explained(node: Node) -> None:
    """Nothing else is left of it; the container that is up beside it is explained as ever."""
    failed(node, "lost")
    document, code = answers.explain(node, "lost")
    (found,) = document["attachments"]
    assert (code, found["network"], found["containerID"], found["ifname"]) == (0, "net", "lost", "eth0")
    (step,) = found["steps"]
    assert (step["step"], step["state"]) == ("last ADD", "failed")
    assert step["detail"] == "error 7: bgp.vni: missing (could not undo the link: disk)"
    assert "net/lost/eth0" in render.explain(document)
    assert [item["containerID"] for item in answers.explain(node, "net")[0]["attachments"]] == ["c1", "lost"]


def test_a_failure_beside_an_attachment_is_its_last_step(node: Node) -> None:
    """A second ADD of it, say."""
    failed(node, "c1")
    (found,) = answers.explain(node, "c1")[0]["attachments"]
    assert [step["step"] for step in found["steps"]][-2:] == ["route", "last ADD"]


def test_without_an_agent_it_is_said_that_failures_are_not_remembered(node: Node) -> None:
    """Without an agent no process could remember failed ADDs, and `explain` says so."""
    assert "remembered" not in answers.explain(node, "lost")[0]["error"]
    nudges = Nudges()
    convergence = Convergence(FACTS, nudges, others=Others(node.store, node.boot_id, FACTS))
    alone = Node(node.store, AgentConfig(default_exporters=()), FACTS, convergence, nudges)
    document, code = answers.explain(alone, "lost")
    assert code == 1
    assert "no agent is running, so ADDs that failed are not remembered" in document["error"]


def test_explain_of_what_has_no_address(node: Node) -> None:
    """Layer 2 only: nothing was leased."""
    node.store.put(State.UP, attachment("bare", addresses=()))
    document, _ = answers.explain(node, "bare")
    assert [step["state"] for step in document["attachments"][0]["steps"] if step["step"] == "addresses"] == ["none"]


@pytest.mark.parametrize("what", ["c2", "10.1.2.4", "10.9.0.0/16", "", "%", "::1", "c"])
def test_explain_of_what_is_not_there_is_an_error(node: Node, what: str) -> None:
    document, code = answers.explain(node, what)
    assert (code, set(document)) == (1, {"schema", "error"})


def test_explain_knows_unreadable_records_by_their_network(node: Node) -> None:
    (node.store.path / "attachments" / "up" / "lost@0.json").write_text("{")
    document, code = answers.explain(node, "lost")
    assert code == 0
    assert document["attachments"][0]["steps"][0]["state"] == "unreadable"
    assert "unreadable" in render.explain(document)


def test_release_needs_force_and_a_container_that_is_gone(node: Node) -> None:
    """It may lead traffic astray: never by accident, never what is up."""
    gone = attachment("c2", "10.1.2.4/24")
    node.store.put(State.LEAVING, gone)
    exporter(node).established = False
    node.convergence.leave(gone)
    with pytest.raises(InvalidConfiguration, match="--force"):
        answers.release(node, "c2", force=False)
    with pytest.raises(InvalidConfiguration, match="is up"):
        answers.release(node, "c1", force=True)
    document, code = answers.release(node, "c2", force=True)
    assert (code, document["released"]) == (0, ["net/c2/eth0"])
    assert node.store.find(gone.key) is None
    assert not node.convergence.is_leaving(gone, gone.exporters[0])
    assert answers.release(node, "c2", force=True)[1] == 1
    assert render.release(document) == "released net/c2/eth0\n"


def test_sync_retries_what_is_late(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sync` exits with 1 while something is still late."""
    monkeypatch.setattr(orders, "SYNC_SECONDS", 0.05)
    gone = attachment("c2", "10.1.2.4/24", boot_id="an earlier boot")
    node.store.put(State.LEAVING, gone)
    exporter(node).mishaps = ["away"] * 100000
    document, code = answers.sync(node)
    assert (code, document["leaving"]) == (1, ["net/c2/eth0"])
    assert "net/c2/eth0 is not withdrawn yet" in render.sync(document)
    exporter(node).mishaps = []
    monkeypatch.setattr(orders, "SYNC_SECONDS", 30.0)
    document, code = answers.sync(node)
    assert (code, document["late"], document["leaving"]) == (0, [], [])
    assert render.sync(document) == "nothing is late\n"


def test_every_document_is_json(node: Node) -> None:
    for document, _ in (
        answers.status(node), answers.attachments(node), answers.routes(node), answers.peers(node),
        answers.explain(node, "net"),
    ):  # fmt: skip
        assert json.loads(json.dumps(document))["schema"] == 1


class TestCommandLine:
    """Without an agent, where none is meant to be, the records answer."""

    @pytest.fixture(autouse=True)
    def nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(paths, "SOCKET", tmp_path / "agent.sock")
        monkeypatch.setattr(paths, "AGENT_CONFIG", tmp_path / "agent.toml")
        monkeypatch.setenv("BGPCNI_RUN_DIR", str(tmp_path / "run"))
        monkeypatch.setenv("BGPCNI_DATA_DIR", str(tmp_path / "data"))
        monkeypatch.delenv("BGPCNI_SOCKET", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", "")

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [(["status"], 0), (["attachments"], 0), (["routes"], 0), (["peers"], 0), (["sync"], 0),
         (["explain", "x"], 1), (["release", "x"], 1), (["release", "x", "--force"], 1),
         (["drain"], 1), (["reload"], 1)],
    )  # fmt: skip
    def test_every_command_answers_in_text_and_in_json(self, arguments: list[str], code: int) -> None:
        found = CliRunner().invoke(main, arguments)
        assert (found.exit_code, isinstance(found.exception, SystemExit | type(None))) == (code, True)
        found = CliRunner().invoke(main, [*arguments, "--json"])
        assert found.exit_code == code
        document = json.loads(found.output)
        assert document["schema"] == 1
        assert ("error" in document) == bool(code)

    def test_a_socket_that_was_named_is_the_only_one_asked(self, tmp_path: Path) -> None:
        found = CliRunner().invoke(main, ["status", "--json", "--socket", str(tmp_path / "none.sock")])
        assert found.exit_code == 1
        assert "none.sock" in json.loads(found.output)["error"]

    def test_an_agent_that_should_be_there_is_missed(self, tmp_path: Path) -> None:
        (tmp_path / "agent.toml").write_text("")
        found = CliRunner().invoke(main, ["status", "--json"])
        assert found.exit_code == 1
        assert "agent.sock" in json.loads(found.output)["error"]

    @pytest.mark.parametrize("arguments", [["nonsense"], ["explain"], ["status", "--nonsense"]])
    def test_usage_is_exit_2(self, arguments: list[str]) -> None:
        assert CliRunner().invoke(main, arguments).exit_code == 2


def named(document: dict[str, Any], rows: str = "routes") -> list[str]:
    return [row["containerID"] for row in document[rows]]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"network": "net"}, ["c1"]), ({"network": "other"}, []), ({"container": "c1"}, ["c1"]),
        ({"container": "c"}, []), ({"state": "up"}, ["c1"]), ({"state": "leaving"}, []),
        ({"network": "net", "state": "gone"}, []),
    ],
)  # fmt: skip
def test_attachments_are_filtered(node: Node, asked: dict[str, Any], found: list[str]) -> None:
    assert named(answers.attachments(node, **asked)[0], "attachments") == found


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"what": ("10.1.2.3",)}, ["c1"]), ({"what": ("10.1.2.4",)}, []), ({"what": ("10.1.0.0/16",)}, ["c1"]),
        ({"what": ("2001:db8::/32",)}, []), ({"what": ("02:00:00:00:00:01",)}, ["c1"]),
        ({"what": ("02:00:00:00:00:02",)}, []), ({"state": "announced"}, ["c1"]), ({"state": "refused"}, []),
        ({"network": "other"}, []), ({"container": "c1", "what": ("10.1.2.3",), "limit": 1}, ["c1"]),
    ],
)  # fmt: skip
def test_routes_are_filtered(node: Node, asked: dict[str, Any], found: list[str]) -> None:
    assert named(answers.routes(node, **asked)[0]) == found


@pytest.mark.parametrize(
    "asked",
    [
        {"what": ("10.1.2.3", "10.1.2.4")}, {"what": ("advertised",)},
        {"peer": "192.0.2.1", "what": ("advertised",) * 2},
        {"state": "best"}, {"received": True, "network": "net"},
    ],
)  # fmt: skip
def test_routes_say_what_does_not_go_together(node: Node, asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfiguration, match="routes: "):
        answers.routes(node, **asked)


def test_what_a_peer_was_sent_is_said_by_its_exporter_or_nobody(node: Node) -> None:
    with pytest.raises(InvalidConfiguration, match=r"--peer: exporter memory cannot tell what 192\.0\.2\.1"):
        answers.routes(node, peer="192.0.2.1", what=("advertised",))
    with pytest.raises(InvalidConfiguration, match=r"--peer: no exporter has a peer 2001:db8::1"):
        answers.routes(node, peer="2001:db8::1")


def test_one_peer_is_told_in_detail(node: Node) -> None:
    node.events.emit(Kind.SESSION_DOWN, exporter="memory", peer="192.0.2.1", detail="hold timer expired")
    (peer,) = answers.peers(node, "192.0.2.1")[0]["peers"]
    assert [change["detail"] for change in peer["changes"]] == ["hold timer expired"]
    assert peer["flaps"] == 1
    text = render.peers({"peers": [peer]})
    assert text.startswith("peer 192.0.2.1 AS 64512\n")
    assert "messages" not in text
    counts = {"messages": counted({"open": 1, "update": 3}, {"keepalive": 5})}
    text = render.peers({"peers": [peer | counts]})
    assert "  messages sent:     1 open, 3 update\n  received:          5 keepalive\n" in text
    assert "down: hold timer expired" in text
    with pytest.raises(InvalidConfiguration, match="peers: no exporter has a peer"):
        answers.peers(node, "192.0.2.9")


def test_an_exporter_that_cannot_reset_says_so(node: Node) -> None:
    with pytest.raises(InvalidConfiguration, match="memory: it cannot reset sessions"):
        answers.reset_peer(node, "192.0.2.1", soft=False)
    with pytest.raises(InvalidConfiguration, match="no exporter has a peer"):
        answers.reset_peer(node, "192.0.2.9", soft=True)


def test_an_exporter_that_tells_of_no_session_is_named(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """BaGPipe has sessions of its own that nobody can see from here: who asks for one hears where to ask."""
    monkeypatch.setattr(exporter(node), "peers", list)
    words = r"no exporter has a peer 192\.0\.2\.1; memory told of no session: ask its speaker itself"
    for ask in (
        lambda: answers.reset_peer(node, "192.0.2.1", soft=True),
        lambda: answers.peers(node, "192.0.2.1"),
        lambda: answers.routes(node, peer="192.0.2.1"),
    ):
        with pytest.raises(InvalidConfiguration, match=words):
            ask()


@pytest.mark.parametrize("what", ["veth1", "cni7", "eth0", "/var/run/netns/blue"])
def test_explain_finds_by_interface_bridge_and_namespace(node: Node, what: str) -> None:
    item = attachment("c7", boot_id=node.boot_id, host_veth="veth1", bridge="cni7", netns="/var/run/netns/blue")
    node.store.put(State.UP, item)
    assert "c7" in named(answers.explain(node, what)[0], "attachments")


def test_explain_finds_the_session_with_a_peer(node: Node) -> None:
    document, code = answers.explain(node, "192.0.2.1")
    assert code == 0
    (session,) = document["peers"]
    assert [step["step"] for step in session["steps"]][:2] == ["exporter", "session"]
    assert "session of memory with 192.0.2.1, AS 64512" in render.explain(document)
