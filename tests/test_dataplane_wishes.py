"""Which families the exporters are told to listen to: the newest wish is the one that stays."""

from __future__ import annotations

import dataclasses
import threading
from types import TracebackType

from bgpcni.config.agent import PolicyTable
from bgpcni.dataplane.dataplane import DataPlane, Inbox
from bgpcni.model import Address, Attachment, Bgp, Family, Neighbor
from bgpcni.testing.memory import FACTS
from bgpcni.testing.patience import SECONDS, until


def attachment(network: str, bgp: Bgp) -> Attachment:
    return Attachment(
        boot_id="b", network=network, container_id=network, ifname="eth0", netns="/x", bgp=bgp,
        addresses=(Address(address="10.1.2.3/24"),),
    )  # fmt: skip


VPN = attachment("vpn", Bgp(family="vpn", import_rt=("64512:1",)))
PLAIN = attachment("plain", Bgp(import_prefixes=("10.9.0.0/16",)))
BOTH = {Family.IPV4_VPN, Family.IPV6_VPN, Family.IPV4_UNICAST, Family.IPV6_UNICAST}


class Watched:
    """A reentrant lock that tells when somebody has to wait for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.awaited = threading.Event()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            self.awaited.set()
            self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


def test_two_networks_of_different_families_that_begin_at_once() -> None:
    """The first is held up while it tells its wish, the second comes in between: both families are listened to."""
    told: list[frozenset[Family]] = []
    held, go_on = threading.Event(), threading.Event()

    def listen(families: frozenset[Family]) -> None:
        if threading.current_thread().name == "first":
            held.set()
            assert go_on.wait(SECONDS)
        told.append(families)

    plane = DataPlane(FACTS, PolicyTable(), Inbox(), listen)
    telling = plane._telling = Watched()  # type: ignore[assignment]
    threads = [
        threading.Thread(target=plane.attach, args=[item], name=name)
        for name, item in (("first", VPN), ("second", PLAIN))
    ]
    threads[0].start()
    assert held.wait(SECONDS)
    threads[1].start()
    until(lambda: told or telling.awaited.is_set())
    go_on.set()
    for thread in threads:
        thread.join(SECONDS)
    assert told[-1] == BOTH


def test_peers_are_asked_for_what_is_imported() -> None:
    """Each network adds its route targets, and takes them along; nothing is asked if no neighbour has the family."""
    told: list[frozenset[str]] = []
    other = attachment("other", Bgp(family="vpn", import_rt=("64512:2", "64512:1")))
    near = Neighbor("192.0.2.1", 64512, (Family.IPV4_VPN, Family.RTC), 90)
    facts = dataclasses.replace(FACTS, neighbors=(near,))
    plane = DataPlane(facts, PolicyTable(), Inbox(), lambda families: None, told.append)
    for item in (VPN, other):
        plane.attach(item)
    plane.detach(other)
    plane.detach(VPN)
    assert told == [{"64512:1"}, {"64512:1", "64512:2"}, {"64512:1"}, set()]

    deaf: list[frozenset[str]] = []
    plane = DataPlane(FACTS, PolicyTable(), Inbox(), lambda families: None, deaf.append)
    plane.attach(VPN)
    assert not any(deaf)
