"""What an attachment may ask for besides its link: ipMasq and macspoofchk, put in, compared and taken out.

Who asks for neither pays nothing: no system call is made for them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial

from bgpcni.errors import CniError
from bgpcni.kernel import masquerade, spoofcheck, stock
from bgpcni.model import Attachment, AttachmentKey


def uses(attachment: Attachment) -> bool:
    """Whether there is anything to install; then the record has to name the port and the addresses first."""
    return attachment.ip_masq is not None or attachment.mac_spoof_check


def install(attachment: Attachment) -> None:
    """Between the pair's creation and its use: no frame passes unchecked, no packet unmasqueraded. Idempotent."""
    if attachment.mac_spoof_check and attachment.host_veth and attachment.mac:
        spoofcheck.install(str(attachment.key), attachment.host_veth, attachment.mac)
    if attachment.ip_masq:
        masquerade.install(attachment.ip_masq, str(attachment.key), _addresses(attachment))


def remove(attachment: Attachment) -> None:
    """Both away; missing is success."""
    if attachment.mac_spoof_check and attachment.host_veth and attachment.mac:
        spoofcheck.remove(str(attachment.key), attachment.host_veth, attachment.mac)
    if attachment.ip_masq:
        masquerade.remove(attachment.ip_masq, str(attachment.key), _addresses(attachment))


def remove_unrecorded(key: AttachmentKey, addresses: Sequence[str], warnings: list[str]) -> None:
    """Without a record: what we, or the stock plugin, may have installed for a container that had these addresses.

    With either back end, since the configuration may have been another then.
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
    """Both away for the attachment whose key has this digest, and whose port is one of these: its record cannot be
    read. The sets and maps are read whole, so this is for that case alone."""
    try:
        spoofcheck.remove_of(ports)
        masquerade.remove_of(lambda owner: AttachmentKey(*owner.split("/", 2)).digest == digest)
    except CniError as error:
        warnings.append(error.msg)


def check(attachment: Attachment) -> None:
    """Raises CheckFailed naming what is missing."""
    if attachment.mac_spoof_check and attachment.host_veth and attachment.mac:
        spoofcheck.check(str(attachment.key), attachment.host_veth, attachment.mac)
    if attachment.ip_masq:
        masquerade.check(attachment.ip_masq, str(attachment.key), _addresses(attachment))


def _addresses(attachment: Attachment) -> list[str]:
    return [item.address for item in attachment.addresses]
