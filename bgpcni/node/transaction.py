"""ADD, DEL and CHECK: the order of the steps, and nothing else. One screen each.

ADD: lock → plan → record → addresses → bridge → pair → options → inside → reachable? → record up → announce → wait
DEL: lock → record leaving → withdraw → link → confirmed? → addresses and record go (else they are held)
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bgpcni import clock
from bgpcni.cni.result import Dns, Interface, IpConfig, Result, Route
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.convergence import Convergence
from bgpcni.convergence.derive import derive
from bgpcni.dataplane.claims import Claims
from bgpcni.errors import AlreadyAttached, InvalidConfiguration, IoFailure, TryAgain
from bgpcni.exporter import NotThereYet
from bgpcni.kernel import bridge, masquerade
from bgpcni.kernel.frames import Herald
from bgpcni.kernel.namespace import Namespace, boot_id
from bgpcni.kernel.netlink import Netlink
from bgpcni.kernel.reaper import Reaper
from bgpcni.model import Attachment, AttachmentKey, Bgp, NodeFacts, State
from bgpcni.node import chain, check, garbage, interface, options, plan, readiness
from bgpcni.node.addressing import Addressing
from bgpcni.node.request import Request
from bgpcni.store import Store
from bgpcni.undo import Undo

if TYPE_CHECKING:
    from bgpcni.dataplane.dataplane import DataPlane

log = logging.getLogger(__name__)
LOCK_SECONDS = 30.0
CONFIRM_SECONDS = 2.0


@dataclass(slots=True)
class Answer:
    """What goes back to the runtime: the result (ADD alone has one), warnings for stderr."""

    result: Result | None = None
    warnings: list[str] = field(default_factory=list)


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
        """Attachments by the index of their root-side link: who it is that vanishes (rule 15)."""
        self.drained = False
        self.herald = Herald()
        self.reaper = Reaper()
        self.claims = Claims(self._claimed)
        self.dataplane: DataPlane | None = None
        """What is done with learned routes: the agent's, None in a call without one."""
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

    # ---------------------------------------------------------------- ADD

    def add(self, request: Request) -> Answer:
        answer = Answer(warnings=list(request.warnings))
        with self.store.locked(request.key, LOCK_SECONDS):
            attachment, dns = self._attach(request, answer)
        if attachment.exporters and request.settings.bgp.wait != "none":
            self._wait_announced(request, attachment, answer)
        answer.result = result_of(attachment, dns, request)
        return answer

    def _attach(self, request: Request, answer: Answer) -> tuple[Attachment, Dns]:
        if self.drained:
            raise TryAgain("this node is drained: nothing is announced until bgpcni agent is started again")
        if request.prev_result is not None:
            return chain.attach(self, request, answer.warnings)
        config = request.settings
        plan.refuse_unsupported(config)
        held = self.clear_the_way(request.key)
        with Namespace.of_container(request.environment.netns, request.netns_fd) as space, Undo() as undo:
            attachment = self._planned(request, space, answer.warnings)
            undo.push("its claim to bridge and VNI", lambda: self.claims.drop(request.key))
            self.claims.take(attachment)
            self.store.put(State.ADDING, attachment)
            undo.push("the record", lambda: self.take_back(attachment, undo, held))

            given = self.addressing.allocate(request, attachment.ipam, held)
            addresses = plan.with_gateways(config, given.addresses)
            plan.refuse_by_policy(self.agent.policy, config, addresses)
            switch = bridge.ensure(self.netlink, plan.bridge_of(config, addresses, attachment.bgp))
            attachment = attachment.model_copy(
                update={
                    "addresses": addresses,
                    "routes": plan.default_routes(config, addresses, given.routes),
                    "bridge_index": switch.index,
                    "bridge_mac": switch.mac,
                    "mtu": self._mtu(attachment.bgp, config.mtu, answer.warnings),
                }
            )
            undo.push("the link", lambda: interface.remove_by_name(self.netlink, request.key))
            attachment = interface.create(
                self.netlink, space, attachment, switch,
                mac=plan.mac_of(request), hairpin=config.hairpin_mode, isolated=config.port_isolation,
            )  # fmt: skip
            if options.uses(attachment):
                attachment = self._install_options(attachment, space, undo)
            if config.disable_container_interface:
                attachment = interface.read_back(self.netlink, space, attachment)
            else:
                attachment = interface.configure(self.netlink, space, attachment, dad=config.enabledad)
            interface.introduce(self.netlink, self.herald, attachment)
            attachment = self.announce(attachment, undo)
            undo.keep()
        return attachment, plan.dns_of(config, given.dns)

    def _install_options(self, attachment: Attachment, space: Namespace, undo: Undo) -> Attachment:
        """ipMasq and macspoofchk, before the container's end is up; the record names first what a kill would leave."""
        attachment = interface.read_back(self.netlink, space, attachment)
        self.store.put(State.ADDING, attachment)
        undo.push("ipMasq and macspoofchk", lambda: options.remove(attachment))
        options.install(attachment)
        return attachment

    def announce(self, attachment: Attachment, undo: Undo) -> Attachment:
        """Behind a working data path only (rule 1): the record goes up, then the routes go out."""
        if attachment.exporters:
            self._refuse_unannounceable(attachment)
            if attachment.bgp.family == "unicast" and (reason := interface.unreachable(self.netlink, attachment)):
                raise InvalidConfiguration(reason)
        mobility = 0
        if self.dataplane is not None and attachment.exporters:
            mobility = self.dataplane.sequence(attachment)
            undo.push("the data path", functools.partial(self.dataplane.detach, attachment))
            self.dataplane.attach(attachment)
        attachment = attachment.model_copy(update={"since": clock.now(), "mobility": mobility})
        self.store.put(State.UP, attachment)
        self.remember(attachment)
        if attachment.exporters:
            undo.push("the announcement", lambda: self.convergence.leave(attachment))
            try:
                self.convergence.want(attachment)
            except NotThereYet as error:
                raise TryAgain(str(error)) from None
        return attachment

    def _mtu(self, intent: Bgp, asked: int, warnings: list[str]) -> int | None:
        """The MTU of both ends, None: the kernel's default. In a VXLAN of ours frames must fit the underlay."""
        if self.dataplane is None or intent.forwarder != "agent":
            return asked or None
        fits = self.dataplane.payload()
        if asked > fits:
            warnings.append(
                f"mtu: {asked} does not fit the underlay, which carries {fits}: large frames are fragmented"
            )
        return asked or fits

    def _refuse_unannounceable(self, attachment: Attachment) -> None:
        """A next hop that is missing, or a family that an exporter does not know, before the record says "up"."""
        families = {route.nlri.family for route in derive(attachment, self.facts)}
        for use in attachment.exporters:
            unknown = families - catalog.load(use.type).families
            if unknown:
                raise InvalidConfiguration(f"exporters: {use.name} cannot announce {', '.join(sorted(unknown))}")

    def remember(self, attachment: Attachment) -> None:
        """Watch the link of an attachment that is up."""
        if attachment.host_index:
            self.by_link[attachment.host_index] = attachment.key

    def _planned(self, request: Request, space: Namespace, warnings: list[str]) -> Attachment:
        """The attachment as it shall be, on disk before the kernel is touched."""
        config = request.settings
        routing = self.routing(request, warnings)
        self.agent.policy.refuse_names("bridges", [config.bridge], self.agent.policy.bridges, "bridge")
        return Attachment(
            boot_id=self.boot_id,
            network=request.name,
            container_id=request.environment.container_id,
            ifname=request.environment.ifname,
            netns=request.environment.netns,
            cookie=space.cookie,
            cni_version=request.version,
            bridge=config.bridge,
            ip_masq=masquerade.choose(config.ip_masq_backend) if config.ip_masq and config.ipam_type else None,
            mac_spoof_check=config.macspoofchk,
            ipam=self.addressing.plan(request),
            bgp=routing.bgp,
            exporters=routing.exporters,
            created=clock.now(),
        )

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
        intent, more = plan.forwarded(request.settings, routing.bgp, imports)
        warnings += more
        return replace(routing, bgp=intent)

    def refuse_exporters(self, routing: plan.Routing) -> None:
        """Raises InvalidConfiguration for an exporter that cannot be used here: not installed, misconfigured, …"""
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
        alive = stored.state is State.UP and stored.attachment.boot_id == self.boot_id
        if alive and not interface.vanished(self.netlink, stored.attachment):
            raise AlreadyAttached(f"{key} is attached already, since {stored.attachment.since}")
        gone = self.dismantle(stored.attachment, time.monotonic() + CONFIRM_SECONDS)
        return None if gone else stored.attachment

    def _wait_announced(self, request: Request, attachment: Attachment, answer: Answer) -> None:
        wait = request.settings.bgp
        deadline = time.monotonic() + wait.wait_seconds
        if reason := self.convergence.wait_announced(attachment, wait.wait, deadline):
            answer.warnings.append(f"bgp.wait: not {wait.wait} after {wait.wait_seconds:g} s: {reason}")

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

    # ---------------------------------------------------------------- DEL

    def delete(self, request: Request) -> Answer:
        answer = Answer(warnings=list(request.warnings))
        key = request.key
        with self.store.locked(key, LOCK_SECONDS):
            stored = self.store.find(key)
            if stored is not None and stored.attachment is not None:
                deadline = time.monotonic() + CONFIRM_SECONDS
                if not self.dismantle(stored.attachment, deadline):
                    log.info("%s: gone; its addresses are held until the withdrawal is confirmed", key)
                return answer
            if stored is not None:
                answer.warnings.append(stored.problem)
            interface.remove_by_name(self.netlink, key)
            self.store.drop(key)
            if stored is not None:
                self.convergence.prune()
            released = self.addressing.release_unrecorded(request, answer.warnings)
            options.remove_unrecorded(request, released, answer.warnings)
        return answer

    def dismantle(self, attachment: Attachment, deadline: float) -> bool:
        """Withdraw, remove the link, and once confirmed let addresses and record go; False: they are held.

        Idempotent: it also finishes what an earlier call, or another life, began. The attachment's lock is held
        by the caller.
        """
        key = attachment.key
        self.by_link.pop(attachment.host_index or 0, None)
        self.store.move(attachment, State.LEAVING)
        convergence = self.convergence  # after the record: one that a reload puts in its place reads that
        convergence.leave(attachment)
        if attachment.bgp.drain_seconds and convergence.wait_confirmed(key, deadline):
            time.sleep(attachment.bgp.drain_seconds)  # the peers move their traffic away before the link goes
        if attachment.boot_id == self.boot_id:
            interface.remove(self.netlink, self.reaper, attachment)
        self.disconnect(attachment)
        if attachment.exporters and not convergence.wait_confirmed(key, deadline):
            return False
        self.finish(attachment)
        return True

    def disconnect(self, attachment: Attachment) -> None:
        """Its link is gone: so is its part of what connects this node with others. Idempotent."""
        self.claims.drop(attachment.key)
        if self.dataplane is not None:
            self.dataplane.detach(attachment)

    def finish(self, attachment: Attachment) -> None:
        """The withdrawal is confirmed: addresses go back, then the record goes."""
        self.disconnect(attachment)
        self.addressing.release(attachment)
        self.store.drop(attachment.key)

    # ---------------------------------------------------------------- the other commands

    def check(self, request: Request) -> Answer:
        with self.store.locked(request.key, LOCK_SECONDS):
            check.run(self, request)
        return Answer(warnings=list(request.warnings))

    def collect(self, request: Request) -> Answer:
        """GC: release what is not in `cni.dev/valid-attachments`, of this network alone."""
        answer = Answer(warnings=list(request.warnings))
        garbage.collect(self, request, answer.warnings)
        return answer

    def status(self, request: Request) -> Answer:
        """STATUS: could an ADD be served now?"""
        readiness.run(self, request)
        return Answer(warnings=list(request.warnings))


def result_of(attachment: Attachment, dns: Dns, request: Request) -> Result:
    """The ADD result: bridge, host end, container end, in this order, as the stock bridge plugin gives them."""
    if request.prev_result is not None:
        return request.prev_result
    interfaces = (
        Interface(name=attachment.bridge or "", mac=attachment.bridge_mac),
        Interface(name=attachment.host_veth or "", mac=attachment.host_mac),
        Interface(name=attachment.ifname, mac=attachment.mac, sandbox=attachment.netns),
    )
    return Result(
        interfaces=interfaces,
        ips=tuple(IpConfig(item.address, item.gateway, 2) for item in attachment.addresses),
        routes=tuple(
            Route(route.dst, route.gw, route.mtu, route.advmss, route.priority, route.table, route.scope)
            for route in attachment.routes
        ),
        dns=dns,
    )
