"""What the deletion of a link guarantees, checked in the kernel as soon as it returns."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from bgpcni.kernel import links, namespace, uapi
from bgpcni.kernel.netlink import MAKE, Message, Netlink, attribute
from bgpcni.kernel.reaper import Reaper
from integration.lab.core import root_or_reason

THREADS = 40
ADDRESS, GATEWAY = bytes([10, 9, 0, 2]), bytes([10, 9, 0, 1])


@dataclass
class World:
    """A node's namespace with a bridge, and a container's."""

    node: Netlink
    container: Netlink
    container_fd: int
    bridge: int
    sockets: list[tuple[Netlink, Netlink]]
    """More of both, for threads."""

    def add(self, name: str, ifname: str) -> int:
        """A container's interface, with address and default route; the index of the host's end."""
        index = links.create_veth(
            self.node, host=name, inside=ifname, namespace=self.container_fd, bridge=self.bridge, mtu=0
        )
        self.node.run(links.mark_message(index, f"test {name}"))
        self.container.run(links.up_message(ifname))
        inside = links.find(self.container, name=ifname)
        assert inside is not None
        address = struct.pack("=BBBBI", 2, 24, 0, 0, inside.index) + attribute(1, ADDRESS) + attribute(2, ADDRESS)
        route = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 4, 0, 1, 0) + attribute(5, GATEWAY)
        route += attribute(4, inside.index) + attribute(6, inside.index)
        self.container.run(
            Message(uapi.RTM_NEWADDR, MAKE, address), Message(uapi.RTM_NEWROUTE, uapi.NLM_F_CREATE, route)
        )
        return index

    def left(self, name: str, ifname: str) -> list[str]:
        """What is left of it, asked of the kernel."""
        inside = self.container.dump(Message(uapi.RTM_GETADDR, 0, struct.pack("=BBBBI", 2, 0, 0, 0, 0)))
        routes = self.container.dump(Message(uapi.RTM_GETROUTE, 0, uapi.RTMSG.pack(2, 0, 0, 0, 0, 0, 0, 0, 0)))
        found = {
            "the node's end": links.find(self.node, name=name) is not None,
            "the container's end": links.find(self.container, name=ifname) is not None,
            "its address": any(ADDRESS in address for address in inside),
            "its routes": any(ADDRESS in route or GATEWAY in route for route in routes),
            "its bridge port": any(link.master == self.bridge for link in links.dump(self.node)),
        }
        return [what for what, there in found.items() if there]


def in_a_world(test: Callable[[World], None]) -> None:
    """Run it in a thread whose namespaces go with it."""

    def run() -> None:
        namespace.unshare()
        fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        containers = [Netlink.open() for _ in range(THREADS + 1)]
        namespace.unshare()
        nodes = [Netlink.open() for _ in range(THREADS + 1)]
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            for sock in (*containers, *nodes):
                stack.enter_context(sock)
            (node, *_), (container, *_) = nodes, containers
            body = links.header(flags=uapi.IFF_UP, change=uapi.IFF_UP) + attribute(uapi.IFLA_IFNAME, "br0")
            node.run(Message(uapi.RTM_NEWLINK, MAKE, body + links.of_kind("bridge")))
            found = links.find(node, name="br0")
            assert found is not None
            test(World(node, container, fd, found.index, list(zip(nodes[1:], containers[1:], strict=True))))

    with ThreadPoolExecutor(1) as thread:
        thread.submit(run).result()


@pytest.fixture(autouse=True)
def _root() -> None:
    if reason := root_or_reason():
        pytest.skip(reason)


def test_nothing_is_left_when_a_deletion_returns() -> None:
    """Neither end, no address, no route, no bridge port; and the same names can be had again at once."""

    def run(world: World) -> None:
        reaper = Reaper()
        for _ in range(50):
            index = world.add("veth-a", "eth0")
            assert len(world.left("veth-a", "eth0")) == 5
            reaper.delete(world.node, index, "test veth-a")
            assert world.left("veth-a", "eth0") == []
            reaper.delete(world.node, index, "test veth-a")

    in_a_world(run)


def test_each_of_many_is_gone_when_its_own_deletion_returns() -> None:
    """Several links are deleted together, and each caller gets its own answer."""

    def run(world: World) -> None:
        reaper = Reaper()
        names = [(f"veth-{number}", f"eth{number}") for number in range(len(world.sockets))]
        for _ in range(3):
            indexes = [
                links.create_veth(
                    world.node, host=name, inside=ifname, namespace=world.container_fd, bridge=world.bridge, mtu=0
                )
                for name, ifname in names
            ]
            for index, (name, _) in zip(indexes, names, strict=True):
                world.node.run(links.mark_message(index, f"test {name}"))
            there: list[str] = []

            def delete(place: int) -> None:
                (name, ifname), (node, container) = names[place], world.sockets[place]
                reaper.delete(node, indexes[place], f"test {name}")  # noqa: B023
                found = links.find(node, name=name), links.find(container, name=ifname)
                there.extend(link.name for link in found if link is not None)  # noqa: B023

            threads = [threading.Thread(target=delete, args=[place]) for place in range(len(names))]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert there == []
            assert [link.name for link in links.dump(world.container)] == ["lo"]

    in_a_world(run)


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)"])
def test_the_kernel_goes_on_by_itself_when_the_process_ends(end: str) -> None:
    """A call without an agent ends before the acknowledgement: what it deleted is gone all the same, and can come
    again."""
    program = (
        "import os, signal, sys\n"
        "from bgpcni.kernel.netlink import Netlink\n"
        "from bgpcni.kernel.reaper import Reaper\n"
        "Reaper().delete(Netlink.open(), int(sys.argv[1]), 'test veth-a')\n"
    )

    def run(world: World) -> None:
        for _ in range(3):
            index = world.add("veth-a", "eth0")
            child = subprocess.run([sys.executable, "-c", program + end, str(index)], check=False)
            assert child.returncode == (-signal.SIGKILL if "SIGKILL" in end else 0)
            assert world.left("veth-a", "eth0") == []

    in_a_world(run)
