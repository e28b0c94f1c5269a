"""Exporters by name: a third-party package is found; a broken one is an error only for those who name it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from stevedore import _cache
from stevedore.extension import ExtensionManager

from bgpcni import extensions
from bgpcni.convergence import catalog
from bgpcni.errors import InvalidConfiguration
from bgpcni.model import ExporterUse, Family, Neighbor, NodeFacts
from bgpcni.testing import Woken

MODULE = """\
from typing import Any
from bgpcni.exporter import Exporter
class Good(Exporter):
    contract = 1
    class Config(Exporter.Config):
        port: int = 1
    families = frozenset()
    def announce(self, routes, deadline): return []
    def withdraw(self, routes, deadline): return []
    def prune(self, keep, spare, deadline): pass
    def close(self): pass
class Old(Good):
    contract = 0
class Stranger:
    pass
class Silent(Exporter):
    families = frozenset()
class Short(Exporter):
    contract = 1
    families = frozenset()
    def announce(self, routes, deadline): return []
class Vague(Good):
    families = ["ipv4-unicast"]
class Loose(Good):
    Config = dict
class Faulty(Good):
    def __init__(self, *given): raise OSError("no disk")
    @classmethod
    def check(cls, config, node): raise KeyError("node")
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution of somebody else's with exporters of every kind."""
    (tmp_path / "strangers_exporter.py").write_text(MODULE)
    (tmp_path / "strangers_broken.py").write_text("raise RuntimeError('no such speaker')")
    (tmp_path / "strangers_quits.py").write_text("raise SystemExit(1)")
    info = tmp_path / "strangers-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[bgpcni.exporters]\nx-good = strangers_exporter:Good\nx-old = strangers_exporter:Old\n"
        "x-class = strangers_exporter:Stranger\nx-broken = strangers_broken:Any\nx-quits = strangers_quits:Any\n"
        "x-silent = strangers_exporter:Silent\nx-short = strangers_exporter:Short\nx-vague = strangers_exporter:Vague\n"
        "x-loose = strangers_exporter:Loose\nx-faulty = strangers_exporter:Faulty\nx-gone = strangers_exporter:Gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    # caches of its own: what stevedore has read before, in this process or for a folder of the same name, is not asked
    monkeypatch.setattr(_cache, "get_group_all", _cache.Cache(str(tmp_path / "cache")).get_group_all)
    monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
    catalog.load.cache_clear()
    yield
    catalog.load.cache_clear()
    for name in ("strangers_exporter", "strangers_broken", "strangers_quits"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("installed")
class TestStrangers:
    """An installed package's exporter is found without further configuration."""

    def test_a_strangers_exporter_is_found_and_configured(self) -> None:
        assert catalog.load("x-good").__name__ == "Good"
        assert "x-good" in extensions.installed(catalog.GROUP)
        assert catalog.configure(ExporterUse(name="a", type="x-good", config={"port": 5}), "exporters[0]").port == 5  # type: ignore[attr-defined]

    def test_a_wrong_option_is_named_with_its_place(self) -> None:
        use = ExporterUse(name="a", type="x-good", config={"prot": 5, "port": "x"})
        with pytest.raises(
            InvalidConfiguration, match=r"exporters\[0\]\.port: should be a number; exporters\[0\]\.prot: unk"
        ):
            catalog.configure(use, "exporters[0]")

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("x-none", "'x-none' is not installed; installed: .*exabgp.*x-good"),
            ("x-old", "'x-old' is written for contract 0, this is contract 1"),
            ("x-class", "'x-class' is not an Exporter class"),
            ("x-broken", "'x-broken' cannot be loaded: RuntimeError: no such speaker"),
            ("x-quits", "'x-quits' cannot be loaded: SystemExit: 1"),
            ("x-gone", "'x-gone' cannot be loaded: .*Gone"),
            ("x-silent", "'x-silent' does not say which contract it is written for; this is contract 1"),
            ("x-short", "'x-short' lacks close, prune, withdraw"),
            ("x-vague", "'x-vague' does not say which families it can announce"),
            ("x-loose", "'x-loose' has a Config that is not a pydantic model"),
        ],
    )
    def test_what_is_wrong_with_an_exporter_is_said(self, name: str, words: str) -> None:
        with pytest.raises(InvalidConfiguration, match=words):
            catalog.load(name)
        assert catalog.load("x-good").contract == 1  # and the others work

    def test_an_exporter_that_fails_when_made_is_an_error_in_words(self) -> None:
        use, node = ExporterUse(name="mine", type="x-faulty"), NodeFacts(run_dir="/run", data_dir="/data")
        with pytest.raises(InvalidConfiguration, match="'mine' cannot be made: OSError: no disk"):
            catalog.make(use, node, Woken())
        with pytest.raises(InvalidConfiguration, match="'mine' cannot be checked: KeyError: 'node'"):
            catalog.objection(use, node, "exporters[0]")


