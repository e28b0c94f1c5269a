"""host-local's part of a network configuration, validated as the stock plugin does. Pure: no I/O.

Keys match without regard to case. Errors name the place: `ipam.ranges[0][0].subnet: …` (code 7).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from itertools import combinations
from typing import Any, NamedTuple

from bgpcni.cni.document import Object, Place
from bgpcni.cni.result import Route, decode_route
from bgpcni.cni.versions import SUPPORTED, at_least, read_version
from bgpcni.errors import CniError, InvalidConfiguration, InvalidEnvironment

DEFAULT_DATA_DIR = "/var/lib/cni/networks"

Ip = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Range:
    """The addresses from `start` to `end`, except the gateway's and those that no host can have.

    The gateway may be outside `subnet` (on-link, such as 169.254.1.1): the stock plugin accepts that too.
    """

    subnet: IPv4Network | IPv6Network
    start: Ip
    end: Ip
    gateway: Ip

    def __contains__(self, address: Ip) -> bool:
        return address.version == self.subnet.version and int(self.start) <= int(address) <= int(self.end)

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"

    def spared(self) -> frozenset[int]:
        """Addresses that no container gets: the gateway, the network address, and the broadcast address of IPv4."""
        spared = {int(self.subnet.network_address)}
        if self.subnet.version == 4:
            spared.add(int(self.subnet.broadcast_address))
        if self.gateway.version == self.subnet.version:
            spared.add(int(self.gateway))
        return frozenset(spared)

    def size(self) -> int:
        """How many containers can have an address of this range."""
        whole = int(self.end) - int(self.start) + 1
        return whole - sum(int(self.start) <= number <= int(self.end) for number in self.spared())

    def overlaps(self, other: Range) -> bool:
        return other.start in self or self.start in other


RangeSet = tuple[Range, ...]


class HostLocalConfig(NamedTuple):
    """A container gets one address of each set, in this order. The index of a set is the N of `last_reserved_ip.N`."""

    range_sets: tuple[RangeSet, ...]
    routes: tuple[Route, ...] = ()
    data_dir: str = DEFAULT_DATA_DIR
    resolv_conf: str | None = None


def parse_host_local(configuration: Mapping[str, Any]) -> HostLocalConfig:
    """Read `ipam` and `runtimeConfig.ipRanges` of a whole network configuration.

    The sets in order: those of the runtime, the one of the old form (`subnet` directly in `ipam`), `ranges`.
    Raises InvalidConfiguration.
    """
    top = _top(configuration)
    ipam = top.required("ipam").object()
    sets = [(place, _range_set(place)) for place in _of_runtime(top, "ipRanges")]
    if ipam.text("subnet") is not None:
        sets.append((ipam.place, (_range(ipam),)))
    sets += [(place, _range_set(place)) for place in ipam.items("ranges")]
    if not sets:
        raise ipam.place.wrong("no ranges: give `ranges`, or `subnet`")
    for (_, earlier), (place, later) in combinations(sets, 2):
        _refuse_overlap(place, [(a, b) for a in earlier for b in later])
    _require_one_per_family(top, [ranges[0].subnet.version for _, ranges in sets])
    data_dir = ipam.text("dataDir") or DEFAULT_DATA_DIR
    if not data_dir.startswith("/") or "\0" in data_dir:
        raise ipam.required("dataDir").wrong(f"{data_dir!a} is no absolute path")
    return HostLocalConfig(
        range_sets=tuple(ranges for _, ranges in sets),
        routes=_routes(ipam),
        data_dir=data_dir,
        resolv_conf=ipam.text("resolvConf"),
    )


class ClusterConfig(NamedTuple):
    """`pools` None: every pool of the cluster that selects this node."""

    pools: tuple[str, ...] | None
    routes: tuple[Route, ...] = ()
    resolv_conf: str | None = None


def parse_cluster(configuration: Mapping[str, Any]) -> ClusterConfig:
    """Read the `ipam` of a network with the cluster's addresses. Raises InvalidConfiguration."""
    ipam = _top(configuration).required("ipam").object()
    pools = None
    if (place := ipam.optional("pools")) is not None:
        pools = tuple(item.string() for item in place.list())
        if not pools:
            raise place.wrong("is empty: name a pool, or leave it out for every pool that selects the node")
        if len(set(pools)) < len(pools):
            raise place.wrong("names a pool twice")
    return ClusterConfig(pools, _routes(ipam), ipam.text("resolvConf"))


