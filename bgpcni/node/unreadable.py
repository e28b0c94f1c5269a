"""The end of an attachment whose record cannot be read: what it left is found by what is written on it.

The record's name has the digest of the attachment's key; so has the link, and the nftables elements name the port or
the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpcni.node import interface, options

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.store import Stored


def release(node: Node, stored: Stored, warnings: list[str]) -> None:
    """Link, then what guards it, then the record, which a kill in between leaves for the next call. Its leases are
    the caller's, who knows whose they are. Raises CniError, OSError."""
    interface.remove_by_digest(node.netlink, stored.digest)
    options.remove_of(stored.digest, interface.host_veths(stored.digest), warnings)
    node.claims.drop_digest(stored.digest)
    node.store.drop_digest(stored.network, stored.digest)
