"""The containers: one slot for each, what it should be, and the calls that a runtime makes for it."""

from __future__ import annotations

import enum
import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from integration.chaos.history import History
from integration.chaos.site import Host, Site
from integration.lab import CniAnswer, Namespace
from integration.seen import links_in

WITHOUT = frozenset(os.environ.get("BGPCNI_CHAOS_WITHOUT", "").split())
"""Steps, faults and looks (`reuse`) that are left out, by name: what a seed shows besides a defect that is known."""
CALM_SECONDS = 0.3
"""What was told arrives and is processed within it; what is looked at has not changed then."""


class State(enum.Enum):
    """What a container should be."""

    GONE = "gone"
    UP = "up"
    LOST = "lost"  # its namespace or its link went without a DEL: the agent ends it by itself
    DOUBT = "in doubt"  # the answer never came, or the agent died meanwhile: a DEL decides


@dataclass(slots=True)
class Slot:
    """One container ID of one node. Only one thread works with a slot."""

    id: str
    host: Host
    space: Namespace
    state: State = State.GONE
    number: int = 0
    answer: CniAnswer | None = None

    @property
    def ips(self) -> list[str]:
        return self.answer.ips if self.answer else []

    @property
    def veth(self) -> str:
        assert self.answer
        return str(self.answer.document["interfaces"][1]["name"])


