"""Whatever a runtime, a tenant or a broken disk sends: an answer in JSON, and never a defect of ours.

In process, through `handle`, with a node that plans as the real one does and touches nothing. Every input is given to
each of the six commands, so 20,000 calls take 3,400 inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings

from bgpcni.cni.environment import Command
from bgpcni.cni.result import Route
from bgpcni.cni.versions import SUPPORTED
from bgpcni.config.agent import AgentConfig
from bgpcni.convergence.derive import derive
from bgpcni.errors import CniError
from bgpcni.handler import Call, handle
from bgpcni.ipam.config import parse_host_local, requested_addresses
from bgpcni.model import Address, Attachment, NodeFacts
from bgpcni.node import plan
from bgpcni.node.node import Node
from bgpcni.node.request import Request
from integration.cni_inputs import environments, sound, stdins

INPUTS = 3400
FACTS = NodeFacts(
    run_dir="/run/x", data_dir="/var/x", asn=64512, router_id="192.0.2.1", local_address="192.0.2.1",
    next_hop="192.0.2.1", next_hop6="2001:db8::1", has_bgp=True,
)  # fmt: skip


class Planned(CniError):
    """All that can be known without a kernel was worked out; a real node would go on from here."""

    code = 100


def unreal(request: Request) -> Node:
    """Do what an ADD does before it changes anything."""
    if request.config is None:
        raise Planned("acting by the record")
    agent = AgentConfig(default_exporters=())
    plan.refuse_unsupported(request.settings)
    routing = plan.routing(request, agent, FACTS, 1, resident=True)
    plan.mac_of(request)
    given: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    if request.settings.ipam_type == "host-local":
        config = request.body.part(parse_host_local)
        requested_addresses(request.document, request.environment.args)
        routes = config.routes
    elif request.prev_result is not None:
        given = tuple(Address(address=ip.address, gateway=ip.gateway) for ip in request.prev_result.ips)
    addresses = plan.with_gateways(request.settings, given)
    plan.bridge_of(request.settings, addresses)
    attachment = Attachment(
        boot_id="x",
        network=request.name,
        container_id=request.environment.container_id or "x",
        ifname=request.environment.ifname or "eth0",
        netns=request.environment.netns,
        addresses=addresses,
        routes=plan.default_routes(request.settings, addresses, routes),
        mac="02:00:00:00:00:01",
        bgp=routing.bgp,
        exporters=routing.exporters,
    )
    plan.through_gateways(attachment.routes, attachment.addresses)
    derive(attachment, FACTS)
    Attachment.model_validate_json(attachment.model_dump_json(by_alias=True))
    for version in SUPPORTED:
        if request.prev_result is not None:
            json.dumps(request.prev_result.encode(version))
    raise Planned("planned")


def each_command(variables: dict[str, str], stdin: bytes, answer: Callable[[dict[str, str], bytes], None]) -> None:
    for command in Command:
        answer(variables | {"CNI_COMMAND": command.value}, stdin)


@settings(max_examples=INPUTS, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(environments, stdins)
def test_no_input_is_answered_by_a_defect(variables: dict[str, str], stdin: bytes) -> None:
    """20,000 calls: never a traceback, never an exit without valid JSON, never an internal error."""

    def answer(environment: dict[str, str], text: bytes) -> None:
        reply = handle(Call(environment, text), unreal)
        sound(reply.code, reply.stdout, reply.stderr, environment["CNI_COMMAND"])

    each_command(variables, stdin, answer)
