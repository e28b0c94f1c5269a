"""The exporter `example`: an adapter to a toy speaker. Replace what it says to the toy by what your speaker takes.

The toy is in tests/toy.py. It takes lines on a unix socket, and answers each with one line:

    hello                      → hello INSTANCE        another INSTANCE after each start
    add PREFIX NEXT-HOP MARK   → ok
    del PREFIX MARK            → ok                    also if there is none
    list                       → PREFIX NEXT-HOP MARK for each route, then ok
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Sequence
from typing import ClassVar

from pydantic import BaseModel

from bgpcni.exporter import Exporter, NotThereYet, Outcome, Reach, Wake
from bgpcni.model import Announcement, Family, NodeFacts

OURS = "bgpcni:"
"""What marks our routes at the speaker, in front of the network's name."""


class Example(Exporter):
    """Announces unicast routes through the toy."""

    class Config(Exporter.Config):
        """The keys of `[exporters.NAME]` in agent.toml, and of `{"type": "example", …}` in a network."""

        socket: str = "/run/example.sock"

    contract: ClassVar[int] = 1
    families: ClassVar[frozenset[Family]] = frozenset({Family.IPV4_UNICAST, Family.IPV6_UNICAST})
    needs_agent: ClassVar[bool] = False
    look_every: ClassVar[float] = 2.0

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, Example.Config)
        self._path = config.socket
        self._instance = ""
        self._toy: socket.socket | None = None
        self._closed = False

    @classmethod
    def owns(cls, config: BaseModel) -> str:
        """Two exporters may not announce through the same speaker."""
        assert isinstance(config, Example.Config)
        return config.socket

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        fit = [route for route in routes if route.nlri.kind == "unicast"]
        self._ask([f"add {route.nlri.prefix} {route.next_hop} {OURS}{route.network}" for route in fit], deadline)
        refused = Outcome(Reach.REFUSED, "the speaker has unicast routes only")
        return [Outcome(Reach.ACCEPTED) if route.nlri.kind == "unicast" else refused for route in routes]

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        fit = [route for route in routes if route.nlri.kind == "unicast"]
        self._ask([f"del {route.nlri.prefix} {OURS}{route.network}" for route in fit], deadline)
        return [Outcome(Reach.ACCEPTED)] * len(routes)

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        kept = {str(route.nlri.prefix) for route in keep}
        old = []
        for line in self._ask(["list"], deadline):
            prefix, _, mark = line.split(" ", 2)
            if mark.startswith(OURS) and prefix not in kept and mark.removeprefix(OURS) not in spare:
                old.append(f"del {prefix} {mark}")
        self._ask(old, deadline)

    def look(self, deadline: float) -> None:
        """A speaker that was started anew has lost our routes; `_ask` notices."""
        self._ask([], deadline)

    def close(self) -> None:
        self._closed = True
        if toy := self._toy:
            try:
                toy.shutdown(socket.SHUT_RDWR)  # a method that waits for the speaker returns
            except OSError:
                pass

    def _ask(self, lines: Sequence[str], deadline: float) -> list[str]:
        """Send lines to the speaker; what it lists. Raises NotThereYet if it does not take all of them."""
        listed: list[str] = []
        try:
            with socket.socket(socket.AF_UNIX) as toy:
                self._toy = toy
                toy.settimeout(max(0.001, deadline - time.monotonic()))
                toy.connect(self._path)
                if self._closed:
                    raise NotThereYet("closed")
                with toy.makefile("rw", encoding="utf-8", errors="replace") as stream:
                    for line in ("hello", *lines):
                        stream.write(f"{line}\n")
                        stream.flush()
                        answer = self._answer(toy, stream.readline(1000), deadline)
                        while line == "list" and answer != "ok":
                            listed.append(answer)
                            answer = self._answer(toy, stream.readline(1000), deadline)
                        if line == "hello" and answer.startswith("hello "):
                            self._met(answer)
                        elif answer != "ok":
                            raise NotThereYet(f"the speaker answers {answer!r}")
        except (OSError, ValueError) as error:
            raise NotThereYet(f"the speaker at {self._path} cannot be reached: {error}") from None
        finally:
            self._toy = None
        return listed

    def _answer(self, toy: socket.socket, line: str, deadline: float) -> str:
        left = deadline - time.monotonic()
        if not line.endswith("\n") or left <= 0:
            raise NotThereYet(f"the speaker does not answer in time: {line!r}")
        toy.settimeout(left)
        return line.removesuffix("\n")

    def _met(self, greeting: str) -> None:
        if self._instance not in ("", greeting):
            self.wake.empty()
        self._instance = greeting