class Calls:
    """All calls. An answer that must never occur is noted as a contradiction in the history."""

    def __init__(self, site: Site, history: History, slots: Sequence[Slot]) -> None:
        self.site, self.history, self.slots = site, history, slots
        self.owners: dict[str, str] = {}
        """Route target of one attachment → container ID."""
        self._numbers = itertools.count(1)

    # --- one call

    def _call(self, slot: Slot, command: str, conf: dict[str, Any], note: str = "") -> CniAnswer:
        """One call, in the history with what came of it."""
        slot_path = str(slot.space.path)
        self.history.add(slot.id, f"{command} {note}…")
        answer = slot.host.node.cni(command, slot.id, slot_path, conf)
        self._told(slot, command, answer)
        return answer

    def _told(self, slot: Slot, command: str, answer: CniAnswer) -> None:
        words = " ".join(answer.ips) if answer.ok else f"error {answer.error}: {answer.document.get('msg')}"
        self.history.add(slot.id, f"{command} {'ok' if answer.ok else 'failed'} {answer.seconds:.3f} s {words}")
        self.history.called(f"{command} {'ok' if answer.ok else answer.error}")
        if answer.error not in (None, 5, 7, 11, 100):
            self.history.contradiction(slot.id, f"{command}: {answer.document}")

    def _numbered(self, slot: Slot) -> int:
        number = next(self._numbers)
        self.owners[f"64512:{number}"] = slot.id
        return number

    # --- what a runtime does

    def add(self, slot: Slot) -> None:
        host, epoch = slot.host, slot.host.epoch
        number = self._numbered(slot)
        with host.counted():
            free = host.size - sum(":" not in ip for ip in host.node.lease_files())
            answer = self._call(slot, "ADD", host.network(number), f"#{number} ")
            crowded = free <= host.adding
        if answer.ok:
            slot.state, slot.number, slot.answer = State.UP, number, answer
            if not crowded and "reuse" not in WITHOUT:
                self._nobody_elses(slot)
            return
        if answer.error == 100:
            self.history.contradiction(slot.id, "ADD: error 100 for a container that is gone")
        if host.was_calm(epoch):
            if answer.error != 5 or "addresses" not in str(answer.document.get("msg")):
                self.history.contradiction(slot.id, f"ADD: {answer.document}")
            slot.state = State.GONE
        else:
            slot.state = State.DOUBT

    def delete(self, slot: Slot) -> bool:
        """DEL; whether it was done."""
        epoch = slot.host.epoch
        answer = self._call(slot, "DEL", slot.host.network())
        if answer.ok:
            slot.state, slot.answer = State.GONE, None
            if slot.space.path.exists() and (left := links_in(slot.space)):
                self.history.contradiction(slot.id, f"DEL answered 0 and left {left}")
            return True
        if slot.host.was_calm(epoch):
            self.history.contradiction(slot.id, f"DEL: {answer.document}")
        slot.state = State.DOUBT
        return False

    def _nobody_elses(self, slot: Slot) -> None:
        """No peer that hears nothing of us now has a route of the former owner of these addresses."""
        for peer in self.site.peers:
            for ip in slot.ips:
                if not self._stranger(slot, ip, peer) or not self.site.unheard(slot.host, peer):
                    continue
                time.sleep(CALM_SECONDS)
                stranger = self._stranger(slot, ip, peer)
                if stranger and self.site.unheard(slot.host, peer):
                    self.history.contradiction(
                        slot.id, f"has {ip} while {peer.name} routes it to {stranger}, which it was withdrawn from"
                    )

    def _stranger(self, slot: Slot, ip: str, peer: Any) -> str | None:
        """The other container to which a peer's route to this address belongs."""
        prefix = f"{ip}/{128 if ':' in ip else 32}"
        try:
            paths = peer.ask(lambda frr: frr.paths(prefix)) or []
        except OSError:  # it was killed meanwhile
            return None
        for path in paths:
            for word in path.get("extendedCommunity", {}).get("string", "").split():
                owner = self.owners.get(word.removeprefix("RT:"))
                if owner is not None and owner != slot.id:
                    return f"{owner} ({word})"
        return None

    # --- the steps of a plan

    def step(self, what: str, slot: Slot, chance: Random) -> None:
        """One step by its name; what it comes to depends on what the container is."""
        getattr(self, f"do_{what}")(slot, chance)

    def do_toggle(self, slot: Slot, chance: Random) -> None:
        """ADD what is gone, DEL what is not; what was lost is sometimes left to the agent."""
        if slot.state is State.GONE:
            self.add(slot)
        elif slot.state is not State.LOST or chance.random() < 0.5:
            self.delete(slot)

    def do_check(self, slot: Slot, chance: Random) -> None:
        if slot.state is not State.UP or slot.answer is None:
            return self.do_toggle(slot, chance)
        epoch = slot.host.epoch
        conf = slot.host.network(slot.number) | {"prevResult": slot.answer.document}
        answer = self._call(slot, "CHECK", conf)
        if not answer.ok and slot.host.was_calm(epoch):
            self.history.contradiction(slot.id, f"CHECK of what is well: {answer.document}")
        return None

    def do_again(self, slot: Slot, chance: Random) -> None:
        """A second ADD is refused, and the first attachment is untouched."""
        if slot.state is not State.UP:
            return self.do_toggle(slot, chance)
        epoch = slot.host.epoch
        answer = self._call(slot, "ADD", slot.host.network(self._numbered(slot)), "again ")
        if answer.error != 100 and slot.host.was_calm(epoch):
            self.history.contradiction(slot.id, f"ADD again: {answer.document}")
        return None

    def do_twice(self, slot: Slot, chance: Random) -> None:
        """DEL, and DEL once more."""
        if self.delete(slot):
            self.delete(slot)

    def do_renew(self, slot: Slot, chance: Random) -> None:
        """DEL and ADD of one ID, over and over, with nothing between."""
        for _ in range(3):
            if slot.state is not State.GONE and not self.delete(slot):
                return
            self.add(slot)

    def do_race(self, slot: Slot, chance: Random) -> None:
        """ADD and DEL of one ID at the same time: whichever came last decides; what is there says which."""
        if slot.state is not State.GONE and not self.delete(slot):
            return
        host, epoch = slot.host, slot.host.epoch
        number = self._numbered(slot)
        answers: list[CniAnswer] = []
        first = threading.Thread(
            target=lambda: answers.append(self._call(slot, "ADD", host.network(number), f"#{number} raced "))
        )
        with host.counted():
            first.start()
            threading.Event().wait(chance.random() * 0.01)
            gone = self._call(slot, "DEL", host.network(), "racing ")
            first.join()
        (added,) = answers
        if not (added.ok and gone.ok) or not host.was_calm(epoch):
            slot.state = State.DOUBT
        elif links_in(slot.space):
            slot.state, slot.number, slot.answer = State.UP, number, added
        else:
            slot.state = State.GONE

    def do_killed(self, slot: Slot, chance: Random) -> None:
        """The caller of an ADD is killed in the midst of it, and a DEL follows."""
        if slot.state is State.GONE:
            self._killed_add(slot, chance.random() * 0.02)
            slot.state = State.DOUBT
        self.delete(slot)

    def do_overtaken(self, slot: Slot, chance: Random) -> None:
        """An ADD waits for a DEL of its ID, its caller is killed, and a second DEL follows: the container is gone."""
        if slot.state is not State.UP:
            return self.do_killed(slot, chance)
        slot.state = State.DOUBT
        first = threading.Thread(target=self._call, args=(slot, "DEL", slot.host.network(), "first "))
        first.start()
        threading.Event().wait(chance.random() * 0.01)
        self._killed_add(slot, 0.005 + chance.random() * 0.1)
        self.delete(slot)
        first.join()
        return None

    def _killed_add(self, slot: Slot, seconds: float) -> None:
        """An ADD whose caller dies after so many seconds, if it runs that long."""
        host, number = slot.host, self._numbered(slot)
        node = host.node
        variables = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": slot.id,
            "CNI_NETNS": str(slot.space.path),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(node.bin_dir),
        }
        self.history.add(slot.id, f"ADD #{number} whose caller is killed…")
        with host.counted():
            caller = subprocess.Popen(
                node.namespace.command(*node._private(), node.bin_dir / "bgpcni"),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=node._environment() | variables,
            )
            assert caller.stdin
            try:
                caller.stdin.write(json.dumps(host.network(number)).encode())
                caller.stdin.close()
            except OSError:
                pass
            try:
                caller.wait(seconds)
            except subprocess.TimeoutExpired:
                caller.send_signal(signal.SIGKILL)
            code = caller.wait()
        self.history.add(slot.id, f"ADD #{number} ended with {code}")
        self.history.called("ADD killed" if code < 0 else "ADD not killed in time")

    def do_die(self, slot: Slot, chance: Random) -> None:
        """The namespace is removed, and no DEL follows."""
        if slot.state is not State.UP:
            return self.do_toggle(slot, chance)
        self.history.add(slot.id, "its namespace goes")
        self.history.called("namespace gone")
        slot.state = State.LOST
        slot.space.close()
        slot.space = self.site.lab.container(slot.id)
        return None

    def do_unplug(self, slot: Slot, chance: Random) -> None:
        """A stranger deletes the host's end."""
        if slot.state is not State.UP:
            return self.do_toggle(slot, chance)
        self.history.add(slot.id, f"somebody deletes {slot.veth}")
        self.history.called("link gone")
        slot.state = State.LOST
        slot.host.node.namespace.ip("link", "delete", slot.veth, check=False)
        return None

    def do_gc(self, slot: Slot, chance: Random) -> None:
        """GC on the slot's node that names all but this one."""
        host, epoch = slot.host, slot.host.epoch
        kept = [
            {"containerID": other.id, "ifname": "eth0"}
            for other in self.slots
            if other.host is host and other is not slot
        ]
        conf = host.network() | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": kept}
        was, slot.state = slot.state, State.DOUBT
        self.history.add(slot.id, f"GC without it ({was.value})…")
        answer = host.node.cni("GC", conf=conf)
        self._told(slot, "GC", answer)
        if answer.ok:
            slot.state, slot.answer = State.GONE, None
        elif host.was_calm(epoch):
            self.history.contradiction(slot.id, f"GC: {answer.document}")
