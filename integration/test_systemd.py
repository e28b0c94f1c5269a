"""The documented installation, from nothing to a pod whose routes a peer has; and all functions of the agent inside the
sandbox of `conf/systemd/bgpcni.service`. With real systemd, and real containerd with Debian's own configuration.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.lab import Frr, Lab, Node, until
from integration.lab.frr import Neighbor
from integration.lab.node import BGPCNI, STOCK_PLUGINS, to_toml
from integration.runtimes import NoMachine
from integration.runtimes.booted import UNITS, Booted, boot
from integration.runtimes.containerd import oci_archive
from integration.runtimes.cri import Cri

REPOSITORY = Path(__file__).parents[1]
UNIT = REPOSITORY / "conf/systemd/bgpcni.service"
GLASS = REPOSITORY / "conf/systemd/bgpcni-looking-glass.service"
DOUBLE = Path(__file__).with_name("ipam_double.py")
DEBIANS_CONTAINERD = Path("/etc/containerd/config.toml")
CAPABILITIES = {
    "net_admin": 12, "sys_admin": 21, "net_raw": 13, "net_bind_service": 10, "net_broadcast": 11, "dac_override": 1,
    "chown": 0,
}  # fmt: skip


@pytest.fixture
def frr(lab: Lab) -> Frr:
    return lab.frr()


@pytest.fixture
def node(lab: Lab, frr: Frr) -> Node:
    return lab.node(frr)


@pytest.fixture
def machine(node: Node) -> Booted:
    try:
        return boot(node)
    except NoMachine as error:
        pytest.skip(f"no machine under systemd: {error}")


@pytest.mark.parametrize(("unit", "exposure"), [(UNIT, 40), (GLASS, 15)], ids=["agent", "looking-glass"])
def test_systemd_finds_the_unit_well_enclosed(unit: Path, exposure: int) -> None:
    """`systemd-analyze security`: an exposure below 4 of 10, and below 1.5 for what only asks."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={exposure}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


# The agent in its sandbox


def start_unit(node: Node, machine: Booted, bgp: dict[str, Any]) -> None:
    """The agent of this checkout as the unit runs it, the plugin where Debian's containerd looks."""
    machine.run("mkdir", "-p", "/opt/bgpcni/bin", "/etc/bgpcni")
    machine.run("ln", "-s", BGPCNI, "/opt/bgpcni/bin/bgpcni")
    machine.run("/opt/bgpcni/bin/bgpcni", "install")
    machine.run("cp", UNIT, UNITS)
    node.bin_dir = STOCK_PLUGINS
    document = {key: value for key, value in node.agent_config(bgp=bgp).items() if key not in ("run_dir", "data_dir")}
    node.config.write_text(to_toml(document))
    machine.systemctl("daemon-reload")
    machine.systemctl("enable", "--now", "bgpcni.service")
    until(lambda: node.operator("peers").document.get("peers"), "an answer of the agent")


def enclosed(machine: Booted, pid: int) -> None:
    """This process of the machine has the unit's capabilities and filters, and can get no more."""
    status = machine.status(pid)
    assert int(status["CapBnd"], 16) == sum(1 << number for number in CAPABILITIES.values())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def exabgp(machine: Booted) -> int:
    (pid,) = machine.run("pgrep", "--full", "bgpcni_exabgp.engine").stdout.split()
    return int(pid)


@dataclass(frozen=True)
class Case:
    """One way to connect a container: a network, and what the peer must have of it."""

    name: str
    conf: dict[str, Any]
    announced: bool = True
    pings: bool = True


def cases(node: Node, machine: Booted) -> list[Case]:
    def network(name: str, third: int, **keys: Any) -> dict[str, Any]:
        conf = node.network(name, f"10.1.{third}.0/24", f"2001:db8:{third}::/64", bridge=f"br{third}", **keys)
        conf["ipam"].pop("dataDir", None)
        return conf

    double = Path("/var/lib/double")
    machine.run("mkdir", double)
    machine.run("install", DOUBLE, "/usr/lib/cni/double")
    theirs = "/var/lib/theirs"
    machine.run("install", "--directory", "--owner=nobody", "--mode=0700", theirs)
    static = {"type": "static", "addresses": [{"address": "10.1.9.5/24", "gateway": "10.1.9.1"}]}
    others = network("theirs", 5)
    others["ipam"]["dataDir"] = theirs
    options = {"ipMasq": True, "macspoofchk": True, "enabledad": True}
    evpn = {"bgp": {"family": "evpn", "vni": 5001}, "importRT": ["64512:5001"], "exportRT": ["64512:5001"]}
    return [
        Case("unicast", network("unicast", 2, **options)),
        Case("iptables", network("iptables", 3, ipMasq=True, ipMasqBackend="iptables")),
        Case("theirs", others),
        Case("evpn", network("evpn", 4, **evpn), pings=False),
        Case("static", network("static", 9, isDefaultGateway=True, ipam=static)),
        Case("double", network("double", 7, isDefaultGateway=True, ipam={"type": "double", "folder": str(double)})),
    ]


