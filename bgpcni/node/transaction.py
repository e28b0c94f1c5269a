"""ADD and DEL: the order of the steps, and nothing else. One screen each.

ADD: lock → plan → record → addresses → VRF, bridge → pair → options → inside → reachable? → up → announce → wait
DEL: lock → record leaving → withdraw → link → confirmed? → addresses and record go (else they are held)
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bgpcni.cni.result import Dns, Interface, IpConfig, Result
from bgpcni.convergence.derive import left_out
from bgpcni.errors import TryAgain
from bgpcni.kernel import bridge, links, masquerade, vlans
from bgpcni.kernel.namespace import Namespace
from bgpcni.model import Attachment, Bgp, Gateway, State
from bgpcni.node import chain, check, garbage, interface, options, plan, readiness
from bgpcni.node.node import CONFIRM_SECONDS, LOCK_SECONDS, Node
from bgpcni.node.request import Request
from bgpcni.undo import Undo

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Answer:
    """What goes back to the runtime: the result (ADD alone has one), warnings for stderr; `after`: what follows."""

    result: Result | None = None
    warnings: list[str] = field(default_factory=list)
    after: list[Callable[[], None]] = field(default_factory=list)


# -------------------------------------------------------------------- ADD


def add(node: Node, request: Request) -> Answer:
    """Raises CniError, and then nothing is left."""
    answer = Answer(warnings=list(request.warnings))
    with node.store.locked(request.key, LOCK_SECONDS):
        attachment, dns = _attach(node, request, answer)
    if attachment.exporters:
        reasons = dict.fromkeys(reason for _, reason in left_out(attachment, node.facts))
        answer.warnings += [f"not every address is announced: {reason}" for reason in reasons]
    if attachment.exporters and request.settings.bgp.wait != "none":
        _wait_announced(node, request, attachment, answer)
    answer.after += [node.convergence.wake, lambda: interface.introduce(node.herald, attachment)]
    answer.result = request.prev_result or result_of(attachment, dns)
    return answer


def _attach(node: Node, request: Request, answer: Answer) -> tuple[Attachment, Dns]:
    if node.drained:
        raise TryAgain("this node is drained: nothing is announced until bgpcni agent is started again")
    if request.prev_result is not None:
        return chain.attach(node, request, answer.warnings)
    config = request.settings
    plan.refuse_unsupported(config)
    tagging = plan.tagging_of(config)
    vlans.require(tagging)
    held = node.clear_the_way(request.key)
    with Namespace.of_container(request.environment.netns, request.netns_fd) as space, Undo() as undo:
        attachment = _planned(node, request, space, answer.warnings)
        undo.push("its claim to bridge and VNI", lambda: node.claims.drop(request.key))
        node.claims.take(attachment)
        node.store.put(State.ADDING, attachment)
        undo.push("the record", lambda: node.take_back(attachment, undo, held))

        given = node.addressing.allocate(request, attachment.ipam, held)
        addresses = plan.with_gateways(config, given.addresses)
        attachment, vrf = node.enter_vrf(attachment, undo)
        wanted = plan.bridge_of(config, addresses, attachment.bgp, vrf)
        plan.refuse_by_policy(node.agent.policy, config, addresses, wanted.gateways)
        node.settle(attachment.model_copy(update={"addresses": addresses, "vlan": tagging.untagged if tagging else 0}))
        switch, gateway = bridge.ensure(node.netlink, wanted, functools.partial(_unless_shared, node, attachment, undo))
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
        undo.push("the link", lambda: interface.remove_by_name(node.netlink, request.key))
        attachment = interface.create(
            node.netlink, space, attachment, switch,
            mac=plan.mac_of(request), hairpin=config.hairpin_mode, isolated=config.port_isolation,
        )  # fmt: skip
        if tagging:
            interface.tag(node.netlink, attachment, tagging)
        if options.uses(attachment):
            attachment = _install_options(node, attachment, space, undo)
        if config.disable_container_interface:
            attachment = interface.read_back(space, attachment)
        else:
            attachment = interface.configure(space, attachment, dad=config.enabledad)
        interface.introduce_itself(space, attachment)
        attachment = node.announce(attachment, undo)
        undo.keep()
    return attachment, plan.dns_of(config, given.dns)


def _unless_shared(node: Node, attachment: Attachment, undo: Undo, what: str, take_away: Callable[[], object]) -> None:
    """Undo what was made of the bridge, unless somebody else came to use it meanwhile."""
    undo.push(what, lambda: node.shares_bridge(attachment) or take_away())


def _planned(node: Node, request: Request, space: Namespace, warnings: list[str]) -> Attachment:
    """The attachment as it shall be, on disk before the kernel is touched."""
    config = request.settings
    attachment = node.begin(request, space, warnings)
    plan.refuse_vlan_with(config, attachment.bgp, attachment.exporters)
    node.agent.policy.refuse_names("bridges", [config.bridge], node.agent.policy.bridges, "bridge")
    return attachment.model_copy(
        update={
            "bridge": config.bridge,
            "is_gateway": plan.is_gateway(config),
            "ip_masq": masquerade.choose(config.ip_masq_backend) if config.ip_masq and config.ipam_type else None,
            "mac_spoof_check": config.macspoofchk,
            "ipam": node.addressing.plan(request),
        }
    )


def _mtu(node: Node, intent: Bgp, asked: int, warnings: list[str]) -> int | None:
    """The MTU of both ends, None: the kernel's default. In a tunnel frames must fit the underlay."""
    if node.dataplane is None or (intent.forwarder is None and intent.table is None):
        return asked or None
    fits = node.dataplane.payload(intent.family)
    if asked > fits:
        warnings.append(f"mtu: {asked} does not fit the underlay, which carries {fits}: large frames are fragmented")
    return asked or fits


