"""The documents of `answers` as text for people, the most important first. Pure: nothing is looked up here."""

from bgpcni.commands.render.addresses import ipam_check, ipam_release, ipam_show
from bgpcni.commands.render.attaching import attach, detach
from bgpcni.commands.render.explanation import explain, unreachable
from bgpcni.commands.render.happened import events
from bgpcni.commands.render.health import status
from bgpcni.commands.render.interfaces import attachments, networks
from bgpcni.commands.render.orders import drain, log_level, maintenance, release, reload, restart_speaker, stacks, sync
from bgpcni.commands.render.routing import routes
from bgpcni.commands.render.sessions import peers, reset_peer
from bgpcni.commands.render.tables import table

__all__ = [
    "attach", "attachments", "detach", "drain", "events", "explain", "ipam_check", "ipam_release", "ipam_show",
    "log_level", "maintenance", "networks", "peers", "release", "reload", "reset_peer", "restart_speaker", "routes",
    "stacks", "status", "sync", "table", "unreachable",
]  # fmt: skip
