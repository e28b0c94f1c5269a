"""The small libcni: configurations found, chains run, with real child processes as plugins."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpcni.cni.versions import SUPPORTED
from bgpcni.errors import CniError, DecodingFailure, Delegated, InvalidConfiguration, IoFailure
from bgpcni.operator import libcni
from bgpcni.operator.libcni import Network, Runtime, find

NOTES = """\
call = {"plugin": os.path.basename(sys.argv[0]), "stdin": json.load(sys.stdin), "env": dict(os.environ)}
with open(os.path.join(os.path.dirname(sys.argv[0]), "calls"), "a") as file:
    file.write(json.dumps(call) + "\\n")
command = os.environ["CNI_COMMAND"]
"""
WORKS = 'if command == "ADD":\n    print(json.dumps({"cniVersion": "1.0.0", "by": call["plugin"]}))\n'


class Bin:
    """A plugin folder whose members note how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.said: list[str] = []

    def plugin(self, name: str, text: str = WORKS) -> None:
        path = self.folder / name
        path.write_text(f"#!{sys.executable} -SE\nimport json, os, sys\n{NOTES}{text}")
        path.chmod(0o755)

    def calls(self) -> list[dict[str, Any]]:
        file = self.folder / "calls"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def runtime(self, netns: str = "/run/netns/blue") -> Runtime:
        environment = {"BGPCNI_SOCKET": "/nowhere", "CNI_ARGS": "K=V"}
        return Runtime("c1", "eth0", netns, (str(self.folder),), environment, self.said.append)


@pytest.fixture
def bin(tmp_path: Path) -> Bin:
    return Bin(tmp_path)


def chain(*names: str, version: str = "1.0.0") -> Network:
    document = {"cniVersion": version, "name": "blue", "plugins": [{"type": name, "own": name} for name in names]}
    return Network.parse(document, "test")


def write(folder: Path, file: str, document: object) -> None:
    (folder / file).write_text(document if isinstance(document, str) else json.dumps(document))


def test_the_first_file_in_name_order_that_has_the_network(tmp_path: Path) -> None:
    """Of two files with one network the first by name counts; other suffixes are not looked at."""
    write(tmp_path, "05-blue.txt", {"name": "blue", "type": "nobody"})
    write(tmp_path, "30-blue.json", {"name": "blue", "type": "third"})
    write(tmp_path, "20-blue.conflist", {"name": "blue", "cniVersion": "1.0.0", "plugins": [{"type": "second"}]})
    write(tmp_path, "10-red.conf", {"name": "red", "type": "first"})
    network = find(tmp_path, "blue")
    assert [plugin["type"] for plugin in network.plugins] == ["second"]
    assert network.source.endswith("20-blue.conflist")
    assert find(tmp_path, "red").version == "0.1.0"


def test_a_broken_file_hides_no_other_network(tmp_path: Path) -> None:
    """A network is found behind files that cannot be read; they are named where it is not found."""
    write(tmp_path, "10-broken.conf", "{")
    write(tmp_path, "20-list.conflist", {"name": "x", "plugins": []})
    write(tmp_path, "30-blue.conf", {"name": "blue", "type": "one"})
    assert find(tmp_path, "blue").name == "blue"
    with pytest.raises(InvalidConfiguration, match=r"no network 'green'; it has blue; .*10-broken.conf: not JSON"):
        find(tmp_path, "green")


def test_no_folder_is_said_in_words(tmp_path: Path) -> None:
    """A configuration folder that is not there is an error that names it."""
    with pytest.raises(InvalidConfiguration, match="nowhere: No such file"):
        find(tmp_path / "nowhere", "blue")


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "not a JSON object"),
        ({"type": "a"}, "name"),
        ({"name": "../etc", "type": "a"}, "name"),
        ({"name": "a"}, "type"),
        ({"name": "a", "type": "../sh"}, "type"),
        ({"name": "a", "plugins": "b"}, "plugins"),
        ({"name": "a", "plugins": ["b"]}, "type"),
        ({"name": "a", "type": "b", "cniVersion": "9.0.0"}, "incompatible"),
        ({"name": "a", "type": "b", "cniVersion": 1}, "cniVersion"),
    ],
)
def test_a_configuration_that_is_none(document: object, reason: str) -> None:
    """What is no network is refused with the file's name and the key that is wrong."""
    with pytest.raises(InvalidConfiguration, match=f"^here: .*{reason}"):
        Network.parse(document, "here")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["name", "type", "plugins", "cniVersion", "cniVersions"]), x)))  # fmt: skip
def test_any_document_is_a_network_or_refused(document: object) -> None:
    """No JSON makes it fail in another way; what was read is read again as the same."""
    try:
        network = Network.parse(document, "x")
    except CniError:
        return
    assert Network.parse(network.document(), "x") == network


def test_the_newest_version_offered_is_used() -> None:
    """`cniVersions` (1.1.0) wins over `cniVersion`; unknown ones in it do not matter."""
    document = {"cniVersion": "0.3.1", "cniVersions": ["0.4.0", "1.0.0", "7.0.0"], "name": "a", "type": "b"}
    assert Network.parse(document, "x").version == "1.0.0"


