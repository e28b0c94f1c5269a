"""A small libcni: finds a network's configuration in a folder and runs its plugins as the CNI specification says.

Sections 1 ("Network configuration format") and 3 ("Execution of Network Configurations"). It remembers nothing: the
caller keeps the result of an ADD. It offers no capability, so no plugin gets a `runtimeConfig`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bgpcni.cni.environment import Command
from bgpcni.cni.versions import SUPPORTED, at_least, read_version
from bgpcni.config.network import is_name
from bgpcni.errors import CniError, DecodingFailure, Delegated, InvalidConfiguration, IoFailure, TryAgain
from bgpcni.files import read_plain

Document = dict[str, Any]
SUFFIXES = (".conf", ".conflist", ".json")
PLUGIN_SECONDS = 120.0
_FILE_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Network:
    """A network: one plugin's configuration or a list of them. `source`: the file, for messages."""

    name: str
    version: str
    plugins: tuple[Document, ...]
    source: str = ""

    @classmethod
    def parse(cls, document: object, source: str) -> Network:
        """Read a configuration, or a list, which has `plugins`. Raises InvalidConfiguration, which names the file."""

        def wrong(reason: str) -> CniError:
            return InvalidConfiguration(f"{source}: {reason}")

        if not isinstance(document, dict):
            raise wrong("not a JSON object")
        name = document.get("name")
        if not isinstance(name, str) or not is_name(name):
            raise wrong("name: missing, or no network name")
        plugins = document.get("plugins", [document])
        if not isinstance(plugins, list) or not plugins:
            raise wrong("plugins: not a list of at least one")
        for place, plugin in enumerate(plugins):
            kind = plugin.get("type") if isinstance(plugin, dict) else None
            if not isinstance(kind, str) or not kind or "/" in kind or kind in (".", ".."):
                raise wrong(f"plugins[{place}].type: missing, or no file name")
        try:
            version = _version(document)
        except CniError as error:
            raise wrong(f"{error.msg}: {error.details}" if error.details else error.msg) from None
        return cls(name, version, tuple(plugins), source)

    def labelled(self, labels: Mapping[str, str]) -> Network:
        """The network with labels for one attachment, in each plugin's `args.cni`, as the CNI conventions have them."""
        if not labels:
            return self
        return replace(self, plugins=tuple(_labelled(plugin, labels) for plugin in self.plugins))

    def document(self) -> Document:
        """The network as a list, as `parse` reads it."""
        return {"cniVersion": self.version, "name": self.name, "plugins": list(self.plugins)}


def _labelled(plugin: Document, labels: Mapping[str, str]) -> Document:
    """What the file has in `args` stays; labels of its own give way."""
    args = _object(plugin.get("args"))
    listed = [{"key": key, "value": value} for key, value in labels.items()]
    return {**plugin, "args": {**args, "cni": {**_object(args.get("cni")), "labels": listed}}}


def _object(value: object) -> Document:
    return value if isinstance(value, dict) else {}


def _version(document: Mapping[str, object]) -> str:
    """`cniVersion`, or the newest of `cniVersions` (1.1.0) that we speak."""
    offered = document.get("cniVersions")
    if isinstance(offered, list):
        known = [version for version in SUPPORTED if version in offered]
        if known:
            return known[-1]
    return read_version(document.get("cniVersion"))


def find(folder: Path, name: str) -> Network:
    """The network called `name`: the first in the order of the files' names.

    A file that cannot be read hides no network of another: it is named only where nothing was found. Raises
    InvalidConfiguration.
    """
    broken: list[str] = []
    others: list[str] = []
    try:
        files = sorted(entry for entry in os.listdir(folder) if entry.endswith(SUFFIXES))
    except OSError as error:
        raise InvalidConfiguration(f"{folder}: {error.strerror}") from None
    for file in files:
        path = folder / file
        try:
            network = Network.parse(_load(path), str(path))
        except CniError as error:
            broken.append(error.msg)
            continue
        if network.name == name:
            return network
        others.append(network.name)
    story = [f"it has {', '.join(dict.fromkeys(others))}"] if others else []
    raise InvalidConfiguration("; ".join([f"{folder}: no network {name!r}", *story, *broken]))


