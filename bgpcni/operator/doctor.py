"""`bgpcni doctor`: it runs in this process, to work when the agent hangs. The agent is asked with a deadline."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bgpcni import paths
from bgpcni.commands import client
from bgpcni.doctor import examine
from bgpcni.doctor.facts import Answers
from bgpcni.doctor.look import Where

Document = dict[str, Any]
AGENT_SECONDS = 10.0


def where(config: Path | None, conf_dir: Path, socket: Path, environment: Mapping[str, str]) -> Where:
    """Where this node has its files. `config` None: the file that the agent behind the socket was started with."""
    return Where(
        config_of(config, socket),
        conf_dir,
        Path(environment.get("BGPCNI_RUN_DIR") or paths.RUN_DIR),
        Path(environment.get("BGPCNI_DATA_DIR") or paths.DATA_DIR),
    )


def config_of(given: Path | None, socket: Path) -> Path:
    """The agent.toml that counts here."""
    return given or _started_with(socket) or paths.AGENT_CONFIG


def _started_with(socket: Path) -> Path | None:
    """The `--config` of the agent's command line, None if no agent is seen, or it was given none."""
    pid = client.agent_pid(socket)
    if pid is None:
        return None
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        base = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None
    for at, word in enumerate(words):
        if word == "--config" and at + 1 < len(words):
            return Path(base, words[at + 1])
        if word.startswith("--config="):
            return Path(base, word.partition("=")[2])
    return None


def run(where: Where, socket: Path) -> tuple[Document, int]:
    """The findings about this node; exit 1 on an error."""
    return examine(where, lambda: ask(socket))


def ask(socket: Path) -> Answers:
    """What the agent says of itself and of its sessions."""
    try:
        status, _ = client.ask(socket, "status", within=AGENT_SECONDS)
        peers, _ = client.ask(socket, "peers", within=AGENT_SECONDS)
    except client.NoAgent as error:
        return Answers(str(error), error.absent)
    if wrong := status.get("error") or peers.get("error"):
        return Answers(str(wrong))
    return Answers(status=status, peers=tuple(peers.get("peers", ())))


def text(document: Document) -> str:
    """One line for each finding, the remedy below it; then what is well, in short."""
    lines = []
    for finding in document["findings"]:
        lines.append(f"{finding['level']:7}  {finding['code']}: {finding['text']}")
        lines += [f"         → {finding['remedy']}"] if finding["remedy"] else []
    return "\n".join(lines) + "\n"
