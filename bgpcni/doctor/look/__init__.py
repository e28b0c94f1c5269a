"""Collects the snapshot. It changes nothing; to ask for a feature of the kernel may load that feature's module.

Each fact is collected by itself: what fails becomes an `Unread` with the reason. Everything that could wait has a
deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from bgpcni import __version__, paths
from bgpcni.config.agent import AgentConfig
from bgpcni.doctor.facts import Answers, NetworkFile, Snapshot, Unread, is_address
from bgpcni.doctor.look import host, install, network
from bgpcni.errors import CniError

T = TypeVar("T")


class Where(NamedTuple):
    """Where to look. `run_dir`, `data_dir`: those of calls without an agent, which count where there is no agent.toml.
    `root`: the host's root folder."""

    config: Path = paths.AGENT_CONFIG
    conf_dir: Path = paths.CONF_DIR
    run_dir: Path = paths.RUN_DIR
    data_dir: Path = paths.DATA_DIR
    root: Path = Path("/")


def look(where: Where, ask: Callable[[], Answers]) -> Snapshot:
    """The node as it is now. `ask`: asks the agent."""
    config, problem = install.agent_toml(where.config)
    agent = config or AgentConfig(run_dir=str(where.run_dir), data_dir=str(where.data_dir))
    networks = _read(lambda: install.networks(where.conf_dir))
    files: tuple[NetworkFile, ...] = networks if isinstance(networks, tuple) else ()
    bgp = agent.bgp
    own = [address for address in (bgp.local_address, bgp.next_hop, bgp.next_hop6) if address] if bgp else []
    answers = _read(ask)
    peers = [neighbor.address for neighbor in bgp.neighbors if neighbor.address] if bgp else []
    peers += [] if isinstance(answers, Unread) else _addresses(answers)
    bridges = sorted({item.bridge for file in files for item in file.configs})
    links = _read(network.all_links)
    ways = _read(lambda: network.ways(peers))
    gateways = _read(network.gateways)
    local = _read(network.local)
    devices = network.outside(own, ways, gateways, local)
    records = _read(lambda: install.records(Path(agent.data_dir)))
    plugins_of = _read(lambda: install.runtimes_of(where.root))
    return Snapshot(
        version=__version__,
        user=_read(host.user),
        kernel=_read(host.kernel),
        config_path=str(where.config),
        config=config,
        config_problem=problem,
        answers=answers,
        networks=networks,
        conf_dir=str(where.conf_dir),
        sysctls=_read(lambda: host.sysctls(devices)),
        links=links,
        local=local,
        ways=ways,
        gateways=gateways,
        dropped=_read(lambda: network.dropped(bridges or ["cni0"], devices)),
        programs=_read(host.programs),
        features=_read(host.features),
        clock=_read(host.clock),
        records=records,
        runtimes=plugins_of,
        plugins=_read(lambda: install.plugins(plugins_of, where.root)),
        modes=_read(lambda: install.modes(agent, where.config, where.conf_dir)),
        listeners=_read(lambda: network.listeners(Path(agent.run_dir))),
        md5=_read(network.md5),
        opened=_read(lambda: host.opened(Path(agent.run_dir))),
        neighbours=_read(network.neighbours),
        disks=_read(lambda: host.disks(agent, files)),
        link_files=_read(lambda: host.link_files(where.root)),
        managers=_read(lambda: host.managers(where.root)),
        unmet=_read(host.unmet),
        exporters=_read(lambda: install.exporters(agent) if config is not None else {}),
    )


def _addresses(answers: Answers) -> list[str]:
    """Those of the peers that the agent has, which may come from elsewhere than agent.toml."""
    return [address for peer in answers.peers if is_address(address := str(peer.get("address")))]


def _read(collect: Callable[[], T]) -> T | Unread:
    try:
        return collect()
    except CniError as error:
        return Unread(error.msg)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other facts are collected all the same
        return Unread(f"{type(error).__name__}: {error}")