def _load(path: Path) -> object:
    try:
        text = read_plain(path, _FILE_MAX)
    except OSError as error:
        raise InvalidConfiguration(f"{path}: {error.strerror}") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidConfiguration(f"{path}: not JSON: {error}") from None


@dataclass(frozen=True, slots=True)
class Runtime:
    """One attachment, as every plugin of the chain is told of it, and where the plugins are.

    `netns` is empty for a DEL whose namespace is gone. `environment` is what a plugin inherits besides CNI's
    variables. `say` gets what a plugin that succeeded wrote to stderr.
    """

    container_id: str
    ifname: str
    netns: str
    folders: Sequence[str]
    environment: Mapping[str, str]
    say: Callable[[str], None]

    def add(self, network: Network) -> Document:
        """Run the chain in order, each plugin with the result of the one before. Returns the last result.

        Raises the error of the plugin that failed. What the others did is then still there: `delete` is due.
        """
        executables = self.executables(network)
        result: Document | None = None
        for plugin, executable in zip(network.plugins, executables, strict=True):
            answer = self._run(Command.ADD, executable, _configuration(network, plugin, result))
            result = _result(plugin, answer)
        assert result is not None
        return result

    def delete(self, network: Network, result: Document | None) -> None:
        """Run the chain backwards with the result that was kept. Stops at the first failure and raises it."""
        kept = result if at_least(network.version, "0.4.0") else None
        executables = self.executables(network)
        for plugin, executable in zip(reversed(network.plugins), reversed(executables), strict=True):
            self._run(Command.DEL, executable, _configuration(network, plugin, kept))

    def executables(self, network: Network) -> list[str]:
        """Find every plugin of the chain, before the first one runs. Raises InvalidConfiguration."""
        return [self._find(plugin["type"]) for plugin in network.plugins]

    def _find(self, name: str) -> str:
        for folder in self.folders:
            candidate = os.path.join(folder, name)
            if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
                return candidate
        raise InvalidConfiguration(f"no plugin {name!r} in {':'.join(self.folders) or 'CNI_PATH, which is empty'}")

    def _run(self, command: Command, executable: str, configuration: Document) -> bytes:
        variables = {
            "CNI_COMMAND": command.value,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": self.ifname,
            "CNI_PATH": ":".join(self.folders),
        }
        inherited = {name: value for name, value in self.environment.items() if not name.startswith("CNI_")}
        try:
            done = subprocess.run(
                [executable],
                input=json.dumps(configuration).encode(),
                capture_output=True,
                env=inherited | variables,
                timeout=PLUGIN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TryAgain(f"{executable} {command}: no answer in {PLUGIN_SECONDS:g} s") from None
        except OSError as error:
            raise IoFailure(f"{executable}: {error.strerror}") from None
        told = done.stderr.decode(errors="replace")
        if done.returncode:
            raise _failure(f"{configuration['type']} {command}", done.returncode, done.stdout, told)
        if told:
            self.say(told)
        return done.stdout


def _configuration(network: Network, plugin: Document, result: Document | None) -> Document:
    """What one plugin gets on stdin (section 3, "Deriving runtime configuration")."""
    derived = {key: value for key, value in plugin.items() if key not in ("prevResult", "cniVersions")}
    derived |= {"cniVersion": network.version, "name": network.name}
    return derived | ({"prevResult": result} if result is not None else {})


def _result(plugin: Document, answer: bytes) -> Document:
    try:
        result = json.loads(answer)
    except (ValueError, RecursionError):
        result = None
    if not isinstance(result, dict):
        raise DecodingFailure(f"{plugin['type']} ADD: success without a result")
    return result


def _failure(what: str, status: int, stdout: bytes, stderr: str) -> CniError:
    try:
        error = json.loads(stdout)
        code, msg, details = error["code"], error["msg"], error.get("details", "")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        how = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
        return Delegated(999, f"{what}: {how} and no CNI error: {stderr.strip()[-500:]}")
    number = code if isinstance(code, int) and not isinstance(code, bool) else 999
    story = f" ({details})" if isinstance(details, str) and details else ""
    return Delegated(number, f"{what}: {msg}{story} (code {number})")