def test_ours_are_installed() -> None:
    assert "exabgp" in extensions.installed(catalog.GROUP)
    assert catalog.load("exabgp").needs_agent


def test_options_decide_which_instance_it_is() -> None:
    """The same options in any order: the same speaker. A name given never is one of agent.toml's."""
    one = catalog.identify("bagpipe", {"a": 1, "b": 2}, None)
    assert catalog.identify("bagpipe", {"b": 2, "a": 1}, None) == one
    assert catalog.identify("bagpipe", {"a": 2, "b": 1}, None).name != one.name
    assert catalog.identify("bagpipe", {}, None).name == "bagpipe"
    named = catalog.identify("bagpipe", {"a": 1}, "fabric").name
    assert named.startswith("fabric-"), "the plain name is that of an exporter in agent.toml"
    assert named != catalog.identify("bagpipe", {"a": 2}, "fabric").name


def node(*neighbors: Neighbor) -> NodeFacts:
    """A node at 192.0.2.1."""
    return NodeFacts(run_dir="/run", data_dir="/data", local_address="192.0.2.1", neighbors=neighbors, has_bgp=True)


def neighbor(address: str, exporter: str | None = None) -> Neighbor:
    return Neighbor(address, 64512, (Family.IPV4_UNICAST,), 90, exporter=exporter)


def test_two_that_own_the_same_are_refused_by_name() -> None:
    """Two names for one session, or one name with other options: each would undo what the other announces."""
    ours, fabric = ExporterUse(name="exabgp", type="exabgp"), ExporterUse(name="fabric", type="exabgp")
    one = node(neighbor("192.0.2.254"))
    both = r"fabric and exabgp would both own the session between 192\.0\.2\.1 and 192\.0\.2\.254"
    with pytest.raises(InvalidConfiguration, match=both):
        catalog.refuse_rivals([ours, fabric], one)
    table = [ExporterUse(name="kernel", type="kernel", config={"metric": number}) for number in (1, 2)]
    with pytest.raises(InvalidConfiguration, match=r"kernel and kernel as it was before would both own .* table 100"):
        catalog.refuse_rivals(table, one)
    other = ExporterUse(name="users", type="exabgp", config={"socket": "/run/users.sock"})
    broken = ExporterUse(name="broken", type="none-such")
    catalog.refuse_rivals([ours, ours, other, broken, table[0]], one)


def test_one_pair_of_addresses_is_one_session() -> None:
    """Two speakers may share the node's address, or a neighbour, but not both; nor may one take over what another has
    before that has let go of it."""
    first, second = ExporterUse(name="a", type="exabgp"), ExporterUse(name="b", type="exabgp")
    elsewhere = ExporterUse(name="b", type="exabgp", config={"local_address": "192.0.2.2"})
    apart = node(neighbor("192.0.2.254", "a"), neighbor("192.0.2.253", "b"))
    same = node(neighbor("192.0.2.254", "a"), neighbor("192.0.2.254", "b"))
    catalog.refuse_rivals([first, second], apart)
    catalog.refuse_rivals([first, elsewhere], same)
    words = "b and a would both own the session between 192.0.2.1 and 192.0.2.254"
    with pytest.raises(InvalidConfiguration, match=words):
        catalog.refuse_rivals([first, second], same)
    with pytest.raises(InvalidConfiguration, match=words):
        catalog.refuse_rivals([second], node(neighbor("192.0.2.254", "b")), [(first, apart)])


