"""`bgpcni attach` and `detach`: an operator connects and disconnects the namespace of a process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bgpcni.attached import namespace_of
from bgpcni.errors import InvalidNamespace
from bgpcni.kernel.namespace import Namespace
from bgpcni.testing.patience import SECONDS
from integration.lab import Lab, until
from integration.lab.namespace import Argument
from integration.lab.node import BGPCNI
from integration.runtimes.site import NETWORK, Site, addresses
from integration.runtimes.sleeper import Sleeper

NETNS = Path("/run/netns")


@pytest.fixture
def ready(site: Site) -> Site:
    """The agent with its session."""
    site.agent()
    return site


def test_a_process_is_attached_and_detached(ready: Site) -> None:
    """Interface, peer index and routes are told as the kernel has them; FRR learns the routes and forgets them."""
    process = Sleeper(ready.node.folder, ready.machine)
    answer = ready.attach(process.pid, "web")
    assert answer.code == 0, answer
    told = answer.document
    ips = addresses(told)
    assert [":" in ip for ip in ips] == [False, True]
    (link,) = json.loads(process.ip("-json", "-details", "link", "show", "eth0"))
    assert told["interface"] == {
        "name": "eth0", "index": link["ifindex"], "mac": link["address"], "mtu": link["mtu"], "up": True,
    }  # fmt: skip
    (host,) = ready.node.namespace.ip_json("link", "show", told["peer"]["name"])
    assert (told["peer"]["index"], host["link_index"]) == (host["ifindex"], link["ifindex"])
    assert told["peer"]["index"] == link["link_index"]
    assert {route["dst"] for route in told["routes"]} == {"0.0.0.0/0", "::/0"}
    assert {route["prefix"] for route in told["announcements"]} == {f"{ips[0]}/32", f"{ips[1]}/128"}
    assert told["netns"] == "/var/run/netns/web"
    ready.announced(ips)
    ready.reachable(ips)
    answer = ready.detach(pid=process.pid)
    assert answer.document["detached"] == [{"containerID": "web", "ifname": "eth0"}]
    ready.withdrawn(ips)
    ready.nothing_left()
    assert "eth0" not in process.ip("-brief", "link")
    assert ready.machine.netns() == set()


def test_what_is_printed_for_people(ready: Site) -> None:
    """Without --json the text has the interface, its peer's index, addresses and routes."""
    process = Sleeper(ready.node.folder, ready.machine)
    command = (BGPCNI, "attach", "--pid", process.pid, "--network", NETWORK, "--socket", ready.node.socket)
    text = ready.machine.run(*command).stdout
    assert f"pid-{process.pid}: eth0 in /var/run/netns/pid-{process.pid} is on {NETWORK}" in text
    assert "peer_ifindex " in text
    assert "address 10.1.2." in text
    assert "address 2001:db8:1:2::" in text
    assert "route 0.0.0.0/0" in text
    assert "/32 next hop 198.18.1.2 is announced by exabgp" in text


def test_the_namespace_has_a_name_while_attached(ready: Site) -> None:
    """`ip netns exec ID` works on an attached container, and afterwards the name is gone."""
    process = Sleeper(ready.node.folder, ready.machine)
    (ip, _) = addresses(ready.attach(process.pid, "web").document)
    assert ready.machine.run("readlink", NETNS / "web").stdout == f"/proc/{process.pid}/ns/net\n"
    assert ip in ready.machine.run("ip", "netns", "exec", "web", "ip", "-brief", "address").stdout
    (attachment,) = ready.node.attachments()
    assert attachment["netns"] == "/var/run/netns/web"
    ready.detach(id="web")
    assert ready.machine.netns() == set()


def test_a_name_that_is_taken_is_left_alone(ready: Site) -> None:
    """If the name belongs to another namespace, attach works without a name, and detach does not remove it."""
    ready.machine.run("ip", "netns", "add", "web")
    process = Sleeper(ready.node.folder, ready.machine)
    answer = ready.attach(process.pid, "web")
    assert answer.code == 0, answer
    assert answer.document["netns"] == f"/proc/{process.pid}/ns/net"
    assert answer.document["result"]["interfaces"][-1]["sandbox"] == f"/proc/{process.pid}/ns/net"
    assert "eth0" not in ready.machine.run("ip", "netns", "exec", "web", "ip", "-brief", "link").stdout
    assert ready.detach(id="web").code == 0
    assert ready.machine.netns() == {"web"}
    ready.nothing_left()


