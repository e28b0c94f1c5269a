"""The exporter: drives a BaGPipe daemon towards the endpoints that are wanted.

Attach and detach happen under one lock for each daemon, held across processes: an attach that overlaps the VPN's
last detach leaves a route that nobody can withdraw. Each verb asks `/ping` first; another number than before means
another daemon, which knows nothing. Nothing is remembered of the daemon but what this life has seen of it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel

from bgpcni import locks
from bgpcni.exporter import Exporter, NotThereYet, Outcome, Reach, Wake
from bgpcni.model import Announcement, Family, NodeFacts
from bgpcni_bagpipe import glass
from bgpcni_bagpipe.endpoint import Attach, Port, Unfit, Vpn, attach_of, identity
from bgpcni_bagpipe.rest import Answer, Daemon, NoAnswer

PING = 3.0
"""Seconds that a daemon which is well takes at most to answer `/ping` (it takes one millisecond)."""
Value = TypeVar("Value")


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{value!r} is not a URL of a BaGPipe daemon: http://ADDRESS:PORT")
    if parts.port == 0 or not value.isascii() or any(char.isspace() for char in value):
        raise ValueError(f"{value!r} is not a URL")
    return value.rstrip("/")


class _Refused(Exception):
    """The daemon will not take an endpoint; the message says why."""


class BaGPipe(Exporter):
    """EVPN MAC/IP endpoints and IPv4 VPN ones. The daemon announces type 3 by itself."""

    class Config(Exporter.Config):
        """`url`: where the daemon's REST API is."""

        url: Annotated[str, AfterValidator(_url)] = "http://127.0.0.1:8082"

    contract: ClassVar[int] = 1
    families: ClassVar[frozenset[Family]] = frozenset({Family.L2VPN_EVPN, Family.IPV4_VPN})
    imports: ClassVar[Literal["none", "routes", "datapath"]] = "datapath"
    targets_per_route: ClassVar[bool] = False
    look_every: ClassVar[float] = 1.0

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, BaGPipe.Config)
        self._daemon = Daemon(config.url)
        parts = urlsplit(config.url)
        place = f"bagpipe-{parts.hostname}-{parts.port or 80}".replace(":", "_")
        self._lock_name, self._number_path = f"{place}.lock", Path(node.run_dir, f"{place}.number")
        self._number = self._read_number()
        self._seen = ""  # the number of the daemon that answers now
        self._vpns: dict[Vpn, glass.Instance] = {}
        self._ports: dict[Port, dict[str, Attach]] = {}
        self._collided = False

    @classmethod
    def owns(cls, config: BaseModel) -> str:
        assert isinstance(config, BaGPipe.Config)
        return f"the endpoints in BaGPipe at {config.url}"

    # ---------------------------------------------------------------- verbs

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        return self._each(routes, self._announce_one, deadline)

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        return self._each(routes, self._withdraw_one, deadline)

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        kept: set[tuple[Port, str]] = set()
        for route in keep:
            try:
                attach = attach_of(route)
            except Unfit:
                continue
            if attach is not None:
                kept.add((attach.port, attach.address))
        with self._session(deadline):
            there = [self._look_at(name, deadline) for name in self._names(deadline)]
            found = [shown for one in there if one is not None for shown in self._shown(one, deadline)]
            gone = [s for s in found if s.network not in {None, *spare} and (s.port, s.address) not in kept]
            staying = {s.port for s in found if s not in gone}
            for shown in gone:
                one = shown.port in staying or shown.port.vpn.kind == "ipvpn"
                if reason := self._detach(shown.port, shown.address if one else "", deadline):
                    raise NotThereYet(f"{shown.port.mac} is left over and stays: {reason}")
        if gone and self._collided:
            self._collided = False
            self.wake.empty()  # what was in the way of a refused route may have been among them

    def replayed(self) -> None:
        if self._number == self._seen:
            return
        self._number = self._seen
        temporary = self._number_path.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_text(self._number)
            temporary.replace(self._number_path)
        except OSError:
            temporary.unlink(missing_ok=True)  # the next call without an agent tells everything once more

    def look(self, deadline: float) -> None:
        self._ping(deadline)

    def close(self) -> None:
        self._daemon.abort()

    # ---------------------------------------------------------------- one batch

    def _each(
        self, routes: Sequence[Announcement], verb: Callable[[Announcement, float], Outcome], deadline: float
    ) -> list[Outcome]:
        outcomes: list[Outcome] = []
        with self._session(deadline):
            for route in routes:
                if outcomes and time.monotonic() >= deadline:
                    break
                try:
                    outcomes.append(verb(route, deadline))
                except NotThereYet:
                    if not outcomes:
                        raise
                    break
        return outcomes

    @contextlib.contextmanager
    def _session(self, deadline: float) -> Iterator[None]:
        """The daemon's lock, and the daemon there. What fails before is known not to have touched it."""
        try:
            folder = os.open(self.node.run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotThereYet(f"{self.node.run_dir}: {error.strerror}", untouched=True) from None
        try:
            held = locks.acquire(self._lock_name, folder, seconds=max(0.0, deadline - time.monotonic()))
        except locks.Busy:
            raise NotThereYet("another call is talking to the daemon", untouched=True) from None
        finally:
            os.close(folder)
        try:
            self._ping(deadline)
            yield
        finally:
            os.close(held)

    def _ping(self, deadline: float) -> None:
        """Who answers? Another daemon than before knows nothing of what that one was told."""
        try:
            number = self._daemon.get("/ping", min(deadline, time.monotonic() + PING)).document
        except NoAnswer as error:
            raise NotThereYet(str(error), untouched=True) from None
        if type(number) is not int:
            raise NotThereYet(f"{self._daemon.url} does not answer like BaGPipe", untouched=True)
        before, self._seen = self._seen or self._number, str(number)
        if before != self._seen:
            self._vpns.clear()
            self._ports.clear()
            self.wake.empty()

    def _read_number(self) -> str:
        try:
            return self._number_path.read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    # ---------------------------------------------------------------- one route

    def _announce_one(self, route: Announcement, deadline: float) -> Outcome:
        try:
            attach = attach_of(route)
            if attach is not None:
                self._attach(attach, deadline)
        except (Unfit, _Refused) as error:
            return Outcome(Reach.REFUSED, str(error))
        return Outcome(Reach.ACCEPTED)

    def _withdraw_one(self, route: Announcement, deadline: float) -> Outcome:
        try:
            attach = attach_of(route)
        except Unfit:
            return Outcome(Reach.ACCEPTED)  # it never was there
        if attach is None:
            return Outcome(Reach.ACCEPTED)
        others = self._ports.get(attach.port, {}).keys() - {attach.address}
        address = attach.address if others else _whole(attach)
        reason = self._detach(attach.port, address, deadline)
        if reason and not others:
            # A poisoned address holds its port until the good attach was repeated.
            with contextlib.suppress(_Refused):
                self._attach(attach, deadline)
            reason = self._detach(attach.port, address, deadline)
        elif reason and attach.port.vpn.kind == "evpn":
            reason = self._renew(attach.port, attach.address, deadline)
        return Outcome(Reach.WANTED, reason) if reason else Outcome(Reach.ACCEPTED)

    def _renew(self, port: Port, without: str, deadline: float) -> str:
        """One address could not be detached alone: all go, and those that stay come back."""
        kept = [item for address, item in self._ports[port].items() if address != without]
        if reason := self._detach(port, "", deadline):
            return reason
        for item in kept:
            with contextlib.suppress(_Refused):
                self._attach(item, deadline)
        return ""

    def _attach(self, attach: Attach, deadline: float) -> None:
        """Raises _Refused."""
        vpn = attach.port.vpn
        there = self._instance(attach, deadline)
        if there is not None and (there.import_rt, there.export_rt) != (attach.import_rt, attach.export_rt):
            raise _Refused(
                f"VPN {vpn.name} is there with import {_text(there.import_rt)} and export {_text(there.export_rt)}, "
                f"not {_text(attach.import_rt)} and {_text(attach.export_rt)}: all its endpoints have to go first"
            )
        answer = self._post(attach, deadline)
        if answer.status == 500:
            answer = self._attach_anew(attach, deadline)
        if answer.status != 200:
            self._collided |= answer.status == 400
            raise _Refused(answer.words or f"HTTP status {answer.status}")
        self._vpns[vpn] = glass.Instance(vpn, attach.import_rt, attach.export_rt)
        self._ports.setdefault(attach.port, {})[attach.address] = attach

    def _attach_anew(self, attach: Attach, deadline: float) -> Answer:
        """Half of a failed attach may be left and in the way: the whole port goes and comes back, once."""
        kept = {address: item for address, item in self._ports.get(attach.port, {}).items() if item != attach}
        self._detach(attach.port, _whole(attach), deadline)
        answer = self._post(attach, deadline)
        if answer.status != 200:
            self._detach(attach.port, _whole(attach), deadline)
        for address, item in kept.items():
            if self._post(item, deadline).status == 200:
                self._ports.setdefault(attach.port, {})[address] = item
        return answer

    def _detach(self, port: Port, address: str, deadline: float) -> str:
        """Why it is not detached, "" if it is, or was not attached. All addresses of the MAC without `address`."""
        answer = self._ask(lambda: self._daemon.post("/detach_localport", identity(port, address), deadline))
        known = self._ports.get(port, {})
        absent = answer.words.endswith("could not be found") or (
            port.vpn.kind == "ipvpn" and answer.words.endswith("not plugged yet, can't unplug")
        )
        if answer.status == 200 or (answer.status == 400 and absent):
            known.pop(address, None)
            if not address or not known:
                self._ports.pop(port, None)
            if not any(other.vpn == port.vpn for other in self._ports):
                self._vpns.pop(port.vpn, None)
            return ""
        return answer.words or f"HTTP status {answer.status}"

    def _instance(self, attach: Attach, deadline: float) -> glass.Instance | None:
        """The VPN as it is in the daemon, None if it is not there. An empty one is what a failed attach left."""
        vpn = attach.port.vpn
        if vpn in self._vpns:
            return self._vpns[vpn]
        there = self._look_at(vpn.name, deadline)
        if there is None:
            return None
        if there.vpn.kind != vpn.kind:
            raise _Refused(f"VPN {vpn.name} is there, but is {there.vpn.kind}")
        if not self._shown(there, deadline):
            self._detach(attach.port, _whole(attach), deadline)
            return self._look_at(vpn.name, deadline)
        self._vpns[vpn] = there
        return there

    # ---------------------------------------------------------------- questions

    def _names(self, deadline: float) -> list[str]:
        answer = self._ask(lambda: self._daemon.get("/looking-glass/vpns/instances", deadline))
        return self._parsed(lambda: glass.names(answer.document))

    def _look_at(self, name: str, deadline: float) -> glass.Instance | None:
        if not _plain(name):
            return None
        answer = self._ask(lambda: self._daemon.get(f"/looking-glass/vpns/instances/{name}", deadline))
        return None if answer.status != 200 else self._parsed(lambda: glass.instance(answer.document))

    def _shown(self, there: glass.Instance, deadline: float) -> list[glass.Shown]:
        path = f"/looking-glass/vpns/instances/{there.vpn.name}/ports"
        answer = self._ask(lambda: self._daemon.get(path, deadline))
        return [] if answer.status != 200 else self._parsed(lambda: glass.endpoints(there.vpn, answer.document))

    def _post(self, attach: Attach, deadline: float) -> Answer:
        return self._ask(lambda: self._daemon.post("/attach_localport", attach.payload, deadline))

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except NoAnswer as error:
            raise NotThereYet(str(error)) from None

    def _parsed(self, parse: Callable[[], Value]) -> Value:
        try:
            return parse()
        except ValueError as error:
            raise NotThereYet(f"{self._daemon.url} shows {error}") from None


def _whole(attach: Attach) -> str:
    """The address that stands for all of a port: EVPN's detach without one takes all, the IPv4 VPN's has to name it."""
    return attach.address if attach.port.vpn.kind == "ipvpn" else ""


def _plain(name: str) -> bool:
    """Whether a name can be part of a path as it is; ours all can."""
    return name.isascii() and all(char.isalnum() or char in "-_." for char in name)


def _text(targets: tuple[str, ...]) -> str:
    return ", ".join(targets) or "nothing"
