"""ADD and DEL: the order of their steps, and nothing else. One screen each.

ADD: lock → plan → record → addresses → VRF, bridge → pair → options → inside → reachable? → up → announce → wait
DEL: lock → end the attachment (`next_step` has the order)
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bgpcni.cni.result import Dns, Interface, IpConfig, Result
from bgpcni.convergence.derive import left_out
from bgpcni.events import Kind
from bgpcni.kernel import bridge, links, vlans
from bgpcni.kernel.namespace import Namespace
from bgpcni.model import Attachment, Bgp, Gateway
from bgpcni.node import (
    chain,
    check,
    garbage,
    interface,
    options,
    plan,
    readiness,
    reconcile,
    shared,
    unreadable,
    unrecorded,
    uplink,
)
from bgpcni.node.keys import asked_by
from bgpcni.node.node import LOCK_SECONDS, Node
from bgpcni.node.request import Request
from bgpcni.undo import Undo

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Answer:
    """What the runtime gets: the result (of ADD only) and warnings for stderr. `after`: what is done after the
    answer."""

    result: Result | None = None
    warnings: list[str] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)


# -------------------------------------------------------------------- ADD


def add(node: Node, request: Request) -> Answer:
    """ADD. Raises CniError; then nothing is left of the attachment."""
    answer = Answer(warnings=list(request.warnings))
    with node.store.locked(request.key, LOCK_SECONDS):
        request.refuse_hung_up()
        attachment, dns = _attach(node, request, answer)
    if attachment.exporters:
        reasons = dict.fromkeys(reason for _, reason in left_out(attachment, node.facts))
        answer.warnings += [f"some addresses are not announced: {reason}" for reason in reasons]
    if attachment.exporters and request.settings.bgp.wait != "none":
        _wait_announced(node, request, attachment, answer)
    answer.after += [
        lambda: node.events.about(Kind.ATTACHMENT_UP, attachment),
        node.convergence.wake,
        lambda: interface.introduce(node.herald, attachment),
    ]
    answer.result = request.prev_result or result_of(attachment, dns)
    return answer


def _attach(node: Node, request: Request, answer: Answer) -> tuple[Attachment, Dns]:
    node.refuse_drained()
    if request.prev_result is not None:
        return chain.attach(node, request, answer.warnings)
    config = request.settings
    plan.refuse_unsupported(config)
    tagging = plan.tagging_of(config)
    options.require(tagging)
    held = reconcile.clear_the_way(node, request.key)
    with asked_by():
        container = Namespace.of_container(request.environment.netns, request.netns_fd)
    with container as space, Undo() as undo:
        attachment = _planned(node, request, space, answer.warnings, undo)
        undo.push("what was made of the bridge", lambda: node.remove_bridge(attachment))
        undo.push("the attachment", lambda: reconcile.undo_add(node, attachment, held))
        node.claims.take(attachment)
        reconcile.begin(node, attachment, held)

        given = node.addressing.allocate(request, held)
        addresses = plan.with_gateways(config, given.addresses)
        shared.refuse(node.netlink, attachment, addresses, plan.shared_place(request))
        attachment, vrf = node.enter_vrf(attachment)
        wanted = plan.bridge_of(config, addresses, attachment.bgp, vrf)
        plan.refuse_by_policy(node.agent.policy, config, addresses, wanted.gateways)
        node.settle(attachment.model_copy(update={"addresses": addresses, "vlan": tagging.untagged if tagging else 0}))
        if wanted.gateways and vrf is None:
            uplink.refuse_peers(node.netlink, wanted.gateways, plan.gateway_device(config), node.peers())
        made = functools.partial(node.made.add, node.netlink, config.bridge)
        with asked_by():
            switch, gateway = bridge.ensure(node.netlink, wanted, made)
        attachment = attachment.model_copy(
            update={
                "addresses": addresses,
                "routes": plan.default_routes(config, addresses, given.routes),
                "bridge_index": switch.index,
                "bridge_mac": switch.mac,
                "mtu": _mtu(node, attachment.bgp, config.mtu, answer.warnings),
            }
        )
        if tagging:
            attachment = _in_vlan(attachment, tagging, switch, gateway, answer.warnings)
        attachment = interface.create(
            node.netlink, space, attachment, switch,
            mac=plan.mac_of(request), hairpin=config.hairpin_mode, isolated=config.port_isolation,
        )  # fmt: skip
        if tagging:
            interface.tag(node.netlink, attachment, tagging)
        if options.uses(attachment):
            attachment = _install_options(node, attachment, held, space)
        if config.disable_container_interface:
            attachment = interface.read_back(space, attachment)
        else:
            attachment = interface.configure(space, attachment, dad=config.enabledad)
        interface.lead_to_singles(node.netlink, attachment, make=True)
        interface.introduce_itself(space, attachment)
        shared.assign(space, attachment)
        attachment = node.announce(attachment, held)
        request.refuse_hung_up()
        undo.keep()
        node.made.keep(config.bridge)
    return attachment, plan.dns_of(config, given.dns)


def _planned(node: Node, request: Request, space: Namespace, warnings: list[str], undo: Undo) -> Attachment:
    """The attachment as planned; it is written to disk before the kernel is changed."""
    config = request.settings
    attachment = node.begin(request, space, warnings, undo)
    plan.refuse_vlan_with(config, attachment.bgp, attachment.exporters)
    node.agent.policy.refuse_names("bridges", [config.bridge], node.agent.policy.bridges, "bridge")
    return attachment.model_copy(
        update={
            "bridge": config.bridge,
            "mac": plan.mac_of(request),
            "is_gateway": plan.is_gateway(config),
            "ip_masq": options.masquerading(config),
            "mac_spoof_check": config.macspoofchk,
            "ipam": node.addressing.plan(request),
        }
    )


def _mtu(node: Node, intent: Bgp, asked: int, warnings: list[str]) -> int | None:
    """The MTU of both ends; None: the kernel's default. Frames in a tunnel must fit the underlay."""
    if node.dataplane is None or (intent.forwarder is None and intent.table is None):
        return asked or None
    fits = node.dataplane.payload(intent.family)
    if asked > fits:
        warnings.append(f"mtu: {asked} is over the {fits} that fit the underlay: large frames are fragmented")
    return asked or fits


