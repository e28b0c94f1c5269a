"""Who has which address on this node: leases, records and the kernel beside each other, and what contradicts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from bgpcni.ipam.leases import Owner
from bgpcni.model import Attachment, AttachmentKey, State


class Lease(NamedTuple):
    """A file in the folder of a network's leases. `owner`: of an empty file ("", None). `shared`: all networks have
    this folder, because the cluster gives their addresses."""

    data_dir: str
    network: str
    address: str
    owner: Owner
    shared: bool = False
    ours: bool = True
    """Our plugin has given addresses of this network, so that each has a record or an interface that is seen. Another
    plugin's containers, such as those of macvlan, may have neither."""

    @property
    def folder(self) -> str:
        return self.data_dir if self.shared else f"{self.data_dir}/{self.network}"


class Holding(NamedTuple):
    """A record. `gone`: it is up, but its link is not there. `inside`: the addresses of its interface, None where the
    kernel does not say it."""

    state: State
    attachment: Attachment
    addresses: frozenset[str]
    data_dir: str | None
    """Where its leases are; None: another IPAM plugin has its addresses."""
    gone: bool
    inside: frozenset[str] | None


class Stranger(NamedTuple):
    """An interface of a container without a record. `ours`: the root-side link has our mark."""

    host: str
    addresses: frozenset[str]
    ours: bool


class Contradiction(NamedTuple):
    """`address` is empty where the contradiction is about none."""

    code: str
    address: str
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything at one moment. `broken`: records that cannot be read, in words. `claimed`: the attachments that the
    agent remembers to use a bridge. `cluster`: what the cluster's store contradicts, in words."""

    leases: tuple[Lease, ...] = ()
    holdings: tuple[Holding, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    broken: tuple[str, ...] = ()
    claimed: frozenset[AttachmentKey] = frozenset()
    cluster: tuple[str, ...] = ()

    def owners(self) -> Mapping[Lease, list[Holding]]:
        """The records of each lease's owner; an old lease names no interface, so there may be several."""
        found: dict[tuple[str, str], list[Holding]] = {}
        for one in self.holdings:
            found.setdefault((one.attachment.network, one.attachment.container_id), []).append(one)
        return {
            lease: [one for one in found.get((lease.network, lease.owner[0]), ()) if _is_of(lease, one)]
            for lease in self.leases
        }

    def by_address(self) -> Mapping[str, Stranger]:
        """The interfaces without a record that have an address."""
        return {address: one for one in self.strangers for address in one.addresses}


def _is_of(lease: Lease, one: Holding) -> bool:
    key, (container_id, ifname) = one.attachment.key, lease.owner
    return (key.network, key.container_id) == (lease.network, container_id) and ifname in (None, key.ifname)


def contradictions(seen: Picture) -> tuple[Contradiction, ...]:
    """Everything that cannot be as it should. An ADD or DEL under way may look so for a moment."""
    return (
        *(Contradiction("unreadable-record", "", text) for text in seen.broken),
        *_of_leases(seen),
        *_of_records(seen, {(lease.data_dir, lease.network, lease.address): lease for lease in seen.leases}),
        *_twice(seen.holdings),
        *_of_strangers(seen.strangers),
        *_of_claims(seen),
        *(Contradiction("cluster", "", text) for text in seen.cluster),
    )


def _of_leases(seen: Picture) -> Iterator[Contradiction]:
    owners, strangers = seen.owners(), seen.by_address()
    for lease in seen.leases:
        where = f"the lease of {lease.address} in {lease.folder}"
        container_id, ifname = lease.owner
        mine = owners[lease]
        if not container_id:
            yield Contradiction("empty-lease", lease.address, f"{where} names no container")
        elif not mine and lease.ours and lease.address not in strangers:
            text = f"{where} is of container {container_id} {ifname or ''}".rstrip()
            yield Contradiction("lease-without-owner", lease.address, f"{text}, which has no record and no interface")
        elif mine and not any(one.state is State.ADDING or lease.address in one.addresses for one in mine):
            text = f"{where} is of {mine[0].attachment.key}, whose record has other addresses"
            yield Contradiction("lease-not-recorded", lease.address, text)


def _of_records(seen: Picture, leases: Mapping[tuple[str, str, str], Lease]) -> Iterator[Contradiction]:
    for one in seen.holdings:
        title = one.attachment.title
        if one.state is State.ADDING:
            continue
        if one.gone:
            yield Contradiction("orphan", min(one.addresses, default=""), f"{title} lost its interface without a DEL")
        for address in sorted(one.addresses):
            if one.data_dir is not None:
                lease = leases.get((one.data_dir, one.attachment.network, address))
                if lease is None:
                    yield Contradiction("no-lease", address, f"{title} has {address} and no lease of it")
                elif lease.owner[0] and not _is_of(lease, one):
                    text = f"{title} has {address}, and its lease is of {lease.owner[0]}"
                    if one.state is not State.LEAVING:  # a held address may have been handed to a new container
                        yield Contradiction("lease-of-another", address, text)
            if one.state is State.UP and not one.gone and one.inside is not None and address not in one.inside:
                yield Contradiction("not-in-kernel", address, f"{title}: its interface does not have {address}")


def _twice(holdings: Iterable[Holding]) -> Iterator[Contradiction]:
    """One address of two containers that are up, on one bridge, or announced as the same route."""
    users: dict[tuple[str, str], Holding] = {}
    for one in holdings:
        if one.state is not State.UP or one.gone:
            continue
        intent = one.attachment.bgp
        announced = bool(one.attachment.exporters) and intent.family == "unicast"
        for address in sorted(one.addresses):
            places = [f"bridge {one.attachment.bridge}"] if one.attachment.bridge and not one.attachment.vlan else []
            places += ["a unicast route"] if announced else []
            for place in places:
                other = users.setdefault((place, address), one)
                if other is not one:
                    text = f"{other.attachment.title} and {one.attachment.title} both have {address} ({place})"
                    yield Contradiction("address-twice", address, text)
                    break


def _of_strangers(strangers: Iterable[Stranger]) -> Iterator[Contradiction]:
    for one in strangers:
        if one.ours:
            has = f" with {', '.join(sorted(one.addresses))}" if one.addresses else ""
            text = f"{one.host} is an interface of ours{has}, and has no record"
            yield Contradiction("no-record", min(one.addresses, default=""), text)


def _of_claims(seen: Picture) -> Iterator[Contradiction]:
    recorded = {one.attachment.key for one in seen.holdings}
    for key in sorted(seen.claimed - recorded):
        text = f"the agent keeps the addresses of {key} from others, and it has no record: restart the agent"
        yield Contradiction("claim-without-record", "", text)
