"""`bgpcni diags`: one file that has everything and no secret, with an agent, one that hangs, and none."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

from integration.lab import Lab, Node
from integration.lab.node import to_toml
from integration.seen import add, delete, dual, ready

CANARIES = {where: f"CANARY-{where}-{os.urandom(6).hex()}" for where in ("file", "net", "args", "env", "long")}


def collect(node: Node, target: Path) -> tuple[dict[str, bytes], dict[str, dict[str, Any]]]:
    """The files of the archive, and what the manifest says of each part."""
    lives = node.process is not None and node.process.poll() is None
    config = () if lives else ("--config", node.config)
    answer = node.operator("diags", "-o", target, "--conf-dir", node.folder / "net.d", *config, seconds=600)
    assert answer.code == 0, answer
    assert answer.document["file"] == str(target)
    assert target.stat().st_mode & 0o7777 == 0o600
    with tarfile.open(target) as archive:
        files = {item.name: archive.extractfile(item) for item in archive.getmembers()}
        content = {name.partition("/")[2]: file.read() for name, file in files.items() if file is not None}
    manifest = json.loads(content["manifest.json"])
    parts = {part["name"]: part for part in manifest["parts"]}
    assert {name for name, part in parts.items() if part["ok"]} == set(content) - {"manifest.json"}
    assert all(part["error"] for part in parts.values() if not part["ok"])
    assert [name for name, octets in content.items() if b"CANARY-" in octets] == []
    return content, parts


def test_everything_and_no_secret(lab: Lab, tmp_path: Path) -> None:
    """With a container that is up: all commands, records, networks, the kernel, the agent's threads. The canaries are
    in a password file, a network's keys, the arguments of a call, the environment, and a log line."""
    _, node = ready(lab)
    password = node.folder / "password"
    password.write_text(CANARIES["file"] + "\n")
    password.chmod(0o600)
    config = node.agent_config()
    config["bgp"]["neighbors"].append({"address": "198.18.1.99", "asn": 1, "password_file": str(password)})
    node.config.write_text(to_toml(config))
    assert node.operator("reload").code == 0
    conf = dual(node) | {"dbPassword": CANARIES["net"]}
    (node.folder / "net.d").mkdir()
    (node.folder / "net.d/10-a.conf").write_text(json.dumps(conf))
    space = lab.container()
    add(node, "c1", space, conf | {"bgp": {}}, args=f"IgnoreUnknown=1;SECRET={CANARIES['args']}")
    with node.log.open("a") as log:
        log.write(f"token={CANARIES['long']}\n")
    content, parts = collect(node, tmp_path / "diags.tar.gz")
    for name in ("status", "attachments", "routes", "peers", "ipam-show", "ipam-check", "events", "stacks", "received"):
        assert parts[f"commands/{name}.json"]["ok"], parts
        assert json.loads(content[f"commands/{name}.json"])["schema"] == 1
    for name in ("doctor.json", "version.json", "records.json", "system/ip-link.json", "system/bridge-fdb.json",
                 "agent.toml", "net.d/10-a.conf", "agent/threads.txt", "system/sysctl.txt"):  # fmt: skip
        assert content[name].strip(), name
    assert b"c1" in content["records.json"]
    assert b"MainThread" in content["commands/stacks.json"]
    assert b"cni0" in content["system/ip-link.json"]
    assert b"password_file" in content["agent.toml"]
    assert any(name.startswith("speaker/") for name in content)
    delete(node, "c1", space, conf)


def test_an_agent_that_hangs_and_one_that_is_dead(lab: Lab, tmp_path: Path) -> None:
    """The file is made all the same, and the manifest names what the agent did not answer."""
    _, node = ready(lab)
    assert node.process is not None
    os.kill(node.process.pid, 19)
    try:
        content, parts = collect(node, tmp_path / "hangs.tar.gz")
    finally:
        os.kill(node.process.pid, 18)
    assert b"did not answer" in content["doctor.json"]
    assert content["agent/threads.txt"]
    assert "did not answer" in parts["commands/status.json"]["error"]
    node.kill_agent()
    content, _ = collect(node, tmp_path / "dead.tar.gz")
    assert b"no agent answers" in content["doctor.json"]
    assert content["system/ip-link.json"]
