"""The agent's regular checks: each runs by itself, and a problem is reported exactly as long as it lasts."""

from __future__ import annotations

import threading

from bgpcni.agent.watch import Watch
from bgpcni.errors import IoFailure
from bgpcni.events import Events, Kind
from bgpcni.testing.patience import SECONDS


def test_what_is_amiss_is_said_until_it_is_mended() -> None:
    """A problem is one event and stays in `problems` as long as it lasts. A failing check does not stop the others."""
    events = Events()
    words = "the address is missing"

    def broken() -> str:
        raise IoFailure("the folder is a file")

    def defective() -> str:
        raise RuntimeError("a defect")

    amiss: dict[str, str] = {}
    watch = Watch({"folder": broken, "defect": defective, "address": lambda: words}, amiss, events)
    for _ in range(2):
        watch.look()
    said = {"folder": "the folder is a file", "defect": "RuntimeError('a defect')", "address": words}
    assert amiss == said
    assert [event.text for event in events.after(0).events].count(words) == 1
    words = ""
    watch.look()
    assert "address" not in amiss
    assert events.after(0).events[-1].text == "mended: the address is missing"


def test_a_store_that_is_away_is_named_so_and_so_is_its_return() -> None:
    events = Events()
    words = "nobody answers"
    watch = Watch({"cluster-store": lambda: words}, {}, events)
    watch.look()
    words = ""
    watch.look()
    assert [event.kind for event in events.after(0).events] == [Kind.STORE_AWAY, Kind.STORE_BACK]


def test_the_end_waits_for_the_look_that_runs_and_begins_no_other() -> None:
    """A look binds sockets and makes folders: nothing of that happens once the agent takes itself apart."""
    looking, may_end = threading.Event(), threading.Event()
    looks = []

    def look() -> str:
        looks.append(1)
        looking.set()
        assert may_end.wait(SECONDS)
        return ""

    watch = Watch({"slow": look}, {}, Events())
    thread = threading.Thread(target=watch.run)
    thread.start()
    assert looking.wait(SECONDS)
    watch.stop()
    assert thread.is_alive()
    may_end.set()
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert len(looks) == 1
