"""Looks at what is installed: agent.toml, networks, plugins, records, modes; imports the exporters."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from bgpcni.config import agent as agent_file
from bgpcni.config import network
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.doctor.facts import Mode, NetworkFile, Plugin, Record, Unread
from bgpcni.errors import CniError, InvalidConfiguration
from bgpcni.files import read_plain
from bgpcni.kernel.namespace import boot_id
from bgpcni.launcher import install as installer
from bgpcni.launcher import runtimes
from bgpcni.launcher.runtimes import Runtimes
from bgpcni.model import Attachment, NodeFacts
from bgpcni.node import plan

SUFFIXES = (".conf", ".conflist", ".json")
"""Names of files that runtimes read (libcni)."""
_FILE_MAX = 1 << 20
_RECORDS_MOST = 20_000


def agent_toml(path: Path) -> tuple[AgentConfig | None, str]:
    """The configuration, None without a file that is valid; what is wrong with it."""
    if not os.path.lexists(path):
        return None, ""
    try:
        return agent_file.load(path), ""
    except CniError as error:
        return None, error.msg


def networks(folder: Path) -> tuple[NetworkFile, ...]:
    """The files that a runtime reads, in the order of their names. No folder is as an empty one."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SUFFIXES))
    except FileNotFoundError:
        return ()
    return tuple(_network(folder / name) for name in names)


def _network(path: Path) -> NetworkFile:
    try:
        document = json.loads(read_plain(path, _FILE_MAX))
        plugins = document.get("plugins", [document])
        types = tuple(str(plugin["type"]) for plugin in plugins)
        name = str(document["name"])
    except OSError as error:
        return NetworkFile(str(path), problem=f"{path}: {error.strerror}")
    except (ValueError, RecursionError) as error:
        return NetworkFile(str(path), problem=f"{path}: not JSON: {error}")
    except (KeyError, TypeError, AttributeError):
        return NetworkFile(str(path), problem=f"{path}: no network: it has no name, or a plugin without a type")
    common = {key: document[key] for key in ("cniVersion", "name") if key in document}
    configs = []
    for kind, plugin in zip(types, plugins, strict=True):
        if kind not in installer.NAMES[:2]:
            continue
        try:
            configs.append(network.parse(plugin | common)[0])
        except CniError as error:
            return NetworkFile(str(path), name, types, problem=f"{path}: {error.msg}")
    return NetworkFile(str(path), name, types, tuple(configs))


def runtimes_of(root: Path) -> Runtimes:
    return runtimes.find(root)


def plugins(found: Runtimes | Unread, root: Path) -> tuple[Plugin, ...]:
    """The files of our names where runtimes look, and where packages put plugins."""
    folders = [] if isinstance(found, Unread) else [*found.looks, *found.folders]
    places = dict.fromkeys((*folders, runtimes.DEBIAN, runtimes.DEFAULT))
    paths = (root / str(folder).lstrip("/") / name for folder in places for name in installer.NAMES)
    return tuple(Plugin(str(path), _state(path)) for path in paths if os.path.lexists(path))


def _state(path: Path) -> str:
    try:
        noted = installer.installed_release(path)
    except CniError:
        return "unknown"
    if noted is None:
        return "foreign"
    return "current" if installer.is_of_this_release(noted) else "other"


def records(data_dir: Path) -> tuple[Record, ...]:
    """The records that can be read, looked at without a lock; `bgpcni status` names the others."""
    now = boot_id()
    found = []
    for path in sorted(data_dir.glob("attachments/*/*.json"))[:_RECORDS_MOST]:
        try:
            attachment = Attachment.of_disk(path.read_bytes())
        except (OSError, ValueError):
            continue  # it goes at this moment, or is broken
        found.append(
            Record(
                str(attachment.key),
                _seconds(attachment.created),
                attachment.boot_id == now,
                attachment.bgp.family,
                tuple(item.address for item in attachment.addresses),
            )
        )
    return tuple(found)


def _seconds(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def modes(agent: AgentConfig, config: Path, conf_dir: Path) -> tuple[Mode, ...]:
    """Who may use what is ours; what does not exist is left out."""
    return tuple(_modes(agent, config, conf_dir))


def _modes(agent: AgentConfig, config: Path, conf_dir: Path) -> Iterator[Mode]:
    wanted = [(Path(agent.run_dir), 0o700), (Path(agent.data_dir), 0o700), (config, 0o644)]
    wanted += [(config.parent, 0o755), (conf_dir, 0o755)]
    if conf_dir.is_dir():
        wanted += [(path, 0o644) for path in sorted(conf_dir.iterdir()) if path.name.endswith(SUFFIXES)]
    neighbors = agent.bgp.neighbors if agent.bgp else ()
    wanted += [(Path(one.password_file), 0o600) for one in neighbors if one.password_file]
    if agent.cluster and agent.cluster.etcd and agent.cluster.etcd.key:
        wanted.append((Path(agent.cluster.etcd.key), 0o600))
    if agent.cluster and agent.cluster.kubernetes.kubeconfig:
        wanted.append((Path(agent.cluster.kubernetes.kubeconfig), 0o600))
    for path, most in dict(wanted).items():
        try:
            found = path.stat()
        except OSError:
            continue
        yield Mode(str(path), stat.S_IMODE(found.st_mode), 0 if found.st_uid == os.geteuid() else found.st_uid, most)


def exporters(agent: AgentConfig) -> dict[str, str]:
    """Why an exporter that agent.toml names cannot be used, without asking its speaker."""
    bgp = agent.bgp
    known = NodeFacts(run_dir=agent.run_dir, data_dir=agent.data_dir, has_bgp=bgp is not None)
    if bgp is not None:
        known = NodeFacts(run_dir=agent.run_dir, data_dir=agent.data_dir, asn=bgp.asn, router_id=bgp.router_id,
                          local_address=bgp.local_address, has_bgp=True)  # fmt: skip
    found = {}
    for use in plan.configured(agent):
        try:
            reason = catalog.objection(use, known, f"exporters.{use.name}")
        except InvalidConfiguration as error:
            reason = error.msg
        if reason:
            found[use.name] = reason
    return found
