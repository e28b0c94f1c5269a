"""A real gobgpd in a network namespace, with one neighbour, and what the `gobgp` command says of it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from integration.lab import ALL_FAMILIES, Daemon, Lab, Namespace, NotHere
from integration.lab.namespace import Argument

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
    idle-hold-time-after-reset = 1
  [neighbors.transport.config]
    local-address = "{source}"
    passive-mode = {passive}
"""
FAMILY = """
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "{name}"
"""


class GoBGP(Daemon):
    """One daemon. `address`: the source of its session; `peer` and its AS: the one neighbour. `extra`: the end of its
    configuration. `port`: where it listens, -1 for nowhere. `peer_asn`: the neighbour's, where it is another one;
    `source`: of the session, where it is not `address`.

    Its session comes up some time after `start`, see `Frr.wait_established`.
    """

    def __init__(
        self,
        lab: Lab,
        namespace: Namespace,
        address: str,
        peer: str,
        asn: int,
        *,
        families: Sequence[str] = ALL_FAMILIES,
        extra: str = "",
        port: int = -1,
        peer_asn: int | None = None,
        source: str | None = None,
    ) -> None:
        if shutil.which("gobgpd") is None:
            raise NotHere("not installed: gobgpd")
        super().__init__(namespace, lab.folder / f"gobgp-{address}")
        self.socket, self._config = self.folder / "api.sock", self.folder / "gobgpd.toml"
        self.target = f"unix://{self.socket}"
        text = CONFIG.format(
            asn=asn, address=address, peer=peer, peer_asn=peer_asn or asn, port=port, passive="false",
            source=source or address,
        )  # fmt: skip
        text += "".join(FAMILY.format(name=NAMES.get(name, name)) for name in families) + extra
        self._config.write_text(text)
        lab.adopt(self)

    def argv(self) -> list[Argument]:
        return ["gobgpd", "-f", self._config, "--api-hosts", self.target, "--pprof-disable", "--log-plain"]

    def answers(self) -> object:
        return self.ask("neighbor")

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)  # a killed one leaves it behind, and the next would end on it
        super().start()

    def ask(self, *argv: str) -> Any:
        """What the `gobgp` command answers, as a document; None while the daemon is not there."""
        done = self.command("-j", *argv, check=False)
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout.strip() else None

    def command(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One call of the `gobgp` command: what somebody else does with the daemon."""
        return self.namespace.run("gobgp", "--target", self.target, *argv, check=check)