def test_a_name_that_was_replaced_is_left_alone(ready: Site) -> None:
    """A name that somebody made his own while it was attached survives detach."""
    process = Sleeper(ready.node.folder, ready.machine)
    ready.attach(process.pid, "web")
    ready.machine.run("ln", "-sfn", "/proc/1/ns/net", NETNS / "web")
    assert ready.detach(id="web").code == 0
    assert ready.machine.run("readlink", NETNS / "web").stdout == "/proc/1/ns/net\n"
    ready.nothing_left()


def test_twice_is_refused_and_harms_nothing(ready: Site) -> None:
    """A second attach of the same container is an error, and the first one lives on."""
    process = Sleeper(ready.node.folder, ready.machine)
    ips = addresses(ready.attach(process.pid, "web").document)
    again = ready.attach(process.pid, "web")
    assert (again.code, "attached already" in again.document["error"]) == (1, True)
    other = ready.attach(process.pid, "other")
    assert (other.code, "has an interface eth0 already" in other.document["error"]) == (1, True)
    ready.announced(ips)
    assert [item["containerID"] for item in ready.node.attachments()] == ["web"]
    assert ready.machine.netns() == {"web"}


def test_two_interfaces_of_one_container(ready: Site) -> None:
    """Each interface is an attachment of its own; detach takes one by name, or all of the network."""
    process = Sleeper(ready.node.folder, ready.machine)
    first = addresses(ready.attach(process.pid, "web").document)
    second = addresses(ready.attach(process.pid, "web", ifname="net1").document)
    third = addresses(ready.attach(process.pid, "web", ifname="net2").document)
    ready.announced([*first, *second, *third])
    assert ready.detach(id="web", ifname="net1").document["detached"] == [{"containerID": "web", "ifname": "net1"}]
    ready.withdrawn(second)
    ready.announced([*first, *third])
    assert len(ready.detach(id="web").document["detached"]) == 2
    ready.withdrawn([*first, *third])
    ready.nothing_left()


def test_detach_after_the_process_is_gone(ready: Site) -> None:
    """The process may be long gone: its lease, record, routes and name go all the same; once more is success too."""
    process = Sleeper(ready.node.folder, ready.machine)
    ips = addresses(ready.attach(process.pid, "web").document)
    process.end()
    for _ in range(2):
        answer = ready.detach(id="web")
        assert answer.code == 0, answer
        ready.withdrawn(ips)
        ready.nothing_left()
    assert ready.machine.netns() == set()


def test_attach_again_after_a_restart(ready: Site) -> None:
    """A container that was started anew has another process and a bare namespace: attach needs no detach before."""
    process = Sleeper(ready.node.folder, ready.machine)
    ready.attach(process.pid, "web")
    process.end()
    anew = Sleeper(ready.node.folder, ready.machine, "anew")
    answer = ready.attach(anew.pid, "web")
    assert answer.code == 0, answer
    ready.announced(addresses(answer.document))
    assert ready.machine.run("readlink", NETNS / "web").stdout == f"/proc/{anew.pid}/ns/net\n"
    assert ready.leases() == set(addresses(answer.document))


def test_the_configuration_may_change_or_go(ready: Site) -> None:
    """detach takes back what was attached, by the configuration of then."""
    process = Sleeper(ready.node.folder, ready.machine)
    ips = addresses(ready.attach(process.pid, "web").document)
    ready.machine.run("rm", "/etc/cni/net.d/10-test.conflist")
    assert ready.detach(id="web").code == 0
    ready.withdrawn(ips)
    ready.nothing_left()