def test_all_of_the_agents_work_inside_the_sandbox(lab: Lab, frr: Frr, node: Node, machine: Booted) -> None:
    """A neighbour with a password and TTL security, which connects to us; masquerading both ways, the MAC check,
    duplicate address detection, EVPN, IPAM plugins that are run: ADD, CHECK and DEL, each with its route at the peer;
    `bgpcni attach`. The agent's restart does not end ExaBGP. Nothing is left, nothing was refused by the sandbox."""
    secret = machine.inside(Path("/etc/bgpcni"))
    secret.mkdir()
    (secret / "password").write_text("s3cret")
    (secret / "password").chmod(0o600)
    session = [f"neighbor {node.address} {line}" for line in ("password s3cret", "ttl-security hops 1")]
    frr.configure(f"router bgp {frr.asn}", *session)
    neighbor = {"address": node.peer, "asn": frr.asn, "families": list(node.families)}
    passive = {"password_file": "/etc/bgpcni/password", "passive": True, "ttl_security": True}
    start_unit(node, machine, {"neighbors": [neighbor | passive]})
    frr.wait_established(node.address)
    speaker = exabgp(machine)
    enclosed(machine, machine.main_pid("bgpcni"))
    enclosed(machine, speaker)

    added = []
    for case in cases(node, machine):
        netns = f"/run/netns/{case.name}"
        machine.run("ip", "netns", "add", case.name)
        answer = node.cni("ADD", case.name, netns, case.conf)
        assert answer.ok, answer
        assert "not permitted" not in answer.stderr.lower()
        added.append((case, netns, answer))
        check = node.cni("CHECK", case.name, netns, case.conf | {"prevResult": answer.document})
        assert check.ok, (case.name, check)
    for case, _, answer in added:
        for ip in answer.ips:
            if case.pings:
                prefix = f"{ip}/{128 if ':' in ip else 32}"
                until(lambda prefix=prefix: frr.paths(prefix), f"{prefix} at FRR")  # type: ignore[misc]
                until(lambda ip=ip: frr.ping(ip), f"an answer of {ip}")  # type: ignore[misc]
            else:
                until(lambda ip=ip: ip in str(frr.evpn_routes()), f"a type 2 route of {ip} at FRR")  # type: ignore[misc]

    machine.systemctl("reload", "bgpcni.service")
    machine.systemctl("restart", "bgpcni.service")
    until(lambda: node.operator("status").document.get("healthy"), "a healthy agent after its restart")
    assert exabgp(machine) == speaker
    enclosed(machine, machine.main_pid("bgpcni"))

    alone = machine.popen("unshare", "--net", "sleep", "100000")
    (pid,) = until(lambda: machine.run("pgrep", "--exact", "sleep").stdout.split(), "a process in a network namespace")
    machine.network(added[0][0].conf, "10-unicast.conf")
    done = node.operator("attach", "--pid", pid, "--network", "unicast")
    assert done.code == 0, done
    done = node.operator("detach", "--pid", pid, "--network", "unicast")
    assert done.code == 0, done
    alone.kill()

    for case, netns, answer in added:
        gone = node.cni("DEL", case.name, netns, case.conf | {"prevResult": answer.document})
        assert gone.ok, (case.name, gone)
        assert not frr.paths(f"{answer.ips[0]}/32")
    until(lambda: node.records() == [], "the end of the records, once FRR has acknowledged")
    assert machine.run("ls", "/var/lib/double/held").stdout == ""
    assert not [link for link in node.links() if link.startswith(("veth", "vxlan"))]
    said = node.log.read_text()
    assert "serving on" in said
    assert [line for line in said.splitlines() if re.search("not permitted|denied|Read-only", line)] == []


def commands(page: str, heading: str) -> str:
    """The first block of shell commands below this heading of a page of the documentation."""
    text = (REPOSITORY / "docs" / page).read_text().partition(f"\n## {heading}\n")[2]
    return text.partition("```sh\n")[2].partition("```")[0]


