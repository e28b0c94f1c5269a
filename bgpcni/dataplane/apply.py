"""A program's changes as messages to the kernel, sent in batches; what the kernel answered is noted there."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Collection, Iterator

from bgpcni.dataplane.program import At, Change, Key, Local, Program, Remote, Via
from bgpcni.dataplane.segment import Segment
from bgpcni.dataplane.vrf import Vrf
from bgpcni.kernel import routes, vxlan
from bgpcni.kernel.netlink import Message, Netlink, NetlinkError

log = logging.getLogger(__name__)

BATCH = 256
"""Changes made at a time."""
_GONE = {errno.ENOENT, errno.ESRCH, errno.ENODEV}
Messages = Callable[[Change], Iterator[Message]]


def apply(netlink: Netlink, program: Program, messages: Messages, only: Collection[Key] | None = None) -> list[Change]:
    """One batch (or these keys); the changes that were made. What fails stays as it was, with the reason."""
    sending: list[Message] = []
    spans: list[tuple[Change, int, int]] = []
    for change in program.take(BATCH if only is None else len(only), only):
        start = len(sending)
        sending += messages(change)
        spans.append((change, start, len(sending)))
    answers = vxlan.send(netlink, sending)
    made = []
    for change, start, end in spans:
        reason = _refusal(change, answers[start:end])
        if reason:
            program.failed(change, f"{change.key.what} {change.key.name}: {reason}")
            log.warning("%s", program.failures[change.key])
        else:
            program.done(change)
            made.append(change)
    return made


def _refusal(change: Change, answers: list[bytes | NetlinkError]) -> str:
    """Why the change was not made, "" if it was: that what is to go has gone already is success."""
    for place, answer in enumerate(answers):
        makes = change.new is not None and place == len(answers) - 1
        if isinstance(answer, NetlinkError) and (makes or answer.errno not in _GONE):
            return str(answer.strerror)
    return ""


def in_segment(segment: Segment) -> Messages:
    """The messages of a VNI's changes. If something is made, the last message makes it."""

    def messages(change: Change) -> Iterator[Message]:
        key, old, new = change.key, change.old, change.new
        if key.what == "neighbour":
            if isinstance(new, At):
                yield vxlan.neighbour_message(segment.bridge_index, key.name, new.mac)
            else:
                yield vxlan.forget_neighbour_message(segment.bridge_index, key.name)
        elif key.what == "flood":
            if isinstance(old, Remote):
                yield vxlan.forget_flood_message(segment.device, old.vtep, old.vni)
            if isinstance(new, Remote):
                yield vxlan.flood_message(segment.device, new.vtep, new.vni)
        else:
            yield from _forwarding(segment.device, change)

    return messages


def _forwarding(device: int, change: Change) -> Iterator[Message]:
    mac, old, new = change.key.name, change.old, change.new
    if isinstance(old, Local):
        yield from vxlan.forget_local_messages(old.port, mac)
    elif isinstance(old, Remote) and (not isinstance(new, Remote) or new.vni != old.vni):
        yield from vxlan.forget_remote_messages(device, mac)
    if isinstance(new, Local):
        yield from vxlan.local_messages(new.port, mac)
    elif isinstance(new, Remote):
        yield from vxlan.remote_messages(device, mac, new.vtep, new.vni)


def in_table(change: Change, table: int = routes.MAIN) -> Iterator[Message]:
    """The messages of a table's routes. One of somebody else's with the same prefix and metric is not replaced."""
    prefix, old, new = change.key.name, change.old, change.new
    if isinstance(new, Via):
        message = routes.replace_message if isinstance(old, Via) else routes.add_message
        yield message(routes.Route(prefix, new.gateway, new.device, new.label), table)
    elif isinstance(old, Via):
        yield routes.delete_message(routes.Route(prefix, old.gateway, old.device, old.label), table)


def in_vrf(instance: Vrf) -> Messages:
    """The messages of a VRF's changes: its routes, the routers they lead through, the label that leads to it."""

    def messages(change: Change) -> Iterator[Message]:
        key, old, new = change.key, change.old, change.new
        if key.what == "route":
            yield from in_table(change, instance.link.table)
        elif key.what == "label":
            if isinstance(old, Via):
                yield routes.label_message(int(key.name), old.device, make=False)
            if isinstance(new, Via):
                yield routes.label_message(int(key.name), new.device, make=True)
        elif key.what == "neighbour":
            if isinstance(new, At):
                yield vxlan.neighbour_message(instance.device, key.name, new.mac)
            else:
                yield vxlan.forget_neighbour_message(instance.device, key.name)
        elif isinstance(new, Remote):
            yield vxlan.router_message(instance.device, key.name, new.vtep)
        else:
            yield vxlan.forget_router_message(instance.device, key.name)

    return messages
