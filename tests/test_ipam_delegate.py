"""Other IPAM plugins, run as the specification says: real child processes."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bgpcni.cni.result import IpConfig, Result, Route
from bgpcni.errors import CniError, DecodingFailure, Delegated, InvalidConfiguration, IoFailure, TryAgain
from bgpcni.ipam.delegate import OUTPUT_MAX, Delegate, find_plugin

STOCK = "/usr/lib/cni/static"
CONFIGURATION = {"cniVersion": "1.0.0", "name": "blue", "ipam": {"type": "pool"}}


def plugin(folder: Path, text: str, name: str = "pool") -> Path:
    """An executable Python script, with the imports it needs."""
    path = folder / name
    path.write_text(f"#!{sys.executable} -SE\nimport json, os, subprocess, sys, time\n{text}")
    path.chmod(0o755)
    return path


def delegate(folder: Path, version: str = "1.0.0", name: str = "pool") -> Delegate:
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/blue",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": f"/nowhere:{folder}",
    }
    return Delegate(name, environment, json.dumps(CONFIGURATION | {"cniVersion": version}).encode())


def soon(seconds: float = 60) -> float:
    return time.monotonic() + seconds


def test_it_gets_what_it_is_given_and_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same environment and configuration, its own command, PATH; no other variable, no open descriptor."""
    monkeypatch.setenv("BGPCNI_SECRET", "x")
    plugin(
        tmp_path,
        f"json.dump([dict(os.environ), sys.stdin.read(), os.listdir('/proc/self/fd')], open('{tmp_path}/seen', 'w'))",
    )
    (leak, other) = os.pipe()
    try:
        os.set_inheritable(leak, True)
        delegate(tmp_path).delete(soon())
    finally:
        os.close(leak)
        os.close(other)
    environment, stdin, descriptors = json.loads((tmp_path / "seen").read_text())
    environment.pop("LC_CTYPE", None)  # Python's own, in the child
    assert environment == {**delegate(tmp_path).environment, "CNI_COMMAND": "DEL", "PATH": os.environ["PATH"]}
    assert stdin == delegate(tmp_path).stdin.decode()
    assert len(descriptors) <= 5  # three, the listing's and the file's


def result_of(folder: Path, document: Any, version: str = "1.0.0") -> Result:
    plugin(folder, f"print({json.dumps(document)!r})")
    return delegate(folder, version).add(soon())


def test_results_are_read_in_the_version_they_are_written_in(tmp_path: Path) -> None:
    """One without a version is taken at the configuration's."""
    expected = Result(ips=(IpConfig("10.1.2.3/24", "10.1.2.1"),), routes=(Route("0.0.0.0/0"),))
    for document, version in (
        ({"cniVersion": "1.0.0"}, "1.0.0"),
        ({}, "1.0.0"),
        ({"cniVersion": "0.4.0"}, "1.0.0"),
        ({"cniVersion": "0.2.0"}, "0.1.0"),
    ):
        body = expected.encode(document.get("cniVersion", version))
        assert result_of(tmp_path, body | document, version) == expected
    faults: list[Any] = [[], {"cniVersion": "9"}, {"ips": [{"address": "x"}]}, {"cniVersion": 1}]
    for fault in faults:
        with pytest.raises(CniError, match=r"^pool|incompatible"):
            result_of(tmp_path, fault)
    plugin(tmp_path, "print('hello')")
    with pytest.raises(DecodingFailure, match="pool: not JSON"):
        delegate(tmp_path).add(soon())


def test_its_error_is_passed_on(tmp_path: Path) -> None:
    """Code, message and details as the plugin wrote them."""
    plugin(tmp_path, """print('{"cniVersion":"1.0.0","code":42,"msg":"no","details":"because"}'); sys.exit(1)""")
    with pytest.raises(Delegated) as error:
        delegate(tmp_path).add(soon())
    assert (error.value.code, error.value.msg, error.value.details) == (42, "no", "because")


@pytest.mark.parametrize("answer", ["", "nonsense", "[]", '{"code": 0, "msg": "x"}', '{"code": "1"}', "[" * 100000])
def test_a_failure_without_a_cni_error_shows_its_stderr(answer: str, tmp_path: Path) -> None:
    """The operator reads what the plugin said, and how it ended."""
    plugin(tmp_path, f"print({answer!r}); print('lease file is corrupt', file=sys.stderr); sys.exit(3)")
    with pytest.raises(CniError, match="pool CHECK: exit code 3 and no CNI error: lease file is corrupt"):
        delegate(tmp_path).check(soon())
    plugin(tmp_path, "os.kill(os.getpid(), 9)")
    with pytest.raises(CniError, match=r"pool DEL: killed by signal 9 and no CNI error$"):
        delegate(tmp_path).delete(soon())


def test_the_deadline_kills_the_plugin_and_its_children(tmp_path: Path) -> None:
    """Nothing of it can allocate an address afterwards."""
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    # Whoever lives holds the write end; the plugin's child too. Both gone: end of file for the reader.
    plugin(tmp_path, f"held = os.open('{fifo}', os.O_WRONLY); os.write(held, b'up'); os.fork(); time.sleep(600)")
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(TryAgain, match="pool ADD: no answer in time"):
            delegate(tmp_path).add(soon(2))
        os.set_blocking(reader, True)
        assert os.read(reader, 10) in (b"up", b"")
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


