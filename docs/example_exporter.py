"""An exporter for BIRD: it writes each route as a line into a file that bird.conf includes, and has BIRD read it again.

In bird.conf, with `include` at the beginning of its line:

    protocol static containers {
        ipv4;
        include "/etc/bird/containers.conf";
    }
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from bgpcni.exporter import Exporter, NotThereYet, Outcome, Reach, Wake
from bgpcni.model import Announcement, Family, NodeFacts


class BirdFile(Exporter):
    class Config(Exporter.Config):
        file: str = "/etc/bird/containers.conf"
        socket: str = "/run/bird/bird.ctl"

    contract: ClassVar[int] = 1
    families: ClassVar[frozenset[Family]] = frozenset({Family.IPV4_UNICAST})
    carries: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, name: str, config: BaseModel, node: NodeFacts, wake: Wake) -> None:
        super().__init__(name, config, node, wake)
        assert isinstance(config, BirdFile.Config)
        self._file, self._path = Path(config.file), config.socket
        self._bird: socket.socket | None = None
        self._closed = False

    def announce(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        unfit = {r.nlri for r in routes if r.nlri.kind != "unicast" or r.nlri.family not in self.families}
        lines = {str(r.nlri.prefix): self._line(r) for r in routes if r.nlri not in unfit}
        self._write(self._read() | lines, deadline)
        refused = Outcome(Reach.REFUSED, "BIRD's file takes IPv4 unicast only")
        return [refused if r.nlri in unfit else Outcome(Reach.ACCEPTED) for r in routes]

    def withdraw(self, routes: Sequence[Announcement], deadline: float) -> list[Outcome]:
        gone = {str(r.nlri.prefix) for r in routes if r.nlri.kind == "unicast"}
        self._write({prefix: line for prefix, line in self._read().items() if prefix not in gone}, deadline)
        return [Outcome(Reach.ACCEPTED)] * len(routes)

    def prune(self, keep: Collection[Announcement], spare: Collection[str], deadline: float) -> None:
        kept = {str(route.nlri.prefix) for route in keep}
        lines = {p: line for p, line in self._read().items() if p in kept or line.rpartition("# ")[2] in spare}
        self._write(lines, deadline)

    def close(self) -> None:
        self._closed = True
        if bird := self._bird:
            bird.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads, which closes the socket

    def _line(self, route: Announcement) -> str:
        return f"route {route.nlri.prefix} blackhole; # {route.network}"

    def _read(self) -> dict[str, str]:
        """The lines by prefix, also those of an earlier run: nothing but our routes is in this file."""
        text = self._file.read_text() if self._file.exists() else ""
        return {line.split()[1]: line for line in text.splitlines()}

    def _write(self, lines: dict[str, str], deadline: float) -> None:
        temporary = self._file.with_suffix(".new")
        temporary.write_text("".join(f"{line}\n" for line in lines.values()))
        os.replace(temporary, self._file)
        self._configure(deadline)

    def _configure(self, deadline: float) -> None:
        """Send `configure` to BIRD's control socket, and read lines until one with the code of a final answer."""
        try:
            with socket.socket(socket.AF_UNIX) as bird:
                bird.settimeout(max(0.001, deadline - time.monotonic()))
                bird.connect(self._path)
                self._bird = bird
                if self._closed:
                    raise NotThereYet("closed")
                bird.sendall(b"configure\n")
                answer = b""
                while not any(line[:4] in (b"0003", b"0004", b"8002") for line in answer.splitlines(keepends=True)[1:]):
                    part = bird.recv(4096)
                    if not part or len(answer) > 65536 or time.monotonic() > deadline:
                        raise NotThereYet(f"BIRD does not answer: {answer[-80:]!r}")
                    answer += part
        except OSError as error:
            raise NotThereYet(f"BIRD cannot be reached: {error}") from None
        finally:
            self._bird = None
        if b"\n8002" in answer:
            raise NotThereYet(f"BIRD refuses its configuration: {answer[-200:]!r}")