def test_errors_are_in_words(ready: Site) -> None:
    """What cannot be attached is refused with the reason and exit code 1, and leaves nothing."""
    process = Sleeper(ready.node.folder, ready.machine)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"pid": 4_000_000, "network": NETWORK}, "process 4000000: there is none"),
        ({"pid": 1, "network": NETWORK}, "is in the node's own network namespace"),
        ({"pid": process.pid, "network": "nowhere"}, f"no network 'nowhere'; it has {NETWORK}"),
        ({"pid": process.pid, "network": NETWORK, "ifname": "a/b"}, "invalid interface name"),
        ({"pid": process.pid, "network": NETWORK, "id": "../x"}, "invalid characters"),
        ({"pid": process.pid, "network": NETWORK, "bin_dir": "/nowhere"}, "no plugin 'bgpcni' in /nowhere"),
    ]
    for words, reason in refused:
        answer = ready.operator("attach", **words)
        assert (answer.code, reason in answer.document["error"]) == (1, True), answer
    ready.nothing_left()
    assert ready.machine.netns() == set()


@pytest.mark.parametrize("words", [[], ["--pid", "1", "--id", "x"]])
def test_detach_wants_one_of_pid_and_id(ready: Site, words: list[str]) -> None:
    """detach needs either --pid or --id; neither or both is a usage error with exit code 2."""
    assert ready.node.operator("detach", *words, "--network", NETWORK).code == 2


def test_a_failing_chain_leaves_nothing(ready: Site) -> None:
    """When a later plugin fails, the earlier ones are taken back and its error is told."""
    ready.machine.plugin(
        "never", '#!/bin/sh\n[ "$CNI_COMMAND" = DEL ] && exit 0\necho \'{"code": 11, "msg": "no luck"}\'; exit 1\n'
    )
    ready.network({"type": "never"})
    process = Sleeper(ready.node.folder, ready.machine)
    answer = ready.attach(process.pid, "web")
    assert (answer.code, answer.document["error"]) == (1, "never ADD: no luck (code 11)")
    assert "eth0" not in process.ip("-brief", "link")
    ready.nothing_left()
    assert ready.machine.netns() == set()


def test_while_the_agent_is_away(ready: Site) -> None:
    """An attach that finds no agent says so and leaves no name behind; with the agent back it works at once."""
    process = Sleeper(ready.node.folder, ready.machine)
    ready.node.kill_agent()
    answer = ready.attach(process.pid, "web")
    assert (answer.code, "start bgpcni agent" in answer.document["error"]) == (1, True), answer
    assert ready.machine.netns() == set()
    ready.node.start_agent()
    answer = ready.attach(process.pid, "web")
    assert answer.code == 0, answer
    ips = addresses(answer.document)
    ready.announced(ips)
    ready.node.kill_agent()
    assert ready.detach(id="web").code == 1
    ready.announced(ips)
    ready.node.start_agent()
    assert ready.detach(id="web").code == 0
    ready.withdrawn(ips)
    ready.nothing_left()
    assert ready.machine.netns() == set()


def test_without_an_agent(site: Site) -> None:
    """Where no agent is meant to be, attach and detach work all the same: the plugin does it in its own process."""
    document = site.configuration(exporters=[])
    site.machine.network(document)
    process = Sleeper(site.node.folder, site.machine)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CNI_", "BGPCNI_"))}

    def bgpcni(*words: Argument) -> str:
        return site.machine.run(BGPCNI, *words, "--network", NETWORK, "--json", env=environment).stdout

    told = json.loads(bgpcni("attach", "--pid", process.pid))
    assert told["announcements"] == []
    assert all(ip in process.ip("-brief", "address", "show", "eth0") for ip in addresses(told))
    bgpcni("detach", "--pid", process.pid)
    assert "eth0" not in process.ip("-brief", "link")
    assert site.leases() == set()
    assert site.machine.netns() == set()


