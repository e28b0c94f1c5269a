"""One CNI call, parsed and validated; nothing later looks at the environment or at stdin. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from bgpcni.cni import result
from bgpcni.cni.environment import Command, Environment, parse_environment
from bgpcni.cni.versions import read_version, require_command
from bgpcni.config import network
from bgpcni.config.network import NetworkConfig
from bgpcni.errors import CniError, DecodingFailure, InvalidConfiguration, TryAgain
from bgpcni.ipam.config import HostLocalConfig, parse_host_local
from bgpcni.model import AttachmentKey
from bgpcni.steps import step


def _waits() -> bool:
    """The caller that cannot be looked at: it is our own process."""
    return False


@dataclass(frozen=True, slots=True)
class Request:
    """`config` is None only for a DEL or GC whose configuration is broken beyond name and version.

    `variables` are the CNI_* variables as they came, for plugins that are delegated to; `netns_fd` is a
    descriptor of CNI_NETNS that the caller opened and will close, None where there was none to pass. `hung_up` tells
    whether whoever called does not wait for the answer any more.
    """

    environment: Environment
    variables: Mapping[str, str]
    stdin: bytes
    name: str
    version: str
    config: NetworkConfig | None
    document: Mapping[str, Any]
    prev_result: result.Result | None = None
    netns_fd: int | None = None
    warnings: tuple[str, ...] = field(default=())
    hung_up: Callable[[], bool] = field(default=_waits)

    @property
    def command(self) -> Command:
        return self.environment.command

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.name, self.environment.container_id, self.environment.ifname)

    @property
    def settings(self) -> NetworkConfig:
        """The configuration, where the command cannot do without."""
        assert self.config is not None
        return self.config

    def refuse_hung_up(self) -> None:
        """Raises TryAgain when nobody waits for the answer: a DEL may have been answered meanwhile."""
        if self.hung_up():
            raise TryAgain(f"{self.key}: the caller is gone, so nothing is added")


@step("parse")
def parse_request(
    variables: Mapping[str, str], stdin: bytes, netns_fd: int | None = None, hung_up: Callable[[], bool] = _waits
) -> Request:
    """Parse one call other than VERSION. DEL and GC need a name and a version only; the rest is a warning there.

    Raises InvalidEnvironment (4), DecodingFailure (6), IncompatibleVersion (1), InvalidConfiguration (7).
    """
    environment = parse_environment(variables)
    document = _decoded(stdin)
    version = read_version(_fold(document, "cniVersion"))
    require_command(environment.command, version)
    lenient = environment.command in (Command.DEL, Command.GC)
    warnings: tuple[str, ...] = ()
    config: NetworkConfig | None = None
    name = _fold(document, "name")
    try:
        config, warnings = _parsed(stdin)
        name = config.name
    except CniError as error:
        if not lenient or not isinstance(name, str) or not network.is_name(name):
            raise
        warnings = (f"{error.msg}; acting by the record",)
    prev = None
    raw_prev = _fold(document, "prevResult")
    if raw_prev is None and environment.command is Command.CHECK:
        raise InvalidConfiguration("prevResult: missing, CHECK needs it")
    if raw_prev is not None and environment.command is not Command.STATUS:
        try:
            prev = result.decode(raw_prev, version)
        except CniError as error:
            if not lenient:
                raise
            warnings += (f"{error.msg}; ignored",)
    return Request(
        environment=environment,
        variables={key: value for key, value in variables.items() if key.startswith("CNI_")},
        stdin=stdin,
        name=str(name),
        version=version,
        config=config,
        document=document,
        prev_result=prev,
        netns_fd=netns_fd,
        warnings=warnings,
        hung_up=hung_up,
    )


def host_local_of(request: Request) -> HostLocalConfig:
    """host-local's part of the configuration. Raises InvalidConfiguration."""
    return _host_local(request.stdin)


# A runtime sends the same configuration for every container of a network: what was parsed once is kept, by its
# octets. The values are frozen, and nobody changes the documents. Large ones (GC lists) are not worth keeping.
_KEPT = 1 << 16
_decode_kept = lru_cache(64)(network.decode)
_parse_kept = lru_cache(64)(network.parse)


def _decoded(stdin: bytes) -> dict[str, Any]:
    return _decode_kept(stdin) if len(stdin) <= _KEPT else network.decode(stdin)


def _parsed(stdin: bytes) -> tuple[NetworkConfig, tuple[str, ...]]:
    return _parse_kept(stdin) if len(stdin) <= _KEPT else network.parse(stdin)


@lru_cache(64)
def _host_local(stdin: bytes) -> HostLocalConfig:
    return parse_host_local(_decoded(stdin))


def asked_version(stdin: bytes) -> str | None:
    """The `cniVersion` of a document, for VERSION and for errors; None where there is none to be read."""
    try:
        found = _fold(network.decode(stdin), "cniVersion")
    except DecodingFailure:
        return None
    return found if isinstance(found, str) and found else None


def _fold(document: Mapping[str, Any], name: str) -> Any:
    for key, value in document.items():
        if key.lower() == name.lower():
            return value
    return None
