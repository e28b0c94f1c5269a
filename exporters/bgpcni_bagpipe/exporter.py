"""The exporter: attaches and detaches endpoints in a BaGPipe daemon.

Attach and detach happen under a lock, one for each daemon and held across processes, because an attach that overlaps
with the last detach of a VPN leaves a route that nobody can withdraw. Each method asks `/ping` first: another number
than before means another daemon, which has no endpoints. This class remembers only what it has seen of the daemon
itself.
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
"""The most seconds that a healthy daemon takes to answer `/ping` (usually it takes one millisecond)."""
Value = TypeVar("Value")


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{value!r} is not a URL of a BaGPipe daemon: http://ADDRESS:PORT")
    if parts.port == 0 or not value.isascii() or any(char.isspace() for char in value):
        raise ValueError(f"{value!r} is not a URL")
    return value.rstrip("/")


class _Refused(Exception):
    """The daemon refuses an endpoint; the message says why."""


class BaGPipe(Exporter):
    """Announces EVPN type 2 and IPv4 VPN routes. The daemon announces type 3 by itself."""

    class Config(Exporter.Config):
        """`url`: the address of the daemon's REST API."""

        url: Annotated[str, AfterValidator(_url)] = "http://127.0.0.1:8082"

    contract: ClassVar[int] = 1
    families: ClassVar[frozenset[Family]] = frozenset({Family.L2VPN_EVPN, Family.IPV4_VPN})
    imports: ClassVar[Literal["none", "routes", "datapath"]] = "datapath"
    targets_per_route: ClassVar[bool] = False
    carries: ClassVar[frozenset[str]] = frozenset()
    look_every: ClassVar[float] = 1.0

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, BaGPipe.Config)
        self._daemon = Daemon(config.url)
        parts = urlsplit(config.url)
        place = f"bagpipe-{parts.hostname}-{parts.port or 80}".replace(":", "_")
        self._lock_name, self._number_path = f"{place}.lock", Path(node.run_dir, f"{place}.number")
        self._number = self._read_number()
        self._seen = ""  # the number of the daemon that answers at present
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
                    raise NotThereYet(f"{shown.port.mac} is not wanted but cannot be detached: {reason}")
        if gone and self._collided:
            self._collided = False
            self.wake.empty()  # one of them may have been the reason why a route was refused

    def replayed(self) -> None:
        if self._number == self._seen:
            return
        self._number = self._seen
        temporary = self._number_path.with_suffix(f".{os.getpid()}")
        try:
            temporary.write_text(self._number)
            temporary.replace(self._number_path)
        except OSError:
            temporary.unlink(missing_ok=True)  # then the next call without an agent announces everything again

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
        """Hold the daemon's lock, and check that the daemon answers. Errors until then are `untouched`."""
        try:
            folder = os.open(self.node.run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotThereYet(f"{self.node.run_dir}: {error.strerror}", untouched=True) from None
        try:
            held = locks.acquire(self._lock_name, folder, seconds=max(0.0, deadline - time.monotonic()))
        except locks.Busy:
            raise NotThereYet("another call is using the daemon", untouched=True) from None
        finally:
            os.close(folder)
        try:
            self._ping(deadline)
            yield
        finally:
            os.close(held)

    def _ping(self, deadline: float) -> None:
        """Check which daemon answers. Another one than before has none of our endpoints. Raises NotThereYet."""
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
            return Outcome(Reach.ACCEPTED)  # it was never announced
        if attach is None:
            return Outcome(Reach.ACCEPTED)
        others = self._ports.get(attach.port, {}).keys() - {attach.address}
        address = attach.address if others else _whole(attach)
        reason = self._detach(attach.port, address, deadline)
        if reason and not others:
            # A bad attach keeps its port from being detached until the good attach is repeated.
            with contextlib.suppress(_Refused):
                self._attach(attach, deadline)
            reason = self._detach(attach.port, address, deadline)
        elif reason and attach.port.vpn.kind == "evpn":
            reason = self._renew(attach.port, attach.address, deadline)
        return Outcome(Reach.WANTED, reason) if reason else Outcome(Reach.ACCEPTED)

    def _renew(self, port: Port, without: str, deadline: float) -> str:
        """Detach all addresses, because one cannot be detached alone, and attach the others again."""
        kept = [item for address, item in self._ports[port].items() if address != without]
        if reason := self._detach(port, "", deadline):
            return reason
        for item in kept:
            with contextlib.suppress(_Refused):
                self._attach(item, deadline)
        return ""

    def _attach(self, attach: Attach, deadline: float) -> None:
        """Attach an endpoint. Raises _Refused."""
        vpn = attach.port.vpn
        there = self._instance(attach, deadline)
        if there is not None and (there.import_rt, there.export_rt) != (attach.import_rt, attach.export_rt):
            raise _Refused(
                f"VPN {vpn.name} exists with import {_text(there.import_rt)} and export {_text(there.export_rt)}, "
                f"not {_text(attach.import_rt)} and {_text(attach.export_rt)}: remove all its endpoints first"
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
        """Detach the whole port and attach it again, once: a part of a failed attach may be left and cause the
        error."""
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
        """Detach an address, or without `address` all of the MAC. Returns "", or why that failed. One that is not
        attached is no error."""
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
        """The VPN as the daemon has it; None if it has not. An empty one was left by a failed attach and is removed."""
        vpn = attach.port.vpn
        if vpn in self._vpns:
            return self._vpns[vpn]
        there = self._look_at(vpn.name, deadline)
        if there is None:
            return None
        if there.vpn.kind != vpn.kind:
            raise _Refused(f"VPN {vpn.name} exists, but its type is {there.vpn.kind}")
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
            raise NotThereYet(f"{self._daemon.url} returned {error}") from None


def _whole(attach: Attach) -> str:
    """The address with which a whole port is detached: none with EVPN; with an IPv4 VPN its address."""
    return attach.address if attach.port.vpn.kind == "ipvpn" else ""


def _plain(name: str) -> bool:
    """Whether a name can be used in a URL's path without escapes. All of ours can."""
    return name.isascii() and all(char.isalnum() or char in "-_." for char in name)


def _text(targets: tuple[str, ...]) -> str:
    return ", ".join(targets) or "nothing"
