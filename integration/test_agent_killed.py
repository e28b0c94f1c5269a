"""A killed agent loses no route, keeps nothing of what it did not finish, and no peer notices."""

from __future__ import annotations

import functools
import random
import signal

import pytest

from bgpcni.testing.patience import SECONDS
from integration.lab import CniAnswer, Frr, Lab, Namespace, Node, until
from integration.lab.node import BGPCNI
from integration.seen import (
    Burst,
    add,
    announced,
    at_once,
    delete,
    dual,
    links_in,
    nothing_left,
    nothing_stays,
    pinged,
    prefixes,
    ready,
    session,
    settled,
    speaker,
    withdrawn,
)

SEED = 20
"""Of the moments at which the agent is killed: other ones for another number."""


def test_a_killed_agent_is_no_event_to_a_peer(frr: Frr, node: Node, lab: Lab) -> None:
    """kill -9 of the agent, then a restart, then SIGTERM and a restart: the session stays up, the routes stay in
    FRR's table all the time, ExaBGP is the same process; afterwards ADD and DEL work as before."""
    node.agent()
    frr.wait_established(node.address)
    conf = dual(node)
    first, second = lab.container("a"), lab.container("b")
    answer = add(node, "c1", first, conf)
    announced(frr, node, answer)
    until(lambda: frr.neighbor(node.address)["gracefulRestartInfo"]["endOfRibRecv"], "End-of-RIB")
    before, pid = session(frr, node), speaker(node)
    versions = {prefix: frr.route(prefix)["version"] for prefix in prefixes(answer)}
    for number in (signal.SIGKILL, signal.SIGTERM):
        status = node.kill_agent(number)
        assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        refused = node.cni("ADD", "c2", second, conf)
        assert refused.error == 11
        pinged(frr, answer)
        node.start_agent()
        settled(node)
        # the version of a route grows with every change of it: a withdrawal in between would show
        assert {prefix: frr.route(prefix)["version"] for prefix in prefixes(answer)} == versions
        assert session(frr, node) == before
        assert speaker(node) == pid
    other = add(node, "c2", second, conf)
    announced(frr, node, answer, other)
    for name, space in (("c1", first), ("c2", second)):
        delete(node, name, space, conf)
    nothing_left(node, first, second)
    withdrawn(frr, answer, other)


def test_what_a_killed_agent_answered_holds(lab: Lab) -> None:
    """kill -9 at random moments of a burst of ADDs, four times, with a restart each time: each ADD that was answered
    with success has its routes and is reached; of the others nothing stays after their DEL; the session stays up."""
    frr, node = ready(lab)
    conf = dual(node)
    chance = random.Random(SEED)
    kept: dict[str, tuple[Namespace, CniAnswer]] = {}
    before = session(frr, node)
    for turn in range(4):
        spaces = {f"c{turn}-{n}": lab.container(f"c{turn}-{n}") for n in range(10)}
        calls = [functools.partial(node.cni, "ADD", name, space, conf) for name, space in spaces.items()]
        burst = Burst(calls)
        # the kill comes when so many have begun, or have come so far that only the answer is missing
        state, wanted = chance.choice(("*", "up")), len(kept) + chance.randrange(1, 10)
        burst.wait(lambda s=state, w=wanted: len(node.records(s)) >= w, "some ADDs")  # type: ignore[misc]
        node.kill_agent()
        answers = burst.answers()
        node.start_agent()
        for (name, space), answer in zip(spaces.items(), answers, strict=True):
            if answer.ok:
                kept[name] = (space, answer)
            else:
                assert answer.error == 11, answer.document
        until(lambda: not node.records("adding"), "the end of what was cut short")
        listed = {item["containerID"]: item for item in node.attachments()}
        assert set(kept) <= set(listed)
        for name, space in spaces.items():
            assert links_in(space) == (["eth0"] if name in listed else []), name
        for name in spaces.keys() - kept.keys():
            delete(node, name, spaces[name], conf)
        assert {item["containerID"] for item in node.attachments()} == set(kept)
        assert len(node.links()) == 1 + len(kept) or not kept
        assert len(node.lease_files()) == 2 * len(kept)
    announced(frr, node, *(answer for _, answer in kept.values()))
    for _, answer in kept.values():
        pinged(frr, answer)
    until(lambda: frr.received(node.address) == len(kept), "only the routes of what was answered")
    assert session(frr, node) == before
    at_once([functools.partial(delete, node, name, space, conf) for name, (space, _) in kept.items()])
    nothing_left(node, *(space for space, _ in kept.values()))


