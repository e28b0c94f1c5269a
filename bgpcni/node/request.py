"""Parses and validates one CNI call. Nothing after this reads the environment or stdin. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, TypeVar, cast

from bgpcni.cni import result
from bgpcni.cni.environment import Command, Environment, parse_environment
from bgpcni.cni.versions import read_version, require_command
from bgpcni.config import network, pod_annotations
from bgpcni.config.network import NetworkConfig
from bgpcni.config.pod_annotations import Annotations
from bgpcni.errors import CniError, DecodingFailure, InvalidConfiguration, TryAgain
from bgpcni.model import AttachmentKey, Pod
from bgpcni.steps import step

R = TypeVar("R")


def _waits() -> bool:
    """The caller of a call without an agent: our own process, which always waits for the answer."""
    return False


class Body:
    """The stdin of a call, decoded once. Each part is validated when first used, and kept; an error is not kept.

    Raises DecodingFailure (6).
    """

    def __init__(self, stdin: bytes) -> None:
        self.document: Mapping[str, Any] = network.decode(stdin)
        self._escaped = b"\\u" in stdin
        self._parts: dict[object, object] = {}

    @cached_property
    def network(self) -> tuple[NetworkConfig, tuple[str, ...]]:
        """The configuration, and warnings. Raises InvalidConfiguration (7)."""
        return network.parse(self.document, escaped=self._escaped)

    @cached_property
    def annotations(self) -> Annotations:
        """Those of the pod that are ours. Raises InvalidConfiguration (7)."""
        return pod_annotations.read(self.network[0].runtime.annotations)

    def part(self, parse: Callable[[Mapping[str, Any]], R]) -> R:
        """What `parse` makes of the document, an IPAM's part of it."""
        if parse not in self._parts:
            self._parts[parse] = parse(self.document)
        return cast(R, self._parts[parse])


# A runtime sends the same configuration for every container of a network, so the decoded form is cached by its octets.
# Large ones (lists of GC) are not worth caching.
_KEPT = 1 << 16
_kept = lru_cache(64)(Body)


def body_of(stdin: bytes) -> Body:
    """stdin, decoded. Raises DecodingFailure (6)."""
    return _kept(stdin) if len(stdin) <= _KEPT else Body(stdin)


_POD_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Request:
    """One CNI call. `config` is None only for a DEL or GC whose configuration is broken beyond name and version.

    `variables` are the CNI_* variables as they came, for delegated plugins. `netns_fd` is a descriptor of CNI_NETNS
    that the caller opened and will close; None if it passed none. `hung_up` returns whether the caller has stopped
    waiting for the answer.
    """

    environment: Environment
    variables: Mapping[str, str]
    stdin: bytes
    name: str
    version: str
    config: NetworkConfig | None
    body: Body
    prev_result: result.Result | None = None
    netns_fd: int | None = None
    warnings: tuple[str, ...] = field(default=())
    hung_up: Callable[[], bool] = field(default=_waits)

    @property
    def document(self) -> Mapping[str, Any]:
        """stdin, decoded. It must not be changed."""
        return self.body.document

    @property
    def annotations(self) -> Annotations:
        """What the pod itself asks for. Raises InvalidConfiguration (7)."""
        return self.body.annotations

    @property
    def command(self) -> Command:
        return self.environment.command

    @property
    def key(self) -> AttachmentKey:
        return AttachmentKey(self.name, self.environment.container_id, self.environment.ifname)

    @property
    def settings(self) -> NetworkConfig:
        """The configuration, for a command that needs one."""
        assert self.config is not None
        return self.config

    def refuse_hung_up(self) -> None:
        """Raises TryAgain if nobody waits for the answer: a DEL may have been answered meanwhile."""
        if self.hung_up():
            raise TryAgain(f"{self.key}: the caller is gone, so the container is not added")


@step("parse")
def parse_request(
    variables: Mapping[str, str], stdin: bytes, netns_fd: int | None = None, hung_up: Callable[[], bool] = _waits
) -> Request:
    """Parse one call other than VERSION. DEL and GC need a name and a version only; the rest is a warning there.

    Raises InvalidEnvironment (4), DecodingFailure (6), IncompatibleVersion (1), InvalidConfiguration (7).
    """
    environment = parse_environment(variables)
    body = body_of(stdin)
    document = body.document
    version = read_version(_fold(document, "cniVersion"))
    require_command(environment.command, version)
    lenient = environment.command in (Command.DEL, Command.GC)
    warnings: tuple[str, ...] = ()
    config: NetworkConfig | None = None
    name = _fold(document, "name")
    try:
        config, warnings = body.network
        name = config.name
    except CniError as error:
        if not lenient or not isinstance(name, str) or not network.is_name(name):
            raise
        warnings = (f"{error.msg}; the record is used instead",)
    prev = None
    raw_prev = _fold(document, "prevResult")
    if raw_prev is None and environment.command is Command.CHECK:
        raise InvalidConfiguration("prevResult: missing; CHECK needs it")
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
        body=body,
        prev_result=prev,
        netns_fd=netns_fd,
        warnings=warnings,
        hung_up=hung_up,
    )


def pod_of(args: Mapping[str, str]) -> Pod | None:
    """The pod that a Kubernetes runtime names in CNI_ARGS; None where it names none, or what is no pod's name."""
    namespace, name = args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", "")
    if not (_POD_NAME.fullmatch(namespace) and _POD_NAME.fullmatch(name)):
        return None
    uid = args.get("K8S_POD_UID", "")
    return Pod(namespace=namespace, name=name, uid=uid if re.fullmatch(r"[-0-9A-Za-z]{1,64}", uid) else "")


def asked_version(stdin: bytes) -> str | None:
    """The `cniVersion` of a document, for VERSION and for errors; None if it cannot be read."""
    try:
        found = _fold(body_of(stdin).document, "cniVersion")
    except DecodingFailure:
        return None
    return found if isinstance(found, str) and found else None


def _fold(document: Mapping[str, Any], name: str) -> Any:
    for key, value in document.items():
        if key.lower() == name.lower():
            return value
    return None
