"""The commands about a node: each one's name, help and parameters, and which function answers it and renders it.

The parser and help of the command line (`operator.cli`) and the dispatcher of the agent (`agent.commands`) are made
from this table. A new command is a row here and a function of its name in `answers` and in `render`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

import click
from click.shell_completion import CompletionItem

from bgpcni.commands import Document

Offer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class Moment(click.ParamType[str]):
    """A time of day, or how long ago: it becomes RFC 3339 in UTC, as documents have it."""

    name = "time"
    _AGO = re.compile(r"(\d{1,9})(s|m|h|d)")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if found := self._AGO.fullmatch(text):
            unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
            when = datetime.now(UTC) - timedelta(seconds=min(int(found[1]) * unit, 10**9))
        else:
            try:
                when = datetime.fromisoformat(text)
                when = when.astimezone(UTC)  # without a zone it is the time of this node
            except (ValueError, OverflowError):
                self.fail(f"{text!r} is neither a time (2026-01-31T12:00:00Z) nor how long ago (90s, 10m, 2h, 1d)")
        return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Place(click.ParamType[str]):
    """An address, a prefix or a MAC, in its canonical form; or one of `words`."""

    name = "place"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if text in self.words:
            return text
        if re.fullmatch("([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", text):
            return text.lower()
        try:
            return str(ip_network(text, strict=False)) if "/" in text else str(ip_address(text))
        except ValueError:
            self.fail(f"{text!r} is neither an address, a prefix nor a MAC")


class Address(click.ParamType[str]):
    """An IP address in its canonical form."""

    name = "address"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(ip_address(str(value)))
        except ValueError:
            self.fail(f"{value!r} is not an IP address")


@dataclass(frozen=True, slots=True)
class OperatorCommand:
    """`help`: the first line says what it does. `parameters` reach the answer as keyword arguments of their names.

    `needs_agent`: it works on the running agent. The others work on a node, and so also without an agent.
    `reads`: it changes nothing, so it is also answered on `run_dir/read.sock`. `watches`: it has `--watch`.
    `on_command_line`: False if there the command of this name has another way to its answer.
    """

    name: str
    help: str
    parameters: tuple[click.Parameter, ...] = ()
    needs_agent: bool = False
    reads: bool = False
    watches: bool = False
    on_command_line: bool = True

    def answer(self, subject: Any, arguments: Mapping[str, Any]) -> tuple[Document, int]:
        """The document and the exit code. `subject`: a Node, or the agent if the command needs one.

        Raises CniError.
        """
        from bgpcni.commands import answers  # the command line does not need them while an agent answers

        document, code = getattr(answers, self.function)(subject, **arguments)
        return document, code

    def text(self, document: Document) -> str:
        """The document for people."""
        from bgpcni.commands import render

        return str(getattr(render, self.function)(document))

    @property
    def function(self) -> str:
        """The name of its functions in `answers` and `render`."""
        return self.name.replace("-", "_").replace(" ", "_")

    def arguments(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments in a request. Raises click.UsageError for one that is missing or of the wrong type."""
        context = click.Context(click.Command(self.name))
        found = {}
        for parameter in self.parameters:
            value = asked.get(str(parameter.name))
            if value is None and parameter.required:
                raise click.MissingParameter(ctx=context, param=parameter)
            if value is None and isinstance(parameter, click.Option):
                value = False if parameter.is_flag else parameter.to_info_dict()["default"]
            found[str(parameter.name)] = parameter.type_cast_value(context, value)
        return found


