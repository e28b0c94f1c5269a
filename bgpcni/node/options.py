"""What an attachment may ask for besides its link: VLANs, ipMasq and macspoofchk, put in, compared and taken out.

An attachment that asks for neither costs no system call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from bgpcni.config.network import NetworkConfig
from bgpcni.errors import CniError
from bgpcni.kernel import masquerade, spoofcheck, vlans
from bgpcni.model import Attachment, AttachmentKey
from bgpcni.node import plan, stock
from bgpcni.node.keys import asked_by


def require(tagging: vlans.Tagging | None) -> None:
    """Raises UnsupportedField if VLANs are asked for and this kernel's bridge cannot filter them."""
    if tagging is not None:
        with asked_by(plan.vlan_key(tagging)):
            vlans.require()


def masquerading(config: NetworkConfig) -> masquerade.Backend | None:
    """How its packets are to be masqueraded, None: not at all. Raises UnsupportedField where nothing here can."""
    if not (config.ip_masq and config.ipam_type):
        return None
    with asked_by("ipMasq"):
        return masquerade.choose(config.ip_masq_backend)


def uses(attachment: Attachment) -> bool:
    """Whether there is anything to install. If so, the record must name the port and the addresses first."""
    return attachment.ip_masq is not None or attachment.mac_spoof_check


def install(attachment: Attachment) -> None:
    """Install both. This runs between making the pair and setting it up, so that no frame passes unchecked and no
    packet unmasqueraded. Idempotent."""
    if attachment.mac_spoof_check and attachment.host_veth and attachment.mac:
        with asked_by("macspoofchk"):
            spoofcheck.install(str(attachment.key), attachment.host_veth, attachment.mac)
    if attachment.ip_masq:
        masquerade.install(attachment.ip_masq, str(attachment.key), _addresses(attachment))


def remove(attachment: Attachment) -> None:
    """Remove both. Missing rules are no error."""
    if attachment.mac_spoof_check and attachment.host_veth and attachment.mac:
        spoofcheck.remove(str(attachment.key), attachment.host_veth, attachment.mac)
    if attachment.ip_masq:
        masquerade.remove(attachment.ip_masq, str(attachment.key), _addresses(attachment))


def remove_unrecorded(key: AttachmentKey, addresses: Sequence[str], warnings: list[str]) -> None:
    """Remove what we or the stock plugin may have installed for a container that had these addresses; it has no record.

    Both back ends are searched, because the configuration may have been another one at ADD.
    """
    steps: tuple[Callable[[], None], ...] = (
        partial(masquerade.remove_found, str(key), addresses),
        partial(spoofcheck.remove_found, str(key)),
        partial(stock.remove, key.network, key.container_id, key.ifname),
    )
    for remove in steps:
        try:
            remove()
        except CniError as error:
            warnings.append(error.msg)


def remove_of(digest: str, ports: Collection[str], warnings: list[str]) -> None:
    """Remove both for an attachment whose record cannot be read, known by the digest of its key and by these ports.
    This reads whole sets and maps, so it is only for that case."""
    try:
        spoofcheck.remove_of(ports)
        masquerade.remove_of(lambda owner: AttachmentKey(*owner.split("/", 2)).digest == digest)
    except CniError as error:
        warnings.append(error.msg)


def check(attachment: Attachment) -> None:
    """Raises CheckFailed, which names what is missing."""
    if attachment.mac_spoof_check and attachment.host_veth and attachment.mac:
        with asked_by("macspoofchk"):
            spoofcheck.check(str(attachment.key), attachment.host_veth, attachment.mac)
    if attachment.ip_masq:
        with asked_by("ipMasq"):
            masquerade.check(attachment.ip_masq, str(attachment.key), _addresses(attachment))


def _addresses(attachment: Attachment) -> list[str]:
    return [item.address for item in attachment.addresses]
