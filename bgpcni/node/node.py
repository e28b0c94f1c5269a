"""The parts of a node, and the steps that more than one kind of ADD takes: begin, enter the VRF, announce.

The order of the steps of ADD is in `transaction`; how an attachment ends is in `next_step`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bgpcni import clock
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.convergence.derive import derive
from bgpcni.dataplane.claims import Claims
from bgpcni.errors import InvalidConfiguration, TryAgain
from bgpcni.events import Events, Kind
from bgpcni.exporter import NotThereYet
from bgpcni.kernel import vrf
from bgpcni.kernel.frames import Herald
from bgpcni.kernel.namespace import Namespace, boot_id
from bgpcni.kernel.netlink import Netlink
from bgpcni.kernel.reaper import Reaper
from bgpcni.model import Attachment, AttachmentKey, ExporterUse, NodeFacts, State
from bgpcni.node import intent, interface, plan
from bgpcni.node.addressing import Addressing
from bgpcni.node.failures import Failures
from bgpcni.node.health import Checks, NoChecks
from bgpcni.node.intent import NoPolicies, Policies
from bgpcni.node.keys import asked_by
from bgpcni.node.made import MadeOfBridges
from bgpcni.node.numbers import NumbersInUse
from bgpcni.node.request import Request, pod_of
from bgpcni.node.seen import Seen
from bgpcni.node.shared import SharedAddresses
from bgpcni.nudges import Nudges
from bgpcni.numbers import vrf_name
from bgpcni.store import Store
from bgpcni.undo import Undo

if TYPE_CHECKING:
    from bgpcni.cluster.pools import Pools
    from bgpcni.dataplane.dataplane import DataPlane

log = logging.getLogger(__name__)
LOCK_SECONDS = 30.0
CONFIRM_SECONDS = 2.0


class Node:
    """One node with its attachments. Safe for threads; the same in the agent and in a call without one."""

    def __init__(
        self,
        store: Store,
        agent: AgentConfig,
        facts: NodeFacts,
        convergence: Convergence,
        nudges: Nudges,
        dataplane: DataPlane | None = None,
        amiss: Mapping[str, str] | None = None,
        events: Events | None = None,
        pools: Pools | None = None,
        policies: Policies | None = None,
        health: Checks | None = None,
    ) -> None:
        """`dataplane`: puts learned routes into the kernel; None in a call without an agent. `amiss`: problems that the
        agent found by itself and could not repair, by their code in `status`. `events`: told what becomes of
        attachments; None in a call without an agent. `pools`, `policies`: the cluster's addresses and policies.
        `health`: the health checks of services."""
        self.store = store
        self.agent = agent
        self.facts = facts
        self.convergence = convergence
        self.nudges = nudges
        self.dataplane = dataplane
        self.amiss = {} if amiss is None else amiss
        self.events = events or Events(0)
        self.policies = policies or NoPolicies()
        self.health = health or NoChecks()
        self.boot_id = boot_id()
        self.pools = pools
        self.addressing = Addressing(store, resident=convergence.resident, pools=pools)
        self.numbers = NumbersInUse(store, resident=convergence.resident)
        self.made = MadeOfBridges(store)
        self.by_link: dict[int, AttachmentKey] = {}
        """Attachments by the index of their root-side link, to know whose link has been deleted."""
        self.namespaces: dict[AttachmentKey, int] = {}
        """The nsid of the container, for each attachment that has no root-side link."""
        self.drained = False
        self.maintenance: Mapping[str, str] = {}
        """Who asks that peers prefer other paths, and since when."""
        self.failures = Failures()
        self.herald = Herald()
        self.reaper = Reaper()
        self.claims = Claims(self._claimed)
        self.shared = SharedAddresses()
        self.seen: dict[AttachmentKey, Seen] = {}
        """What the reconciler remembers of attachments that are not simply up."""
        self.handed_over = 0
        """How often the reconciler removed an exporter from a record, or stopped waiting for it: it may be unused
        now."""
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
        """The attachments that, by their records, occupy a bridge and a VNI."""
        for stored in self.store.all():
            if stored.attachment is not None and stored.state is not State.LEAVING:
                yield stored.attachment

    def shares_bridge(self, attachment: Attachment) -> bool:
        """Whether another attachment is, or may be, on the same bridge, in whatever state it is."""
        others = (s.attachment for s in self.store.all() if s.attachment is None or s.attachment.key != attachment.key)
        return any(other is None or other.bridge == attachment.bridge for other in others)

    def remove_bridge(self, attachment: Attachment) -> None:
        """Its ADD failed and its record is deleted: remove what was made for its bridge if nobody else is on that."""
        if attachment.bridge and not attachment.chained:
            self.made.remove(self.netlink, attachment.bridge, lambda: self.shares_bridge(attachment))

    def peers(self) -> set[str]:
        """Addresses of this node's BGP peers: those of agent.toml, and those from which another speaker learned
        routes."""
        told = self.dataplane.peers() if self.dataplane is not None else set[str]()
        return told | {neighbor.address for neighbor in self.facts.neighbors}

    def begin(self, request: Request, space: Namespace, warnings: list[str], undo: Undo) -> Attachment:
        """The attachment with which every ADD begins: its key, its namespace, what is announced and by which
        exporters."""
        plan.refuse_wishes(self.agent.policy, request)
        warnings += request.annotations.warnings
        routing = self.routing(request, warnings, undo)
        planned = Attachment(
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
            labels=request.settings.args.cni.labels,
            own_export_rt=plan.has_own_export_rt(request),
            anycast=plan.anycast_of(request, routing, self.agent, resident=self.resident),
            created=clock.now(),
        )
        return self.revised(planned) if routing.exporters else planned

    def revised(self, attachment: Attachment) -> Attachment:
        """The attachment with what agent.toml, the cluster's policies and its health check say now; the same one if
        nothing changes."""
        table = self.agent.networks.get(attachment.network)
        found = intent.revised(attachment, table, self.policies.of(attachment))
        if found.anycast is not None and (passing := self.health.passing(found)) != found.anycast.passing:
            anycast = found.anycast.model_copy(update={"passing": passing})
            found = found.model_copy(update={"anycast": anycast})
        return found

    def is_outdated(self, attachment: Attachment) -> bool:
        """Whether it should be announced with something else by now. A call without an agent changes nothing."""
        return self.resident and bool(attachment.exporters) and self.revised(attachment) is not attachment

    def revise(self, attachment: Attachment) -> Attachment:
        """Change what a running container is announced with. Raises CniError; then it is tried again.

        First it is imported what is to be, then the record says it; the reconciler announces it after that.
        """
        found = self.revised(attachment)
        if found is attachment:
            return attachment  # it has changed back meanwhile
        if self.dataplane is not None and found.bgp.import_rt != attachment.bgp.import_rt:
            self.dataplane.attach(found)
        self.shared.set(self.netlink, found)
        self.store.put(State.UP, found)
        if found.anycast != attachment.anycast:
            self._tell_health(found)
        if found.model_copy(update={"anycast": attachment.anycast}) != attachment:
            log.info("%s: %s", found.title, intent.difference(attachment, found), extra=found.fields)
        return found

    def _tell_health(self, attachment: Attachment) -> None:
        assert attachment.anycast is not None
        kind = Kind.SERVICE_UP if attachment.anycast.passing else Kind.SERVICE_DOWN
        what = f"{', '.join(attachment.anycast.addresses)}: {self.health.words(attachment)}"
        self.events.about(kind, attachment, what)

    def announce(self, attachment: Attachment, held: Attachment | None = None) -> Attachment:
        """Announce an attachment whose data path works: move its record to `up`; the routes are sent at `wake`.

        A call without an agent announces first and moves the record then, because nobody would finish what a kill cuts
        short; `since` in a record that is not `up` says that routes may be announced. `held`: the same container's
        earlier attachment that is not withdrawn yet; its exporters stay in the record until it is. Raises CniError;
        the caller then undoes everything.
        """
        self.refuse_drained()  # our record is written: we see the drain, or the drain sees it
        if self.dataplane is not None:
            self.dataplane.shield(attachment)
        reason = interface.reach(self.netlink, attachment)
        self.claims.take(attachment)
        if attachment.exporters:
            self.refuse_unannounceable(attachment)
            if reason and (attachment.bgp.family == "unicast" or attachment.bgp.table is not None):
                raise InvalidConfiguration(reason)
        self.shared.set(self.netlink, attachment)
        mobility = 0
        if self.dataplane is not None and attachment.exporters:
            mobility = self.dataplane.sequence(attachment)
            self.dataplane.attach(attachment)
        attachment = attachment.model_copy(update={"since": clock.now(), "mobility": mobility})
        told_first = bool(attachment.exporters) and not self.resident
        recorded = attachment if held is None else self.owing(attachment, held)
        self.store.put(State.ADDING if told_first else State.UP, recorded)
        self.remember(attachment)
        if attachment.exporters:
            try:
                self.convergence.want(attachment, wake=False)
            except NotThereYet as error:
                raise TryAgain(str(error)) from None
            with self._conflicts(attachment):
                self._refuse_address_twice(attachment)
        if told_first:
            self.store.put(State.UP, recorded)
        target = plan.exporters_now(attachment.network, attachment.asked, self.agent, resident=self.resident)
        changed = recorded.exporters != target or self.is_outdated(attachment)
        if self.resident and changed:  # by a reload, a policy, or an earlier attachment
            self.nudges.nudge(attachment.key)
        return attachment

    def by_names_of_now(self, attachment: Attachment, configured: Collection[ExporterUse] | None = None) -> Attachment:
        """An exporter that agent.toml only calls by another name now is the same. `configured`: all of agent.toml."""
        if not self.resident:
            return attachment
        known = plan.configured(self.agent) if configured is None else configured
        names = catalog.counterparts(attachment.exporters, known, self.facts)
        return attachment if names == attachment.exporters else attachment.model_copy(update={"exporters": names})

    def owing(self, attachment: Attachment, held: Attachment) -> Attachment:
        """The attachment, with the exporters added that still have to withdraw an earlier one of the same container.

        A reload may have come between the two. Both get the names of now first, because two names in one record stand
        for two speakers: one of them would then withdraw what the other announces.
        """
        configured = plan.configured(self.agent)
        now, before = (self.by_names_of_now(one, configured).exporters for one in (attachment, held))
        return attachment.model_copy(update={"exporters": (*now, *(use for use in before if use not in now))})

    def refuse_drained(self) -> None:
        """Raises TryAgain if this node has been drained."""
        if self.drained:
            raise TryAgain("this node is drained: nothing is announced until bgpcni agent is started again")

    def settle(self, attachment: Attachment) -> None:
        """Claim its addresses on its bridge before anything is made with them. Raises CniError if another one has them.

        A call without an agent reads the records only if another network has a lease for one of the addresses.
        """
        if self.resident or self.addressing.is_leased_elsewhere(attachment):
            with self._conflicts(attachment):
                self.claims.settle(attachment)

    @contextmanager
    def _conflicts(self, attachment: Attachment) -> Iterator[None]:
        """Within this an InvalidConfiguration says that another attachment has what this one would use."""
        try:
            yield
        except InvalidConfiguration as error:
            self.events.about(Kind.CONFLICT, attachment, error.msg)
            raise

    def _refuse_address_twice(self, attachment: Attachment) -> None:
        """Raises InvalidConfiguration if another attachment has one of its addresses, as with overlapping ranges of two
        networks. Called after its routes were registered, so that of two simultaneous ADDs at least one sees the other.
        """
        for nlri, other in self.convergence.rivals(attachment):
            raise InvalidConfiguration(f"ipam: {nlri} leads to {other} on this node already")
        for address, other in self.dataplane.rivals(attachment) if self.dataplane is not None else ():
            raise InvalidConfiguration(f"ipam: {address} is already used by {other} in VNI {attachment.bgp.vni}")

    def enter_vrf(self, attachment: Attachment) -> tuple[Attachment, vrf.Device | None]:
        """The attachment with the table of the VRF that it asks for, and that VRF, made if need be. None: no VRF."""
        if self.dataplane is None or attachment.bgp.table is None:
            return attachment, None
        with asked_by():
            found = self.dataplane.enter(attachment)
        bgp = attachment.bgp.model_copy(update={"table": found.table})
        return attachment.model_copy(update={"bgp": bgp}), found

    def refuse_unannounceable(self, attachment: Attachment) -> None:
        """Raises InvalidConfiguration for a missing next hop or a family that an exporter does not know.

        This has to be called before the record is moved to `up`.
        """
        families = {route.nlri.family for route in derive(attachment, self.facts)}
        for use in attachment.exporters:
            unknown = families - catalog.load(use.type).families
            if unknown:
                raise InvalidConfiguration(f"exporters: {use.name} cannot announce {', '.join(sorted(unknown))}")

    def attached(self) -> set[AttachmentKey]:
        """The attachments that are up."""
        return {*list(self.by_link.values()), *list(self.namespaces)}

    def remember(self, attachment: Attachment) -> None:
        """Watch the link of an attachment that is up, or its namespace; and what policies say of it."""
        self.events.remember(attachment)
        self.policies.remember(attachment)
        self.health.remember(attachment)
        if attachment.host_index:
            self.by_link[attachment.host_index] = attachment.key
        elif attachment.nsid is not None:
            self.namespaces[attachment.key] = attachment.nsid

    def forget(self, attachment: Attachment) -> None:
        """Stop watching an attachment that ends."""
        self.policies.forget(attachment.key)
        self.health.forget(attachment.key)
        self.by_link.pop(attachment.host_index or 0, None)
        self.namespaces.pop(attachment.key, None)

    def routing(self, request: Request, warnings: list[str], undo: Undo) -> plan.Routing:
        """What is announced and by which exporters. Each exporter is loaded and its configuration validated."""
        agent = self.agent  # the same one throughout: a reload may come in between
        number = 0 if plan.family_of(request.settings) == "unicast" else self.numbers.of(request.name, undo)
        routing = plan.routing(request, agent, self.facts, number, resident=self.resident)
        warnings += routing.warnings
        self.refuse_exporters(routing, agent)
        for use in routing.exporters:
            if not catalog.load(use.type).targets_per_route and plan.has_own_targets(request):
                raise InvalidConfiguration(
                    f"args: {use.name} cannot set route targets for one attachment: there they belong to the VPN"
                )
            asked = plan.uncarried(routing.bgp, catalog.load(use.type).carries)
            warnings += [f"bgp.{key}: {use.name} cannot announce it" for key in asked]
        if not routing.exporters:
            return routing
        imports = {use.name: catalog.load(use.type).imports for use in routing.exporters}
        vrf = None
        if routing.bgp.vrf is not None:
            lacking = "agent" if self.dataplane is None else self.dataplane.lacking(routing.bgp.family)
            vrf = plan.VrfHere(self.numbers.of(vrf_name(routing.bgp.vrf), undo), lacking)
        found, more = plan.forwarded(request.settings, routing.bgp, imports, vrf)
        warnings += more
        return routing._replace(bgp=found)

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
        """Its link is gone: remove its part of the data path to other nodes. Idempotent."""
        self.claims.drop(attachment.key)
        self.shared.drop(self.netlink, attachment.key)
        if self.dataplane is not None:
            self.dataplane.detach(attachment)
            self.dataplane.leave(attachment)