def _offers(name: str) -> Offer:
    """What the function of this name in `offers` offers a shell that completes the parameter."""

    def offered(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
        from bgpcni.commands import offers

        found: list[CompletionItem] = getattr(offers, name)(context, parameter, begun)
        return found

    return offered


PAGE: tuple[click.Parameter, ...] = (
    click.Option(
        ["--search"], metavar="TEXT", help="Only what has each of these words in a name, address, prefix or VNI."
    ),
    click.Option(["--limit"], type=click.IntRange(min=1), metavar="N", help="At most so many rows."),
    click.Option(["--offset"], type=click.IntRange(min=0), metavar="N", help="Leave out the first so many."),
)
"""The options of a list that can be long."""

OF: tuple[click.Parameter, ...] = (
    click.Option(["--network"], metavar="NAME", shell_complete=_offers("networks"), help="Only of this network."),
    click.Option(
        ["--container"],
        metavar="ID",
        shell_complete=_offers("containers"),
        help="Only of this container; 6 characters of its ID are enough.",
    ),
)
"""The options of a list about attachments."""


def _state(*words: str) -> click.Parameter:
    return click.Option(["--state"], type=click.Choice(words), help="Only what is in this state.")


DATA_DIR = click.Option(
    ["--data-dir"],
    multiple=True,
    metavar="DIR",
    help="Another folder of leases (ipam.dataDir), beside the default and those that records name.",
)

COMMANDS = {
    command.name: command
    for command in (
        OperatorCommand(
            "status", "Is everything in order? The exit code is 1 if there are problems.", reads=True, watches=True
        ),
        OperatorCommand(
            "attachments",
            "Every interface that bgpcni made or announces.",
            (*OF, _state("adding", "up", "leaving", "gone"), *PAGE),
            reads=True,
            watches=True,
        ),
        OperatorCommand(
            "routes",
            "Every route that should be announced, and how far it got. The exit code is 1 if one is not announced.\n\n"
            "WHAT is an address, prefix or MAC: only routes that lead to it. `routes --peer ADDRESS advertised` shows "
            "what this peer has been sent, and `received` what it has announced.",
            (
                click.Argument(
                    ["what"],
                    nargs=-1,
                    type=Place("advertised", "received"),
                    metavar="[WHAT]",
                    shell_complete=_offers("places"),
                ),
                click.Option(["--received"], is_flag=True, help="Show the routes that peers announced to this node."),
                click.Option(
                    ["--peer"],
                    type=Address(),
                    metavar="ADDRESS",
                    shell_complete=_offers("peers"),
                    help="Only routes to or from this peer.",
                ),
                *OF,
                _state("wanted", "announced", "withdrawing", "refused", "best", "equal", "other", "stale"),
                *PAGE,
            ),
            reads=True,
            watches=True,
        ),
        OperatorCommand(
            "peers",
            "The BGP sessions. The exit code is 1 if one is not Established.\n\n"
            "With an ADDRESS all that is known of the sessions with this peer. `peers reset ADDRESS` resets them.",
            (
                click.Argument(
                    ["address"], type=Address(), required=False, metavar="[ADDRESS]", shell_complete=_offers("peers")
                ),
            ),
            reads=True,
            watches=True,
        ),
        OperatorCommand(
            "reset-peer",
            "End the session with the peer ADDRESS, so that it comes up anew. The same as `peers reset`.",
            (
                click.Argument(["address"], type=Address(), metavar="ADDRESS", shell_complete=_offers("peers")),
                click.Option(["--soft"], is_flag=True, help="Keep the session, and exchange all routes again."),
            ),
        ),
        OperatorCommand(
            "explain",
            "Every step from the request to the route of WHAT: a container ID, pod, address, prefix, network, MAC, "
            "interface, bridge, PID or namespace; or the session with a peer.",
            (click.Argument(["what"], shell_complete=_offers("anything")),),
            reads=True,
        ),
        OperatorCommand(
            "events",
            "What happened on this node: attachments, routes, sessions. It goes on until it is interrupted.",
            (
                click.Option(
                    ["--since"],
                    type=Moment(),
                    metavar="TIME",
                    help="Only what came since then: a time, or how long ago (90s, 10m, 2h, 1d).",
                ),
                click.Option(["--no-follow"], is_flag=True, help="Print what the agent remembers, and end."),
                click.Option(["--after"], type=click.INT, default=0, hidden=True),
                click.Option(["--run"], default="", hidden=True),
                click.Option(["--wait"], type=click.FLOAT, default=0.0, hidden=True),
            ),
            needs_agent=True,
            reads=True,
        ),
        OperatorCommand(
            "unreachable",
            "Every container that cannot be reached as it should be, the cause, and what to do. The exit code is 1 if"
            " there is one.",
            (
                PAGE[0],
                PAGE[1],
                click.Option(
                    ["--only-failed"], is_flag=True, help="Only the ADDs that failed; nothing is attached there."
                ),
            ),
            reads=True,
        ),
        OperatorCommand(
            "networks", "The networks of this node: bridges, VNIs, VRFs, and how many addresses are used.", reads=True
        ),
        OperatorCommand("nodes", "The nodes of the cluster.", needs_agent=True, reads=True, on_command_line=False),
        OperatorCommand("sync", "Try once more whatever is late. The exit code is 1 if something is still late."),
        OperatorCommand(
            "release",
            "Give back the addresses of container ID although its withdrawal is not confirmed.",
            (
                click.Argument(["container_id"], metavar="ID", shell_complete=_offers("containers")),
                click.Option(["--force"], is_flag=True, help="Do it although a peer may still route to the address."),
            ),
        ),
        OperatorCommand(
            "ipam show",
            "The addresses of this node, and who has each.",
            (click.Argument(["address"], required=False), DATA_DIR),
        ),
        OperatorCommand(
            "ipam check",
            "Compare leases, records and the kernel. The exit code is 1 if something contradicts.",
            (DATA_DIR,),
        ),
        OperatorCommand(
            "ipam release",
            "Release the lease of ADDRESS, which nobody has any more.",
            (
                click.Argument(["address"]),
                click.Option(["--network"], metavar="NAME", help="The network, where several have such a lease."),
                click.Option(["--force"], is_flag=True, help="Do it although it is in use or held."),
                DATA_DIR,
            ),
        ),
        OperatorCommand("stacks", "Where each thread of the agent is, for maintainers.", needs_agent=True),
        OperatorCommand(
            "log-level",
            "Change how much the agent logs, until it ends. MODULE (convergence, bgpcni_exabgp, …): only of this part. "
            "Without it the level counts for all parts, and what was set for one is forgotten.",
            (
                click.Argument(["level"], type=click.Choice(["debug", "info", "warning", "error"])),
                click.Argument(["module"], required=False),
            ),
            needs_agent=True,
        ),
        OperatorCommand("drain", "Withdraw every route and end the speaker.", needs_agent=True),
        OperatorCommand(
            "restart-speaker",
            "Restart the speaker of exporter NAME, or all in turn, each once the peers of the others have every route.",
            (click.Argument(["name"], required=False),),
            needs_agent=True,
        ),
        OperatorCommand(
            "maintenance",
            "Have peers prefer other paths (GRACEFUL_SHUTDOWN, local preference 0), or end that. Nothing is withdrawn.",
            (
                click.Argument(["state"], type=click.Choice(["on", "off"])),
                click.Option(["--until-reboot"], is_flag=True, help="It ends when the node is started again."),
            ),
            needs_agent=True,
        ),
        OperatorCommand("reload", "Read agent.toml again. A file with an error changes nothing.", needs_agent=True),
    )
}
