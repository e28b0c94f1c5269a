"""Parts of `bgpcni attach` that need neither root nor namespaces."""

from __future__ import annotations

import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bgpcni import attached
from bgpcni.attached import Kept, Memory, Sign
from bgpcni.errors import CniError, InvalidConfiguration, InvalidNamespace, IoFailure, KernelRefused
from bgpcni.kernel.namespace import boot_id
from bgpcni.model import AttachmentKey
from bgpcni.operator import attach
from bgpcni.operator.attach import Place
from bgpcni.operator.libcni import Network


def kept(container_id: str = "web", ifname: str = "eth0", network: str = "blue") -> Kept:
    document = {"cniVersion": "1.0.0", "name": network, "plugins": [{"type": "bgpcni"}]}
    return Kept(network=document, container_id=container_id, ifname=ifname, pid=7, boot_id="b", cookie=1)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "attached")


def test_what_is_kept_is_found_again(memory: Memory) -> None:
    """What was kept is found by key and by network; after `drop` it is gone, and a second `drop` is no error."""
    first, second, other = kept(), kept(ifname="net1"), kept(network="red")
    for entry in (first, second, other):
        memory.put(entry)
    assert memory.find(first.key) == first
    assert {entry.ifname for entry in memory.of_network("blue")} == {"eth0", "net1"}
    memory.drop(first.key)
    memory.drop(first.key)
    assert memory.find(first.key) is None
    assert memory.of_network("blue") == [second]


def test_a_file_that_cannot_be_read_is_named(memory: Memory, tmp_path: Path) -> None:
    """A damaged file is an error that names the file."""
    memory.put(kept())
    (file,) = (tmp_path / "attached").glob("*.json")
    file.write_text('{"schema": 1}')
    with pytest.raises(IoFailure, match=f"^{file} is damaged, remove it: network: missing; "):
        memory.of_network("blue")


def test_a_link_in_place_of_the_file_is_not_followed(memory: Memory, tmp_path: Path) -> None:
    """The folder's files are its own."""
    memory.put(kept())
    (file,) = (tmp_path / "attached").glob("*.json")
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IoFailure, match="symbolic links"):
        memory.find(kept().key)


def test_a_folder_that_others_write_is_refused(tmp_path: Path) -> None:
    """Whoever could write there could choose what detach runs."""
    (tmp_path / "attached").mkdir()
    (tmp_path / "attached").chmod(0o777)
    with pytest.raises(IoFailure, match="can be written by other users"):
        Memory(tmp_path / "attached")


def test_one_at_a_time(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second attach of the same attachment waits, in the end in vain; another's does not."""
    monkeypatch.setattr(attached, "LOCK_SECONDS", 0.05)
    with memory.locked(kept().key):
        with memory.locked(kept("other").key):
            pass
        with pytest.raises(CniError, match="another attach or detach"), memory.locked(kept().key):
            pass
    with memory.locked(kept().key):
        pass


def test_a_sign_is_put_up_turned_and_taken_down(tmp_path: Path) -> None:
    """A name is made if it is free, may be moved to another namespace, and is removed only while it is ours."""
    sign = Sign(tmp_path / "netns" / "web", ("/proc/7/ns/net", "/proc/1/fd/3"))
    assert sign.make("/proc/1/fd/3")
    assert not sign.make("/proc/1/fd/3")
    sign.turn("/proc/7/ns/net")
    assert os.readlink(sign.path) == "/proc/7/ns/net"
    sign.take_down()
    sign.take_down()
    assert os.listdir(sign.path.parent) == []


@pytest.mark.parametrize("other", ["link", "file", "folder"])
def test_a_sign_of_somebody_else_stays(tmp_path: Path, other: str) -> None:
    """A name that is not ours is neither moved nor removed."""
    path = tmp_path / "web"
    {"link": lambda: path.symlink_to("/proc/8/ns/net"), "file": path.touch, "folder": path.mkdir}[other]()
    sign = Sign(path, ("/proc/7/ns/net",))
    assert not sign.make("/proc/7/ns/net")
    sign.turn("/proc/7/ns/net")
    sign.take_down()
    assert os.listdir(tmp_path) == ["web"]
    assert other != "link" or os.readlink(path) == "/proc/8/ns/net"


def test_a_name_that_is_too_long_is_not_free(tmp_path: Path) -> None:
    """An ID longer than a file's name may be is attached without a name."""
    assert not Sign(tmp_path / ("x" * 300), ()).make("/proc/7/ns/net")


def test_a_process_that_is_not_there() -> None:
    """A pid without a process is refused with the reason."""
    with pytest.raises(InvalidNamespace, match=r"process 2147483646: "), attached.namespace_of(2147483646):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="looking into a namespace needs root")
