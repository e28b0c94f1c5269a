"""Real runtimes drive the plugin, and FRR sees the routes of their containers come and go, in both families."""

from __future__ import annotations

import signal

import pytest

from integration.lab import Engine, until
from integration.runtimes.containerd import Containerd
from integration.runtimes.cri import Cri, CriError
from integration.runtimes.site import SUBNETS, Site, addresses


@pytest.fixture
def ready(site: Site) -> Site:
    """The agent with its session."""
    site.agent()
    return site


def test_ctr_run_cni(ready: Site, containerd: Containerd) -> None:
    """`ctr run --cni` announces a container, and `ctr task kill` withdraws it."""
    containerd.run("web")
    (attachment,) = ready.node.attachments()
    assert attachment["containerID"] == "test-web"
    ips = addresses(attachment)
    assert [":" in ip for ip in ips] == [False, True]
    ready.announced(ips)
    ready.reachable(ips)
    containerd.ctr("-n", "test", "task", "kill", "--signal", "KILL", "web")
    ready.withdrawn(ips)
    ready.nothing_left()


def test_ctr_run_cni_in_the_foreground(ready: Site, containerd: Containerd) -> None:
    """A container that runs to its end in the foreground has a network, and leaves nothing."""
    done = containerd.run("once", "ip", "address", "show", "eth0", flags=("--cni", "--rm"))
    assert "10.1.2." in done.stdout
    assert "2001:db8:1:2::" in done.stdout
    ready.nothing_left()


def test_a_pod(ready: Site, cri: Cri) -> None:
    """RunPodSandbox announces, StopPodSandbox withdraws, and doing each again as kubelet does is no error."""
    pod = cri.run_pod("web")
    ips = cri.ips(pod)
    assert [":" in ip for ip in ips] == [False, True]
    assert addresses(ready.key()) == ips
    ready.announced(ips)
    ready.reachable(ips)
    cri.stop(pod)
    ready.withdrawn(ips)
    ready.nothing_left()
    cri.stop(pod)
    cri.remove(pod)
    assert cri.pods() == {}


def test_a_pods_annotations(site: Site, cri: Cri) -> None:
    """A pod has communities and addresses of its own where agent.toml allows that, and is known by its name."""
    capable = {"io.kubernetes.cri.pod-annotations": True}
    site.network(capabilities=capable, bgp={"communities": ["64512:1"], "wait": "sent", "waitSeconds": 20})
    site.agent(policy={"annotations": ["communities", "ips"], "prefixes": list(SUBNETS), "communities": ["64512:*"]})
    own = {"bgpcni.dev/communities": "64512:7, no-export", "bgpcni.dev/ips": "10.1.2.77,2001:db8:1:2::77"}
    with pytest.raises(CriError, match=r"bgpcni\.dev/communities: 65535:65281 is not allowed by \[policy\]"):
        cri.run_pod("web", annotations=own)
    with pytest.raises(CriError, match=r"bgpcni\.dev/mac: not allowed by \[policy\] annotations"):
        cri.run_pod("web", annotations={"bgpcni.dev/mac": "02:00:00:00:00:07"})
    site.nothing_left()
    pod = cri.run_pod("web", annotations=own | {"bgpcni.dev/communities": "64512:7", "example.org/other": "x"})
    ips = cri.ips(pod)
    assert ips == ["10.1.2.77", "2001:db8:1:2::77"]
    site.announced(ips)
    for ip in ips:
        (path,) = site.frr.paths(f"{ip}/{128 if ':' in ip else 32}")
        assert path["community"]["list"] == ["64512:1", "64512:7"]
    assert site.key()["pod"] == {"namespace": "test", "name": "web", "uid": "uid-web"}
    assert all(route["pod"]["name"] == "web" for route in site.node.routes())
    explained = site.node.operator("explain", "test/web")
    assert explained.code == 0
    assert explained.document["attachments"][0]["pod"] == site.key()["pod"]
    cri.remove(pod)
    site.withdrawn(ips)
    site.nothing_left()


