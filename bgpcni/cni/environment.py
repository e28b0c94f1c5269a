"""The CNI_* variables of one call, parsed and validated (CNI specification, section 2, "Parameters").

Pure; standard library only. It reads the mapping that it is given, never `os.environ`, and opens nothing:
`kernel/namespace.py` finds out whether CNI_NETNS is a namespace.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from bgpcni.errors import InvalidEnvironment


class Command(StrEnum):
    """The values of CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_ATTACHING = frozenset({Command.ADD, Command.CHECK})
_OF_ATTACHMENT = _ATTACHING | {Command.DEL}

REQUIRED: Mapping[str, frozenset[Command]] = {
    "CNI_COMMAND": frozenset(Command),
    "CNI_CONTAINERID": _OF_ATTACHMENT,
    "CNI_NETNS": _ATTACHING,
    "CNI_IFNAME": _OF_ATTACHMENT,
    "CNI_ARGS": frozenset(),
    "CNI_PATH": frozenset(Command) - {Command.VERSION},
}
"""Which variables each command requires, as in the reference library's `skel`. An empty value counts as missing."""

_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_IFNAME_MAX = 15  # IFNAMSIZ without its NUL, in octets
_NO_ARGS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables of one call. Those that the command does not need may be empty. `path`: the folders of CNI_PATH."""

    command: Command
    container_id: str = ""
    netns: str = ""
    ifname: str = ""
    args: Mapping[str, str] = field(default_factory=lambda: _NO_ARGS)
    path: tuple[str, ...] = ()


def parse_environment(env: Mapping[str, str]) -> Environment:
    """Parse and validate. Raises InvalidEnvironment, which names all missing variables at once.

    CNI_ARGS is validated for ADD and CHECK only. A DEL does not need it, and if it failed because of CNI_ARGS, the pod
    could never be deleted.
    """
    values = {name: env.get(name, "") for name in REQUIRED}
    command = values["CNI_COMMAND"]
    missing = [
        name
        for name, commands in REQUIRED.items()
        if not values[name] and (name == "CNI_COMMAND" or command in commands)
    ]
    if missing:
        raise InvalidEnvironment(f"required env variables [{','.join(missing)}] missing")
    if command not in Command.__members__:
        raise InvalidEnvironment(f"unknown CNI_COMMAND: {command!a}")
    for name, value in values.items():
        if not _is_text(value):
            raise InvalidEnvironment(f"{name}: not UTF-8: {value!a}")
    verb = Command(command)
    if values["CNI_CONTAINERID"] and verb is not Command.VERSION:
        _check_container_id(values["CNI_CONTAINERID"])
    if values["CNI_IFNAME"] and verb is not Command.VERSION:
        check_ifname(values["CNI_IFNAME"])
    return Environment(
        command=verb,
        container_id=values["CNI_CONTAINERID"],
        netns=values["CNI_NETNS"],
        ifname=values["CNI_IFNAME"],
        args=parse_args(values["CNI_ARGS"]) if verb in _ATTACHING else _NO_ARGS,
        path=tuple(folder for folder in values["CNI_PATH"].split(":") if folder),
    )


def parse_args(text: str) -> Mapping[str, str]:
    """Parse CNI_ARGS, `K=V;K=V`. If a key is given twice, the last value counts. Raises InvalidEnvironment."""
    if not text:
        return _NO_ARGS
    args: dict[str, str] = {}
    for pair in text.split(";"):
        key, equals, value = pair.partition("=")
        if not key or not equals or "=" in value:
            raise InvalidEnvironment(f"CNI_ARGS: invalid pair {pair!a}, expected KEY=VALUE;KEY=VALUE")
        args[key] = value
    return MappingProxyType(args)


def check_ifname(name: str) -> None:
    """Raise InvalidEnvironment unless Linux and the specification allow `name` for an interface."""
    if reason := link_name_fault(name):
        raise InvalidEnvironment(f"CNI_IFNAME: invalid interface name {name!a}: {reason}")


def link_name_fault(name: str) -> str:
    """Why Linux or the specification does not allow `name` for an interface; "" if both do."""
    if not name:
        return "empty"
    if len(name.encode(errors="surrogateescape")) > _IFNAME_MAX:
        return f"longer than {_IFNAME_MAX} characters"
    if name in (".", "..", "all", "default"):  # the last two are sysctls of every interface
        return "reserved"
    if any(char in "/:%" or char.isspace() or not char.isprintable() for char in name):
        return "contains /, :, %, a blank or a control character"
    return ""


def _check_container_id(text: str) -> None:
    if not _CONTAINER_ID.fullmatch(text):
        raise InvalidEnvironment(
            f"CNI_CONTAINERID: invalid characters in {text!a}",
            "a letter or digit, then letters, digits, '_', '.' and '-'",
        )


def _is_text(value: str) -> bool:
    """Whether the value was UTF-8. Python represents other octets as lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