def test_our_own_namespace_is_refused() -> None:
    """A process in the node's own namespace is nothing to attach."""
    with pytest.raises(InvalidNamespace), attached.namespace_of(os.getpid()):
        pass


def test_the_result_names_the_namespace_for_good() -> None:
    """A path that ends with this process is replaced; others stay."""
    result = {"interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/proc/1/fd/3"}, {"sandbox": "/x"}]}
    assert attach._renamed(result, "/proc/1/fd/3", "/proc/7/ns/net")["interfaces"] == [
        {"name": "br0"},
        {"name": "eth0", "sandbox": "/proc/7/ns/net"},
        {"sandbox": "/x"},
    ]
    assert attach._renamed({"ip4": {}}, "a", "b") == {"ip4": {}}


OLD: dict[str, Any] = {
    "ip4": {"ip": "10.1.2.3/24", "gateway": "10.1.2.1", "routes": [{"dst": "0.0.0.0/0"}]},
    "ip6": {"ip": "2001:db8::3/64", "routes": [{"dst": "::/0", "gw": "2001:db8::1"}]},
}
NEW: dict[str, Any] = {
    "ips": [{"address": "10.1.2.3/24", "gateway": "10.1.2.1", "version": "4"}, {"address": "2001:db8::3/64"}],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "2001:db8::1"}],
}


@pytest.mark.parametrize("result", [OLD, NEW], ids=["0.2.0", "1.0.0"])
def test_results_of_every_version_are_told_alike(result: dict[str, Any]) -> None:
    """Addresses and routes, wherever the version keeps them."""
    assert attach._addresses(result) == [
        {"address": "10.1.2.3/24", "gateway": "10.1.2.1"},
        {"address": "2001:db8::3/64", "gateway": None},
    ]
    assert attach._routes(result) == [{"dst": "0.0.0.0/0", "gw": None}, {"dst": "::/0", "gw": "2001:db8::1"}]


def test_where_plugins_are_looked_for(tmp_path: Path) -> None:
    """--bin-dir, else CNI_PATH, else the folders that `bgpcni install` puts the plugin into."""
    assert attach.plugin_folders("/a:/b", {"CNI_PATH": "/c"}) == ("/a", "/b")
    assert attach.plugin_folders(None, {"CNI_PATH": "/c:"}) == ("/c",)
    assert attach.plugin_folders(None, {}, tmp_path) == ("/opt/cni/bin",)
    (tmp_path / "usr/lib/cni").mkdir(parents=True)
    assert attach.plugin_folders(None, {}, tmp_path) == ("/usr/lib/cni", "/opt/cni/bin")


def place(memory: Memory, tmp_path: Path) -> Place:
    """A place whose only plugin notes that it ran and fails."""
    plugin = tmp_path / "bgpcni"
    plugin.write_text('#!/bin/sh\necho noise >&2\ntouch "$0.ran"\necho \'{"code": 5, "msg": "disk"}\'\nexit 1\n')
    plugin.chmod(0o755)
    document = '{"cniVersion": "1.0.0", "name": "red", "type": "bgpcni"}'
    (tmp_path / "red.conf").write_text(document)
    return Place(tmp_path, (str(tmp_path),), memory, {}, lambda text: None)


@pytest.mark.parametrize("by", ["id", "pid", "agent"])
def test_a_container_on_another_network_is_not_detached_from_this_one(memory: Memory, tmp_path: Path, by: str) -> None:
    """Nothing is run, and the network that it is on is named."""
    where = place(memory, tmp_path)
    listed: list[dict[str, Any]] = [{"network": "blue", "containerID": "web"}] if by == "agent" else []
    if by != "agent":
        memory.put(kept("web"))
    pid, ident, who = (7, None, "process 7") if by == "pid" else (None, "web", "web")
    with pytest.raises(InvalidConfiguration, match=f"^{who} is not on network red; it is on blue$"):
        attach.detach(where, "red", pid, ident, None, lambda: listed)
    assert not (tmp_path / "bgpcni.ran").exists()
    assert by == "agent" or memory.find(kept("web").key) is not None