def test_pods_at_once(ready: Site, cri: Cri) -> None:
    """Twelve pods started together get twelve addresses of each family, all announced; removing them leaves nothing."""
    begun = [cri.begin_pod(f"pod-{n}") for n in range(12)]
    pods = [future.result(120) for future in begun]
    ips = [ip for pod in pods for ip in cri.ips(pod)]
    assert len(set(ips)) == 24
    ready.announced(ips)
    for pod in pods:
        cri.remove(pod)  # of a live pod: stops it first
    ready.withdrawn(ips)
    ready.nothing_left()


def test_a_pod_whose_sandbox_is_killed(ready: Site, cri: Cri) -> None:
    """A sandbox process that dies leaves namespace and route in place until kubelet stops the pod."""
    pod = cri.run_pod("web")
    ips = cri.ips(pod)
    ready.announced(ips)
    ready.machine.run("kill", "-KILL", cri.status(pod)[1]["pid"])
    until(lambda: not cri.ready(pod), "the pod's end in containerd's eyes")
    ready.announced(ips)
    cri.stop(pod)
    ready.withdrawn(ips)
    cri.remove(pod)
    ready.nothing_left()


def test_containerd_is_restarted(ready: Site, containerd: Containerd, cri: Cri) -> None:
    """A killed containerd is no event to its pods' routes; the next one stops the pod as ever."""
    pod = cri.run_pod("web")
    ips = cri.ips(pod)
    ready.announced(ips)
    before = {ip: ready.frr.paths(f"{ip}/{128 if ':' in ip else 32}") for ip in ips}
    containerd.kill(signal.SIGKILL)
    containerd.start()
    cri.wait_ready()
    for ip in ips:
        (path,) = ready.frr.paths(f"{ip}/{128 if ':' in ip else 32}")
        (old,) = before[ip]
        # FRR reckons when from how long ago, so it may be a second off; one that had come anew would be by more
        assert path["lastUpdate"]["epoch"] - old["lastUpdate"]["epoch"] <= 1
        assert path | {"lastUpdate": None} == old | {"lastUpdate": None}
    ready.reachable(ips)
    cri.stop(pod)
    cri.remove(pod)
    ready.withdrawn(ips)
    ready.nothing_left()


def test_agent_and_containerd_are_killed(ready: Site, containerd: Containerd, cri: Cri) -> None:
    """Both die at once; the next agent knows the pod, and its stop works."""
    pod = cri.run_pod("web")
    ips = cri.ips(pod)
    ready.announced(ips)
    ready.node.kill_agent()
    containerd.kill(signal.SIGKILL)
    ready.node.start_agent()
    containerd.start()
    cri.wait_ready()
    ready.announced(ips)
    cri.stop(pod)
    cri.remove(pod)
    ready.withdrawn(ips)
    ready.nothing_left()


def test_a_pod_while_the_agent_is_away(ready: Site, cri: Cri) -> None:
    """Without the agent a pod fails with words, and starts as soon as the agent is there again."""
    ready.node.kill_agent()
    with pytest.raises(RuntimeError, match="start bgpcni agent"):
        cri.run_pod("early")
    ready.node.start_agent()
    pod = cri.run_pod("late")
    ready.announced(cri.ips(pod))


def test_a_container_attached_by_pid(ready: Site, docker_or_podman: Engine) -> None:
    """A container without a network is attached by its process, announced, and withdrawn when it is detached."""
    engine = docker_or_podman
    ident, pid = ready.start(engine)
    answer = ready.attach(pid, ident[:12])
    assert answer.code == 0, answer
    ips = addresses(answer.document)
    shown = engine.run("exec", ident, "ip", "address", "show", "eth0").stdout
    assert all(ip in shown for ip in ips)
    ready.announced(ips)
    ready.reachable(ips)
    assert ready.machine.netns() == {ident[:12]}
    assert ready.detach(pid=pid).code == 0
    ready.withdrawn(ips)
    ready.nothing_left()
    assert "eth0" not in engine.run("exec", ident, "ip", "address").stdout
