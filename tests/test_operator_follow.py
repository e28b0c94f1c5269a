"""Following the agent's events: through its restarts, and to the end of what it remembers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from bgpcni.commands import client
from bgpcni.operator import follow

SOCKET = Path("/nowhere")


def batch(*numbers: int, run: str = "one", last: int | None = None) -> dict[str, Any]:
    found = numbers[-1] if numbers else 0
    events = [{"number": number} for number in numbers]
    return {"run": run, "last": found if last is None else last, "missed": 0, "events": events}


class Agent:
    """Answers with these, in order, or raises them."""

    def __init__(self, patch: pytest.MonkeyPatch, *answers: dict[str, Any] | Exception) -> None:
        self.asked: list[tuple[int, str]] = []
        self._answers: Iterator[dict[str, Any] | Exception] = iter(answers)
        patch.setattr(client, "ask", self._ask)
        patch.setattr(follow, "PAUSE_SECONDS", 0.0)

    def _ask(self, path: Path, command: str, **arguments: Any) -> tuple[dict[str, Any], int]:
        self.asked.append((arguments["after"], arguments["run"]))
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer, 1 if "error" in answer else 0


def test_each_request_goes_on_where_the_last_ended_also_with_the_next_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = client.NoAgent("no agent")
    agent = Agent(monkeypatch, batch(1, 2), batch(last=2), gone, gone, batch(1, run="two"))
    lost: list[str] = []
    found = list(islice(follow.batches(SOCKET, lost.append), 3))
    assert [event["number"] for document in found for event in document["events"]] == [1, 2, 1]
    assert agent.asked == [(0, ""), (2, "one"), (2, "one"), (2, "one"), (2, "one")]
    assert lost == ["no agent"]


def test_without_an_agent_at_first_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    Agent(monkeypatch, client.NoAgent("no agent"))
    with pytest.raises(client.NoAgent):
        next(follow.batches(SOCKET))


def test_it_ends_at_the_newest_where_nobody_wants_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(monkeypatch, batch(1, 2), batch(3), batch(last=3))
    assert len(list(follow.batches(SOCKET, follow=False))) == 3
    assert agent.asked == [(0, ""), (2, "one"), (3, "one")]


def test_an_error_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    Agent(monkeypatch, {"schema": 1, "error": "12 readers wait for events already"})
    assert [document["error"] for document in follow.batches(SOCKET)] == ["12 readers wait for events already"]
