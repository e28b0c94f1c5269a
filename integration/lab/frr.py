"""FRR as the BGP peer: mgmtd, zebra and bgpd in a place of their own, asked over bgpd's vty socket.

The place is a network namespace or a container; the class is the same. Answers are read as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Protocol, Self

from bgpcni.testing.patience import SECONDS
from integration.lab.namespace import Argument, Namespace, alive, send_signal
from integration.lab.wait import until

FRR = Path("/usr/lib/frr")
FAMILIES = {
    "ipv4-unicast": "ipv4 unicast",
    "ipv6-unicast": "ipv6 unicast",
    "ipv4-vpn": "ipv4 vpn",
    "ipv6-vpn": "ipv6 vpn",
    "l2vpn-evpn": "l2vpn evpn",
}
ALL_FAMILIES = tuple(FAMILIES)
DAEMONS = ("mgmtd", "zebra", "bgpd")
"""What runs unless told otherwise, in the order of starting. zebra complains all the time without mgmtd."""

# The folders that FRR looks into whatever it is told, `mgmtd` most of all: each FRR gets its own. In a container they
# are its volumes already.
PRIVATE = """
mkdir -p /run/frr
mountpoint -q /run/frr || mount --bind "$0" /run/frr || exit 1
mountpoint -q /etc/frr || mount --bind "$0/etc" /etc/frr || exit 1
cd / && exec "$@" </dev/null >>"$0/out" 2>&1
"""


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One `neighbor` of FRR. `extra`: lines of its own, without `neighbor ADDRESS` in front.

    `reflect`: the neighbour is a client of this route reflector (iBGP only).
    """

    address: str
    asn: int
    families: Sequence[str] = ALL_FAMILIES
    reflect: bool = False
    extra: Sequence[str] = ()


def bgp(
    asn: int,
    router_id: str,
    neighbors: Sequence[Neighbor] = (),
    networks: Sequence[str] = (),
    extra: Sequence[str] = (),
) -> str:
    """bgpd's configuration. `networks` are originated whether they are there or not; `extra` are lines of the
    `router bgp` section (an `address-family` block included)."""
    lines = [
        f"router bgp {asn}",
        f" bgp router-id {router_id}",
        " no bgp default ipv4-unicast",
        " no bgp ebgp-requires-policy",
        " no bgp network import-check",
    ]
    for peer in neighbors:
        lines += [f" {line}" for line in _session(peer)]
    for name, family in FAMILIES.items():
        version = 6 if name.startswith("ipv6") else 4
        own = [n for n in networks if name == f"ipv{ip_network(n).version}-unicast"]
        body = [f"network {network}" for network in own if ip_network(network).version == version]
        for peer in neighbors:
            body += _activation(peer, name)
        if body:
            lines += [f" address-family {family}", *(f"  {line}" for line in body), " exit-address-family"]
    return "\n".join([*lines, *(f" {line}" for line in extra), "exit", ""])


def _session(peer: Neighbor) -> list[str]:
    return [
        f"neighbor {peer.address} remote-as {peer.asn}",
        f"neighbor {peer.address} timers connect 1",
        f"neighbor {peer.address} advertisement-interval 0",
        *(f"neighbor {peer.address} {line}" for line in peer.extra),
    ]


def _activation(peer: Neighbor, family: str) -> list[str]:
    if family not in peer.families:
        return []
    client = [f"neighbor {peer.address} route-reflector-client"] if peer.reflect else []
    return [f"neighbor {peer.address} activate", *client]


class Place(Protocol):
    """Where FRR runs: its network namespace, its processes, and how a program is run there."""

    @property
    def namespace(self) -> Namespace: ...
    @property
    def proc(self) -> Path: ...
    def run(self, *argv: Argument, check: bool = True) -> CompletedProcess[str]: ...


