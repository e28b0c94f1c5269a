"""STATUS (CNI specification 1.1.0): could an ADD of this network succeed now, and are existing attachments reachable?

Error 50: an ADD would fail. Error 51: existing containers are affected too, because routes do not reach the peers; an
ADD may succeed, but its container would not be reached. This module changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgpcni.errors import CniError, Degraded, IoFailure, Unavailable
from bgpcni.kernel import links
from bgpcni.model import Attachment, ExporterUse
from bgpcni.node import options, plan

if TYPE_CHECKING:
    from bgpcni.node.node import Node
    from bgpcni.node.request import Request

_UP = "Established"


def run(node: Node, request: Request) -> None:
    """Raises Unavailable (50) or Degraded (51), each with the first reason found."""
    if node.drained:
        raise Degraded("this node is drained and announces nothing: start bgpcni agent again")
    try:
        uses = _servable(node, request)
    except (Unavailable, Degraded):
        raise
    except CniError as error:
        raise Unavailable(error.msg, error.details) from None
    for use in uses:
        if reason := _late(node, use):
            raise Degraded(f"{use.name}: {reason}")


def _servable(node: Node, request: Request) -> tuple[ExporterUse, ...]:
    """The exporters of an ADD. Raises the CniError with which it would fail, as far as known without a container."""
    config = request.settings
    plan.refuse_unsupported(config)
    options.require(plan.tagging_of(config))
    node.agent.policy.refuse_names("bridges", [config.bridge], node.agent.policy.bridges, "bridge")
    routing = plan.routing(request, node.agent, node.facts, 1, resident=node.resident)
    plan.refuse_vlan_with(config, routing.bgp, routing.exporters)
    node.refuse_exporters(routing, node.agent)
    switch = links.find(node.netlink, name=config.bridge)
    if switch is not None and switch.kind != "bridge":
        raise Unavailable(f"bridge: {config.bridge} is a {switch.kind or 'physical'} link, not a bridge")
    node.addressing.status(request)
    node.refuse_unannounceable(_sample(node, request, routing))
    if reason := node.store.unwritable():
        raise IoFailure(reason)
    if routing.bgp.family != "unicast":
        node.store.check_numbers()
    return routing.exporters


def _sample(node: Node, request: Request, routing: plan.Routing) -> Attachment:
    """An attachment as an ADD would make it, with one address of each family that the configuration gives."""
    return Attachment(
        boot_id=node.boot_id, network=request.name, container_id="", ifname="", netns="",
        addresses=node.addressing.examples(request), bgp=routing.bgp, exporters=routing.exporters,
    )  # fmt: skip


def _late(node: Node, use: ExporterUse) -> str:
    """Why routes do not reach the peers through a running exporter; "" if they do, or if it was not used yet."""
    announcer = node.convergence.announcers().get(use.name)
    if announcer is None:
        return ""
    state = announcer.state()
    if state.state == "late":
        return f"late since {state.since}: {state.reason}"
    peers = announcer.peers()
    if peers and all(peer.state != _UP for peer in peers):
        peer = peers[0]
        return f"no session is {_UP}: {peer.address} is {peer.state}" + (f": {peer.last_error}" * bool(peer.last_error))
    return ""
