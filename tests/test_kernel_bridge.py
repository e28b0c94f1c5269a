"""Two ADDs that need the same new bridge at the same time."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bgpcni.errors import Unfit
from bgpcni.kernel import bridge as module
from bgpcni.kernel import links, sysctl
from bgpcni.kernel.bridge import BridgePlan, Made
from bgpcni.kernel.netlink import NetlinkError
from bgpcni.testing.patience import SECONDS


class Kernel:
    """The links of a node, as far as `kernel.bridge` asks for them, and pyroute2 in front of them."""

    def __init__(self) -> None:
        self.links: dict[str, links.Link] = {}
        self.making = threading.Event()
        self.asked = threading.Barrier(2, timeout=SECONDS)
        """Both ADDs have looked, and found no bridge."""
        self.adds = 0

    def find(self, netlink: object, *, name: str = "", index: int = 0) -> links.Link | None:
        found = self.links.get(name)
        if found is None and not self.making.is_set():
            self.asked.wait()
        return found

    @contextmanager
    def library(self) -> Iterator[Kernel]:
        yield self

    def link(self, verb: str, *, ifname: str = "", **more: Any) -> None:
        self.making.set()
        if verb == "add":
            self.adds += 1
            if ifname in self.links:
                raise NetlinkError(errno.EEXIST, "")
            self.links[ifname] = links.Link(7, ifname, more["kind"], more["address"], 1500, False, False, 0, 0, "", 0)
        elif ifname:
            self.links[ifname] = links.Link(7, ifname, "bridge", "02:00:00:00:00:01", 1500, True, False, 0, 0, "", 0)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(links, "find", kernel.find)
    monkeypatch.setattr(module, "iproute", kernel.library)
    monkeypatch.setattr(sysctl, "put", lambda name, value: True)
    return kernel


def test_both_get_the_bridge_that_one_of_them_made(kernel: Kernel) -> None:
    """Neither fails because the other one was faster, and there is one bridge, up."""
    found: list[links.Link] = []
    made: list[Made] = []

    def add() -> None:
        found.append(module.ensure(None, BridgePlan("cni0"), made.append)[0])  # type: ignore[arg-type]

    threads = [threading.Thread(target=add) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert [(link.name, link.index, link.up) for link in found] == [("cni0", 7, True)] * 2
    assert kernel.adds == 2


def test_a_link_of_that_name_that_is_no_bridge_is_said(kernel: Kernel) -> None:
    kernel.making.set()
    kernel.links["eth0"] = links.Link(2, "eth0", "", "02:00:00:00:00:02", 1500, True, False, 0, 0, "", 0)
    with pytest.raises(Unfit, match="eth0 exists and is a physical link, not a bridge"):
        module.ensure(None, BridgePlan("eth0"), lambda made: None)  # type: ignore[arg-type]