def test_an_exporter_sees_its_own_neighbours() -> None:
    """From its own address; one whose speaker has neighbours of its own sees none."""
    facts = node(neighbor("192.0.2.254", "a"), neighbor("192.0.2.253", "b"), neighbor("192.0.2.252"))
    mine = catalog.node_of(ExporterUse(name="b", type="exabgp", config={"local_address": "192.0.2.2"}), facts)
    assert (mine.local_address, [one.address for one in mine.neighbors]) == (
        "192.0.2.2",
        ["192.0.2.253", "192.0.2.252"],
    )
    assert catalog.node_of(ExporterUse(name="kernel", type="kernel"), facts).neighbors == ()
    assert catalog.node_of(ExporterUse(name="u", type="exabgp", config={"socket": "/s"}), facts).neighbors == ()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"local_address": "nowhere"}, r"exporters\.a\.local_address: 'nowhere' does not appear to be"),
        ({"local_address": "fe80::1%eth0"}, r"exporters\.a\.local_address: 'fe80::1%eth0' has a zone"),
        (
            {"local_address": "192.0.2.2", "socket": "/s"},
            "exporters.a: local_address is for the ExaBGP that the agent runs",
        ),
    ],
)
def test_a_local_address_that_cannot_be_is_named(config: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        catalog.configure(ExporterUse(name="a", type="exabgp", config=config), "exporters.a")


@pytest.mark.parametrize(
    ("kind", "one", "two"),
    [
        ("exabgp", {"socket": "/a"}, {"socket": "/b"}),
        ("bagpipe", {}, {"url": "http://127.0.0.1:1"}),
        ("kernel", {}, {"table": 101}),
        ("kernel", {}, {"protocol": 46}),
        ("gobgp", {}, {"owner": 1}),
    ],
)
def test_what_leads_elsewhere_is_no_rival(kind: str, one: dict[str, object], two: dict[str, object]) -> None:
    if kind == "gobgp":
        pytest.importorskip("grpc")
    first, second = (ExporterUse(name=f"{at}", type=kind, config=found) for at, found in enumerate((one, two)))
    catalog.refuse_rivals([first, second], node())
    with pytest.raises(InvalidConfiguration):
        catalog.refuse_rivals([first, ExporterUse(name="again", type=kind, config=one)], node())


OLD, NEW = ExporterUse(name="exabgp", type="exabgp"), ExporterUse(name="fabric", type="exabgp")
KERNEL = ExporterUse(name="kernel", type="kernel")
NODE = NodeFacts(run_dir="/run", data_dir="/data", local_address="192.0.2.1")


def test_the_same_speaker_under_another_name_is_the_same_exporter() -> None:
    assert catalog.counterparts([OLD, KERNEL], [NEW, KERNEL], NODE) == (NEW, KERNEL)


def test_the_same_sessions_are_the_same_speaker() -> None:
    """A second speaker is added, and the first gets a name and its address: its sessions go on."""
    first = ExporterUse(name="a", type="exabgp", config={"local_address": "192.0.2.1"})
    second = ExporterUse(name="b", type="exabgp", config={"local_address": "192.0.2.2"})
    assert catalog.counterparts([OLD], [first, second], NODE) == (first,)


def test_a_default_that_is_spelled_out_is_the_same_configuration() -> None:
    spelled = ExporterUse(name="table", type="kernel", config={"table": 100})
    assert catalog.counterparts([KERNEL], [spelled], NODE) == (spelled,)


@pytest.mark.parametrize(
    "configured",
    [
        [OLD, NEW],  # both are there, which is refused elsewhere
        [ExporterUse(name="fabric", type="exabgp", config={"socket": "/s"})],  # another speaker
        [ExporterUse(name="fabric", type="kernel")],
        [NEW, ExporterUse(name="second", type="exabgp")],  # which of them?
        [ExporterUse(name="fabric", type="none-such")],
        [],
    ],
    ids=["both", "elsewhere", "type", "two", "broken", "none"],
)
def test_what_is_not_certainly_the_same_stays_what_it_is(configured: list[ExporterUse]) -> None:
    """Then it is a hand-over, or refused, as ever."""
    assert catalog.counterparts([OLD], configured, NODE) == (OLD,)


def test_one_name_for_two_is_there_once() -> None:
    """A record that names both, since an earlier hand-over between them was cut short. Of two that have sessions the
    one that is not configured any more is handed over."""
    spelled = ExporterUse(name="table", type="kernel", config={"table": 100})
    assert catalog.counterparts([KERNEL, spelled], [spelled], NODE) == (spelled,)
    assert catalog.counterparts([OLD, NEW], [NEW], NODE) == (OLD, NEW)
