"""What the agent tells the cluster of itself."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from bgpcni.agent.standing import Standing
from bgpcni.errors import CniError, Degraded, InvalidConfiguration, Unavailable
from bgpcni.exporter import Peer
from bgpcni.handler import Call, Reply, failure

NETWORK = b'{"cniVersion": "1.0.0", "name": "pods", "type": "bgpcni"}'


def _standing(error: CniError | None = None, drained: bool = False, *peers: str) -> tuple[Standing, list[Call]]:
    calls: list[Call] = []

    def answer(call: Call) -> Reply:
        calls.append(call)
        return failure(call, error) if error is not None else Reply(0)

    announcer = SimpleNamespace(peers=lambda: [Peer("10.0.0.1", 64512, state) for state in peers])
    convergence = SimpleNamespace(announcers=lambda: {"exabgp": announcer})
    node = SimpleNamespace(drained=drained, convergence=convergence)
    return Standing(node, SimpleNamespace(payload=lambda family: 1450), answer), calls  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, ""),
        (Degraded("no session is Established"), ""),
        (Unavailable("the disk is full"), "the disk is full"),
        (InvalidConfiguration("bridge: missing"), "bridge: missing"),
    ],
)
def test_what_would_make_an_add_fail_is_a_reason(error: CniError | None, said: str) -> None:
    """As STATUS says; late routes are none, since a pod may start before its routes are told."""
    standing, calls = _standing(error)
    assert standing.unservable(NETWORK) == said
    assert calls[0].variables["CNI_COMMAND"] == "STATUS"
    assert calls[0].variables["CNI_PATH"]
    assert json.loads(calls[0].stdin)["cniVersion"] == "1.1.0"  # from which on there is a STATUS


def test_a_drained_node_says_so() -> None:
    """Without asking anybody."""
    assert _standing(drained=True)[0].drained
    assert not _standing()[0].drained


def test_sessions_are_counted_where_there_are_peers() -> None:
    """None where no peer is known: then there is nothing to wait for."""
    assert _standing()[0].sessions() is None
    assert _standing(None, False, "Established", "Idle")[0].sessions() == 1
    assert _standing(None, False, "Idle")[0].sessions() == 0
