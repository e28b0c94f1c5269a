"""The answers to operators' commands: one function for each row of `table`, which makes a JSON document.

`schema` is 1 in every document. The same functions serve the agent and a command without one. `render` makes the text
from these documents, so text and `--json` cannot differ. Nothing here knows the command line or the agent's threads.
"""

from bgpcni.commands.answers.addresses import ipam_check, ipam_release, ipam_show
from bgpcni.commands.answers.common import GONE, Resident, failure, state_of
from bgpcni.commands.answers.explanation import explain
from bgpcni.commands.answers.happened import events
from bgpcni.commands.answers.health import status
from bgpcni.commands.answers.interfaces import attachments
from bgpcni.commands.answers.networks import networks, nodes
from bgpcni.commands.answers.orders import drain, log_level, maintenance, release, reload, restart_speaker, stacks, sync
from bgpcni.commands.answers.routing import routes
from bgpcni.commands.answers.sessions import peers, reset_peer
from bgpcni.commands.answers.unreachable import unreachable

__all__ = [
    "GONE", "Resident", "attachments", "drain", "events", "explain", "failure", "ipam_check", "ipam_release",
    "ipam_show", "log_level", "maintenance", "networks", "nodes", "peers", "release", "reload", "reset_peer",
    "restart_speaker", "routes", "stacks", "state_of", "status", "sync", "unreachable",
]  # fmt: skip
