"""What a shell offers for an argument: names that the agent knows. Without a quick answer it offers nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from bgpcni import paths
from bgpcni.commands import Document, client

SECONDS = 1.0
"""Who has pressed the tabulator does not wait longer."""
MOST = 200

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def networks(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _offered(begun, ((row["network"], "") for row in _rows(context, "attachments", begun)))


def containers(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _offered(begun, ((row["containerID"], row["network"]) for row in _rows(context, "attachments", begun)))


def peers(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    return _offered(begun, ((row["address"], row["state"]) for row in _rows(context, "peers")))


def places(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Addresses of containers; beside `--peer` also what can be asked of a peer."""
    words = [("advertised", ""), ("received", "")] if context.params.get("peer") else []
    rows = _rows(context, "attachments", begun)
    return _offered(begun, [*words, *((ip.partition("/")[0], row["containerID"]) for row in rows for ip in row["ips"])])


def anything(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Whatever `explain` takes."""
    found: list[tuple[str, str]] = []
    for row in _rows(context, "attachments", begun):
        pod = [f"{row['pod']['namespace']}/{row['pod']['name']}"] if "pod" in row else []
        names = (
            row["containerID"],
            row["network"],
            row["hostVeth"],
            *pod,
            *(ip.partition("/")[0] for ip in row["ips"]),
        )
        found += [(name, row["containerID"]) for name in names if name]
    return _offered(begun, [*found, *((row["address"], "peer") for row in _rows(context, "peers"))])


def _rows(context: click.Context, command: str, begun: str = "") -> list[Document]:
    given = context.params.get("socket_path")
    path = Path(given or os.environ.get("BGPCNI_SOCKET") or paths.SOCKET)
    asked: dict[str, Any] = {"search": begun, "limit": MOST} if command == "attachments" else {}
    try:
        document, _ = client.ask(path, command, within=SECONDS, **asked)
    except client.NoAgent:
        return []
    return list(document.get(command, []))


def _offered(begun: str, found: Iterable[tuple[str, str]]) -> list[CompletionItem]:
    known = {value: help for value, help in found if value.startswith(begun)}
    return [CompletionItem(value, help=words or None) for value, words in known.items()]