def _in_vlan(
    attachment: Attachment, tagging: vlans.Tagging, switch: links.Link, gateway: links.Link, warnings: list[str]
) -> Attachment:
    """The attachment with what its port's VLANs mean for the node. A bridge that others made stays as it is."""
    filtering = vlans.filters(switch)
    if not filtering:
        warnings.append(f"{tagging.key}: bridge {switch.name} has vlan_filtering off, so it does not keep VLANs apart")
    own = Gateway(name=gateway.name, index=gateway.index, mac=gateway.mac) if gateway is not switch else None
    return attachment.model_copy(update={"vlan": tagging.untagged, "vlan_filtering": filtering, "gateway": own})


def _install_options(node: Node, attachment: Attachment, space: Namespace, undo: Undo) -> Attachment:
    """ipMasq and macspoofchk, before the container's end is up; the record names first what a kill would leave."""
    attachment = interface.read_back(space, attachment)
    node.store.put(State.ADDING, attachment)
    undo.push("ipMasq and macspoofchk", lambda: options.remove(attachment))
    options.install(attachment)
    return attachment


def _wait_announced(node: Node, request: Request, attachment: Attachment, answer: Answer) -> None:
    wait = request.settings.bgp
    deadline = time.monotonic() + wait.wait_seconds
    node.convergence.wake()
    if reason := node.convergence.wait_announced(attachment, wait.wait, deadline):
        answer.warnings.append(f"bgp.wait: not {wait.wait} after {wait.wait_seconds:g} s: {reason}")


def result_of(attachment: Attachment, dns: Dns) -> Result:
    """The ADD result: bridge, host end, container end, then a VLAN's gateway, as the stock bridge plugin gives them."""
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
    """Acts by the record; without one, removes what carries the attachment's name and mark."""
    answer = Answer(warnings=list(request.warnings))
    key = request.key
    with node.store.locked(key, LOCK_SECONDS):
        stored = node.store.find(key)
        if stored is not None and stored.attachment is not None:
            if not node.dismantle(stored.attachment, time.monotonic() + CONFIRM_SECONDS):
                log.info("%s: gone; its addresses are held until the withdrawal is confirmed", key)
            return answer
        if stored is not None:
            answer.warnings.append(stored.problem)
        interface.remove_by_name(node.netlink, key)
        node.store.drop(key)
        if stored is not None:
            node.convergence.prune()
        released = node.addressing.release_unrecorded(request, answer.warnings)
        options.remove_unrecorded(request, released, answer.warnings)
    return answer


# -------------------------------------------------------------------- CHECK, GC, STATUS


def check_attachment(node: Node, request: Request) -> Answer:
    """Everything that ADD made is there and right. Raises CheckFailed."""
    with node.store.locked(request.key, LOCK_SECONDS):
        check.run(node, request)
    return Answer(warnings=list(request.warnings))


def collect(node: Node, request: Request) -> Answer:
    """GC: release what is not in `cni.dev/valid-attachments`, of this network alone."""
    answer = Answer(warnings=list(request.warnings))
    garbage.collect(node, request, answer.warnings)
    return answer


def status(node: Node, request: Request) -> Answer:
    """STATUS: could an ADD be served now? Raises Unavailable, Degraded."""
    readiness.run(node, request)
    return Answer(warnings=list(request.warnings))