def python_at_home(machine: Booted) -> str:
    """A setting for a unit that sees no home, where the Python of this checkout is in one.

    A home is closed to others by its mode; the machine gets one that is not, with nothing but that Python in it.
    """
    python = Path(sys.base_prefix)
    home = Path(*python.parts[:2])
    if str(home) not in ("/root", "/home"):
        return ""
    script = """
        mkdir /run/python && mount --bind "$0" /run/python && mount -t tmpfs -o mode=755 tmpfs "$1"
        mkdir -p "$0" && mount --bind /run/python "$0"
    """
    machine.run("sh", "-ec", script, python, home)
    return "ProtectHome=read-only\n"


def test_the_looking_glass_as_a_service_without_root(frr: Frr, node: Node, machine: Booted) -> None:
    """The page's commands as they stand: the service has no capability and is not root, shows the node, can change
    nothing, and comes back after a restart of the agent and of its own."""
    start_unit(node, machine, {"neighbors": [{"address": node.peer, "asn": frr.asn, "families": list(node.families)}]})
    machine.run("ip", "netns", "add", "web")
    conf = node.network("unicast")
    conf["ipam"].pop("dataDir", None)
    assert node.cni("ADD", "web", "/run/netns/web", conf).ok
    script = commands("looking-glass.md", "As a service, without root")
    assert "systemctl enable --now bgpcni-looking-glass" in script
    told = machine.inside(UNITS) / "bgpcni-looking-glass.service.d/log.conf"
    told.parent.mkdir()
    told.write_text("[Service]\nStandardError=append:/run/looking-glass.log\n" + python_at_home(machine))
    machine.run("bash", "-ec", f"cd {REPOSITORY}\n{script}")

    def page(path: str) -> str:
        return machine.run("curl", "-s", "-m", "60", f"http://127.0.0.1:8179{path}", check=False).stdout

    until(lambda: "web" in page("/attachments") and "All is well" in page("/"), "the pages")
    status = machine.status(machine.main_pid("bgpcni-looking-glass"))
    user = machine.run("id", "-u", "bgpcni").stdout.strip()
    assert user != "0"
    assert set(status["Uid"].split()) == {user}
    assert {status[name].strip("0") for name in ("CapBnd", "CapEff", "CapPrm", "CapAmb")} == {""}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    ask = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "/opt/bgpcni/bin/bgpcni")
    drained = machine.run(*ask, "drain", "--socket", "/run/bgpcni/read.sock", check=False)
    assert drained.returncode != 0
    machine.systemctl("restart", "bgpcni.service")
    until(lambda: "All is well" in page("/"), "the pages after the agent's restart")
    machine.systemctl("restart", "bgpcni-looking-glass.service")
    until(lambda: "All is well" in page("/"), "the pages after a restart")
    said = machine.inside(Path("/run/looking-glass.log")).read_text()
    assert said.count("serving on http://127.0.0.1:8179/") == 2
    assert [line for line in said.splitlines() if re.search("not permitted|denied|Read-only|Traceback", line)] == []


# The installation, word for word


@dataclass(frozen=True)
class Block:
    """One block of code of the page, and the sentence above it."""

    kind: str
    text: str
    before: str

    @property
    def file(self) -> Path:
        """The file that the sentence says it is."""
        return Path(re.match(r"`(/\S+)`, ", self.before)[1])  # type: ignore[index]


