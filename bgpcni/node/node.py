"""What a node has, and the steps that more than one command takes: announce, take back, dismantle, finish.

The order of the steps of ADD and DEL is in `transaction`.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bgpcni import clock
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.convergence.derive import derive
from bgpcni.dataplane.claims import Claims
from bgpcni.errors import AlreadyAttached, InvalidConfiguration, IoFailure, TryAgain
from bgpcni.exporter import NotThereYet
from bgpcni.kernel import vrf
from bgpcni.kernel.frames import Herald
from bgpcni.kernel.namespace import Namespace, boot_id
from bgpcni.kernel.netlink import Netlink
from bgpcni.kernel.reaper import Reaper
from bgpcni.model import Attachment, AttachmentKey, NodeFacts, State
from bgpcni.node import boots, interface, plan
from bgpcni.node.addressing import Addressing
from bgpcni.node.request import Request
from bgpcni.numbers import vrf_name
from bgpcni.store import Store
from bgpcni.undo import Undo

if TYPE_CHECKING:
    from bgpcni.dataplane.dataplane import DataPlane

log = logging.getLogger(__name__)
LOCK_SECONDS = 30.0
CONFIRM_SECONDS = 2.0


class Node:
    """One node's attachments. Safe for threads; the same for the agent and for a call without one."""

    def __init__(self, store: Store, agent: AgentConfig, facts: NodeFacts, convergence: Convergence) -> None:
        self.store = store
        self.agent = agent
        self.facts = facts
        self.convergence = convergence
        self.boot_id = boot_id()
        self.addressing = Addressing(store)
        self.by_link: dict[int, AttachmentKey] = {}
        """Attachments by the index of their root-side link: who it is that vanishes."""
        self.namespaces: dict[AttachmentKey, int] = {}
        """The nsid of the container, of each attachment that has no root-side link."""
        self.drained = False
        self.herald = Herald()
        self.reaper = Reaper()
        self.claims = Claims(self._claimed)
        self.dataplane: DataPlane | None = None
        """What is done with learned routes: the agent's, None in a call without one."""
        self.outdated: Callable[[AttachmentKey], None] = lambda key: None
        """Told of an attachment whose exporters are not those of the configuration of now: a reload came in between."""
        self.postponed: Callable[[AttachmentKey], None] = lambda key: None
        """Told of an attachment that the disk does not let go: to be finished later. Without an agent the next call
        does it."""
        self._thread = threading.local()

    @property
    def resident(self) -> bool:
        return self.convergence.resident

    @property
    def netlink(self) -> Netlink:
        """The calling thread's socket in the node's namespace."""
        found: Netlink | None = getattr(self._thread, "netlink", None)
        if found is None:
            found = self._thread.netlink = Netlink.open()
        return found

    def _claimed(self) -> Iterator[Attachment]:
        """The attachments that hold a bridge and a VNI, by their records."""
        for stored in self.store.all():
            if stored.attachment is not None and stored.state is not State.LEAVING:
                yield stored.attachment

    def shares_bridge(self, attachment: Attachment) -> bool:
        """Whether another attachment is, or may be, on the same bridge, in whatever state it is."""
        others = (s.attachment for s in self.store.all() if s.attachment is None or s.attachment.key != attachment.key)
        return any(other is None or other.bridge == attachment.bridge for other in others)

    def begin(self, request: Request, space: Namespace, warnings: list[str]) -> Attachment:
        """An attachment as every ADD begins it: whose it is, in which namespace, what is announced through whom."""
        routing = self.routing(request, warnings)
        return Attachment(
            boot_id=self.boot_id,
            network=request.name,
            container_id=request.environment.container_id,
            ifname=request.environment.ifname,
            netns=request.environment.netns,
            cookie=space.cookie,
            cni_version=request.version,
            bgp=routing.bgp,
            exporters=routing.exporters,
            asked=plan.asked_of(request.settings),
            created=clock.now(),
        )

    def announce(self, attachment: Attachment, undo: Undo) -> Attachment:
        """Behind a working data path only: the record goes up, then the routes go out, at `wake`.

        In a call the other way round, since nobody would go on with what a kill cuts short; `since` in a record that
        is not up says that routes may be out.
        """
        reason = interface.reach(self.netlink, attachment)
        if attachment.exporters:
            self.refuse_unannounceable(attachment)
            if reason and (attachment.bgp.family == "unicast" or attachment.bgp.table is not None):
                raise InvalidConfiguration(reason)
        mobility = 0
        if self.dataplane is not None and attachment.exporters:
            mobility = self.dataplane.sequence(attachment)
            undo.push("the data path", functools.partial(self.dataplane.detach, attachment))
            self.dataplane.attach(attachment)
        attachment = attachment.model_copy(update={"since": clock.now(), "mobility": mobility})
        told_first = bool(attachment.exporters) and not self.resident
        self.store.put(State.ADDING if told_first else State.UP, attachment)
        self.remember(attachment)
        if attachment.exporters:
            undo.push("the announcement", lambda: self.convergence.leave(attachment))
            try:
                self.convergence.want(attachment, wake=False)
            except NotThereYet as error:
                raise TryAgain(str(error)) from None
            self._refuse_address_twice(attachment)
        if told_first:
            self.store.put(State.UP, attachment)
        if self.resident and attachment.exporters != plan.exporters_now(
            attachment.network, attachment.asked, self.agent, resident=True
        ):
            self.outdated(attachment.key)
        return attachment

    def _refuse_address_twice(self, attachment: Attachment) -> None:
        """Two networks whose ranges overlap on one bridge, say. Asked when it is wanted: of two at once one sees it."""
        for nlri, other in self.convergence.rivals(attachment):
            raise InvalidConfiguration(f"ipam: {nlri} leads to {other} on this node already")
        for address, other in self.dataplane.rivals(attachment) if self.dataplane is not None else ():
            raise InvalidConfiguration(f"ipam: {address} is that of {other} in VNI {attachment.bgp.vni} already")

    def enter_vrf(self, attachment: Attachment, undo: Undo) -> tuple[Attachment, vrf.Device | None]:
        """The VRF it asks for, made if need be, with the table that it has; None if it has none."""
        if self.dataplane is None or attachment.bgp.table is None:
            return attachment, None
        undo.push("the VRF", functools.partial(self.dataplane.leave, attachment))
        found = self.dataplane.enter(attachment)
        intent = attachment.bgp.model_copy(update={"table": found.table})
        return attachment.model_copy(update={"bgp": intent}), found

    def refuse_unannounceable(self, attachment: Attachment) -> None:
        """A next hop that is missing, or a family that an exporter does not know, before the record says "up"."""
        families = {route.nlri.family for route in derive(attachment, self.facts)}
        for use in attachment.exporters:
            unknown = families - catalog.load(use.type).families
            if unknown:
                raise InvalidConfiguration(f"exporters: {use.name} cannot announce {', '.join(sorted(unknown))}")

    def remember(self, attachment: Attachment) -> None:
        """Watch the link of an attachment that is up, or its namespace."""
        if attachment.host_index:
            self.by_link[attachment.host_index] = attachment.key
        elif attachment.nsid is not None:
            self.namespaces[attachment.key] = attachment.nsid

    def forget(self, attachment: Attachment) -> None:
        """It is going, or gone: nothing about it is news any more."""
        self.by_link.pop(attachment.host_index or 0, None)
        self.namespaces.pop(attachment.key, None)

    def routing(self, request: Request, warnings: list[str]) -> plan.Routing:
        """What is announced through whom, each exporter loaded and its configuration validated."""
        number = 0 if plan.family_of(request.settings) == "unicast" else self.store.number_of(request.name)
        routing = plan.routing(request, self.agent, self.facts, number, resident=self.resident)
        warnings += routing.warnings
        self.refuse_exporters(routing)
        for use in routing.exporters:
            if not catalog.load(use.type).targets_per_route and plan.has_own_targets(request):
                raise InvalidConfiguration(
                    f"args: no route targets for one attachment with {use.name}: route targets are the VPN's there"
                )
        if not routing.exporters:
            return routing
        imports = {use.name: catalog.load(use.type).imports for use in routing.exporters}
        vrf = None
        if routing.bgp.vrf is not None:
            lacking = "agent" if self.dataplane is None else self.dataplane.lacking(routing.bgp.family)
            vrf = plan.VrfHere(self.store.number_of(vrf_name(routing.bgp.vrf)), lacking)
        intent, more = plan.forwarded(request.settings, routing.bgp, imports, vrf)
        warnings += more
        return replace(routing, bgp=intent)

    def refuse_exporters(self, routing: plan.Routing) -> None:
        """Raises InvalidConfiguration for an exporter that cannot be used here: not installed, misconfigured, …"""
        self.convergence.refuse_rivals(routing.exporters)
        for place, use in enumerate(routing.exporters):
            kind = catalog.load(use.type)
            if kind.needs_agent and not self.resident:
                raise InvalidConfiguration(f"exporters: {use.name} needs the agent: start bgpcni agent")
            if reason := catalog.objection(use, self.facts, f"exporters[{place}]"):
                raise InvalidConfiguration(f"exporters: {use.name}: {reason}")

    def clear_the_way(self, key: AttachmentKey) -> Attachment | None:
        """Before an ADD: an attachment that is up is error 100; what a kill or an earlier DEL left is finished.

        Returns the earlier attachment where its withdrawal is not confirmed: its addresses may be had again by
        this container alone.
        """
        stored = self.store.find(key)
        if stored is None:
            return None
        if stored.attachment is None:
            raise IoFailure(f"{stored.problem}; DEL removes it")
        if stored.state is State.UP and boots.lives(self, stored.attachment):
            raise AlreadyAttached(f"{key} is attached already, since {stored.attachment.since}")
        gone = self.dismantle(stored.attachment, time.monotonic() + CONFIRM_SECONDS)
        return None if gone else stored.attachment

    def take_back(self, attachment: Attachment, undo: Undo, held: Attachment | None = None) -> None:
        """The last undo step: addresses and record go; both stay where a withdraw is pending, or a step failed.

        `held`: what the container had before, whose record the one of this ADD replaced: it is held again.
        """
        if held is not None:
            self.store.put(State.LEAVING, held)
            self.convergence.leave(held)
            return
        if undo.failed or self.convergence.is_leaving(attachment.key):
            self.store.move(attachment, State.LEAVING)
            return
        try:
            self.finish(attachment)
        except BaseException:
            self.store.move(attachment, State.LEAVING)
            raise

    def dismantle(self, attachment: Attachment, deadline: float, warnings: list[str] | None = None) -> bool:
        """Withdraw, remove the link, and once confirmed let addresses and record go; False: they are held.

        Idempotent: it also finishes what an earlier call, or another life, began. The attachment's lock is held
        by the caller. Where the disk does not let them go, `warnings` has why, and it is tried again by itself;
        IoFailure is raised only where nobody could tell later that it was to be taken away.
        """
        key = attachment.key
        self.forget(attachment)
        marked = self.store.move(attachment, State.LEAVING)
        convergence = self.convergence  # after the record: one that a reload puts in its place reads that
        convergence.leave(attachment)
        if attachment.bgp.drain_seconds and convergence.wait_confirmed(key, deadline):
            time.sleep(attachment.bgp.drain_seconds)  # the peers move their traffic away before the link goes
        interface.remove(self.netlink, self.reaper, attachment)
        self.disconnect(attachment)
        evident = marked or not attachment.chained  # a record that is up tells by the link that is gone
        if attachment.exporters and not convergence.wait_confirmed(key, deadline):
            if not evident:
                raise IoFailure(f"{key}: its record cannot be moved: {self.store.unwritable() or 'the disk refuses'}")
            if not marked:
                self.postponed(key)
            return False
        try:
            self.finish(attachment)
        except IoFailure as error:
            if not evident:
                raise
            if warnings is not None:
                warnings.append(f"routes and link are gone; the rest goes when the disk can be written: {error.msg}")
            self.postponed(key)
            return False
        return True

    def disconnect(self, attachment: Attachment) -> None:
        """Its link is gone: so is its part of what connects this node with others. Idempotent."""
        self.claims.drop(attachment.key)
        if self.dataplane is not None:
            self.dataplane.detach(attachment)
            self.dataplane.leave(attachment)

    def finish(self, attachment: Attachment) -> None:
        """The withdrawal is confirmed: addresses go back, then the record goes."""
        self.disconnect(attachment)
        self.addressing.release(attachment)
        self.store.drop(attachment.key)
