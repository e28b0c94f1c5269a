"""The snapshot: what `look` found on this node, in frozen values. Pure.

A fact that could not be read is an `Unread` that says why, never a guess: a judgement that needs it reports that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, NamedTuple, TypeVar

from bgpcni.config.agent import AgentConfig, NeighborTable
from bgpcni.config.network import NetworkConfig
from bgpcni.kernel.links import Link
from bgpcni.launcher.runtimes import Runtimes

T = TypeVar("T")


class Unknown(Exception):
    """A judgement needs a fact that could not be read; the message says why not."""


@dataclass(frozen=True, slots=True)
class Unread:
    """In place of a fact that could not be read."""

    why: str


def known(fact: T | Unread) -> T:
    """The fact. Raises Unknown if it could not be read."""
    if isinstance(fact, Unread):
        raise Unknown(fact.why)
    return fact


class User(NamedTuple):
    """Who looks. `mapped`: in a user namespace in which root is not the host's root."""

    uid: int
    mapped: bool


class Local(NamedTuple):
    """One of the node's own addresses."""

    address: str
    subnet: IPv4Network | IPv6Network
    device: str


class Way(NamedTuple):
    """How the node reaches an address. `gateway` None: it is on the link."""

    gateway: str | None
    device: str


class Gateway(NamedTuple):
    """A default route. `advertised`: it came by a router advertisement."""

    version: int
    device: str
    advertised: bool


class NetworkFile(NamedTuple):
    """A file in net.d that runtimes read. `problem`: why it is no network; then the rest is empty. `types`: the plugins
    of the chain. `configs`: those that are ours and are valid."""

    path: str
    name: str = ""
    types: tuple[str, ...] = ()
    configs: tuple[NetworkConfig, ...] = ()
    problem: str = ""


class Dropped(NamedTuple):
    """Forwarded packets that the firewall certainly drops. `way`: "to", "from" or "within" the bridge. `where`: the
    chain, in words."""

    version: int
    way: str
    bridge: str
    where: str


class Plugin(NamedTuple):
    """A file of one of our names in a folder of plugins. `state`: "current", "other" (ours, of another release),
    "foreign", or "unknown" where it cannot be told."""

    path: str
    state: str


class Mode(NamedTuple):
    """Who may use a file or folder of ours. `most`: the widest mode that it should have."""

    path: str
    mode: int
    uid: int
    most: int


class Listener(NamedTuple):
    """Who listens on the port of BGP. `program` is empty where it cannot be told. `ours`: a speaker of our agent."""

    address: str
    program: str
    ours: bool


class Disk(NamedTuple):
    """The file system below a folder. Octets and inodes; `inodes` 0: it does not count them."""

    path: str
    free: int
    size: int
    inodes_free: int
    inodes: int


class Open(NamedTuple):
    """How many a process has of something, and how many it may have."""

    what: str
    used: int
    most: int


class Record(NamedTuple):
    """A record of an attachment, as far as it matters here. Times are seconds since 1970."""

    key: str
    created: float | None
    this_boot: bool
    family: str
    addresses: tuple[str, ...]


class Clock(NamedTuple):
    """Seconds since 1970. `boot`: when this boot began, by the clock of now. `synchronised`: None where the kernel does
    not say it."""

    now: float
    boot: float
    synchronised: bool | None


class LinkFile(NamedTuple):
    """The .link file of systemd.link(5) that a new link of a kind gets."""

    path: str
    kind: str
    policy: str


class Managed(NamedTuple):
    """A network manager that is at work. `claims`: what of its configuration is about our links, in words."""

    name: str
    claims: tuple[str, ...]


