"""Ends an attachment whose record cannot be read. Links and nftables elements are found by the marks they bear.

The file name of the record is the digest of the attachment's key. The link bears the same digest, and the nftables
elements name the port or the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpcni.node import interface, options

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.store import Stored


def release(node: Node, stored: Stored, warnings: list[str]) -> None:
    """Remove the link, then masquerading and MAC check, then the record, so that after a kill the next call finishes
    it. The caller releases the leases, because it knows their owner. Raises CniError, OSError."""
    interface.remove_by_digest(node.netlink, stored.digest)
    options.remove_of(stored.digest, interface.host_veths(stored.digest), warnings)
    node.claims.drop_digest(stored.digest)
    node.store.delete_unreadable(stored.network, stored.digest)