def test_what_is_not_remembered_is_detached_all_the_same(memory: Memory, tmp_path: Path) -> None:
    """Its file was lost, or a runtime attached it: the agent knows it on this network as well, or nobody knows it."""
    where = place(memory, tmp_path)
    both = [{"network": name, "containerID": "web"} for name in ("blue", "red")]
    for listed in (both, []):
        with pytest.raises(CniError, match="disk"):
            attach.detach(where, "red", None, "web", None, lambda listed=listed: listed)
        (tmp_path / "bgpcni.ran").unlink()


def test_a_roll_back_that_fails_is_told_behind_the_cause(memory: Memory, tmp_path: Path) -> None:
    """In the same error, with --json and without; the plugin's own noise is not shown."""
    said: list[str] = []
    where = replace(place(memory, tmp_path), say=said.append)
    entry = kept("web", network="red")
    chain = Network.parse(entry.network, "test")
    cause = KernelRefused("bridge: no")
    attach._roll_back(where, entry, where.runtime(entry.key, ""), chain, cause)
    story = "taking it back failed as well, bgpcni detach tries again: bgpcni DEL: disk (code 5)"
    assert (cause.msg, said) == (f"bridge: no; {story}", [])


class TestTheNameOfADeadContainer:
    """The link is gone: what /var/run/netns shows of it goes too, unless the namespace is still there."""

    KEY = AttachmentKey("blue", "web", "eth0")

    def keep(self, memory: Memory, tmp_path: Path, pid: int, cookie: int = 1) -> Sign:
        sign = Sign(tmp_path / "netns" / "web", (f"/proc/{pid}/ns/net",))
        sign.make(f"/proc/{pid}/ns/net")
        entry = kept().model_copy(
            update={"pid": pid, "boot_id": boot_id(), "cookie": cookie, "name": str(sign.path), "targets": sign.targets}
        )
        memory.put(entry)
        return sign

    def test_it_goes(self, memory: Memory, tmp_path: Path) -> None:
        """What attach keeps stays for detach."""
        sign = self.keep(memory, tmp_path, 2147483646)
        attached.take_down_name([tmp_path / "none", tmp_path / "attached"], self.KEY)
        assert not os.path.lexists(sign.path)
        assert memory.find(self.KEY) is not None
        assert not (tmp_path / "none").exists()

    def test_another_containers_stays(self, memory: Memory, tmp_path: Path) -> None:
        sign = self.keep(memory, tmp_path, 2147483646)
        attached.take_down_name([tmp_path / "attached"], AttachmentKey("blue", "other", "eth0"))
        assert os.path.lexists(sign.path)

    def test_a_living_ones_stays(self, memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its interface alone was removed, by hand."""
        sign = self.keep(memory, tmp_path, 7)
        monkeypatch.setattr(attached, "still", lambda entry: nullcontext("/proc/1/fd/3"))
        attached.take_down_name([tmp_path / "attached"], self.KEY)
        assert os.path.lexists(sign.path)

    def test_trouble_is_nobodys(self, memory: Memory, tmp_path: Path) -> None:
        """A spoilt file leaves the name to detach."""
        sign = self.keep(memory, tmp_path, 2147483646)
        (file,) = (tmp_path / "attached").glob("*.json")
        file.write_text("{")
        attached.take_down_name([tmp_path / "attached"], self.KEY)
        assert os.path.lexists(sign.path)


def test_labels_as_they_are_typed() -> None:
    """A value may be empty; what is no label is refused with the reason."""
    assert attach.labels_of(["tier=web", "a.b/c=", "tier=db"]) == {"tier": "db", "a.b/c": ""}
    for text, reason in (("tier", "KEY=VALUE"), ("=x", "not a label's key"), ("tier=a b", "not a label's value")):
        with pytest.raises(InvalidConfiguration, match=f"--label {text}: .*{reason}"):
            attach.labels_of([text])
