"""A real gobgpd in a network namespace, with one neighbour, and what the `gobgp` command says of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from integration.lab import ALL_FAMILIES, Lab, Namespace, NotHere, until
from integration.lab.frr import tail
from integration.lab.namespace import send_signal

NAMES = {"ipv4-vpn": "l3vpn-ipv4-unicast", "ipv6-vpn": "l3vpn-ipv6-unicast"}
"""What GoBGP calls a family otherwise than we do."""

CONFIG = """
[global.config]
  as = {asn}
  router-id = "{address}"
  port = {port}
[[neighbors]]
  [neighbors.config]
    neighbor-address = "{peer}"
    peer-as = {peer_asn}
  [neighbors.timers.config]
    connect-retry = 1
    hold-time = 9
    keepalive-interval = 3
  [neighbors.transport.config]
    local-address = "{address}"
    passive-mode = {passive}
"""
FAMILY = """
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "{name}"
"""


class GoBGP:
    """One daemon. `address`: the source of its session; `peer` and its AS: the one neighbour."""

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace,
        address: str,
        peer: str,
        asn: int,
        *,
        families: Sequence[str] = ALL_FAMILIES,
    ) -> None:
        if shutil.which("gobgpd") is None:
            raise NotHere("not installed: gobgpd")
        self.namespace = namespace
        folder = lab.folder / f"gobgp-{address}"
        folder.mkdir(mode=0o755)
        self.socket, self._config, self.log = folder / "api.sock", folder / "gobgpd.toml", folder / "log"
        self.target = f"unix://{self.socket}"
        text = CONFIG.format(asn=asn, address=address, peer=peer, peer_asn=asn, port=-1, passive="false")
        text += "".join(FAMILY.format(name=NAMES.get(name, name)) for name in families)
        self._config.write_text(text)
        self._process: subprocess.Popen[str] | None = None
        lab.callback(self.close)

    def start(self) -> None:
        """Start it and wait until its API answers. Its session comes up later, see `Frr.wait_established`."""
        self.socket.unlink(missing_ok=True)  # a killed one leaves it behind, and the next would end on it
        argv = ("gobgpd", "-f", self._config, "--api-hosts", f"unix://{self.socket}", "--pprof-disable", "--log-plain")
        process = self._process = self.namespace.popen(*argv, log=self.log)
        until(lambda: process.poll() is not None or self.ask("neighbor"), f"gobgpd's answer; {tail(self.log)}")
        if process.poll() is not None:
            raise RuntimeError(f"gobgpd ended with {process.returncode}: {tail(self.log)}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal, and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            self._process.wait(60)

    def pause(self) -> None:
        """It hangs: connections are still taken by the kernel, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            send_signal(self._process.pid, number)

    def ask(self, *argv: str) -> Any:
        """What the `gobgp` command answers, as a document; None while the daemon is not there."""
        done = self.command("-j", *argv, check=False)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def command(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One call of the `gobgp` command: what somebody else does with the daemon."""
        return self.namespace.run("gobgp", "--target", f"unix://{self.socket}", *argv, check=check)

    def close(self) -> None:
        self.resume()
        self.kill()