def _routes(ipam: Object) -> tuple[Route, ...]:
    routes = []
    for place in ipam.items("routes"):
        try:
            routes.append(decode_route(place, SUPPORTED[-1]))
        except CniError as error:
            raise InvalidConfiguration(error.msg) from error
    return tuple(routes)


def faults(configuration: Mapping[str, Any]) -> Iterator[str]:
    """Every error for which `parse_host_local` raises one: that of each range, else one of all together."""
    found = list(_range_faults(configuration))
    yield from found
    if not found:
        try:
            parse_host_local(configuration)
        except CniError as error:
            yield error.msg


def _range_faults(configuration: Mapping[str, Any]) -> Iterator[str]:
    try:
        ipam = _top(configuration).required("ipam").object()
        places = [item for ranges in ipam.items("ranges") for item in ranges.list()]
    except CniError:
        return
    for place in places:
        try:
            _range(place.object())
        except CniError as error:
            yield error.msg


def requested_addresses(
    configuration: Mapping[str, Any], args: Mapping[str, str], more: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Addresses asked for: `IP` of CNI_ARGS, `args.cni.ips`, the `ips` capability, `more`; each once, no prefix length.

    Raises InvalidConfiguration, or InvalidEnvironment for CNI_ARGS.
    """
    top = _top(configuration)
    places = [Place("CNI_ARGS: IP", value, InvalidEnvironment) for key, value in args.items() if key.lower() == "ip"]
    if (arguments := top.optional("args")) and (cni := arguments.object().optional("cni")):
        places += cni.object().items("ips")
    places += _of_runtime(top, "ips")
    return tuple(dict.fromkeys((*(str(_ip_of(place)) for place in places if place.value != ""), *more)))


def _top(configuration: Mapping[str, Any]) -> Object:
    return Place("", dict(configuration), InvalidConfiguration, fold=True).object()


def _of_runtime(top: Object, key: str) -> Sequence[Place]:
    runtime = top.optional("runtimeConfig")
    return [] if runtime is None else list(runtime.object().items(key))


def _ip_of(place: Place) -> Ip:
    """An address, with or without a prefix length: the `ips` capability allows both."""
    text = place.string()
    return place.ip() if "/" not in text else place.below("", place.prefixed().partition("/")[0]).ip()


def _range_set(place: Place) -> RangeSet:
    ranges = tuple(_range(item.object()) for item in place.list())
    if not ranges:
        raise place.wrong("empty range set")
    if len({range_.subnet.version for range_ in ranges}) > 1:
        raise place.wrong("mixed address families in one range set")
    _refuse_overlap(place, list(combinations(ranges, 2)))
    return ranges


def _range(item: Object) -> Range:
    place = item.required("subnet")
    text = place.prefixed()
    subnet = ip_network(text, strict=False)
    if text != str(subnet):
        raise place.wrong(f"{text} has host bits set, the network is {subnet}")
    if subnet.version == 6 and subnet.network_address.ipv4_mapped:
        raise place.wrong("IPv4 addresses in IPv6 form cannot be assigned")
    if subnet.prefixlen > subnet.max_prefixlen - 2:
        raise place.wrong(f"{subnet} is too small to allocate from")
    last = subnet.broadcast_address - 1 if subnet.version == 4 else subnet.broadcast_address
    gateway = item.ip("gateway") or subnet.network_address + 1
    if gateway.version != subnet.version:
        raise item.required("gateway").wrong(f"{gateway} is of another family than {subnet}")
    start = item.ip("rangeStart") or subnet.network_address + 1
    end = item.ip("rangeEnd") or last
    for key, address in (("rangeStart", start), ("rangeEnd", end)):
        if address not in subnet:
            raise item.required(key).wrong(f"{address} is not in {subnet}")
    if int(start) > int(end):
        key = "rangeStart" if item.ip("rangeStart") else "rangeEnd"
        raise item.required(key).wrong(f"the range {start}-{end} ends before it starts")
    return Range(subnet=subnet, start=start, end=end, gateway=gateway)


def _refuse_overlap(place: Place, pairs: Sequence[tuple[Range, Range]]) -> None:
    for earlier, later in pairs:
        if earlier.overlaps(later):
            raise place.wrong(f"{later} overlaps {earlier}")


def _require_one_per_family(top: Object, versions: Sequence[int]) -> None:
    """Results before 0.3.0 have room for one address of each family."""
    asked = top.optional("cniVersion")
    version = read_version(asked.value if asked else None)
    if len(set(versions)) < len(versions) and not at_least(version, "0.3.0"):
        raise InvalidConfiguration(f"ipam: cniVersion {version} allows one range set of each address family")