def installation() -> list[Block]:
    text = (REPOSITORY / "docs/start/install.md").read_text()
    (part,) = re.findall(r"^## On a host\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    found = re.findall(r"([^\n]*)\n\n```(\w+)\n(.*?)```", part, re.DOTALL)
    return [Block(kind, body, before) for before, kind, body in found]


def source(machine: Booted) -> Path:
    """A copy of the checkout in the machine, without what a clone has not."""
    target = machine.inside(Path("/opt/source"))
    target.mkdir()
    for name in ("bgpcni", "exporters", "conf"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(REPOSITORY / name, target / name, symlinks=True, ignore=ignored)
    for path in REPOSITORY.iterdir():
        if path.is_file() and path.suffix in {".toml", ".py", ".md", ""}:
            shutil.copy(path, target)
    return Path("/opt/source")


def libraries(machine: Booted) -> None:
    """What pip would fetch for the page's virtual environment is there before: the machine has no index to ask."""
    folder = machine.inside(Path("/opt/libraries"))
    folder.mkdir()
    (packages,) = (Path(sys.prefix) / "lib").glob("python*/site-packages")
    for entry in packages.iterdir():
        if not re.match(r"bgpcni|__editable__|_*pycache|pip\b|distutils-precedence", entry.name):
            (folder / entry.name).symlink_to(entry)
    own = machine.inside(Path(f"/opt/bgpcni/lib/{packages.parent.name}/site-packages"))
    own.mkdir(parents=True)
    (own / "libraries.pth").write_text("/opt/libraries\n")


# So that Debian's configuration can stay as it is: a laboratory may be unable to lower oom_score_adj, and has no
# controllers for the pod's share of CPU.
RUNC = r"""#!/bin/sh
before=
for word; do
    [ "$before" != --bundle ] || sed -i \
        's/"oomScoreAdj":-[0-9]*/"oomScoreAdj":0/; s/"cpu":{[^}]*}/"cpu":{}/' "$word/config.json"
    before=$word
done
exec /usr/sbin/runc "$@"
"""


class Client:
    """What `Cri` asks of a containerd: its socket, and the machine."""

    def __init__(self, machine: Booted) -> None:
        self.machine = machine
        self.socket = machine.inside(Path("/run/containerd/containerd.sock"))


def test_the_documented_installation(lab: Lab, frr: Frr, node: Node, machine: Booted) -> None:
    """Every command and file of *On a host*, in order and as it stands, on a node with Debian's containerd: no network
    until the page's own is written; then a pod has its addresses and the peer has its routes. And away again."""
    if not DEBIANS_CONTAINERD.is_file():
        pytest.skip("needs Debian's containerd with its configuration")
    assert machine.inside(DEBIANS_CONTAINERD).read_text() == DEBIANS_CONTAINERD.read_text()
    node.namespace.ip("address", "add", "10.0.0.1/24", "dev", "uplink")
    frr.namespace.ip("address", "add", "10.0.0.254/24", "dev", "node1")
    frr.add_neighbor(Neighbor("10.0.0.1", 64512, ("ipv4-unicast", "ipv6-unicast")))
    libraries(machine)
    checkout = source(machine)
    path = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environment = {"PATH": path, "HOME": "/root", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}

    def shell(text: str) -> str:
        script = f"set -e\ncd {checkout}\n{text}"
        return machine.run("bash", "-c", script, env=environment, seconds=600).stdout

    runc = machine.inside(Path("/usr/local/bin/runc"))
    runc.write_text(RUNC)
    runc.chmod(0o755)
    machine.systemctl("start", "containerd.service")
    cri = Cri(Client(machine))  # type: ignore[arg-type]
    lab.callback(cri.close)
    image = machine.inside(Path("/opt/image.tar"))
    name = re.search(r'sandbox_image = "(.*)"', machine.run("containerd", "config", "dump").stdout)
    assert name
    oci_archive(image, name[1])
    machine.run("ctr", "-n", "k8s.io", "images", "import", "/opt/image.tar")

    first, agent_toml, network, last = installation()
    assert [block.kind for block in (first, agent_toml, network, last)] == ["sh", "toml", "json", "sh"]
    said = shell(first.text)
    assert "/usr/lib/cni/bgpcni\n" in said
    assert not cri.network_ready(), "the sample became a network"
    for block in (agent_toml, network):
        machine.inside(block.file).write_text(block.text)
    shell(last.text)
    frr.wait_established("10.0.0.1")
    cri.wait_ready()
    pod = cri.run_pod("web")
    ips = cri.ips(pod)
    assert [":" in ip for ip in ips] == [False, True]
    for ip in ips:
        until(lambda ip=ip: frr.paths(f"{ip}/{128 if ':' in ip else 32}"), f"{ip} at FRR")  # type: ignore[misc]
        until(lambda ip=ip: frr.ping(ip), f"an answer of {ip}")  # type: ignore[misc]
    assert "64512:100" in frr.text(f"show bgp ipv4 unicast {ips[0]}/32")
    until(lambda: "Established" in shell("bgpcni peers || true"), "the session in the operator's eyes")
    cri.remove(pod)
    until(lambda: not frr.paths(f"{ips[0]}/32"), "the end of the route")
    before = {path.name for path in STOCK_PLUGINS.iterdir()}
    shell("bgpcni uninstall")
    assert {path.name for path in machine.inside(STOCK_PLUGINS).iterdir()} == before
    assert os.listdir(machine.inside(network.file.parent)) == [network.file.name]
