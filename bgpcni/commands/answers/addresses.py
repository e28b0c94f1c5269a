"""`bgpcni ipam show`, `check` and `release`: the addresses of this node."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from bgpcni.commands import Document
from bgpcni.commands.answers.common import failure, named
from bgpcni.errors import InvalidConfiguration, TryAgain
from bgpcni.ipam.leases import bare
from bgpcni.model import State
from bgpcni.node import inventory, reconcile
from bgpcni.node.holdings import Holding, Lease, Picture
from bgpcni.node.node import LOCK_SECONDS, Node


def ipam_show(node: Node, address: str | None, *, data_dir: tuple[str, ...] = ()) -> tuple[Document, int]:
    """Every address that a lease, a record or an interface has; exit 1 if ADDRESS is none of these."""
    seen = inventory.look(node, data_dir)
    wanted = bare(address) if address else None
    rows = [row for row in _rows(seen) if wanted in (None, row["address"])]
    if wanted and not rows:
        return failure(f"nobody here has {wanted}: no lease, no record, no interface"), 1
    document: Document = {"schema": 1, "addresses": rows}
    if node.pools is not None and not wanted:
        document["blocks"] = node.pools.view()
    return document, 0


def _rows(seen: Picture) -> list[Document]:
    found: list[Document] = []
    owners, others = seen.owners(), seen.by_address()
    leased: set[tuple[str | None, str, str]] = set()
    for lease in seen.leases:
        one = next((one for one in owners[lease] if lease.address in one.addresses), None)
        leased.add((lease.data_dir, lease.network, lease.address))
        state = _state(one) if one else "other" if lease.address in others or not lease.ours else "unowned"
        found.append(_row(lease.address, lease.network, lease.data_dir, one, state, lease))
    for one in seen.holdings:
        for address in one.addresses:
            if (one.data_dir, one.attachment.network, address) not in leased:
                found.append(_row(address, one.attachment.network, one.data_dir, one, _state(one), None))
    return sorted(found, key=lambda row: (row["network"], ":" in row["address"], _number(row["address"])))


def _number(address: str) -> bytes:
    from bgpcni.ip import ip_address

    return ip_address(address).packed


def _row(address: str, network: str, data_dir: str | None, one: Holding | None, state: str,
         lease: Lease | None) -> Document:  # fmt: skip
    owner: Document = {"network": network, "containerID": "", "ifname": ""}
    if one is not None:
        owner = named(one.attachment)
    elif lease is not None:
        owner |= {"containerID": lease.owner[0], "ifname": lease.owner[1] or ""}
    return {"address": address, **owner, "state": state, "leased": lease is not None, "dataDir": data_dir}


def _state(one: Holding) -> str:
    """used, held (its withdrawal is not confirmed), orphan, or adding."""
    if one.state is State.LEAVING:
        return "held"
    if one.state is State.ADDING:
        return "adding"
    return "orphan" if one.gone else "used"


def ipam_check(node: Node, *, data_dir: tuple[str, ...] = ()) -> tuple[Document, int]:
    """Leases, records and the kernel against each other; exit 1 if something contradicts."""
    seen, wrong = inventory.lasting(node, data_dir)
    document = {
        "schema": 1,
        "leases": len(seen.leases),
        "records": len(seen.holdings),
        "contradictions": [one._asdict() for one in wrong],
    }
    return document, 1 if wrong else 0


# ---------------------------------------------------------------- release


def ipam_release(
    node: Node, address: str, *, network: str | None = None, force: bool = False, data_dir: tuple[str, ...] = ()
) -> tuple[Document, int]:
    """Release the lease of an address that nobody has. Raises InvalidConfiguration, which says who has it; TryAgain."""
    seen = inventory.look(node, data_dir)
    lease = _lease(seen, bare(address), network)
    if isinstance(lease, str):
        return failure(lease), 1
    with _locked(node, _owner(seen, lease)):
        seen = inventory.look(node, data_dir)  # as it is now, with the lock held
        one = _owner(seen, lease)
        if (reason := _why_not(seen, lease, one)) and not force:
            raise InvalidConfiguration(f"{reason}; --force releases {lease.address} all the same")
        if one is not None and lease.address in one.addresses and (one.state is State.LEAVING or one.gone):
            reconcile.end_unconfirmed(node, one.attachment)
        leases = inventory.opened(node, lease)
        before = leases.seen().get(lease.address)
        given = before is not None and before.owner == lease.owner
        if given:
            leases.reclaim(lambda entries: [lease.address] if entries.get(lease.address) == before else [])
        if leases.seen().get(lease.address) is not None:
            raise TryAgain(f"the lease of {lease.address} has changed meanwhile; try again")
    owner = {"network": lease.network, "containerID": lease.owner[0], "ifname": lease.owner[1] or ""}
    return {"schema": 1, "released": [{"address": lease.address, **owner}]}, 0


def _lease(seen: Picture, address: str, network: str | None) -> Lease | str:
    """The lease that is meant, or why none is."""
    found = [one for one in seen.leases if one.address == address and network in (None, one.network)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(sorted({one.network for one in found}))
        return f"several networks have a lease of {address}: say which with --network ({names})"
    holder = next((one for one in seen.holdings if address in one.addresses), None)
    if holder is not None:
        return f"{address} has no lease here: {holder.attachment.title} has it from another IPAM"
    return f"no lease of {address} is on this node" + (f" in network {network}" if network else "")


def _locked(node: Node, one: Holding | None) -> AbstractContextManager[None]:
    return node.store.locked(one.attachment.key, LOCK_SECONDS) if one else nullcontext()


def _owner(seen: Picture, lease: Lease) -> Holding | None:
    """The record that has the leased address, else any record of the lease's owner."""
    mine = seen.owners().get(lease, [])
    return next((one for one in mine if lease.address in one.addresses), mine[0] if mine else None)


def _why_not(seen: Picture, lease: Lease, one: Holding | None) -> str:
    """Who has the address, "" if nobody."""
    if stranger := seen.by_address().get(lease.address):
        return f"{lease.address} is in use by an interface without a record, behind {stranger.host}"
    users = [each for each in seen.holdings if lease.address in (each.inside or ()) and each is not one]
    if users and users[0].attachment.network == lease.network:
        return f"{lease.address} is in use by {users[0].attachment.title}"
    if one is None and not lease.ours:
        return f"network {lease.network} is another plugin's: who has {lease.address} is not known here"
    if one is None and seen.broken:
        return f"{lease.address} may be of a record that cannot be read: {seen.broken[0]}"
    if one is None or (lease.address not in one.addresses and one.state is not State.ADDING):
        return ""
    title = one.attachment.title
    if one.state is State.LEAVING:
        return f"{lease.address} is held for {title}: a peer may still route to it until the withdrawal is confirmed"
    if one.state is State.ADDING:
        return f"{lease.address} is being given to {title}"
    if one.gone:
        return f"{lease.address} is of {title}, whose interface is gone: its withdrawal is not confirmed"
    return f"{lease.address} is in use by {title}, which is up: DEL it first"