class Frr:
    """FRR's daemons in a place. `folder` is seen there under the same path; it may not be used by anything else.

    `asn` is only remembered, for who configures the other side. Paths of sockets are short (107 octets at most).
    `port`: where bgpd listens.
    """

    def __init__(self, place: Place, folder: Path, asn: int, daemons: Sequence[str] = DAEMONS, port: int = 179) -> None:
        self.place, self.folder, self.asn, self.daemons, self.port = place, folder, asn, daemons, port
        self.config: dict[str, str] = {}
        self._vty: dict[str, socket.socket] = {}
        for name in ("", "etc"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            shutil.chown(folder / name, "frr", "frr")

    @property
    def namespace(self) -> Namespace:
        return self.place.namespace

    def start(self, config: str | None = None, others: Mapping[str, str] | None = None) -> Self:
        """Start the daemons that do not run and wait until each answers. `config` is bgpd's (else the last
        one), `others` those of other daemons by name (zebra's and staticd's are read by mgmtd)."""
        self.config |= ({} if config is None else {"bgpd": config}) | dict(others or {})
        for name, text in self.config.items():
            (self.folder / "etc" / f"{name}.conf").write_text(text)
        for daemon in self.daemons:
            if self.running(daemon):
                continue
            (self.folder / "etc" / f"{daemon}.conf").touch()
            self._close(daemon)
            (self.folder / f"{daemon}.vty").unlink(missing_ok=True)
            self._pidfile(daemon).unlink(missing_ok=True)
            done = self.place.run(*self._command(daemon), check=False)
            if done.returncode:
                raise RuntimeError(f"{daemon} does not start: {done.stderr}{tail(self.folder / 'out')}")
            until(lambda daemon=daemon: self.text("show version", daemon), f"an answer of {daemon}")  # type: ignore[misc]
        return self

    def _command(self, daemon: str) -> list[Argument]:
        here = self.folder
        zserv = () if daemon == "mgmtd" else ("-z", here / "zserv.api")
        port = ("-p", str(self.port)) if daemon == "bgpd" else ()
        return [
            *("sh", "-c", PRIVATE, here, FRR / daemon, "-d", "-F", "traditional", *zserv, *port),
            *("-i", self._pidfile(daemon), "--vty_socket", here),
            *("--log", f"file:{here}/{daemon}.log", "--log-level", "informational"),
        ]

    def _pidfile(self, daemon: str) -> Path:
        return self.folder / f"{daemon}.pid"

    def pid(self, daemon: str = "bgpd") -> int | None:
        """The daemon's pid as `place.proc` shows it; None before its first start."""
        try:
            return int(self._pidfile(daemon).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def running(self, daemon: str = "bgpd") -> bool:
        pid = self.pid(daemon)
        return pid is not None and alive(pid, self.place.proc)

    def kill(self, number: int = signal.SIGKILL, daemon: str = "bgpd") -> None:
        """Signal a daemon; for signals that end it, wait for its end."""
        pid = self.pid(daemon)
        if pid is None or not self.running(daemon):
            return
        send_signal(pid, number, self.place.proc)
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            until(lambda: not self.running(daemon), f"the end of {daemon}")
            self._close(daemon)

    def stop(self) -> None:
        """End all daemons in order (SIGTERM: sessions are closed with a CEASE)."""
        for daemon in reversed(self.daemons):
            self.kill(signal.SIGTERM, daemon)

    def restart(self, number: int = signal.SIGTERM, config: str | None = None) -> None:
        """End bgpd by a signal and start it again, with the same configuration or another."""
        self.kill(number)
        self.start(config)

    def close(self) -> None:
        """End everything at once. Idempotent."""
        for daemon in reversed(self.daemons):
            self.kill(signal.SIGKILL, daemon)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it says

    def text(self, command: str, daemon: str = "bgpd") -> str:
        """The answer to one command. An unknown or failing command raises RuntimeError with FRR's words."""
        for fresh in (False, True):
            kept = daemon in self._vty
            try:
                return self._ask(command, daemon)
            except OSError:
                self._close(daemon)
                if fresh or not kept:  # a kept connection may be that of a daemon long dead: once more, anew
                    raise
        raise AssertionError("unreachable")

    def _ask(self, command: str, daemon: str) -> str:
        vty = self._vty.get(daemon)
        if vty is None:
            vty = socket.socket(socket.AF_UNIX)
            vty.settimeout(SECONDS)
            try:
                vty.connect(str(self.folder / f"{daemon}.vty"))
            except OSError:
                vty.close()
                raise
            self._vty[daemon] = vty
            self._ask("enable", daemon)
        vty.sendall(command.encode() + b"\0")
        answer = b""
        # The end: three zero octets and the result, 0 for success.
        while not (len(answer) >= 4 and answer[-4:-1] == b"\0\0\0"):
            part = vty.recv(1 << 16)
            if not part:
                raise ConnectionResetError(f"{daemon} ended while it was asked")
            answer += part
        words = answer[:-4].decode(errors="replace")
        if answer[-1]:
            raise RuntimeError(f"{daemon} refuses `{command}` ({answer[-1]}): {words.strip()}")
        return words

    def _close(self, daemon: str) -> None:
        vty = self._vty.pop(daemon, None)
        if vty is not None:
            vty.close()

    def json(self, command: str, daemon: str = "bgpd") -> Any:
        """The answer to `command json`, as a document ({} where FRR says nothing)."""
        # An EVPN table that is empty begins with a comma (FRR 10.3).
        return json.loads(self.text(f"{command} json", daemon).replace("{\n,", "{", 1) or "{}")

    def configure(self, *lines: str, daemon: str = "bgpd") -> None:
        """Configuration lines while it runs, from `configure terminal` on. A restart forgets them."""
        for line in ("configure terminal", *lines, "end"):
            self.text(line, daemon)

    def add_neighbor(self, peer: Neighbor) -> None:
        """A further neighbour, at once and after every restart."""
        lines = [f"router bgp {self.asn}", *_session(peer)]
        for name, family in FAMILIES.items():
            if body := _activation(peer, name):
                lines += [f"address-family {family}", *body, "exit-address-family"]
        lines.append("exit")
        self.config["bgpd"] = "\n".join([self.config.get("bgpd", ""), *lines, ""])
        if self.running():
            self.configure(*lines)

    def neighbor(self, address: str) -> dict[str, Any]:
        """All that FRR says of a neighbour."""
        return dict(self.json(f"show bgp neighbors {address}").get(address, {}))

    def established(self, address: str) -> bool:
        return bool(self.neighbor(address).get("bgpState") == "Established")

    def wait_established(self, address: str, seconds: float = 30) -> None:
        until(lambda: self.established(address), f"the session of FRR with {address}", seconds)

    def route(self, prefix: str, family: str | None = None) -> dict[str, Any]:
        """What bgpd holds of a prefix (unicast, or `family`); {} if nothing."""
        table = FAMILIES[family or f"ipv{ip_network(prefix).version}-unicast"]
        return dict(self.json(f"show bgp {table} {prefix}"))

    def paths(self, prefix: str, family: str | None = None) -> list[dict[str, Any]]:
        """The paths to a prefix, without those about to go."""
        document = self.route(prefix, family)
        # vpn: one entry for each RD
        entries = [document] if "paths" in document else [e for e in document.values() if isinstance(e, dict)]
        return [path for entry in entries for path in entry.get("paths", []) if not path.get("removed")]

    def next_hops(self, prefix: str, family: str | None = None) -> set[str]:
        """The global next hops of the valid paths to a prefix."""
        return {
            hop["ip"]
            for path in self.paths(prefix, family)
            if path.get("valid")
            for hop in path.get("nexthops", [])
            if hop.get("scope", "global") == "global"
        }

    def evpn(self, kind: str = "") -> dict[str, Any]:
        """The EVPN table by RD, then by route; `kind`: macip, multicast or prefix, else all."""
        choice = f" type {kind}" if kind else ""
        table = self.json(f"show bgp l2vpn evpn route{choice}")
        return {rd: routes for rd, routes in table.items() if isinstance(routes, dict)}

    def evpn_routes(self, kind: str = "") -> dict[str, list[dict[str, Any]]]:
        """EVPN routes as FRR writes them, with their RD in front (`RD:[2]:[0]:[48]:[MAC]`), to their paths."""

        def flat(paths: list[Any]) -> list[dict[str, Any]]:
            return [path for group in paths for path in (group if isinstance(group, list) else [group])]

        return {
            f"{rd}:{name}": flat(entry["paths"])
            for rd, routes in self.evpn(kind).items()
            for name, entry in routes.items()
            if isinstance(entry, dict) and "paths" in entry
        }

    def received(self, address: str, family: str = "ipv4-unicast") -> int:
        """How many routes of a family the neighbour has announced and not withdrawn."""
        summary = self.json(f"show bgp {FAMILIES[family]} summary")
        return int(summary.get("peers", {}).get(address, {}).get("pfxRcd", 0))

    def kernel_route(self, prefix: str) -> list[dict[str, Any]]:
        """The kernel's routes to exactly this prefix, where FRR runs."""
        version = "-6" if ":" in prefix else "-4"
        return self.namespace.ip_json(version, "route", "show", "exact", prefix)

    def ping(self, address: str, source: str | None = None) -> bool:
        """Whether FRR's side reaches an address by what zebra put into the kernel."""
        return self.namespace.ping(address, source)

    def logs(self) -> dict[str, str]:
        """The ends of what the daemons wrote, by file."""
        files = [self.folder / "out", *(self.folder / f"{daemon}.log" for daemon in self.daemons)]
        return {f"FRR {self.folder.name}/{file.name}": tail(file) for file in files}


def tail(file: Path, octets: int = 6000) -> str:
    """The end of a file, as text; "" if it is not there."""
    if not file.exists():
        return ""
    with file.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        handle.seek(max(0, size - octets))
        return handle.read().decode(errors="replace")
