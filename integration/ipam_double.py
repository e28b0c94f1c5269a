#!/usr/bin/env python3
"""An IPAM plugin that a test gives its behaviour: `ipam.folder` says where, `ipam.does` says what, by command.

It writes every call down (`calls/N`: variables and stdin), keeps one file for each address (`held/ADDRESS`), and gives
the first free address of 10.7.0.0/24. Behaviours: see `BEHAVIOURS`. Run as a plugin it imports nothing of ours.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    text = sys.stdin.read()
    command = os.environ["CNI_COMMAND"]
    conf = json.loads(text)
    if command == "VERSION":
        print(json.dumps({"cniVersion": conf["cniVersion"], "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}))
        return 0
    folder = Path(conf["ipam"]["folder"])
    for name in ("calls", "held"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    variables = {key: value for key, value in os.environ.items() if key.startswith("CNI_")}
    call = folder / "calls" / f"{time.monotonic_ns()}-{command}"
    call.write_text(json.dumps({"command": command, "variables": variables, "stdin": text}))
    owner = f"{variables.get('CNI_CONTAINERID')} {variables.get('CNI_IFNAME')}"
    held = folder / "held"
    given = ""
    if command == "ADD":
        given = next(address for n in range(2, 250) if _take(held / (address := f"10.7.0.{n}"), owner))
    behaviour = conf["ipam"].get("does", {}).get(command, "")
    if not (folder / f"{command}-works").exists() and behaviour:
        return BEHAVIOURS[behaviour](folder)
    if command == "DEL":
        for file in held.iterdir():
            if file.read_text() == owner:
                file.unlink()
    if command == "GC":
        valid = [f"{item['containerID']} {item['ifname']}" for item in conf["cni.dev/valid-attachments"]]
        for file in held.iterdir():
            if file.read_text() not in valid:
                file.unlink()
    if command == "ADD":
        print(json.dumps({"cniVersion": conf["cniVersion"], "ips": [_ip(conf["cniVersion"], given)]}))
    return 0


def _take(file: Path, owner: str) -> bool:
    try:
        fd = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    os.write(fd, owner.encode())
    os.close(fd)
    return True


def _ip(version: str, address: str) -> dict[str, str]:
    found = {"address": f"{address}/24", "gateway": "10.7.0.1"}
    return found if version >= "1" else found | {"version": "4"}


def _say(text: str, code: int, stderr: str = "") -> int:
    sys.stdout.write(text)
    sys.stderr.write(stderr)
    return code


def _error(code: int, msg: str) -> int:
    return _say(json.dumps({"cniVersion": "1.0.0", "code": code, "msg": msg}), 1)


def _kill_itself(folder: Path) -> int:
    os.kill(os.getpid(), 9)
    return 0


def _wait(folder: Path) -> int:
    """Until the test lets it go on."""
    end = time.monotonic() + 60
    while not (folder / "go").exists() and time.monotonic() < end:
        time.sleep(0.01)
    return _error(75, "slow, and then failed")


def _leave_a_child(folder: Path) -> int:
    """A child that keeps stdout and stderr open and lives on until the test ends it."""
    if os.fork() == 0:
        (folder / "child").write_text(str(os.getpid()))
        _wait(folder)
        os._exit(0)
    while not (folder / "child").exists():
        time.sleep(0.001)
    print(json.dumps({"cniVersion": "1.0.0", "ips": [_ip("1.0.0", "10.7.0.2")]}), flush=True)
    return 0


BEHAVIOURS = {
    "fails": lambda folder: _error(77, "out of order"),
    "fails without words": lambda folder: _say("", 3, "panic: out of order\n"),
    "garbage": lambda folder: _say("<html>no</html>", 0),
    "nothing": lambda folder: _say("", 0),
    "huge": lambda folder: _say(json.dumps({"ips": [], "x": "y" * (3 << 20)}), 0),
    "no address": lambda folder: _say(json.dumps({"cniVersion": "1.0.0", "ips": []}), 0),
    "a list": lambda folder: _say("[]", 0),
    "killed": _kill_itself,
    "unknown": lambda folder: _error(4, f"unknown CNI_COMMAND: {os.environ['CNI_COMMAND']}"),
    "unavailable": lambda folder: _error(51, "the pool's server is away"),
    "slow": _wait,
    "leaves a child": _leave_a_child,
}

if __name__ == "__main__":
    sys.exit(main())
