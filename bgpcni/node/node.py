"""What a node has, and the steps that more than one kind of ADD takes: begin, enter the VRF, announce.

The order of the steps of ADD is in `transaction`; how an attachment ends is in `next_step`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from bgpcni import clock
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.convergence.derive import derive
from bgpcni.dataplane.claims import Claims
from bgpcni.errors import InvalidConfiguration, TryAgain
from bgpcni.exporter import NotThereYet
from bgpcni.kernel import vrf
from bgpcni.kernel.frames import Herald
from bgpcni.kernel.namespace import Namespace, boot_id
from bgpcni.kernel.netlink import Netlink
from bgpcni.kernel.reaper import Reaper
from bgpcni.model import Attachment, AttachmentKey, NodeFacts, State
from bgpcni.node import interface, plan
from bgpcni.node.addressing import Addressing
from bgpcni.node.failures import Failures
from bgpcni.node.keys import asked_by
from bgpcni.node.made import MadeOfBridges
from bgpcni.node.numbers import NumbersInUse
from bgpcni.node.request import Request, pod_of
from bgpcni.node.seen import Seen
from bgpcni.nudges import Nudges
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

    def __init__(
        self,
        store: Store,
        agent: AgentConfig,
        facts: NodeFacts,
        convergence: Convergence,
        nudges: Nudges,
        dataplane: DataPlane | None = None,
        amiss: Mapping[str, str] | None = None,
    ) -> None:
        """`dataplane`: what is done with learned routes; None in a call without an agent. `amiss`: what the agent looks
        after by itself and could not mend, by its code in `status`."""
        self.store = store
        self.agent = agent
        self.facts = facts
        self.convergence = convergence
        self.nudges = nudges
        self.dataplane = dataplane
        self.amiss = {} if amiss is None else amiss
        self.boot_id = boot_id()
        self.addressing = Addressing(store, resident=convergence.resident)
        self.numbers = NumbersInUse(store, resident=convergence.resident)
        self.made = MadeOfBridges(store)
        self.by_link: dict[int, AttachmentKey] = {}
        """Attachments by the index of their root-side link: who it is that vanishes."""
        self.namespaces: dict[AttachmentKey, int] = {}
        """The nsid of the container, of each attachment that has no root-side link."""
        self.drained = False
        self.failures = Failures()
        self.herald = Herald()
        self.reaper = Reaper()
        self.claims = Claims(self._claimed)
        self.seen: dict[AttachmentKey, Seen] = {}
        """What the reconciler remembers of attachments that are not simply up."""
        self.handed_over = 0
        """How often the reconciler took an exporter out of a record, or gave it up: perhaps nobody needs it now."""
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

    def take_bridge_away(self, attachment: Attachment) -> None:
        """Its ADD failed, and its record is gone: what was made of its bridge goes too, if nobody else is on it."""
        if attachment.bridge and not attachment.chained:
            self.made.take_away(self.netlink, attachment.bridge, lambda: self.shares_bridge(attachment))

    def peers(self) -> set[str]:
        """Addresses of this node's BGP peers: those of agent.toml, and those that another speaker told routes of."""
        told = self.dataplane.peers() if self.dataplane is not None else set[str]()
        return told | {neighbor.address for neighbor in self.facts.neighbors}

    def begin(self, request: Request, space: Namespace, warnings: list[str], undo: Undo) -> Attachment:
        """An attachment as every ADD begins it: whose it is, in which namespace, what is announced through whom."""
        plan.refuse_wishes(self.agent.policy, request)
        warnings += request.annotations.warnings
        routing = self.routing(request, warnings, undo)
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
            pod=pod_of(request.environment.args),
            created=clock.now(),
        )

    def announce(self, attachment: Attachment, held: Attachment | None = None) -> Attachment:
        """Behind a working data path only: the record goes up, then the routes go out, at `wake`.

        In a call the other way round, since nobody would go on with what a kill cuts short; `since` in a record that
        is not up says that routes may be out. `held`: what the same container had before and is not withdrawn yet; its
        exporters stay in the record until they have. Raises CniError, and then the caller takes everything back.
        """
        self.refuse_drained()  # its record is written by now: either we see the drain here, or the drain sees that
        if self.dataplane is not None:
            self.dataplane.shield(attachment)
        reason = interface.reach(self.netlink, attachment)
        self.claims.take(attachment)
        if attachment.exporters:
            self.refuse_unannounceable(attachment)
            if reason and (attachment.bgp.family == "unicast" or attachment.bgp.table is not None):
                raise InvalidConfiguration(reason)
        mobility = 0
        if self.dataplane is not None and attachment.exporters:
            mobility = self.dataplane.sequence(attachment)
            self.dataplane.attach(attachment)
        attachment = attachment.model_copy(update={"since": clock.now(), "mobility": mobility})
        told_first = bool(attachment.exporters) and not self.resident
        recorded = attachment if held is None else owing(attachment, held)
        self.store.put(State.ADDING if told_first else State.UP, recorded)
        self.remember(attachment)
        if attachment.exporters:
            try:
                self.convergence.want(attachment, wake=False)
            except NotThereYet as error:
                raise TryAgain(str(error)) from None
            self._refuse_address_twice(attachment)
        if told_first:
            self.store.put(State.UP, recorded)
        target = plan.exporters_now(attachment.network, attachment.asked, self.agent, resident=self.resident)
        if self.resident and recorded.exporters != target:  # a reload came in between, or it had others before
            self.nudges.nudge(attachment.key)
        return attachment

    def by_names_of_now(self, attachment: Attachment) -> Attachment:
        """An exporter that agent.toml only calls by another name now is the same."""
        if not self.resident:
            return attachment
        names = catalog.counterparts(attachment.exporters, plan.configured(self.agent), self.facts)
        return attachment if names == attachment.exporters else attachment.model_copy(update={"exporters": names})

    def refuse_drained(self) -> None:
        """Raises TryAgain where nothing is announced any more."""
        if self.drained:
            raise TryAgain("this node is drained: nothing is announced until bgpcni agent is started again")

    def settle(self, attachment: Attachment) -> None:
        """Its addresses are nobody else's on its bridge, before anything is built with them.

        A call without an agent reads the records only where a lease of another network says that it may be so.
        """
        if self.resident or self.addressing.is_leased_elsewhere(attachment):
            self.claims.settle(attachment)

    def _refuse_address_twice(self, attachment: Attachment) -> None:
        """Two networks whose ranges overlap on one bridge, say. Asked when it is wanted: of two at once one sees it."""
        for nlri, other in self.convergence.rivals(attachment):
            raise InvalidConfiguration(f"ipam: {nlri} leads to {other} on this node already")
        for address, other in self.dataplane.rivals(attachment) if self.dataplane is not None else ():
            raise InvalidConfiguration(f"ipam: {address} is that of {other} in VNI {attachment.bgp.vni} already")

    def enter_vrf(self, attachment: Attachment) -> tuple[Attachment, vrf.Device | None]:
        """The VRF it asks for, made if need be, with the table that it has; None if it has none."""
        if self.dataplane is None or attachment.bgp.table is None:
            return attachment, None
        with asked_by():
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

    def routing(self, request: Request, warnings: list[str], undo: Undo) -> plan.Routing:
        """What is announced through whom, each exporter loaded and its configuration validated."""
        agent = self.agent  # of two, where a reload comes in between, the one that planned
        number = 0 if plan.family_of(request.settings) == "unicast" else self.numbers.of(request.name, undo)
        routing = plan.routing(request, agent, self.facts, number, resident=self.resident)
        warnings += routing.warnings
        self.refuse_exporters(routing, agent)
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
            vrf = plan.VrfHere(self.numbers.of(vrf_name(routing.bgp.vrf), undo), lacking)
        intent, more = plan.forwarded(request.settings, routing.bgp, imports, vrf)
        warnings += more
        return replace(routing, bgp=intent)

    def refuse_exporters(self, routing: plan.Routing, agent: AgentConfig) -> None:
        """Raises InvalidConfiguration for an exporter that cannot be used here: not installed, misconfigured, …

        Rivals among those of agent.toml were refused when it was read.
        """
        known = plan.configured(agent)
        if not all(use in known for use in routing.exporters):
            self.convergence.refuse_rivals(routing.exporters)
        for place, use in enumerate(routing.exporters):
            kind = catalog.load(use.type)
            if kind.needs_agent and not self.resident:
                raise InvalidConfiguration(f"exporters: {use.name} needs the agent: start bgpcni agent")
            if use.name not in (use.type, *self.agent.exporters) and catalog.source(use, "") is not None:
                raise InvalidConfiguration(
                    f"exporters: {use.name} would be one more {use.type} with the neighbours of this node: name one of "
                    "agent.toml"
                )
            if reason := catalog.objection(use, self.facts, f"exporters[{place}]"):
                raise InvalidConfiguration(f"exporters: {use.name}: {reason}")

    def disconnect(self, attachment: Attachment) -> None:
        """Its link is gone: so is its part of what connects this node with others. Idempotent."""
        self.claims.drop(attachment.key)
        if self.dataplane is not None:
            self.dataplane.detach(attachment)
            self.dataplane.leave(attachment)


def owing(attachment: Attachment, held: Attachment) -> Attachment:
    """The attachment, also with the exporters that an earlier one of the same container has to be withdrawn through."""
    more = tuple(use for use in held.exporters if use not in attachment.exporters)
    return attachment.model_copy(update={"exporters": (*attachment.exporters, *more)})