def test_a_chain_is_run_in_order_and_backwards(bin: Bin) -> None:
    """ADD hands each result to the next; DEL goes backwards, every plugin with the result that was kept."""
    for name in ("one", "two", "three"):
        bin.plugin(name)
    network = chain("one", "two", "three")
    result = bin.runtime().add(network)
    assert result["by"] == "three"
    added = bin.calls()
    assert [call["plugin"] for call in added] == ["one", "two", "three"]
    assert [call["stdin"].get("prevResult", {}).get("by") for call in added] == [None, "one", "two"]
    assert all(call["stdin"]["name"] == "blue" and call["stdin"]["cniVersion"] == "1.0.0" for call in added)
    assert [call["stdin"]["own"] for call in added] == ["one", "two", "three"]
    (bin.folder / "calls").unlink()
    bin.runtime("").delete(network, result)
    removed = bin.calls()
    assert [call["plugin"] for call in removed] == ["three", "two", "one"]
    assert {call["stdin"]["prevResult"]["by"] for call in removed} == {"three"}
    assert {call["env"]["CNI_NETNS"] for call in removed} == {""}


def test_what_a_plugin_inherits(bin: Bin) -> None:
    """CNI's variables are this attachment's alone, not the caller's; the rest of the environment comes along."""
    bin.plugin("one")
    bin.runtime().add(chain("one"))
    (call,) = bin.calls()
    cni = {name: value for name, value in call["env"].items() if name.startswith("CNI_")}
    assert cni == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/blue",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(bin.folder),
    }
    assert call["env"]["BGPCNI_SOCKET"] == "/nowhere"


@pytest.mark.parametrize("version", SUPPORTED)
def test_delete_passes_a_result_from_0_4_0_on(bin: Bin, version: str) -> None:
    """Before 0.4.0 a DEL has no prevResult."""
    bin.plugin("one")
    bin.runtime().delete(chain("one", version=version), {"by": "x"})
    assert ("prevResult" in bin.calls()[0]["stdin"]) == (SUPPORTED.index(version) >= SUPPORTED.index("0.4.0"))


def test_a_failing_plugin_ends_the_chain(bin: Bin) -> None:
    """Its code and message are passed on, with its name; those after it do not run."""
    bin.plugin("one")
    bin.plugin("two", 'print(json.dumps({"code": 11, "msg": "later", "details": "full"}))\nsys.exit(1)\n')
    bin.plugin("three")
    with pytest.raises(Delegated, match=r"two ADD: later \(full\) \(code 11\)") as error:
        bin.runtime().add(chain("one", "two", "three"))
    assert error.value.code == 11
    assert [call["plugin"] for call in bin.calls()] == ["one", "two"]


def test_a_missing_plugin_is_found_out_before_anything_runs(bin: Bin) -> None:
    """A chain with a plugin that is not installed does not start."""
    bin.plugin("one")
    with pytest.raises(InvalidConfiguration, match="no plugin 'two'"):
        bin.runtime().add(chain("one", "two"))
    assert bin.calls() == []


def test_a_crash_is_an_error_with_its_story(bin: Bin) -> None:
    """A plugin that dies without JSON: exit code and the end of its stderr are told."""
    bin.plugin("one", 'sys.exit("no luck")\n')
    with pytest.raises(Delegated, match="one ADD: exit code 1 and no CNI error: no luck"):
        bin.runtime().add(chain("one"))


def test_success_without_a_result_is_an_error(bin: Bin) -> None:
    """An ADD must answer with an object."""
    bin.plugin("one", "print('[]')\n")
    with pytest.raises(DecodingFailure, match="without a result"):
        bin.runtime().add(chain("one"))


def test_warnings_are_passed_on(bin: Bin) -> None:
    """What a plugin that succeeds says on stderr reaches the operator."""
    bin.plugin("one", WORKS + "sys.stderr.write('careful')\n")
    bin.runtime().add(chain("one"))
    assert bin.said == ["careful"]


def test_what_is_not_a_program(bin: Bin) -> None:
    """A file that the kernel cannot execute is an error in words."""
    (bin.folder / "one").write_text("neither script nor binary\0")
    (bin.folder / "one").chmod(0o755)
    with pytest.raises(IoFailure, match="one: Exec format"):
        bin.runtime().add(chain("one"))


def test_a_plugin_that_never_answers_is_ended(bin: Bin, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait has a bound."""
    monkeypatch.setattr(libcni, "PLUGIN_SECONDS", 0.2)
    bin.plugin("one", "import signal\nsignal.pause()\n")
    with pytest.raises(CniError, match="no answer in"):
        bin.runtime().add(chain("one"))


def test_labels_are_given_to_every_plugin_of_a_chain() -> None:
    """In `args.cni`, as the CNI conventions have them; what the file has there stays."""
    plugins = [{"type": "a", "args": {"cni": {"mac": "m", "labels": []}, "x": 1}}, {"type": "b", "args": None}]
    network = Network.parse({"cniVersion": "1.0.0", "name": "blue", "plugins": plugins}, "test")
    first, second = network.labelled({"tier": "web"}).plugins
    listed = [{"key": "tier", "value": "web"}]
    assert first == {"type": "a", "args": {"cni": {"mac": "m", "labels": listed}, "x": 1}}
    assert second == {"type": "b", "args": {"cni": {"labels": listed}}}
    assert network.labelled({}) is network