def _in_vlan(
    attachment: Attachment, tagging: vlans.Tagging, switch: links.Link, gateway: links.Link, warnings: list[str]
) -> Attachment:
    """The attachment with the VLANs of its port and the node's interface there. Others' bridges are not changed."""
    filtering = vlans.filters(switch)
    if not filtering:
        warnings.append(
            f"{plan.vlan_key(tagging)}: bridge {switch.name} has vlan_filtering off, so it does not keep VLANs apart"
        )
    own = Gateway(name=gateway.name, index=gateway.index, mac=gateway.mac) if gateway is not switch else None
    return attachment.model_copy(update={"vlan": tagging.untagged, "vlan_filtering": filtering, "gateway": own})


def _install_options(node: Node, attachment: Attachment, held: Attachment | None, space: Namespace) -> Attachment:
    """Install ipMasq and macspoofchk before the container's end is up. The record is written first, so that what a
    killed call leaves can be found."""
    attachment = interface.read_back(space, attachment)
    reconcile.begin(node, attachment, held)
    options.install(attachment)
    return attachment


def _wait_announced(node: Node, request: Request, attachment: Attachment, answer: Answer) -> None:
    wait = request.settings.bgp
    deadline = time.monotonic() + wait.wait_seconds
    node.convergence.wake()
    if reason := node.convergence.wait_announced(attachment, wait.wait, deadline):
        answer.warnings.append(f"bgp.wait: not {wait.wait} after {wait.wait_seconds:g} s: {reason}")


def result_of(attachment: Attachment, dns: Dns) -> Result:
    """The result of ADD: bridge, host end, container end, then the gateway in a VLAN, as the stock bridge plugin
    does."""
    gateway = attachment.gateway
    return Result(
        interfaces=(
            Interface(name=attachment.bridge or "", mac=attachment.bridge_mac),
            Interface(name=attachment.host_veth or "", mac=attachment.host_mac),
            Interface(name=attachment.ifname, mac=attachment.mac, sandbox=attachment.netns),
            *([Interface(name=gateway.name, mac=gateway.mac)] if gateway else ()),
        ),
        ips=tuple(IpConfig(item.address, item.gateway, 2) for item in attachment.addresses),
        routes=attachment.routes,
        dns=dns,
    )


# -------------------------------------------------------------------- DEL


def delete(node: Node, request: Request) -> Answer:
    """DEL, by the record. Without one, or if its link is gone, the container's interface is removed as in stock."""
    answer = Answer(warnings=list(request.warnings))
    key = request.key
    with node.store.locked(key, LOCK_SECONDS):
        stored = node.store.find(key)
        if stored is not None and stored.attachment is not None:
            ended = reconcile.end(node, stored.attachment, told=stored.told, warnings=answer.warnings)
            if not ended.had_link and not stored.attachment.chained:
                unrecorded.finish(node, request, stored.attachment, answer.warnings, released=ended.released)
            return answer
        had = unrecorded.remove_interface(node, request)
        if stored is not None:
            answer.warnings.append(stored.problem)
            unreadable.release(node, stored, answer.warnings)
            node.convergence.prune()
        else:
            node.store.delete(key)
        unrecorded.release(node, request, had, answer.warnings)
    return answer


# -------------------------------------------------------------------- CHECK, GC, STATUS


def check_attachment(node: Node, request: Request) -> Answer:
    """CHECK. Raises CheckFailed unless everything that ADD made exists and is right."""
    with node.store.locked(request.key, LOCK_SECONDS):
        check.run(node, request)
    return Answer(warnings=list(request.warnings))


def collect(node: Node, request: Request) -> Answer:
    """GC: end the attachments of this network that `cni.dev/valid-attachments` does not list."""
    answer = Answer(warnings=list(request.warnings))
    garbage.collect(node, request, answer.warnings)
    return answer


def status(node: Node, request: Request) -> Answer:
    """STATUS: could an ADD succeed now? Raises Unavailable, Degraded."""
    readiness.run(node, request)
    return Answer(warnings=list(request.warnings))
