"""The network configuration that this node's runtime reads: made of a template, put into net.d, taken away again.

The file says by itself that it is ours and of which boot it is: `"bgpcni.dev": {"bootID": …}`, a key that runtimes
ignore. Nothing here knows Kubernetes or the kernel.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from bgpcni import atomic
from bgpcni.errors import CniError, InvalidConfiguration, IoFailure
from bgpcni.files import read_plain

NAME = "10-bgpcni.conflist"
MARK = "bgpcni.dev"
OURS = ("bgpcni", "bagpipe")
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}
_KEY = "cluster.kubernetes.network"
_MOST = 1 << 20

Document = dict[str, Any]


class NotYet(CniError):
    """What the template asks for is not known yet; the message says what."""


def render(path: Path, pod_cidrs: Sequence[str] | None, mtu: Callable[[str], int], mark: Document) -> Document:
    """The list that the template in `path` stands for.

    A single plugin's configuration becomes a list. In our plugin's entry what is absent is filled in: `mtu`, by the
    family of its routes; for host-local the ranges, one for each of `pod_cidrs`, and a default route for each family.
    portmap comes behind ours unless it is there. Raises InvalidConfiguration; NotYet without `pod_cidrs` where they are
    needed, and IoFailure.
    """
    template = _read(path)
    if _get(template, "plugins") is None:
        inner = {key: value for key, value in template.items() if key.lower() not in ("cniversion", "name")}
        template = {key: value for key, value in template.items() if key.lower() in ("cniversion", "name")}
        template["plugins"] = [inner]
    plugins = _get(template, "plugins")
    if not isinstance(plugins, list) or not all(isinstance(plugin, dict) for plugin in plugins):
        raise InvalidConfiguration(f"{_KEY}: {path}: plugins: not a list of objects")
    if not isinstance(_get(template, "name"), str):
        raise InvalidConfiguration(f"{_KEY}: {path}: name: missing")
    place = next((index for index, plugin in enumerate(plugins) if _get(plugin, "type") in OURS), None)
    if place is None:
        raise InvalidConfiguration(f"{_KEY}: {path}: plugins: none is of type {' or '.join(OURS)}")
    if place == 0:  # behind another plugin ours takes what that one made
        plugins[place] = _filled(plugins[place], pod_cidrs, mtu)
    if all(_get(plugin, "type") != PORTMAP["type"] for plugin in plugins):
        plugins.insert(place + 1, PORTMAP)
    return template | {MARK: mark}


def ours_in(rendered: Document) -> Document:
    """Our plugin's configuration, as a runtime gives it to the plugin."""
    ours = next(plugin for plugin in _get(rendered, "plugins") if _get(plugin, "type") in OURS)
    return dict(ours) | {"name": _get(rendered, "name"), "cniVersion": _get(rendered, "cniVersion") or "1.0.0"}


def _filled(plugin: Document, pod_cidrs: Sequence[str] | None, mtu: Callable[[str], int]) -> Document:
    bgp, ipam = _get(plugin, "bgp"), _get(plugin, "ipam")
    filled = dict(plugin)
    if _get(plugin, "mtu") is None:
        family = _get(bgp, "family") if isinstance(bgp, dict) else None
        filled["mtu"] = mtu(family or ("evpn" if _get(plugin, "type") == "bagpipe" else "unicast"))
    if (
        isinstance(ipam, dict)
        and _get(ipam, "type") == "host-local"
        and not any(_get(ipam, key) for key in ("ranges", "subnet"))
    ):
        if not pod_cidrs:
            raise NotYet("the Node has no spec.podCIDRs yet, and the template of the network has no ranges of its own")
        routes = {"dst": "0.0.0.0/0"}, {"dst": "::/0"}
        versions = {ip_network(cidr).version for cidr in pod_cidrs}
        inner = dict(ipam) | {"ranges": [[{"subnet": cidr}] for cidr in pod_cidrs]}
        if _get(ipam, "routes") is None:
            inner["routes"] = [route for route, version in zip(routes, (4, 6), strict=True) if version in versions]
        filled = {key: value for key, value in filled.items() if key.lower() != "ipam"} | {"ipam": inner}
    return filled


def _get(document: Document, name: str) -> Any:
    """Keys match without regard to case, as in every network configuration."""
    return next((value for key, value in document.items() if key.lower() == name.lower()), None)


def _read(path: Path) -> Document:
    try:
        document = json.loads(read_plain(path, _MOST))
    except OSError as error:
        raise InvalidConfiguration(f"{_KEY}: {path}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidConfiguration(f"{_KEY}: {path}: not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidConfiguration(f"{_KEY}: {path}: not a JSON object")
    return document


# ---------------------------------------------------------------- the file


def put(folder: Path, rendered: Document) -> bool:
    """Have the file in `folder` say this, atomically; False: it did already. Raises IoFailure."""
    text = json.dumps(rendered, indent=2).encode() + b"\n"
    path = folder / NAME
    try:
        if _content(path) == text:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        atomic.put(path, text, 0o644)  # no runtime reads the name of the file that is written first
    except OSError as error:
        raise IoFailure(f"{path}: {error.strerror}") from error
    return True


def written(folder: Path) -> Document | None:
    """Our plugin's configuration in the file that is there, if that is ours. Raises IoFailure."""
    path = folder / NAME
    return ours_in(json.loads(_content(path) or b"")) if boot_of(path) is not None else None


def boot_of(path: Path) -> str | None:
    """The boot ID that our file was written under; None where there is none, or it is not ours. Raises IoFailure."""
    try:
        mark = json.loads(_content(path) or b"null")[MARK]
        return str(mark["bootID"])
    except (ValueError, KeyError, TypeError):
        return None
    except OSError as error:
        raise IoFailure(f"{path}: {error.strerror}") from error


def take_away(folder: Path, unless: str | None = None) -> bool:
    """Remove our file, but for one of the boot `unless`; whether it was removed. Raises IoFailure."""
    path = folder / NAME
    found = boot_of(path)
    if found is None or found == unless:
        return False
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise IoFailure(f"{path}: {error.strerror}") from error
    return True


def _content(path: Path) -> bytes | None:
    try:
        return read_plain(path, _MOST)
    except FileNotFoundError:
        return None
