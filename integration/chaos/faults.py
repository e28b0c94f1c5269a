"""What breaks: each fault begins, lasts while calls go on, and is mended. What it hits is drawn by the plan's dice.

Faults that would be in each other's way hit the same `part`; the plan takes one for each.
"""

from __future__ import annotations

import contextlib
import signal
import time
from random import Random
from typing import ClassVar

from integration.chaos.calls import Calls
from integration.chaos.site import Host, Peer, Site, signal_process
from integration.lab import until

AWAY_SECONDS = 5
"""How long it is waited for an ExaBGP that nobody needs any more to end."""


class Fault:
    """One fault of one target. `begin` may be all of it."""

    part: ClassVar[str]
    target: Host | Peer

    def __init__(self, site: Site, calls: Calls, target: Host | Peer, chance: Random) -> None:
        self.site, self.calls, self.chance = site, calls, chance
        self.target = target

    @classmethod
    def targets(cls, site: Site) -> list[Host] | list[Peer]:
        return site.hosts

    @property
    def name(self) -> str:
        return f"{type(self).__name__} of {self.target.name}"

    def begin(self) -> None: ...

    def end(self) -> None: ...


class OfHost(Fault):
    target: Host


class OfPeer(Fault):
    target: Peer

    @classmethod
    def targets(cls, site: Site) -> list[Peer]:
        return site.peers


# --- the node's own processes


class AgentKilled(OfHost):
    """SIGKILL; it is started again at the end."""

    part = "agent"
    number = signal.SIGKILL

    def begin(self) -> None:
        self.target.trouble(1)
        self.target.node.kill_agent(self.number)

    def end(self) -> None:
        self.target.node.start_agent()
        self.target.trouble(-1)


class AgentEnded(AgentKilled):
    """SIGTERM."""

    number = signal.SIGTERM


class AgentStopped(OfHost):
    """It hangs."""

    part = "agent"

    def begin(self) -> None:
        self.target.trouble(1)
        assert self.target.node.process
        self.target.node.process.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        assert self.target.node.process
        self.target.node.process.send_signal(signal.SIGCONT)
        self.target.trouble(-1)


class SpeakerKilled(OfHost):
    """ExaBGP ends by SIGKILL; the agent starts it again."""

    part = "speaker"

    def begin(self) -> None:
        signal_process(self.site.speaker(self.target), signal.SIGKILL)


class SpeakerStopped(OfHost):
    """ExaBGP hangs."""

    part = "speaker"
    pid: int | None = None

    def begin(self) -> None:
        self.pid = self.site.speaker(self.target)
        if signal_process(self.pid, signal.SIGSTOP):
            self.target.frozen = True

    def end(self) -> None:
        self.target.frozen = False
        signal_process(self.pid, signal.SIGCONT)


class RelayKilled(OfHost):
    """ExaBGP's API process ends; ExaBGP starts it again."""

    part = "speaker"

    def begin(self) -> None:
        signal_process(self.target.process("relay"), signal.SIGKILL)


# --- configuration and commands


class Reloaded(OfHost):
    """`reload` of an agent.toml that says the same."""

    part = "agent"

    def begin(self) -> None:
        self.reload(*self.target.exporters)

    def reload(self, *exporters: str) -> None:
        self.target.exporters = exporters
        self.target.configure(self.site.peers)
        answer = self.target.node.operator("reload")
        self.calls.history.add(self.target.name, f"reload with {exporters}: {answer.code}")
        if answer.code:
            self.calls.history.contradiction(self.target.name, f"reload: {answer.document} {answer.stderr}")


class HandedOver(Reloaded):
    """All routes go from ExaBGP to the kernel's table by a reload, ExaBGP ends, and another reload brings them back."""

    between: ClassVar[tuple[str, ...]] = ("kernel",)

    def begin(self) -> None:
        self.reload(*self.between)
        end = time.monotonic() + AWAY_SECONDS
        while self.site.speaker(self.target) is not None and time.monotonic() < end:
            time.sleep(0.1)
        self.reload("exabgp")


class HandedOverForLong(HandedOver):
    """The same, with what goes on meanwhile."""

    def begin(self) -> None:
        self.reload(*self.between)

    def end(self) -> None:
        self.reload("exabgp")


class HandedOverToHung(HandedOver):
    """Back to an ExaBGP that hangs: what it was sent it takes later, whatever was decided meanwhile."""

    pid: int | None = None

    def begin(self) -> None:
        self.target.keeps_speaker = True
        self.reload(*self.between)
        end = time.monotonic() + AWAY_SECONDS
        while self._is_handing_over() and time.monotonic() < end:
            time.sleep(0.1)
        self.pid = self.site.speaker(self.target)
        self.target.frozen = signal_process(self.pid, signal.SIGSTOP)
        self.reload("exabgp")

    def _is_handing_over(self) -> bool:
        said = self.target.node.operator("status").document.get("problems", ())
        return any(problem["code"] == "handing-over" for problem in said)

    def end(self) -> None:
        self.target.frozen = False
        signal_process(self.pid, signal.SIGCONT)
        self.target.keeps_speaker = False
        self.reload("exabgp")


class HandedOverAtOnce(HandedOverForLong):
    """There and back, three times, with nothing between."""

    def begin(self) -> None:
        for _ in range(3):
            self.reload("kernel")
            self.reload("exabgp")

    def end(self) -> None: ...


