"""A real BaGPipe BGP daemon in a network namespace, from a virtual environment of its own.

The environment is made once, beside the checkout's own (`.venv-bagpipe`): the daemon needs ExaBGP 4 where the plugin
has 5, and its later releases do not connect. Its data path is `dummy` (BGP, and nothing in the kernel) or `labvxlan`,
the driver in `bagpipe_driver/`.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bgpcni.testing.patience import SECONDS
from integration.lab import Daemon, Inside, Lab, Namespace, NotHere
from integration.lab.namespace import Argument

ROOT = Path(__file__).parents[1]
VENV = ROOT / ".venv-bagpipe"
DRIVER = Path(__file__).parent / "bagpipe_driver"
PACKAGES = ("networking-bagpipe==23.0.0", "exabgp==4.2.25", "setuptools>=77")
PORT = 8082

CONFIG = """
[BGP]
local_address = {local}
peers = {peers}
my_as = {asn}
enable_rtc = False
[COMMON]
root_helper = env
[API]
host = 127.0.0.1
port = {port}
[DATAPLANE_DRIVER_IPVPN]
dataplane_driver = dummy
[DATAPLANE_DRIVER_EVPN]
dataplane_driver = {driver}
"""


def install() -> Path:
    """The folder with the daemon's programs, made if it is not there or not of these versions. Raises NotHere."""
    source = b"".join(file.read_bytes() for file in sorted(DRIVER.glob("*.*")))
    wanted = hashlib.sha256(source + "".join(PACKAGES).encode()).hexdigest()
    stamp = VENV / "bgpcni-stamp"
    VENV.mkdir(exist_ok=True)
    with (VENV / "bgpcni-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            _make(VENV)
            stamp.write_text(wanted)
    return VENV / "bin"


def _make(venv: Path) -> None:
    pip = [str(venv / "bin/pip"), "--quiet", "--disable-pip-version-check", "install"]
    copy = venv / "driver"  # pip leaves build files beside the sources
    shutil.copytree(DRIVER, copy, dirs_exist_ok=True)
    steps = (
        [sys.executable, "-m", "venv", str(venv)],
        [*pip, *PACKAGES],
        [*pip, "--no-deps", "--no-build-isolation", "--force-reinstall", str(copy)],
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotHere(f"BaGPipe cannot be installed: {' '.join(step[:3])}: {done.stderr.strip()[-500:]}")


class BaGPipe(Daemon):
    """One daemon. `address`: the source of its session, and its VTEP; `peer`: the route reflector's.

    Its session comes up some time after `start`, see `Frr.wait_established`.
    """

    def __init__(
        self, lab: Lab, namespace: Namespace, address: str, peer: str, asn: int, driver: str = "dummy"
    ) -> None:
        self._bin = install()
        super().__init__(namespace, lab.folder / f"bagpipe-{address}")
        text = CONFIG.format(local=address, peers=peer, asn=asn, port=PORT, driver=driver)
        (self.folder / "conf").write_text(text)
        self._inside = Inside(namespace)
        lab.adopt(self)

    def argv(self) -> list[Argument]:
        return [self._bin / "bagpipe-bgp", "--config-file", self.folder / "conf"]

    def answers(self) -> object:
        return self.get("/ping")

    def get(self, path: str) -> Any:
        """The answer to a GET, as a document."""
        return self._inside.call(self._request, "GET", path, None)

    def post(self, path: str, **document: Any) -> Any:
        """Send a request as another user of the daemon. Raises RuntimeError if the daemon refuses it."""
        return self._inside.call(self._request, "POST", path, json.dumps(document))

    def _request(self, method: str, path: str, body: str | None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS)
        try:
            headers = {"Accept": "application/json", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status} {text[:300]!r}")
        return json.loads(text)

    def endpoints(self) -> set[str]:
        """`VPN/MAC/ADDRESS` of everything that is attached, as the looking glass shows it."""
        found = set()
        for name in (entry["id"] for entry in self.get("/looking-glass/vpns/instances")):
            for port in self.get(f"/looking-glass/vpns/instances/{name}/ports").values():
                found |= {f"{name}/{item['mac_address']}/{item['ip_address']}" for item in port["endpoints"]}
        return found

    def close(self) -> None:
        super().close()
        self._inside.close()


if __name__ == "__main__":
    print(install())
