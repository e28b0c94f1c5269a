"""What a shell is offered, and the script that asks for it."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from bgpcni.commands import client
from bgpcni.operator.cli import main

ROW = {"network": "tenant-a", "containerID": "0123456789ab", "hostVeth": "veth1",
       "ips": ["10.1.2.3/24", "2001:db8::3/64"], "pod": {"namespace": "shop", "name": "web-0", "uid": ""}}  # fmt: skip
DOCUMENTS = {
    "attachments": {"attachments": [ROW]},
    "peers": {"peers": [{"address": "192.0.2.1", "state": "Established"}]},
}


def offered(*words: str) -> set[str]:
    *before, last = words
    return {item.value for item in ShellComplete(main, {}, "bgpcni", "_BGPCNI_COMPLETE").get_completions(before, last)}


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(path: object, command: str, within: float, **arguments: Any) -> tuple[dict[str, Any], int]:
        assert within <= 1
        return DOCUMENTS[command], 0

    monkeypatch.setattr(client, "ask", ask)


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("routes", "--network", ""), {"tenant-a"}), (("attachments", "--container", "01"), {"0123456789ab"}),
        (("attachments", "--container", "x"), set()), (("peers", ""), {"192.0.2.1"}),
        (("routes", "2001"), {"2001:db8::3"}), (("explain", "shop"), {"shop/web-0"}),
        (("explain", "192"), {"192.0.2.1"}),
        (("routes", "--peer", "192.0.2.1", "adv"), {"advertised"}), (("release", ""), {"0123456789ab"}),
        (("routes", "--state", "ann"), {"announced"}), (("log-level", "d"), {"debug"}), (("even",), {"events"}),
    ],
)  # fmt: skip
def test_names_that_the_agent_knows_are_offered(words: tuple[str, ...], found: set[str]) -> None:
    assert offered(*words) == found


def test_without_an_agent_nothing_is_offered_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BGPCNI_SOCKET", "/nowhere")
    assert offered("routes", "--network", "") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_that_the_shell_reads(shell: str) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_BGPCNI_COMPLETE" in done.output
    if (path := shutil.which(shell)) is not None:
        subprocess.run([path, "-n"], input=done.output, text=True, check=True)


def test_another_shell_is_wrong_usage() -> None:
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2
