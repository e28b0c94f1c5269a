"""Leases: given out like the stock host-local's, beside it, and never twice."""

from __future__ import annotations

import fcntl
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bgpcni.cni.result import Dns
from bgpcni.errors import CheckFailed, CniError, InvalidConfiguration, IoFailure
from bgpcni.ipam.config import parse_host_local
from bgpcni.ipam.contract import AddressTaken, PoolExhausted
from bgpcni.ipam.host_local import HostLocal, dns_of, parse_resolv_conf
from bgpcni.ipam.leases import Leases
from bgpcni.testing.interleaving import Calls, Halt, Running
from bgpcni.testing.patience import SECONDS

STOCK = "/usr/lib/cni/host-local"
needs_stock = pytest.mark.skipif(
    not os.access(STOCK, os.X_OK), reason=f"{STOCK} (containernetworking-plugins) is missing"
)

DUAL: dict[str, Any] = {
    "ranges": [
        [{"subnet": "10.1.2.0/29"}, {"subnet": "10.1.3.0/28", "rangeStart": "10.1.3.4", "rangeEnd": "10.1.3.9"}],
        [{"subnet": "fd00:1::/124"}],
    ]
}


def document(folder: Path, **ipam: Any) -> dict[str, Any]:
    whole = {"type": "host-local", "dataDir": str(folder / "networks"), **ipam}
    return {"cniVersion": "1.0.0", "name": "blue", "ipam": whole}


def host_local(folder: Path, **ipam: Any) -> HostLocal:
    return HostLocal(parse_host_local(document(folder, **ipam)), "blue")


def stock(folder: Path, command: str, container_id: str, ifname: str = "eth0", args: str = "", **ipam: Any) -> Any:
    """Run the stock plugin; its addresses, or None if it failed."""
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": "/x",
        "CNI_IFNAME": ifname,
        "CNI_PATH": "/x",
        "CNI_ARGS": args,
    }
    text = json.dumps(document(folder, **ipam))
    done = subprocess.run([STOCK], input=text, env=environment, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        return None
    return [ip["address"] for ip in json.loads(done.stdout)["ips"]] if done.stdout else []


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("networks/blue/*")}


def addresses(plugin: HostLocal, container_id: str, *requested: str, ifname: str = "eth0") -> list[str]:
    return [lease.address for lease in plugin.add(container_id, ifname, requested)]


def test_files_are_in_the_stock_format(tmp_path: Path) -> None:
    """Name, content and folder mode as host-local writes them, so a node can be switched over and back."""
    leases = host_local(tmp_path, **DUAL).add("c1", "eth0")
    assert [(lease.address, lease.gateway, lease.set_index) for lease in leases] == [
        ("10.1.2.2/29", "10.1.2.1", 0),
        ("fd00:1::2/124", "fd00:1::1", 1),
    ]
    assert files(tmp_path) == {
        "10.1.2.2": b"c1\r\neth0",
        "fd00:1::2": b"c1\r\neth0",
        "last_reserved_ip.0": b"10.1.2.2",
        "last_reserved_ip.1": b"fd00:1::2",
        "lock": b"",
    }


def test_allocation_goes_round_from_the_last_reserved(tmp_path: Path) -> None:
    """A released address comes again only after all the others."""
    plugin = host_local(tmp_path, subnet="10.1.2.0/29")
    assert [addresses(plugin, f"c{i}") for i in range(3)] == [["10.1.2.2/29"], ["10.1.2.3/29"], ["10.1.2.4/29"]]
    assert plugin.release("c0", "eth0", ["10.1.2.2/29"]) == ["10.1.2.2"]
    assert addresses(plugin, "c3") == ["10.1.2.5/29"]
    assert addresses(plugin, "c4") == ["10.1.2.6/29"]
    assert addresses(plugin, "c5") == ["10.1.2.2/29"]
    with pytest.raises(
        PoolExhausted, match=r"network blue: no IP address available in range set 0 \(10\.1\.2\.1-"
    ) as error:
        plugin.add("c6", "eth0")
    assert error.value.code == 11