def test_a_process_that_ends_while_its_namespace_is_opened(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """pidfd first, namespace second, pidfd still alive third: a number that changes hands in between is noticed."""
    place = lab.container()
    process = place.popen("sleep", "100000")
    until(lambda: process.pid in place.pids(), "the process in its namespace")
    steps: list[str] = []
    pidfd_open, open_namespace = os.pidfd_open, Namespace.open

    def first(pid: int) -> int:
        steps.append("pidfd")
        return pidfd_open(pid)

    def second(path: str) -> Namespace:
        steps.append("namespace")
        space = open_namespace(path)
        process.kill()
        process.wait(SECONDS)
        return space

    monkeypatch.setattr(os, "pidfd_open", first)
    monkeypatch.setattr(Namespace, "open", second)
    with pytest.raises(InvalidNamespace, match="has ended"), namespace_of(process.pid):
        pass
    assert steps == ["pidfd", "namespace"]


def test_an_attach_that_is_killed(ready: Site) -> None:
    """What a killed attach leaves is taken back by the next one, or by detach."""
    reached = ready.node.folder / "reached"
    ready.machine.plugin(
        "hangs", f'#!/bin/sh\n[ "$CNI_COMMAND" = DEL ] && exit 0\ntouch "{reached}"\nexec sleep 100000\n'
    )
    ready.network({"type": "hangs"})
    process = Sleeper(ready.node.folder, ready.machine)
    words = (BGPCNI, "attach", "--pid", process.pid, "--id", "web", "--network", NETWORK)
    for finish in ("detach", "attach"):
        attach = ready.machine.popen(*words, "--socket", ready.node.socket)
        until(reached.exists, "the chain's second plugin")
        attach.kill()
        attach.wait(SECONDS)
        reached.unlink()
        if finish == "detach":
            assert ready.detach(id="web").code == 0
            ready.nothing_left()
            assert ready.machine.netns() == set()
            assert "eth0" not in process.ip("-brief", "link")
    ready.network()
    answer = ready.attach(process.pid, "web")
    assert answer.code == 0, answer
    ready.announced(addresses(answer.document))
    assert ready.machine.run("readlink", NETNS / "web").stdout == f"/proc/{process.pid}/ns/net\n"
    assert ready.leases() == set(addresses(answer.document))


def test_the_plugin_works_in_the_namespace_that_was_verified(ready: Site) -> None:
    """A process that changes its namespace while the plugins run changes nothing: they are given the open one."""
    started, go = ready.node.folder / "started", ready.node.folder / "go"
    ready.machine.plugin(
        "gate",
        f'#!/bin/sh\nif [ "$CNI_COMMAND" = ADD ]; then\n  touch "{started}"\n'
        f'  while [ ! -e "{go}" ]; do sleep 0.02; done\n  echo \'{{"cniVersion": "1.0.0", "ips": []}}\'\nfi\n',
    )
    seen = ready.node.folder / "seen"
    ready.machine.plugin(
        "spy", f'#!/bin/sh\n[ "$CNI_COMMAND" = ADD ] && stat -L -c %i "$CNI_NETNS" >"{seen}"\necho "{{}}"\n'
    )
    ready.machine.network({"cniVersion": "1.0.0", "name": NETWORK, "plugins": [{"type": "gate"}, {"type": "spy"}]})
    told = ready.node.folder / "swap.pid"
    swap = ready.node.folder / "swap"
    # moves itself to another namespace when told
    program = (
        "import ctypes, os, time\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.unshare(0x40000000)\n"
        f"open('{told}.new', 'w').write(str(os.getpid())); os.rename('{told}.new', '{told}')\n"
        f"while not os.path.exists('{swap}'): time.sleep(0.02)\n"
        "libc.unshare(0x40000000)\n"
        f"open('{swap}.done', 'w').close()\n"
        "time.sleep(100000)\n"
    )
    ready.machine.popen("python3", "-c", program)
    pid = int(until(lambda: told.read_text() if told.exists() else "", "the process"))
    verified = ready.machine.run("stat", "-L", "-c", "%i", f"/proc/{pid}/ns/net").stdout
    words = ("attach", "--pid", pid, "--id", "web", "--network", NETWORK, "--socket", ready.node.socket, "--json")
    attach = ready.machine.popen(BGPCNI, *words)
    until(started.exists, "the chain to begin")
    swap.touch()
    until(Path(f"{swap}.done").exists, "the process in another namespace")
    go.touch()
    assert attach.wait(SECONDS) == 0
    assert ready.machine.run("stat", "-L", "-c", "%i", f"/proc/{pid}/ns/net").stdout != verified
    assert seen.read_text() == verified