def test_a_delete_that_a_kill_cut_short_is_finished(lab: Lab) -> None:
    """kill -9 in the midst of DELs: the restarted agent, or the DEL that the runtime sends again, finishes them."""
    frr, node = ready(lab)
    conf = dual(node)
    chance = random.Random(SEED)
    for _ in range(3):
        spaces = {f"c{n}": lab.container(f"c{n}") for n in range(8)}
        answers = at_once([functools.partial(add, node, name, space, conf) for name, space in spaces.items()])
        calls = [functools.partial(node.cni, "DEL", name, space, conf) for name, space in spaces.items()]
        burst = Burst(calls)
        left = 8 - chance.randrange(1, 9)
        burst.wait(lambda left=left: len(node.records("up")) <= left, "some DELs")  # type: ignore[misc]
        node.kill_agent()
        gone = burst.answers()
        node.start_agent()
        for name, answer in zip(spaces, gone, strict=True):
            assert answer.ok or answer.error == 11, answer.document
            if not answer.ok:
                delete(node, name, spaces[name], conf)
        nothing_stays(node, *spaces.values())
        withdrawn(frr, *answers)
        for space in spaces.values():
            space.close()


def test_only_one_agent(lab: Lab) -> None:
    """A second agent on the same folders ends with an error, whatever its socket is; the first one keeps serving."""
    node = lab.node()
    node.agent(bgp=None, default_exporters=[])
    for where in (node.socket, node.folder / "other.sock"):
        argv = (BGPCNI, "agent", "--config", node.config, "--socket", where)
        second = node.namespace.run(*argv, check=False, seconds=SECONDS)
        assert second.returncode == 1
        assert "another agent holds" in second.stderr
    space, conf = lab.container(), dual(node, exporters=[])
    add(node, "c1", space, conf)
    delete(node, "c1", space, conf)


def test_calls_while_no_agent_answers(lab: Lab) -> None:
    """A socket with nobody behind it: VERSION answers, STATUS is error 50, all else error 11, and nothing is done;
    with the agent back everything works."""
    node = lab.node()
    node.agent(bgp=None, default_exporters=[])
    conf, space = dual(node, exporters=[]), lab.container()
    answer = add(node, "c1", space, conf)
    node.kill_agent()
    assert node.socket.exists()
    assert "1.1.0" in node.cni("VERSION", conf={"cniVersion": "1.0.0"}).document["supportedVersions"]
    assert node.cni("STATUS", conf=conf | {"cniVersion": "1.1.0"}).error == 50
    with_result = conf | {"prevResult": answer.document}
    for command in ("ADD", "DEL", "CHECK"):
        refused = node.cni(command, "c1", space, with_result if command != "ADD" else conf)
        assert refused.error == 11
        assert "start bgpcni agent" in refused.document["msg"]
    gc = conf | {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    assert node.cni("GC", conf=gc).error == 11
    told = node.operator("status")
    assert told.code == 1
    assert "error" in told.document
    assert links_in(space) == ["eth0"]
    node.start_agent()
    delete(node, "c1", space, conf)
    nothing_left(node, space)


def test_an_agent_that_hangs_is_nobody(lab: Lab) -> None:
    """An agent that is stopped answers nobody; the call is refused, nothing is written besides it."""
    node = lab.node()
    process = node.agent(bgp=None, default_exporters=[])
    conf, space = dual(node, exporters=[]), lab.container()
    process.send_signal(signal.SIGSTOP)
    try:
        refused = node.cni("ADD", "c1", space, conf)
    finally:
        process.send_signal(signal.SIGCONT)
    assert refused.error == 11
    nothing_stays(node, space)


@pytest.mark.parametrize("exporters", [["exabgp"], None], ids=["named", "by default"])
def test_exabgp_without_an_agent(lab: Lab, exporters: list[str] | None) -> None:
    """Without an agent ExaBGP is an error that says what to do, if it was asked for by name; the defaults are the
    agent's, so nothing named means nothing announced, and a warning."""
    node, space = lab.node(), lab.container()
    conf = dual(node, exporters=exporters, bgp=None)
    answer = node.cni("ADD", "c1", space, conf)
    if exporters:
        assert answer.error == 7
        assert "exabgp needs the agent: start bgpcni agent" in answer.document["msg"]
    else:
        assert answer.ok, answer.document
        assert answer.stderr.count("warning") == 1
    delete(node, "c1", space, conf)
    nothing_left(node, space)


def test_a_burst_ends_before_sigterm_does(lab: Lab) -> None:
    """SIGTERM while ADDs run: those that were taken are answered, and every answer holds."""
    frr, node = ready(lab)
    conf = dual(node)
    spaces = {f"c{n}": lab.container(f"c{n}") for n in range(10)}
    calls = [functools.partial(node.cni, "ADD", name, space, conf) for name, space in spaces.items()]
    burst = Burst(calls)
    burst.wait(lambda: bool(node.records()), "the first ADD")
    assert node.kill_agent(signal.SIGTERM) == 0
    answers = burst.answers()
    node.start_agent()
    assert {answer.error for answer in answers} <= {None, 11}
    done = {name for name, answer in zip(spaces, answers, strict=True) if answer.ok}
    assert {item["containerID"] for item in node.attachments()} == done
    announced(frr, node, *(answer for answer in answers if answer.ok))
    at_once([functools.partial(delete, node, name, space, conf) for name, space in spaces.items()])
    nothing_left(node, *spaces.values())
