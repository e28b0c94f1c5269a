"""`--watch`: asks a command again whenever something has happened, and shows what it answers now."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from bgpcni.commands import Document, client
from bgpcni.operator import follow

REST_SECONDS = 0.3
"""Between two answers at least, whatever happens on the node."""


def watch(path: Path, command: str, arguments: Mapping[str, Any], show: Callable[[Document], None]) -> None:
    """Show the answer now, and again after each change, until interrupted. Raises NoAgent if none answers at first."""
    position, _ = client.ask(path, "events", no_follow=True, after=1 << 62)
    _show(path, command, arguments, show)
    for batch in follow.batches(path, _lost, after=position["last"], run=position["run"]):
        if "error" in batch:
            show(batch)
            sys.exit(1)
        time.sleep(REST_SECONDS)  # a burst is one change
        try:
            _show(path, command, arguments, show)
        except client.NoAgent as error:
            _lost(str(error))


def _lost(reason: str) -> None:
    click.echo(f"bgpcni: {reason}; waiting for it", err=True)


def _show(path: Path, command: str, arguments: Mapping[str, Any], show: Callable[[Document], None]) -> None:
    document, _ = client.ask(path, command, **arguments)
    show(document)
