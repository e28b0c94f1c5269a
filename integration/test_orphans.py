"""The DEL that never comes: the route goes at once, lease and record after the grace, a late DEL succeeds.

Each with the real runtime that forgets it. The grace is long where a test looks at what is there before it is over,
and short where it waits for its end.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from integration.lab import Engine, until
from integration.lab.node import CniAnswer
from integration.runtimes.containerd import Containerd
from integration.runtimes.cri import Cri, CriError
from integration.runtimes.site import NETWORK, Site, addresses

LONG, SHORT = 3600, 1

FAILS = """#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] && exec echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}'
echo '{"cniVersion": "1.0.0", "code": 11, "msg": "not today"}'
exit 1
"""
GATE = """#!/bin/sh
[ "$CNI_COMMAND" = ADD ] && touch "{0}/reached"
while [ ! -e "{0}/open" ]; do sleep 0.02; done
{1}
"""
"""A plugin that holds an ADD up until the test opens it, and then goes on with another program."""


def orphans(site: Site) -> int:
    """How many attachments `bgpcni status` says have lost their link without a DEL."""
    problems = site.node.operator("status").document["problems"]
    found = [problem["text"] for problem in problems if problem["code"] == "orphans"]
    return int(found[0].split()[0]) if found else 0


def held(site: Site, ips: list[str]) -> None:
    """The routes are gone, lease and record are there yet, and `status` counts the orphan."""
    site.withdrawn(ips)
    until(lambda: orphans(site) == 1, "the orphan in status")
    assert set(ips) <= site.leases()
    assert len(site.node.records()) == 1


def late_delete(site: Site, container: str) -> CniAnswer:
    """The DEL that comes after all, by hand: as a runtime would, without a namespace."""
    return site.node.cni("DEL", container, None, {**site.configuration()["plugins"][0], "name": NETWORK})


Lose = Callable[[Site], tuple[str, list[str]]]
"""Makes an attachment whose DEL never comes: its container ID and addresses."""


@pytest.fixture
def ctr_ends(site: Site, containerd: Containerd) -> Lose:
    """`ctr run -d`, and the process ends by itself."""

    def lose(site: Site) -> tuple[str, list[str]]:
        containerd.run("web")
        ips = addresses(site.key())
        site.announced(ips)
        site.machine.run("kill", "-KILL", containerd.pid("web"))
        return "test-web", ips

    return lose


@pytest.fixture
def rollback_fails(site: Site, cri: Cri) -> Lose:
    """A later plugin of the chain fails the ADD, and its DEL too: containerd gives up, ours is never called."""
    site.machine.plugin("fails", FAILS)
    site.network({"type": "fails"})
    cri.wait_ready()

    def lose(site: Site) -> tuple[str, list[str]]:
        with pytest.raises(CriError, match="not today"):
            cri.run_pod("web")
        attachment = site.key()
        ips = addresses(attachment)
        site.announced(ips)
        pod = cri.pods()["web"]
        cri.stop(pod)
        cri.remove(pod)
        return str(attachment["containerID"]), ips

    return lose


def lose_containerd(site: Site, containerd: Containerd, cri: Cri) -> tuple[str, list[str]]:
    """containerd is killed in the middle of an ADD, which goes on alone; the next containerd calls no DEL for it."""
    begun = cri.begin_pod("web")
    until((site.node.folder / "reached").exists, "the ADD to be under way")
    containerd.kill(signal.SIGKILL)
    with pytest.raises(CriError):
        begun.result(120)
    (site.node.folder / "open").touch()
    until(lambda: site.node.records("up"), "the ADD to be done")
    attachment = site.key()
    ips = addresses(attachment)
    site.announced(ips)
    containerd.start()
    cri.wait_ready()
    pod = cri.pods()["web"]
    cri.stop(pod)
    cri.remove(pod)
    return str(attachment["containerID"]), ips


@pytest.fixture
def containerd_dies_in_the_chain(site: Site, containerd: Containerd, cri: Cri) -> Lose:
    """Our plugin has answered, the next one is at work."""
    site.machine.plugin("gate", GATE.format(site.node.folder, "exit 1"))
    site.network({"type": "gate"})
    cri.wait_ready()
    return lambda site: lose_containerd(site, containerd, cri)


@pytest.fixture
def containerd_dies_in_ours(site: Site, containerd: Containerd, cri: Cri) -> Lose:
    """Our plugin is at work: it waits for an IPAM plugin, which is host-local after a while."""
    site.machine.plugin("gate", GATE.format(site.node.folder, 'exec "$(dirname "$0")/host-local"'))
    site.network(ipam={**site.configuration()["plugins"][0]["ipam"], "type": "gate"})
    cri.wait_ready()
    return lambda site: lose_containerd(site, containerd, cri)


@pytest.fixture
def docker_exits(site: Site, docker: Engine) -> Lose:
    """A Docker container that was attached by hand ends, and nobody detaches it."""

    def lose(site: Site) -> tuple[str, list[str]]:
        ident, pid = site.start(docker)
        ips = addresses(site.attach(pid, "web").document)
        site.announced(ips)
        docker.run("kill", ident)
        return "web", ips

    return lose


LOSERS = ("ctr_ends", "rollback_fails", "containerd_dies_in_the_chain", "containerd_dies_in_ours", "docker_exits")


@pytest.fixture(params=LOSERS)
def lose(request: pytest.FixtureRequest) -> Lose:
    found: Lose = request.getfixturevalue(request.param)
    return found


def test_the_route_goes_at_once_and_a_late_delete_succeeds(site: Site, lose: Lose) -> None:
    """As soon as the container is gone FRR has no route to it; address and record are kept for the DEL, which works."""
    site.agent(orphan_grace=LONG)
    container, ips = lose(site)
    held(site, ips)
    answer = late_delete(site, container)
    assert answer.ok, answer
    site.nothing_left()
    until(lambda: orphans(site) == 0, "no orphan in status")


def test_address_and_record_go_after_the_grace(site: Site, lose: Lose) -> None:
    """Without a DEL the address is free again after `orphan_grace`; a DEL after that is success, too."""
    site.agent(orphan_grace=SHORT)
    container, ips = lose(site)
    site.withdrawn(ips)
    site.nothing_left()
    until(lambda: orphans(site) == 0, "no orphan in status")
    answer = late_delete(site, container)
    assert answer.ok, answer


def test_an_agent_that_was_away_notices(site: Site, containerd: Containerd, ctr_ends: Lose) -> None:
    """A container that ends while no agent runs is withdrawn by the next one, and released after the grace."""
    site.agent(orphan_grace=LONG)
    containerd.run("other")
    stays = addresses(site.key())
    containerd.run("web")
    (attachment,) = [item for item in site.node.attachments() if item["containerID"] == "test-web"]
    ips = addresses(attachment)
    site.announced([*ips, *stays])
    site.node.kill_agent()
    site.machine.run("kill", "-KILL", containerd.pid("web"))
    until(lambda: attachment["hostVeth"] not in site.node.links(), "the link's end")
    site.agent(orphan_grace=SHORT)
    site.withdrawn(ips)
    until(lambda: site.leases() == set(stays), "the leases of the container that lives, alone")
    assert [item["containerID"] for item in site.node.attachments()] == ["test-other"]
    site.announced(stays)


def test_a_docker_container_is_restarted(site: Site, docker: Engine) -> None:
    """A restart is a bare namespace and another process: the route goes; attaching anew brings it back, undetached."""
    site.agent(orphan_grace=LONG)
    ident, pid = site.start(docker)
    ips = addresses(site.attach(pid, "web").document)
    site.announced(ips)
    docker.run("restart", "--time=0", ident)
    held(site, ips)
    fresh = site.pid(docker, ident)
    answer = site.attach(fresh, "web")
    assert answer.code == 0, answer
    site.announced(addresses(answer.document))
    site.reachable(addresses(answer.document))
    assert orphans(site) == 0
    assert site.leases() == set(addresses(answer.document))
    assert site.detach(pid=fresh).code == 0
    site.nothing_left()


def test_detach_after_the_grace(site: Site, docker: Engine) -> None:
    """A container whose address was released long ago is detached without complaint, and its name goes."""
    site.agent(orphan_grace=SHORT)
    ident, pid = site.start(docker)
    ips = addresses(site.attach(pid, "web").document)
    docker.run("kill", ident)
    site.withdrawn(ips)
    site.nothing_left()
    assert site.detach(id="web").code == 0
    assert site.machine.netns() == set()
    assert site.detach(id="web").code == 0
