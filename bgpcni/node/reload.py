"""A changed agent.toml while containers run: which changes are refused, and what `status` says about a hand-over.

The reconciler does the hand-over itself: the configuration says which exporters should announce an attachment, the
record says which do, and an old exporter withdraws only after all the others have announced.
"""

from __future__ import annotations

from collections.abc import Iterator

from bgpcni.config.agent import AgentConfig
from bgpcni.convergence import catalog
from bgpcni.convergence.derive import derive, left_out
from bgpcni.errors import CniError, InvalidConfiguration
from bgpcni.model import Attachment, ExporterUse, NodeFacts, State
from bgpcni.node import plan
from bgpcni.node.node import Node


def refuse(node: Node, config: AgentConfig, facts: NodeFacts) -> None:
    """Raises InvalidConfiguration if the exporters of `config` cannot take over what is announced now."""
    for use in plan.configured(config):
        catalog.configure(use, f"exporters.{use.name}")
    configured = plan.configured(config)
    earlier: list[ExporterUse] = []
    for stored in node.store.all():
        exporters = stored.attachment.exporters if stored.attachment else ()
        for use in exporters:  # records may have several names of one speaker
            known = [*configured, *earlier]
            if catalog.counterpart(use, known, facts, exporters) not in known:
                earlier.append(use)
    catalog.refuse_rivals(configured, facts, [(use, node.facts) for use in earlier])
    for found in _up(node):
        exporters = catalog.counterparts(found.exporters, configured, facts)
        attachment = found.model_copy(update={"exporters": exporters})
        target = _target(attachment, config)
        added = _added(attachment, target)
        _refuse_data_path(attachment, target)
        families = _families(node, attachment, facts) if target and (added or facts != node.facts) else set()
        for use in target:
            if use not in added and not _is_new_objection(node, use, facts):
                continue
            if reason := catalog.objection(use, facts, f"exporters.{use.name}"):
                raise InvalidConfiguration(
                    f"exporters: {use.name}: {reason}; {attachment.key} is to be announced through it"
                )
            if unknown := families - catalog.load(use.type).families:
                raise InvalidConfiguration(
                    f"exporters: {use.name} cannot announce {', '.join(sorted(unknown))}, which {attachment.key} needs"
                )


def _refuse_data_path(attachment: Attachment, target: tuple[ExporterUse, ...]) -> None:
    """Raises InvalidConfiguration if a VXLAN would have two owners, or nobody to learn what is behind it."""
    if attachment.bgp.family != "evpn" or not target or attachment.exporters == target:
        return
    imports = {use.name: catalog.load(use.type).imports for use in target}
    owners = [name for name, kind in imports.items() if kind == "datapath"]
    if owners and attachment.bgp.forwarder == "agent":
        raise InvalidConfiguration(
            f"exporters: {owners[0]} has a VXLAN of its own, but {attachment.key} is in the agent's and cannot change"
        )
    if not owners and attachment.bgp.forwarder == "exporter":
        raise InvalidConfiguration(
            f"exporters: {attachment.key} is in the VXLAN of an exporter, and none of {', '.join(imports)} has one"
        )
    if attachment.bgp.forwarder == "agent" and "routes" not in imports.values():
        raise InvalidConfiguration(
            f"exporters: none of {', '.join(imports)} learns routes, which {attachment.key} needs"
        )


def _families(node: Node, attachment: Attachment, facts: NodeFacts) -> set[str]:
    """The families to announce. Raises InvalidConfiguration for a route that can be announced now but not
    afterwards."""
    without = {route.nlri for route, _ in left_out(attachment, node.facts)}
    for route, reason in left_out(attachment, facts):
        if route.nlri not in without:
            raise InvalidConfiguration(f"{attachment.key}: {reason}")
    try:
        return {route.nlri.family for route in derive(attachment, facts)}
    except CniError:
        return set()  # then the reload makes nothing worse


def _is_new_objection(node: Node, use: ExporterUse, facts: NodeFacts) -> bool:
    """Whether a usable exporter would become unusable. One that is unusable already does not prevent a reload."""
    try:
        return bool(
            catalog.objection(use, facts, f"exporters.{use.name}")
            and not catalog.objection(use, node.facts, f"exporters.{use.name}")
        )
    except CniError:
        return False


def waits_for(node: Node, attachment: Attachment) -> str:
    """What the hand-over of an attachment that is up waits for; "" if its exporters are the wanted ones."""
    target, attachment = _target(attachment, node.agent), node.by_names_of_now(attachment)
    if attachment.exporters == target:
        return ""
    going = [use for use in attachment.exporters if use not in target]
    for use in target:
        if reason := node.convergence.unannounced(attachment, use):
            kept = f"; {_names(going)} still announces it" if going else ""
            return f"{use.name} has not announced it: {reason}{kept}"
    return f"{_names(going)} has to withdraw it" if going else "the record has to be written"


def _up(node: Node) -> Iterator[Attachment]:
    for stored in node.store.all():
        attachment = stored.attachment
        if attachment is not None and stored.state is State.UP and attachment.boot_id == node.boot_id:
            yield attachment


def _target(attachment: Attachment, config: AgentConfig) -> tuple[ExporterUse, ...]:
    return plan.exporters_now(attachment.network, attachment.asked, config, resident=True)


def _added(attachment: Attachment, target: tuple[ExporterUse, ...]) -> list[ExporterUse]:
    return [use for use in target if use not in attachment.exporters]


def _names(uses: list[ExporterUse]) -> str:
    return ", ".join(use.name for use in uses)