class Answers(NamedTuple):
    """What the agent says. `error`: why it does not answer; `absent`: there is none."""

    error: str = ""
    absent: bool = False
    status: Mapping[str, Any] | None = None
    peers: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The node at one moment. What is absent from a mapping does not exist."""

    version: str = ""
    user: User | Unread = field(default_factory=lambda: User(0, False))
    kernel: str | Unread = ""
    config_path: str = ""
    config: AgentConfig | Unread | None = None
    """None: there is no agent.toml."""
    config_problem: str = ""
    """Why agent.toml cannot be used."""
    answers: Answers | Unread = field(default_factory=lambda: Answers("no agent", absent=True))
    networks: tuple[NetworkFile, ...] | Unread = ()
    conf_dir: str = "/etc/cni/net.d"
    sysctls: Mapping[str, str] | Unread = field(default_factory=dict)
    """By name with slashes: `net/ipv4/ip_forward`."""
    links: tuple[Link, ...] | Unread = ()
    local: tuple[Local, ...] | Unread = ()
    ways: Mapping[str, Way | None] | Unread = field(default_factory=dict)
    """To the neighbours, by address; None: it is not reached."""
    gateways: tuple[Gateway, ...] | Unread = ()
    dropped: tuple[Dropped, ...] | Unread = ()
    programs: frozenset[str] | Unread = frozenset()
    """Executables that were looked for and are installed."""
    features: Mapping[str, bool] | Unread = field(default_factory=dict)
    """What of the kernel some networks need."""
    clock: Clock | Unread = field(default_factory=lambda: Clock(0.0, 0.0, True))
    records: tuple[Record, ...] | Unread = ()
    runtimes: Runtimes | Unread = field(default_factory=lambda: Runtimes((), (), frozenset()))
    plugins: tuple[Plugin, ...] | Unread = ()
    modes: tuple[Mode, ...] | Unread = ()
    listeners: tuple[Listener, ...] | Unread = ()
    md5: str | Unread = ""
    """Why the kernel refuses TCP MD5; empty where it does not."""
    opened: tuple[Open, ...] | Unread = ()
    neighbours: Mapping[int, int] | Unread = field(default_factory=dict)
    """Entries of the neighbour tables, by IP version."""
    disks: tuple[Disk, ...] | Unread = ()
    link_files: tuple[LinkFile, ...] | Unread = ()
    managers: tuple[Managed, ...] | Unread = ()
    unmet: tuple[str, ...] | Unread = ()
    """Python packages that are missing or of another version than we need."""
    exporters: Mapping[str, str] | Unread = field(default_factory=dict)
    """Why an exporter of agent.toml cannot be used, by its name."""

    # What several judgements ask

    def sysctl(self, name: str) -> int | None:
        """A number; None where this kernel does not have it."""
        text = known(self.sysctls).get(name, "")
        return int(text) if text.lstrip("-").isdigit() else None

    def agent(self) -> AgentConfig:
        """agent.toml, or what counts without one."""
        return known(self.config) or AgentConfig()

    def neighbors(self) -> tuple[tuple[str, NeighborTable], ...]:
        """The neighbours of agent.toml whose address is there, too."""
        bgp = self.agent().bgp
        return tuple((one.address, one) for one in bgp.neighbors if one.address) if bgp else ()

    def configs(self) -> Iterator[tuple[NetworkFile, NetworkConfig]]:
        """Every network of ours in net.d."""
        for file in known(self.networks):
            for config in file.configs:
                yield file, config

    def bridges(self) -> frozenset[str]:
        """The bridges of our networks."""
        return frozenset(config.bridge for _, config in self.configs())

    def uses(self, version: int) -> bool:
        """Whether a network or a container here has addresses of this IP version."""
        from_files = (text for _, config in self.configs() for text in subnets(config))
        from_records = (text for record in known(self.records) for text in record.addresses)
        return any((":" in text) == (version == 6) for text in (*from_files, *from_records))

    def uplinks(self) -> tuple[str, ...]:
        """The devices that lead to the peers, to the default gateways, and that have local_address."""
        bgp = self.agent().bgp
        mine = [item.device for item in known(self.local) if bgp and item.address == bgp.local_address]
        peers = [way.device for way in known(self.ways).values() if way]
        gateways = [gateway.device for gateway in known(self.gateways)]
        return tuple(name for name in dict.fromkeys((*peers, *mine, *gateways)) if name != "lo")

    def link(self, name: str) -> Link | None:
        return next((link for link in known(self.links) if link.name == name), None)


def subnets(config: NetworkConfig) -> Iterator[str]:
    """The subnets of a network's host-local IPAM, as they are written."""
    for key, value in (config.ipam or {}).items():
        yield from _subnets(key, value)


def _subnets(key: str, value: object) -> Iterator[str]:
    if key.lower() == "subnet" and isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner, item in value.items():
            yield from _subnets(inner, item)
    elif isinstance(value, list):
        for item in value:
            yield from _subnets("", item)


def is_ipv6(address: str) -> bool:
    return ip_address(address).version == 6


def is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def listed(items: Iterable[str], most: int = 5) -> str:
    """Some of them, and how many more there are."""
    found = sorted(items)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