def test_a_daemon_it_leaves_behind_holds_nobody_up(tmp_path: Path) -> None:
    """A descendant that keeps stdout open, as a DHCP client may, does not delay the answer."""
    marker = tmp_path / "pid"
    plugin(
        tmp_path,
        f"child = subprocess.Popen(['sleep', '600']); open('{marker}', 'w').write(str(child.pid)); "
        "print('{}'); sys.stdout.flush(); os._exit(0)",
    )
    try:
        assert delegate(tmp_path).add(soon()) == Result()
    finally:
        os.kill(int(marker.read_text()), 9)


def test_output_and_input_are_bounded(tmp_path: Path) -> None:
    """Too much output is an error; a plugin that reads nothing, or writes much to stderr, is none."""
    plugin(tmp_path, f"sys.stdout.write(' ' * {OUTPUT_MAX + 1}); time.sleep(0)")
    with pytest.raises(DecodingFailure, match=f"more than {OUTPUT_MAX} octets"):
        delegate(tmp_path).add(soon())
    plugin(tmp_path, f"sys.stdout.write(' ' * {OUTPUT_MAX - 2} + '{{}}'); sys.stderr.write('x' * (1 << 21))")
    big = json.dumps(CONFIGURATION | {"filler": "x" * (1 << 20)}).encode()
    assert Delegate("pool", delegate(tmp_path).environment, big).add(soon()) == Result()


def test_gc_and_status_are_asked_only_of_plugins_that_know_them(tmp_path: Path) -> None:
    """An old plugin is left alone; a new one's answer counts."""
    script = f"""
command = os.environ["CNI_COMMAND"]
open('{tmp_path}/log', 'a').write(command + ' ')
if command == "VERSION":
    print(json.dumps({{"cniVersion": "1.1.0", "supportedVersions": %s}}))
elif command == "STATUS":
    print('{{"code": 50, "msg": "no leases left"}}')
    sys.exit(1)
"""
    plugin(tmp_path, script % '["1.0.0"]')
    assert not delegate(tmp_path, "1.1.0").gc(soon())
    assert not delegate(tmp_path, "1.1.0").status(soon())
    plugin(tmp_path, script % '["1.0.0", "1.1.0"]')
    assert delegate(tmp_path, "1.1.0").gc(soon())
    with pytest.raises(Delegated, match="no leases left"):
        delegate(tmp_path, "1.1.0").status(soon())
    assert (tmp_path / "log").read_text() == "VERSION VERSION VERSION GC VERSION STATUS "


@pytest.mark.parametrize("name", ["", ".", "..", "../pool", "/bin/true", "a\0b"])
def test_a_name_with_a_path_in_it_is_refused(name: str) -> None:
    """Only what the node's operator put into CNI_PATH is run."""
    with pytest.raises(InvalidConfiguration, match=r"ipam\.type: .* cannot name a plugin"):
        find_plugin(name, ["/usr/bin"])


def test_a_missing_plugin_is_named_with_the_folders_searched(tmp_path: Path) -> None:
    """A folder, or a file that is not executable, is no plugin; neither is one in the working directory."""
    (tmp_path / "dhcpx").mkdir()
    (tmp_path / "pool").touch()
    with pytest.raises(InvalidConfiguration, match=f'no executable "pool" in /nowhere, {tmp_path}') as error:
        delegate(tmp_path).add(soon())
    assert error.value.code == 7
    with pytest.raises(InvalidConfiguration, match="dhcpx"):
        find_plugin("dhcpx", [str(tmp_path)])
    with pytest.raises(InvalidConfiguration, match="CNI_PATH, which is empty"):
        find_plugin("pool", [])


def test_a_plugin_that_cannot_be_executed_is_an_error_in_words(tmp_path: Path) -> None:
    """No traceback: path and reason."""
    plugin(tmp_path, "").write_text("#!/nowhere/interpreter\n")
    with pytest.raises(IoFailure, match=r"pool: No such file or directory"):
        delegate(tmp_path).add(soon())


@pytest.mark.skipif(not os.access(STOCK, os.X_OK), reason=f"{STOCK} (containernetworking-plugins) is missing")
def test_the_stock_static_plugin() -> None:
    """A real plugin end to end: its addresses, its CHECK, and GC, which it is too old or new enough for."""
    ipam = {"type": "static", "addresses": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}]}
    stdin = json.dumps({"cniVersion": "0.4.0", "name": "blue", "ipam": ipam}).encode()
    environment = delegate(Path("/usr/lib/cni")).environment
    static = Delegate("static", environment, stdin)
    assert static.add(soon()) == Result(ips=(IpConfig("10.10.0.1/24", "10.10.0.254"),))
    static.delete(soon())
    bad = Delegate("static", environment, b'{"cniVersion":"7.0.0","name":"blue","ipam":{"type":"static"}}')
    with pytest.raises(Delegated) as error:
        bad.add(soon())
    assert error.value.code == 1