def test_gateway_network_and_broadcast_are_never_given_out(tmp_path: Path) -> None:
    """Even where the range includes them, and also when they are asked for."""
    plugin = host_local(tmp_path, subnet="10.1.2.0/30", rangeStart="10.1.2.0", rangeEnd="10.1.2.3", gateway="10.1.2.2")
    for bad in ("10.1.2.0", "10.1.2.2", "10.1.2.3"):
        with pytest.raises(InvalidConfiguration, match=f"requested IP address {bad}"):
            plugin.add("c1", "eth0", [bad])
    assert addresses(plugin, "c1") == ["10.1.2.1/30"]
    with pytest.raises(PoolExhausted):
        plugin.add("c2", "eth0")


def test_all_sets_or_nothing(tmp_path: Path) -> None:
    """When the second set is exhausted the first set's lease is undone."""
    plugin = host_local(tmp_path, ranges=[[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/30"}]])
    plugin.add("c1", "eth0")
    with pytest.raises(PoolExhausted) as error:
        plugin.add("c2", "eth0")
    assert error.value.set_index == 1
    assert sorted(name for name in files(tmp_path) if name[0] == "1") == ["10.1.2.2", "10.1.3.2"]


def test_requested_addresses(tmp_path: Path) -> None:
    """Each goes to its own set; one that is taken or fits nowhere fails the whole, and says which."""
    plugin = host_local(tmp_path, **DUAL)
    assert addresses(plugin, "c1", "fd00:1::7", "10.1.3.5") == ["10.1.3.5/28", "fd00:1::7/124"]
    with pytest.raises(AddressTaken, match=r"10\.1\.3\.5 is not available, c1 holds it") as taken:
        plugin.add("c2", "eth0", ["10.1.3.5"])
    assert (taken.value.address, taken.value.owner, taken.value.code) == ("10.1.3.5", ("c1", "eth0"), 11)
    for wrong in (["10.9.9.9"], ["10.1.3.5", "10.1.2.3"]):
        with pytest.raises(InvalidConfiguration, match="is in no range left of network blue"):
            plugin.add("c2", "eth0", wrong)
    assert plugin.release("c2", "eth0") == []


def test_release_touches_only_the_owners_files(tmp_path: Path) -> None:
    """A DEL that comes late, when the address is another's already, takes nothing from it."""
    plugin = host_local(tmp_path, **DUAL)
    mine = addresses(plugin, "c1")
    other = addresses(plugin, "c1", ifname="net1")
    assert plugin.release("c2", "eth0", mine) == []
    assert plugin.release("c1", "net1", mine) == []
    assert plugin.owner(mine[0]) == ("c1", "eth0")
    assert sorted(plugin.release("c1", "eth0")) == ["10.1.2.2", "fd00:1::2"]
    assert plugin.release("c1", "eth0") == []
    assert plugin.owner(mine[0]) is None
    assert plugin.owner(other[0]) == ("c1", "net1")


def test_entries_without_an_interface_are_released_by_container(tmp_path: Path) -> None:
    """Old versions of host-local wrote the container ID alone."""
    plugin = host_local(tmp_path, **DUAL)
    held = addresses(plugin, "c1")
    (tmp_path / "networks/blue/10.1.2.6").write_bytes(b"old\n")
    assert plugin.owner("10.1.2.6") == ("old", None)
    plugin.check("old", "eth0", ["10.1.2.6/29"])
    assert plugin.gc({("c1", "eth0"), ("old", "eth0")}) == []
    assert plugin.release("old", "eth0") == ["10.1.2.6"]
    plugin.check("c1", "eth0", held)


def test_what_is_spared_stays(tmp_path: Path) -> None:
    """Of a container's leases those that `spared` names; of GC's those whose owner's interface stays."""
    plugin = host_local(tmp_path, **DUAL)
    plugin.add("c1", "eth0")
    plugin.add("c2", "eth0")
    assert plugin.held("c1", "eth0") == list(plugin.entries(plugin.held("c1", "eth0")))
    kept, freed = sorted(plugin.held("c1", "eth0"), reverse=True)
    assert plugin.release("c1", "eth0", spared=lambda address, entry: address == kept) == [freed]
    assert len(plugin.gc(set(), {("c1", "eth0")})) == 2
    assert plugin.held("c1", "eth0") == [kept]
    assert plugin.held("c2", "eth0") == []
    assert set(plugin.entries()) == {kept}


def test_nothing_is_made_for_a_network_that_never_was(tmp_path: Path) -> None:
    """DEL, CHECK and GC before any ADD find nothing and leave nothing."""
    leases = Leases(str(tmp_path / "none"), "blue")
    assert leases.release("c1", "eth0") == leases.release("c1", "eth0", ["10.1.2.3"]) == leases.gc(set()) == []
    assert leases.owner("10.1.2.3") is None
    with pytest.raises(CheckFailed, match=r"no lease of 10\.1\.2\.3 for c1 eth0"):
        leases.check("c1", "eth0", ["10.1.2.3/24"])
    assert list(tmp_path.iterdir()) == []
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(InvalidConfiguration, match="name: "):
            Leases(str(tmp_path), name)
    with pytest.raises(InvalidConfiguration, match="is no IP address"):
        host_local(tmp_path, **DUAL).owner("../lock")


def test_check_names_the_other_owner(tmp_path: Path) -> None:
    """An operator sees whose the address is now."""
    plugin = host_local(tmp_path, **DUAL)
    held = addresses(plugin, "c1")
    plugin.check("c1", "eth0", held)
    with pytest.raises(CheckFailed, match="it is held by c1"):
        plugin.check("c2", "eth0", held)


def test_held_addresses_are_reused_only_when_nothing_else_is_free(tmp_path: Path) -> None:
    """The oldest first; what is requested at once; and given back to its owner if the ADD fails after all."""
    plugin = host_local(tmp_path, ranges=[[{"subnet": "10.1.2.0/29"}], [{"subnet": "fd00::/64"}]])
    for i in range(4):
        plugin.add(f"c{i}", "eth0")
    held = {"10.1.2.4": ("c2", "eth0"), "10.1.2.3": ("c1", "eth0"), "fd00::4": ("c2", "eth0")}
    assert [lease.taken_from for lease in plugin.add("n0", "eth0", held=held)] == [None, None]
    first, second = plugin.add("n1", "eth0", held=held)
    assert (first.address, first.taken_from) == ("10.1.2.4/29", ("c2", "eth0"))
    assert (second.address, second.taken_from) == ("fd00::7/64", None)
    assert files(tmp_path)["10.1.2.4"] == b"n1\r\neth0"
    assert not [name for name in files(tmp_path) if name.startswith(".")]
    with pytest.raises(AddressTaken):
        plugin.add("n2", "eth0", ["10.1.2.3", "fd00::5"], held)
    assert plugin.owner("10.1.2.3") == ("c1", "eth0")
    (own, _) = plugin.add("c1", "eth0", ["10.1.2.3"], held)
    assert (own.address, own.taken_from) == ("10.1.2.3/29", ("c1", "eth0"))
    with pytest.raises(PoolExhausted):
        plugin.add("n3", "eth0", held={"10.1.2.4": ("c2", "eth0"), "10.9.9.9": ("c2", "eth0")})


def test_gc_keeps_the_valid_and_nothing_else(tmp_path: Path) -> None:
    """Everything that is no valid attachment's is released, also what a writer's death left empty."""
    plugin = host_local(tmp_path, **DUAL)
    for i in range(3):
        plugin.add(f"c{i}", "eth0")
    (tmp_path / "networks/blue/10.1.3.9").touch()
    assert sorted(plugin.gc({("c1", "eth0"), ("c2", "net1")})) == ["10.1.2.2", "10.1.2.4", "fd00:1::2", "fd00:1::4"]
    assert plugin.owner("10.1.2.3") == ("c1", "eth0")
    assert "10.1.3.9" not in files(tmp_path)
    assert {"lock", "last_reserved_ip.0", "last_reserved_ip.1"} <= set(files(tmp_path))


OWNERS = {"10.1.2.2": ("c1", "eth0"), "fd00:1::2": ("c1", "eth0")}


def emptied(folder: Path) -> tuple[HostLocal, list[Path]]:
    """A container's leases lost their content, and a record of it is there; a third file is nobody's."""
    leases = HostLocal(parse_host_local(document(folder, **DUAL)), "blue", lambda: OWNERS)
    leases.add("c1", "eth0")
    files = [Path(leases.folder, name) for name in OWNERS]
    Path(leases.folder, "10.1.2.3").touch()
    for file in files:
        file.write_bytes(b"")
    return leases, files


def test_asking_whether_addresses_are_left_changes_nothing(tmp_path: Path) -> None:
    """STATUS: a file without content stays; it counts where a record speaks of its address."""
    leases, _ = emptied(tmp_path)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(leases.folder).iterdir()}
    assert leases.exhausted() is None
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in Path(leases.folder).iterdir()} == before
    small = HostLocal(parse_host_local(document(tmp_path, subnet="10.1.2.0/30")), "blue", lambda: OWNERS)
    assert isinstance(small.exhausted(), PoolExhausted)
    small = HostLocal(parse_host_local(document(tmp_path, subnet="10.1.2.0/30")), "blue")
    assert small.exhausted() is None


@pytest.mark.parametrize("search", ["gc", "requested", "release", "reclaim"])
def test_a_lease_that_lost_its_content_is_written_again(tmp_path: Path, search: str) -> None:
    """Its container lives: nobody else gets the address, whoever looks through the folder."""
    leases, files = emptied(tmp_path)
    if search == "gc":
        leases.gc({("c1", "eth0")})
    elif search == "requested":
        with pytest.raises(AddressTaken):
            leases.add("c2", "eth0", ["10.1.2.2"])
        with pytest.raises(AddressTaken):
            leases.add("c2", "eth0", ["fd00:1::2"])
    elif search == "release":
        assert leases.release("c2", "eth0") == []
    else:
        leases.reclaim(lambda entries: ())
    assert [file.read_bytes() for file in files] == [b"c1\r\neth0"] * 2
    assert leases.owner("10.1.2.2") == ("c1", "eth0")


def test_a_lease_that_lost_its_content_goes_with_its_container(tmp_path: Path) -> None:
    """DEL knows the addresses by the record."""
    leases, files = emptied(tmp_path)
    assert sorted(leases.release("c1", "eth0", ["10.1.2.2/29", "fd00:1::2/124"])) == sorted(OWNERS)
    assert not any(file.exists() for file in files)
    files[0].write_bytes(b"c2\r\neth0")
    assert leases.release("c1", "eth0", ["10.1.2.2/29"]) == []


def test_an_entry_whose_writer_died_blocks_nobody_for_long(tmp_path: Path) -> None:
    """A process killed between creating and writing leaves an empty file: any search of the folder removes it."""
    plugin = host_local(tmp_path, subnet="10.1.2.0/25")
    plugin.add("c1", "eth0")
    folder = tmp_path / "networks/blue"
    for i in range(3, 127):
        (folder / f"10.1.2.{i}").touch()
    assert addresses(plugin, "c2") == ["10.1.2.67/25"]
    assert set(files(tmp_path)) == {"lock", "last_reserved_ip.0", "10.1.2.2", "10.1.2.67"}
    (folder / "10.1.2.99").touch()
    assert addresses(plugin, "c3", "10.1.2.99") == ["10.1.2.99/25"]


def test_a_nearly_full_pool_still_gives_its_last_address(tmp_path: Path) -> None:
    """The folder is listed once instead of asking for every address."""
    plugin = host_local(tmp_path, subnet="10.1.0.0/22")
    plugin.add("c0", "eth0")
    folder = tmp_path / "networks/blue"
    for i in range(3, 1022):
        (folder / f"10.1.{i // 256}.{i % 256}").write_bytes(b"x\r\neth0")
    assert addresses(plugin, "c1") == ["10.1.3.254/22"]
    with pytest.raises(PoolExhausted):
        plugin.add("c2", "eth0")


class TestRaces:
    """What a thread, or another process's, finds while one is between two of its steps."""

    ONE: ClassVar = {"ranges": [[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.9"}]]}

    def test_the_last_address_is_one_containers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file is there and has no owner yet: whoever comes waits, and then finds the pool full."""
        halt, locks = Halt(monkeypatch, HostLocal, "_fill"), Calls(monkeypatch, HostLocal, "_flock")
        first = Running(lambda: addresses(host_local(tmp_path, **self.ONE), "c1"))
        halt.reached()
        second = Running(lambda: addresses(host_local(tmp_path, **self.ONE), "c2"))
        locks.wait(2)
        halt.go_on()
        assert first.result() == ["10.1.2.9/24"]
        with pytest.raises(PoolExhausted):
            second.result()

    @pytest.mark.parametrize("look", ["gc", "held", "exhausted"])
    def test_a_lease_that_is_being_written_is_no_dead_writers(
        self, look: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """GC, DEL and STATUS look at it only when it has its owner."""
        plugin = host_local(tmp_path, **self.ONE)
        asks: dict[str, Callable[[], object]] = {
            "gc": lambda: plugin.gc([("c1", "eth0")]),
            "held": lambda: plugin.held("c1", "eth0"),
            "exhausted": lambda: str(plugin.exhausted()),
        }
        halt, locks = Halt(monkeypatch, HostLocal, "_fill"), Calls(monkeypatch, HostLocal, "_flock")
        first = Running(lambda: addresses(plugin, "c1"))
        halt.reached()
        asked = Running(asks[look])
        locks.wait(2)
        halt.go_on()
        first.result()
        full = "network blue: no IP address available in range set 0 (10.1.2.9-10.1.2.9)"
        assert asked.result() == {"gc": [], "held": ["10.1.2.9"], "exhausted": full}[look]
        plugin.check("c1", "eth0", ["10.1.2.9"])

    def test_a_release_takes_nothing_from_the_next_owner(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """DEL has read that the lease is its container's; before it is removed another cannot have it."""
        plugin = host_local(tmp_path, **self.ONE)
        addresses(plugin, "c1")
        halt, locks = Halt(monkeypatch, HostLocal, "_unlink"), Calls(monkeypatch, HostLocal, "_flock")
        first = Running(lambda: plugin.release("c1", "eth0", ["10.1.2.9"]))
        halt.reached()
        second = Running(lambda: plugin.add("c2", "eth0", held={"10.1.2.9": ("c1", "eth0")}))
        locks.wait(2)
        halt.go_on()
        assert first.result() == ["10.1.2.9"]
        assert [lease.taken_from for lease in second.result()] == [None]
        plugin.check("c2", "eth0", ["10.1.2.9"])


def test_a_hundred_threads_get_a_hundred_addresses(tmp_path: Path) -> None:
    """Bursts of ADDs, dual stack: no address twice, none lost."""
    ranges = [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]
    gate = threading.Barrier(100)

    def one(i: int) -> list[str]:
        plugin = host_local(tmp_path, ranges=ranges)
        gate.wait(SECONDS)
        return addresses(plugin, f"c{i}")

    with ThreadPoolExecutor(100) as pool:
        given = list(pool.map(one, range(100)))
    assert {v4 for v4, _ in given} == {f"10.1.2.{i}/24" for i in range(2, 102)}
    assert {v6 for _, v6 in given} == {f"fd00::{i:x}/64" for i in range(2, 102)}
    plugin = host_local(tmp_path, ranges=ranges)
    for i, held in enumerate(given):
        plugin.check(f"c{i}", "eth0", held)


def test_a_disk_that_refuses_is_error_5_with_the_path(tmp_path: Path) -> None:
    """Where the data folder cannot be."""
    (tmp_path / "networks").touch()
    with pytest.raises(IoFailure, match=r"networks/blue: Not a directory") as error:
        host_local(tmp_path, **DUAL).add("c1", "eth0")
    assert error.value.code == 5


FULL_DISK = """
import resource, sys
from pathlib import Path
from bgpcni.errors import IoFailure
from bgpcni.ipam.config import parse_host_local
from bgpcni.ipam.host_local import HostLocal
ipam = {"dataDir": sys.argv[1], "ranges": [[{"subnet": "10.1.2.0/29"}], [{"subnet": "fd00::/64"}]]}
plugin = HostLocal(parse_host_local({"cniVersion": "1.0.0", "ipam": ipam}), "blue")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    plugin.add("c1", "eth0")
except IoFailure as error:
    print(error.msg)
"""


@pytest.mark.parametrize(("limit", "file"), [(0, "10.1.2.2"), (3, "10.1.2.2"), (8, "last_reserved_ip.1")])
def test_a_full_disk_leaves_no_part_of_a_lease(limit: int, file: str, tmp_path: Path) -> None:
    """A write that fails or falls short is undone: no empty file, no lease of the other set."""
    if file.startswith("last"):
        (tmp_path / "blue").mkdir()
        (tmp_path / "blue/last_reserved_ip.1").write_text("fd00::aaaa:bbbb:cccc")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(limit)], capture_output=True, text=True, timeout=SECONDS
    )
    assert done.stdout.startswith(f"{tmp_path}/blue/{file}: "), done.stderr
    assert not [path.name for path in (tmp_path / "blue").iterdir() if path.name[0] in "1f"]


def test_resolv_conf_is_read_like_the_stock_plugin(tmp_path: Path) -> None:
    """Its DNS goes into the result; a file that is missing is an error with its path."""
    text = "# x\nnameserver 1.1.1.1\nnameserver  fe80::1%eth0 x\nsearch a b\n"
    text += "domain c d\n; y\noptions ndots:2 edns0\nsearch z\n\n"
    expected = Dns(("1.1.1.1", "fe80::1%eth0"), "c", ("z",), ("ndots:2", "edns0"))
    assert parse_resolv_conf(text) == expected
    path = tmp_path / "resolv.conf"
    plugin = host_local(tmp_path, resolvConf=str(path), **DUAL)
    with pytest.raises(IoFailure, match=r"ipam\.resolvConf: .*resolv\.conf: No such file"):
        dns_of(plugin.config.resolv_conf)
    path.write_text(text)
    assert dns_of(plugin.config.resolv_conf) == expected
    assert dns_of(host_local(tmp_path, **DUAL).config.resolv_conf) == Dns()


@pytest.mark.parametrize(
    ("what", "words"), [("fifo", "not a plain file"), ("/dev/zero", "not a plain file"), ("huge", "larger than 65536")]
)
def test_resolv_conf_makes_nobody_wait(what: str, words: str, tmp_path: Path) -> None:
    """A FIFO that nobody writes, a device without an end, more than anybody has to say: the configuration is wrong."""
    path = tmp_path / what
    if what == "fifo":
        os.mkfifo(path)
    elif what == "huge":
        path.write_bytes(b"#" * (65536 + 1))
    said = in_time(partial(dns_of, str(path)))
    assert isinstance(said, InvalidConfiguration)
    assert str(said.msg).startswith(f"ipam.resolvConf: {path}: {words}")


@pytest.mark.parametrize("name", ["lock", "last_reserved_ip.0", "10.1.2.2"])
def test_a_folder_with_fifos_makes_nobody_wait(name: str, tmp_path: Path) -> None:
    """Whatever is in the folder that `dataDir` names: an answer, and what is not ours stays."""
    plugin = host_local(tmp_path, **DUAL)
    plugin.add("c0", "eth0")
    path = Path(plugin.folder) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    in_time(lambda: plugin.add("c1", "eth0"))
    in_time(lambda: plugin.gc(set()))
    assert path.is_fifo()


def in_time(what: Callable[[], object]) -> object:
    """What it returns or raises; somebody that waits for ever fails the test."""
    said: list[object] = []

    def run() -> None:
        try:
            said.append(what())
        except CniError as error:
            said.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits"
    return said[0]


@needs_stock
@pytest.mark.parametrize("seed", range(4))
def test_stock_and_ours_take_turns_on_one_folder(seed: int, tmp_path: Path) -> None:
    """Whichever plugin is asked, it gives the address, and leaves the bytes, that the other one would.

    Two folders get the same random calls: in one the stock plugin does them all, in the other each call goes to
    either of the two.
    """
    dice = random.Random(seed)
    pure, mixed = tmp_path / "pure", tmp_path / "mixed"
    ours = host_local(mixed, **DUAL)
    live: set[str] = set()
    for step in range(60):
        by_ours = dice.random() < 0.5
        if live and dice.random() < 0.4:
            container_id = dice.choice(sorted(live))
            live.discard(container_id)
            assert stock(pure, "DEL", container_id, **DUAL) == []
            if by_ours:
                assert len(ours.release(container_id, "eth0")) == 2
            else:
                assert stock(mixed, "DEL", container_id, **DUAL) == []
        else:
            container_id = f"c{step}"
            wish = dice.choice(["", "", "10.1.3.6", "10.1.2.3", "10.1.2.1"])
            expected = stock(pure, "ADD", container_id, args=wish and f"IP={wish}", **DUAL)
            if by_ours:
                try:
                    given: list[str] | None = addresses(ours, container_id, *[wish] * bool(wish))
                except (PoolExhausted, AddressTaken, InvalidConfiguration):
                    given = None
            else:
                given = stock(mixed, "ADD", container_id, args=wish and f"IP={wish}", **DUAL)
            assert given == expected
            if given:
                live.add(container_id)
                assert stock(mixed, "CHECK", container_id, **DUAL) == []
                ours.check(container_id, "eth0", given)
        assert leases_of(files(mixed)) == leases_of(files(pure))


def leases_of(found: dict[str, bytes]) -> dict[str, bytes]:
    """Without the lock and the cursors: a call that fails before it takes anything moves none of ours."""
    return {name: content for name, content in found.items() if name[0] in "1f"}


@needs_stock
def test_stock_and_ours_at_once_never_give_an_address_twice(tmp_path: Path) -> None:
    """Both under load on one folder: every address has one owner, and each owner has what it was told."""
    ranges: dict[str, Any] = {"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]]}

    def one(i: int) -> tuple[str, list[str]]:
        if i % 2:
            return f"c{i}", addresses(host_local(tmp_path, **ranges), f"c{i}")
        return f"c{i}", stock(tmp_path, "ADD", f"c{i}", **ranges)

    with ThreadPoolExecutor(12) as pool:
        given = list(pool.map(one, range(60)))
    told = {address.partition("/")[0]: container_id for container_id, held in given for address in held}
    assert len(told) == 120
    found = {name: content for name, content in files(tmp_path).items() if name[0] in "1f"}
    assert found == {address: f"{container_id}\r\neth0".encode() for address, container_id in told.items()}


def test_the_lock_is_the_stock_plugins(tmp_path: Path) -> None:
    """While another process holds `lock` nothing is given out; then it goes on."""
    plugin = host_local(tmp_path, **DUAL)
    plugin.add("c1", "eth0")
    with open(tmp_path / "networks/blue/lock") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(addresses, plugin, "c2")
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result(30) == ["10.1.2.3/29", "fd00:1::3/124"]
