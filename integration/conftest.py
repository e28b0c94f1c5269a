"""Fixtures of the integration tests. All need root and say in the skip what is missing."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.lab import Docker, Engine, Frr, Lab, Node, NotHere, Podman, start_engine, sweep
from integration.lab.core import root_or_reason
from integration.lab.engine import NoEngine
from integration.lab.kernel import SECONDS, OtherKernel, skip_unless_there
from integration.lab.namespace import Namespace, NoNamespaces, unique
from integration.runtimes import NoMachine
from integration.runtimes.containerd import Containerd
from integration.runtimes.cri import Cri
from integration.runtimes.site import Site

pytest.register_assert_rewrite("integration.seen")

HERE = Path(__file__).parent


def _terminated(number: int, _frame: object) -> None:
    """Handle the signal like an interrupt from the keyboard: the session ends, and every fixture is torn down."""
    signal.signal(number, signal.SIG_IGN)
    pytest.exit(f"ended by {signal.Signals(number).name}", returncode=128 + number)


def pytest_configure(config: pytest.Config) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    config.pluginmanager.register(OtherKernel(config), "other-kernel")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """A test that asks for a part that is not on this machine is skipped, and says which."""
    skip_unless_there(item)
    try:
        yield
    except NotHere as error:
        pytest.skip(str(error))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.root)
        if item.get_closest_marker("kernel") is not None:
            item.add_marker(pytest.mark.timeout(SECONDS + 60))  # the first waits for all of its module


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the ends of its laboratory's logs."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        report.sections.extend(lab.logs().items())
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def here() -> None:
    """Skips where no laboratory can be set up; removes first what dead runs left behind."""
    if reason := root_or_reason():
        pytest.skip(reason)
    try:
        Namespace("probe").close()
    except NoNamespaces as error:
        pytest.skip(str(error))
    sweep()


@pytest.fixture(scope="session")
def engine(here: None) -> Iterator[Callable[[], Engine]]:
    """The session's container engine, started when it is first asked for; skips where none can run."""
    folder = Path(tempfile.gettempdir(), unique("engine"))
    started: list[Engine] = []
    reasons: list[str] = []

    def get() -> Engine:
        if not started and not reasons:
            folder.mkdir(mode=0o711)
            try:
                started.append(start_engine(folder))
            except NoEngine as error:
                reasons.append(str(error))
        if reasons:
            pytest.skip(f"FRR in a container: no container engine can run here: {reasons[0]}")
        return started[0]

    yield get
    for one in started:
        one.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def lab(here: None, engine: Callable[[], Engine]) -> Iterator[Lab]:
    """A laboratory for one test."""
    with Lab(engine) as lab:
        yield lab


@pytest.fixture(params=["namespace", "container"])
def frr(request: pytest.FixtureRequest, lab: Lab) -> Frr:
    """FRR, AS 64512, once in a network namespace and once in a container: the same test runs with both."""
    return lab.frr(request.param)


@pytest.fixture
def node(lab: Lab, frr: Frr) -> Node:
    """A node whose uplink goes to `frr`, which knows it as a neighbour of all families. Its agent is not started."""
    return lab.node(frr)


@pytest.fixture
def site(lab: Lab) -> Site:
    """FRR, and a node that is a whole machine for runtimes; skips where mounts of its own are not to be had."""
    try:
        return Site(lab)
    except NoMachine as error:
        pytest.skip(f"no machine for a runtime: {error}")


@pytest.fixture
def containerd(site: Site) -> Containerd:
    """containerd on the site's machine, with an image; skips where it cannot run."""
    try:
        return site.containerd()
    except NoEngine as error:
        pytest.skip(f"containerd cannot run here: {error}")


@pytest.fixture
def cri(site: Site, containerd: Containerd) -> Cri:
    """What kubelet has of that containerd."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    return site.cri(containerd)


@pytest.fixture
def docker(site: Site) -> Engine:
    """Docker's engine on the site's machine; skips where it cannot run."""
    return _engine(site, Docker)


@pytest.fixture(params=[Docker, Podman], ids=lambda kind: kind.name)
def docker_or_podman(request: pytest.FixtureRequest, site: Site) -> Engine:
    """An engine on the site's machine; skips where it cannot run."""
    return _engine(site, request.param)


def _engine(site: Site, kind: type[Engine]) -> Engine:
    try:
        return site.engine(kind)
    except NoEngine as error:
        pytest.skip(f"{kind.name} cannot run here: {error}")
