"""Another kernel: tests that ask more of the kernel than this one has run in a user-mode Linux (package
user-mode-linux), which is a process here and sees this machine's files, read-only.

A test says what it asks for: `@pytest.mark.kernel("vrf")`. The plugin below, in `integration/conftest.py`, has it run
there with all of its module's, and brings the reports back; where the kernel has the feature, it runs as any other.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bgpcni.testing.patience import SCALE
from integration.lab.frr import tail
from integration.lab.namespace import Namespace, unique

MODULES = Path("/usr/lib/uml/modules")
XSTATE = Path(__file__).with_name("xstate.c")
"""Lets linux.uml run on a processor with AMX: it says how."""
REPORTS = "BGPCNI_KERNEL_REPORTS"
"""Set inside: the file that reports are written to, one a line."""
SECONDS = 900
PROBES = {
    "vrf": ("link", "add", "name", "probe", "type", "vrf", "table", "1000"),
    "mpls": ("route", "add", "203.0.113.0/24", "encap", "mpls", "16", "dev", "lo"),
    "vlan_filtering": ("link", "add", "name", "probe", "type", "bridge", "vlan_filtering", "1"),
}
"""What a test can ask for, and what iproute2 can then do."""

# Root is this machine's, read-only; what programs write to is in memory, and the checkout is laid over that in case
# it is below. Modules are loaded by hand: there is no /lib/modules for this kernel.
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root CI={ci}
mount -t proc proc /proc; mount -t sysfs sys /sys; mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts
for folder in /tmp /run /dev/shm /var/tmp /var/log /var/lib /root/.cache; do
    [ ! -d $folder ] || mount -t tmpfs -o mode=1777 tmpfs $folder
done
mkdir -p {checkout} /run/out /run/modules/lib
mount -t hostfs -o hostfs={checkout} hostfs {checkout}
mount -t hostfs -o hostfs={folder} hostfs /run/out
ln -s {modules} /run/modules/lib/modules
for module in ipv6 bridge 8021q vxlan veth vrf macvlan dummy mpls_router mpls_iptunnel mpls_gso; do
    modprobe -d /run/modules $module
done
ip link set lo up
cd {checkout}
{reports}=/run/out/reports {python} -m pytest -p no:cacheprovider -p no:xdist {tests} </dev/null
sync; busybox poweroff -f
"""


@functools.cache
def has(feature: str) -> bool:
    """Whether this machine's own kernel has it."""
    with Namespace("probe") as place:
        try:
            place.ip(*PROBES[feature])
        except RuntimeError:
            return False
    return True


def missing() -> str | None:
    """What is not here for another kernel, or None."""
    absent = [name for name in ("linux.uml", "modprobe", "busybox", "gcc") if shutil.which(name) is None]
    return f"another kernel: not installed: {', '.join(absent)}" if absent else None


def run_there(checkout: Path, tests: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Run tests by node id in a user-mode Linux that lives for this call: the reports, and the console's end."""
    folder = Path(tempfile.gettempdir(), unique("kernel"))
    folder.mkdir(mode=0o700)
    try:
        init, console, reports = folder / "init", folder / "console", folder / "reports"
        words = {"python": sys.executable, "checkout": checkout, "folder": folder, "modules": MODULES}
        quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
        ci = os.environ.get("CI", "")
        init.write_text(INIT.format(**quoted, tests=shlex.join(tests), reports=REPORTS, ci=shlex.quote(ci)))
        init.chmod(0o755)
        preload = folder / "xstate.so"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", preload, XSTATE], check=True)
        argv = ["linux.uml", "mem=1536M", "quiet", "rootfstype=hostfs", "ro", f"init={init}"]
        argv += [f"uml_dir={folder}", "con=null", "con0=null,fd:1", "panic=1"]
        with console.open("wb") as sink:
            # PTRACE_O_EXITKILL ends what runs inside with it; pdeathsig ends it with us.
            machine = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                # Its memory is a file in TMPDIR.
                env={"PATH": os.environ["PATH"], "TMPDIR": "/dev/shm", "LD_PRELOAD": str(preload)},
            )
            try:
                machine.wait(SECONDS * SCALE)
            except subprocess.TimeoutExpired:
                pass
            finally:
                if machine.poll() is None:
                    os.killpg(machine.pid, signal.SIGKILL)
                    machine.wait(SECONDS * SCALE)
        lines = reports.read_text().splitlines() if reports.exists() else []
        return [json.loads(line) for line in lines], tail(console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class OtherKernel:
    """The pytest plugin: tests marked `kernel(feature, …)`, and the writing of reports where it runs inside."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._items: dict[Path, list[pytest.Item]] = {}
        self._found: dict[str, list[dict[str, Any]]] = {}
        self._said: dict[Path, str] = {}
        self._inside = os.environ.get(REPORTS)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            if item.get_closest_marker("kernel") is not None:
                self._items.setdefault(item.path, []).append(item)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._inside:
            data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
            with open(self._inside, "a", encoding="utf-8") as sink:
                sink.write(json.dumps(data) + "\n")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        marker = item.get_closest_marker("kernel")
        if marker is None or self._inside or os.geteuid() or missing() or all(has(one) for one in marker.args):
            return None
        if item.path not in self._said:
            tests = [other.nodeid for other in self._items[item.path]]
            reports, self._said[item.path] = run_there(self._config.rootpath, tests)
            for report in reports:
                self._found.setdefault(report["nodeid"], []).append(report)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for data in self._found.get(item.nodeid) or [self._lost(item)]:
            report = self._config.hook.pytest_report_from_serializable(config=self._config, data=data)
            if isinstance(report.longrepr, list):  # where and why a test was skipped, a tuple before it was JSON
                report.longrepr = tuple(report.longrepr)
            item.ihook.pytest_runtest_logreport(report=report)
        item.session._setupstate.teardown_exact(nextitem)  # what tests before it in this module have left set up
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _lost(self, item: pytest.Item) -> dict[str, Any]:
        text = f"no report of it from the other kernel, whose console ended with:\n{self._said[item.path]}"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
        serialize: Callable[..., dict[str, Any]] = self._config.hook.pytest_report_to_serializable
        return serialize(config=self._config, report=report)


def skip_unless_there(item: pytest.Item) -> None:
    """Skip a marked test that gets to run here although this kernel lacks what it asks for."""
    marker = item.get_closest_marker("kernel")
    if marker is not None and not os.geteuid() and (lacking := [one for one in marker.args if not has(one)]):
        pytest.skip(f"this kernel has no {', '.join(lacking)}; {missing() or 'nor has the other one'}")
