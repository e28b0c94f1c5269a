"""`unreachable`: the containers that cannot be reached as they should be, each with the cause and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from bgpcni.commands import Document
from bgpcni.commands.answers.common import named
from bgpcni.commands.answers.selection import searched
from bgpcni.commands.answers.steps import Look, failed, steps_of, unnamed
from bgpcni.model import State
from bgpcni.node.node import Node


def unreachable(
    node: Node, *, search: str | None = None, limit: int | None = None, only_failed: bool = False
) -> tuple[Document, int]:
    """Exit 1 if there is one. It ends at the limit: `more` says whether there are others.

    `failed`: ADDs that failed and were not done since, the newest first. `only_failed`: these alone, cheaply.
    """
    rows = iter(()) if only_failed else _rows(node, search)
    found = list(islice(rows, limit))
    more = limit is not None and next(rows, None) is not None
    failures = sorted(node.failures.all(), key=lambda one: one.at, reverse=True)
    document: Document = {
        "schema": 1,
        "unreachable": found,
        "more": more,
        "failed": [{**unnamed(failure), "problems": [_problem(failed(failure))]} for failure in failures[:limit]],
    }
    return document, 1 if found else 0


def _rows(node: Node, search: str | None) -> Iterator[Document]:
    look, fits = Look(node), searched(search)
    for stored in node.store.all():
        item = stored.attachment
        if item is None or stored.state is not State.UP or (fits and not fits(stored)):
            continue
        problems = [_problem(step) for step in steps_of(look, stored) if "problem" in step]
        if problems:
            yield {**named(item), "ips": [each.address for each in item.addresses], "problems": problems}


def _problem(step: Document) -> Document:
    return {
        "code": step["problem"], "step": step["step"], "since": step["since"], "text": step["detail"],
        "remedy": step["remedy"],
    }  # fmt: skip