class Joined(HandedOverForLong):
    """The kernel's table is an exporter besides ExaBGP for a while."""

    between = ("exabgp", "kernel")


class Synced(OfHost):
    """`bgpcni sync`, while something else is broken or nothing is."""

    part = "sync"

    def begin(self) -> None:
        answer = self.target.node.operator("sync")
        self.calls.history.add(self.target.name, f"sync: {answer.code} {answer.document}")


class DiskFull(OfHost):
    """Not an octet more goes into data_dir."""

    part = "disk"

    def begin(self) -> None:
        self.target.trouble(1)
        with open(self.target.node.data_dir / "filler", "wb", buffering=0) as file:
            for size in (1 << 16, 4096, 512, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def end(self) -> None:
        (self.target.node.data_dir / "filler").unlink()
        self.target.trouble(-1)


# --- the way between


class UplinkDown(OfHost):
    """The node's own link is down."""

    part = "network"

    def begin(self) -> None:
        self.target.node.namespace.ip("link", "set", "uplink", "down")
        self.target.cut = True

    def end(self) -> None:
        self.target.cut = False
        node = self.target.node
        node.namespace.ip("link", "set", "uplink", "up")
        # the kernel drops IPv6 addresses with the link
        node.namespace.ip("address", "replace", f"{node.address6}/48", "dev", "uplink", "nodad")


class Unplugged(OfHost):
    """The switch's port of the node is down: the node sees no carrier."""

    part = "network"

    def begin(self) -> None:
        self.site.switch.ip("link", "set", self.target.port, "down")
        self.target.cut = True

    def end(self) -> None:
        self.target.cut = False
        self.site.switch.ip("link", "set", self.target.port, "up")


class PeerUnplugged(OfPeer):
    """The switch's port of a FRR is down."""

    part = "network"

    def begin(self) -> None:
        self.site.switch.ip("link", "set", self.target.port, "down")
        self.target.deaf = {host.node.address for host in self.site.hosts}

    def end(self) -> None:
        self.target.deaf = set()
        self.site.switch.ip("link", "set", self.target.port, "up")


class Dropped(OfPeer):
    """No BGP packet of one node reaches this FRR, nor the other way, while the session is still up."""

    part = "network"
    lost = ""

    def begin(self) -> None:
        host = self.chance.choice(self.site.hosts)
        rules = [
            f"add rule inet chaos {chain} ip {side} {host.node.address} tcp {port} 179 {self.lost} drop"
            for chain, side in (("input", "saddr"), ("output", "daddr"))
            for port in ("sport", "dport")
        ]
        script = "\n".join(
            [
                "table inet chaos {",
                " chain input { type filter hook input priority 0; }",
                " chain output { type filter hook output priority 0; }",
                "}",
                *rules,
            ]
        )
        self.target.frr.namespace.run("nft", "-f", "-", stdin=script)
        if not self.lost:
            self.target.deaf = {host.node.address}

    def end(self) -> None:
        self.target.deaf = set()
        self.target.frr.namespace.run("nft", "delete", "table", "inet", "chaos")


class Lossy(Dropped):
    """Four of ten packets between one node and this FRR are lost."""

    lost = "numgen random mod 10 < 4"


# --- the peers


class PeerKilled(OfPeer):
    """bgpd ends by SIGKILL, and is started again at the end."""

    part = "peer"
    number = signal.SIGKILL

    def begin(self) -> None:
        """The operators of both nodes are told."""
        self.target.kill(self.number)
        for host in self.site.hosts:
            until(lambda host=host: self._told(host), f"a status of {host.name} that says so")  # type: ignore[misc]

    def _told(self, host: Host) -> bool:
        if host.troubles or host.frozen or "exabgp" not in host.exporters:
            return True  # there is nobody to ask, or nobody who could know
        status = host.node.operator("status")
        return any(self.target.address in problem["text"] for problem in status.document.get("problems", ()))

    def end(self) -> None:
        self.target.start()


class PeerEnded(PeerKilled):
    """bgpd ends in order: it says so to its peers."""

    number = signal.SIGTERM


class PeerStopped(OfPeer):
    """bgpd hangs; its kernel acknowledges what it does not read."""

    part = "peer"

    def begin(self) -> None:
        self.target.pause()

    def end(self) -> None:
        self.target.resume()


class Cleared(OfPeer):
    """`clear bgp *`: every session is ended and comes again."""

    part = "peer"
    words = "clear bgp *"

    def begin(self) -> None:
        self.target.ask(lambda frr: frr.text(self.words))


class Refreshed(Cleared):
    """ROUTE-REFRESH: everything is asked for again."""

    words = "clear bgp * soft in"


FAULTS: tuple[type[Fault], ...] = (
    AgentKilled,
    AgentEnded,
    AgentStopped,
    SpeakerKilled,
    SpeakerStopped,
    RelayKilled,
    Reloaded,
    HandedOver,
    HandedOverForLong,
    HandedOverToHung,
    HandedOverAtOnce,
    Joined,
    Synced,
    DiskFull,
    UplinkDown,
    Unplugged,
    PeerUnplugged,
    Dropped,
    Lossy,
    PeerKilled,
    PeerEnded,
    PeerStopped,
    Cleared,
    Refreshed,
)
