"""The `bgpcni` command of operators. (The plugin of the same name in bin-dir is the launcher's.)

The commands about a node are made from `commands.table`: they ask the agent, and some of them work without one. The
others, written out below, run in this process.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from bgpcni import __version__, paths
from bgpcni.commands import Document, client, render
from bgpcni.commands.table import COMMANDS, OperatorCommand
from bgpcni.errors import CniError
from bgpcni.operator import screen

WIDE = "bgpcni.wide"
"""Where the context of a command has whether tables may be wider than the terminal."""
F = TypeVar("F", bound=Callable[..., Any])


@click.group()
@click.version_option(__version__, prog_name="bgpcni")
def main() -> None:
    """A CNI plugin that announces every container it connects over BGP."""


def _note_wide(context: click.Context, parameter: click.Parameter, wide: bool) -> None:
    context.meta[WIDE] = wide


def _prints(command: F) -> F:
    """The options of every command that prints a document."""
    command = click.option("--wide", is_flag=True, expose_value=False, callback=_note_wide,
                           help="Let tables be wider than the terminal.")(command)  # fmt: skip
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")(command)


def _asks(command: F) -> F:
    """The options of every command that asks the agent."""
    command = click.option(
        "--socket", "socket_path", type=click.Path(path_type=Path), default=None, metavar="PATH",
        help="The agent's socket. Default: $BGPCNI_SOCKET, or " + str(paths.SOCKET) + ".",
    )(command)  # fmt: skip
    return _prints(command)


def _finish(text: Callable[[Document], str], document: Document, code: int, as_json: bool) -> NoReturn:
    _print(text, document, as_json)
    sys.exit(code)


def _print(text: Callable[[Document], str], document: Document, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document))
    elif "error" in document:
        if document.get("objects"):  # what was done, or found, before the error
            _show(text, document)
        for line in document.get("errors", [f"bgpcni: {document['error']}"]):
            click.echo(screen.clean(line), err=True)
    else:
        _show(text, document)


def _show(text: Callable[[Document], str], document: Document) -> None:
    with screen.used(wide=click.get_current_context().meta.get(WIDE, False)):
        screen.show(text(document))


def _socket(given: Path | None) -> Path:
    return given or Path(os.environ.get("BGPCNI_SOCKET") or paths.SOCKET)


# ---------------------------------------------------------------- commands about a node


def _asking(command: OperatorCommand) -> click.Command:
    """The parser of a command of the table, with what it does."""

    @_asks
    def run(socket_path: Path | None, as_json: bool, watch: bool = False, **arguments: Any) -> None:
        if watch:
            _watch(command, _socket(socket_path), arguments, as_json)
        try:
            document, code = client.ask(_socket(socket_path), command.name, **arguments)
        except client.NoAgent as error:
            document, code = _failure(str(error)), 1
            if error.absent and socket_path is None and not command.needs_agent:
                document, code = _without_agent(command, arguments, str(error))
        _finish(command.text, document, code, as_json)

    if command.watches:
        run = click.option("--watch", is_flag=True, help="Show it again after each change, until interrupted.")(run)
    parser = click.command(command.name, help=command.help, cls=_Peers if command.name == "peers" else None)(run)
    parser.params[:0] = command.parameters
    return parser


class _Peers(click.Command):
    """`peers`, and `peers reset ADDRESS`, which is `reset-peer`."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if "reset" in args:
            rest = [arg for arg in args if arg != "reset"]
            return main.commands["reset-peer"].make_context(f"{info_name} reset", rest, parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


def _watch(command: OperatorCommand, path: Path, arguments: Mapping[str, Any], as_json: bool) -> NoReturn:
    """Show the answer again and again: on a terminal in place of the one before, else after it."""
    from bgpcni.operator import watch

    last: list[Document] = []

    def show(document: Document) -> None:
        if as_json and [document] == last:
            return
        last[:] = [document]
        if not as_json:
            screen.again()
        _print(command.text, document, as_json)
        sys.stdout.flush()

    try:
        watch.watch(path, command.name, arguments, show)
    except client.NoAgent as error:
        _finish(command.text, _failure(str(error)), 1, as_json)
    except KeyboardInterrupt:
        pass
    sys.exit(130)


def _failure(text: str) -> Document:
    return {"schema": 1, "error": text}


def _without_agent(command: OperatorCommand, arguments: Mapping[str, Any], reason: str) -> tuple[Document, int]:
    """The answer from the records, if this node has no agent and is not meant to have one."""
    from bgpcni import locks, plugin

    if plugin.why_not(os.environ):
        return _failure(reason), 1
    try:
        node = plugin.open_node(os.environ)
        writers = locks.WriterLocks(node.store.run_fd, node.store.data_fd)
        writers.as_call()
    except locks.Busy:
        return _failure("an agent is starting or does not answer"), 1
    except CniError as error:
        return _failure(error.msg), 1
    try:
        return command.answer(node, arguments)
    except CniError as error:
        return _failure(error.msg), 1
    finally:
        writers.release()


def _streaming(command: OperatorCommand) -> click.Command:
    """The parser of `events`, which prints until it is interrupted."""

    @_asks
    def run(socket_path: Path | None, as_json: bool, since: str | None, no_follow: bool, **position: Any) -> None:
        from bgpcni.operator import follow

        def lost(reason: str) -> None:
            click.echo(f"bgpcni: {reason}; waiting for it", err=True)

        try:
            for document in follow.batches(_socket(socket_path), lost, since=since, follow=not no_follow):
                if "error" in document:
                    _finish(command.text, document, 1, as_json)
                _print_events(command, document, as_json)
        except client.NoAgent as error:
            _finish(command.text, _failure(str(error)), 1, as_json)
        except KeyboardInterrupt:
            sys.exit(130)

    parser = click.command(command.name, help=command.help)(run)
    parser.params[:0] = command.parameters
    return parser


def _print_events(command: OperatorCommand, document: Document, as_json: bool) -> None:
    if not as_json:
        _show(command.text, document)
        return
    if document["missed"]:
        click.echo(json.dumps({"schema": 1, "kind": "missed", "missed": document["missed"]}))
    for event in document["events"]:
        click.echo(json.dumps(event))


@main.group()
def ipam() -> None:
    """The addresses of this node: leases, records and the kernel beside each other."""


_GROUPS = {"ipam": ipam}
for _row in filter(lambda row: row.on_command_line, COMMANDS.values()):
    _parser = _streaming(_row) if _row.name == "events" else _asking(_row)
    _GROUPS.get(_row.name.partition(" ")[0], main).add_command(_parser, _row.name.rpartition(" ")[2])


# ---------------------------------------------------------------- attach, detach


def _runs_plugins(command: F) -> F:
    """The options of commands that run a network's plugins themselves, as a runtime does."""
    for option in (
        click.option("--bin-dir", default=None, metavar="DIR[:DIR]",
                     help="Folders of the plugins. Default: $CNI_PATH, or where runtimes look."),
        click.option("--conf-dir", type=click.Path(path_type=Path), default=Path("/etc/cni/net.d"), show_default=True,
                     help="Folder of the network's configuration."),
        click.option("--network", required=True, metavar="NAME", help="The network's name in its configuration."),
    ):  # fmt: skip
        command = option(command)
    return command


def _listed(socket_path: Path | None, name: str) -> list[Document]:
    """The list in the agent's answer to a command. Empty if no agent answers."""
    try:
        document, _ = client.ask(_socket(socket_path), name)
    except client.NoAgent:
        return []
    return list(document.get(name, []))


def _place(conf_dir: Path, bin_dir: str | None, socket_path: Path | None) -> Any:
    from bgpcni.attached import open_memory
    from bgpcni.operator import attach as attaching

    environment = dict(os.environ) | ({"BGPCNI_SOCKET": str(socket_path)} if socket_path else {})
    return attaching.Place(
        conf_dir,
        attaching.plugin_folders(bin_dir, environment),
        open_memory(environment),
        environment,
        lambda text: click.echo(text, nl=False, err=True),
    )


@main.command()
@click.option("--pid", type=click.IntRange(min=1), required=True, metavar="N", help="A process in the container.")
@click.option("--ifname", default="eth0", show_default=True, metavar="NAME", help="The interface to make.")
@click.option("--id", "container_id", default=None, metavar="ID", help="The container's ID. Default: pid-N.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label for RoutePolicies to match.")
@_runs_plugins
@_asks
def attach(
    pid: int,
    ifname: str,
    container_id: str | None,
    labels: tuple[str, ...],
    network: str,
    conf_dir: Path,
    bin_dir: str | None,
    socket_path: Path | None,
    as_json: bool,
) -> None:
    """Connect the network namespace of a process, such as of a container started with --network none.

    It runs the plugins of the network as a runtime does. `ip netns` shows the namespace under the container's ID, if
    that name is free.
    """
    from bgpcni.operator import attach as attaching

    try:
        place = _place(conf_dir, bin_dir, socket_path)
        identity = container_id or attaching.default_id(pid)
        document = attaching.attach(place, pid, network, ifname, identity, attaching.labels_of(labels))
    except CniError as error:
        _finish(render.attach, _failure(error.msg), 1, as_json)
    document["announcements"] = attaching.announcements(_listed(socket_path, "routes"), document)
    _finish(render.attach, document, 0, as_json)


@main.command()
@click.option("--pid", type=click.IntRange(min=1), default=None, metavar="N", help="The process that attach was given.")
@click.option("--id", "container_id", default=None, metavar="ID", help="The container's ID.")
@click.option(
    "--ifname", default=None, metavar="NAME", help="Only this interface. Default: all interfaces in this network."
)
@_runs_plugins
@_asks
def detach(
    pid: int | None,
    container_id: str | None,
    ifname: str | None,
    network: str,
    conf_dir: Path,
    bin_dir: str | None,
    socket_path: Path | None,
    as_json: bool,
) -> None:
    """Undo what attach did, even if the process or its namespace has gone.

    It is no error if nothing is there.
    """
    from bgpcni.operator import attach as attaching

    if (pid is None) == (container_id is None):
        raise click.UsageError("give one of --pid and --id")
    try:
        place = _place(conf_dir, bin_dir, socket_path)
        document = attaching.detach(
            place, network, pid, container_id, ifname, lambda: _listed(socket_path, "attachments")
        )
    except CniError as error:
        _finish(render.detach, _failure(error.msg), 1, as_json)
    _finish(render.detach, document, 0, as_json)


# ---------------------------------------------------------------- what is wrong here


def _looks_here(command: F) -> F:
    """The options of commands that look at this node themselves."""
    return _finds_config(
        click.option(
            "--conf-dir", type=click.Path(path_type=Path), default=paths.CONF_DIR, show_default=True,
            help="Folder of the networks that runtimes use.",
        )(command)
    )  # fmt: skip


def _finds_config(command: F) -> F:
    """The option for the file of the agent, which is found without it, too."""
    return click.option(
        "--config", type=click.Path(path_type=Path), default=None,
        help=f"The agent's configuration. Default: that of the agent that answers, or {paths.AGENT_CONFIG}.",
    )(command)  # fmt: skip


@main.command()
@_looks_here
@_asks
def doctor(config: Path | None, conf_dir: Path, socket_path: Path | None, as_json: bool) -> None:
    """What on this node keeps it from working, each with a remedy. The exit code is 1 if there is an error.

    It changes nothing, and works without an agent, too.
    """
    from bgpcni.operator import doctor as examining

    socket = _socket(socket_path)
    document, code = examining.run(examining.where(config, conf_dir, socket, os.environ), socket)
    _finish(examining.text, document, code, as_json)


@main.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, metavar="FILE.tar.gz",
              help="The file to write, mode 0600. Default: bgpcni-diags-HOST-TIME.tar.gz, here.")  # fmt: skip
@_looks_here
@_asks
def diags(output: Path | None, config: Path | None, conf_dir: Path, socket_path: Path | None, as_json: bool) -> None:
    """Collect what a maintainer would ask for into one file, without secrets.

    It works when the agent is dead or hangs. The file's manifest names what could not be collected.
    """
    from bgpcni import clock
    from bgpcni.operator import diags as collecting
    from bgpcni.operator import doctor as examining

    socket, stamp = _socket(socket_path), clock.now()[:19].replace(":", "").replace("-", "")
    target = output or Path(f"bgpcni-diags-{os.uname().nodename}-{stamp}Z.tar.gz")
    try:
        document, code = collecting.run(examining.where(config, conf_dir, socket, os.environ), socket, target)
    except CniError as error:
        document, code = _failure(error.msg), 1
    _finish(collecting.text, document, code, as_json)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@_prints
def validate(files: tuple[Path, ...], as_json: bool) -> None:
    """Check network configurations, agent.toml and the cluster's objects. The exit code is 1 if one has an error.

    Each error is printed as FILE: key: text. What a file is follows from its content. If an agent.toml is among the
    files, networks are also checked against its [policy]. Of a folder all configurations in it are checked.
    """
    from bgpcni.operator import validate as validating

    document, code = validating.run(validating.expanded(files))
    _finish(validating.text, document, code, as_json)


@main.command()
@click.argument("what", type=click.Choice(["agent", "network", "objects"]))
def schema(what: str) -> None:
    """Print the JSON Schema of agent.toml, of a network configuration or of the cluster's objects, for editors."""
    from bgpcni.operator import schemas

    click.echo(schemas.text(what), nl=False)


@main.command()
@_finds_config
@_asks
def version(config: Path | None, socket_path: Path | None, as_json: bool) -> None:
    """The versions of all parts: of the agent, of packages, exporters and stores, and of the plugin where runtimes
    look."""
    from bgpcni.operator import doctor as examining
    from bgpcni.operator import versions

    socket = _socket(socket_path)
    document, code = versions.run(examining.config_of(config, socket), socket)
    _finish(versions.text, document, code, as_json)


# ---------------------------------------------------------------- the cluster's objects


def _asks_store(command: F) -> F:
    """The options of every command about the cluster's objects."""
    command = click.option(
        "--config", type=click.Path(path_type=Path), default=paths.AGENT_CONFIG, show_default=True,
        help="The agent.toml whose [cluster] names the store.",
    )(command)  # fmt: skip
    return _prints(command)


def _objects() -> Any:
    try:
        from bgpcni.operator import objects
    except ImportError as error:
        click.echo(f"bgpcni: not installed ({error}): pip install 'bgpcni[etcd]'", err=True)
        sys.exit(1)
    return objects


def _kind(context: click.Context, parameter: click.Parameter, value: str) -> str:
    from bgpcni.cluster.objects import kind_of

    try:
        return kind_of(value).__name__
    except CniError as error:
        raise click.BadParameter(error.msg.partition(": ")[2]) from None


@main.command()
@click.option("-f", "files", multiple=True, required=True, metavar="FILE",
              help="YAML or JSON, with any number of objects; - is stdin. May be given several times.")  # fmt: skip
@click.option("--force", is_flag=True, help="Also change a pool so that nodes lose blocks of it.")
@_asks_store
def apply(files: tuple[str, ...], force: bool, config: Path, as_json: bool) -> None:
    """Create the cluster's objects, or change them to what the files say.

    All are checked before any is written.
    """
    objects = _objects()
    document, code = objects.answered(config, lambda store: objects.apply(store, objects.read(files), force=force))
    _finish(objects.applied_text, document, code, as_json)


@main.command()
@click.argument("kind", callback=_kind)
@click.argument("name", required=False)
@_asks_store
def get(kind: str, name: str | None, config: Path, as_json: bool) -> None:
    """Show the cluster's objects of a kind, or one of them, as apply takes them."""
    objects = _objects()
    document, code = objects.answered(config, lambda store: objects.get(store, kind, name), writes=False)
    _finish(objects.objects_text, document, code, as_json)


@main.command()
@click.argument("kind", callback=_kind)
@click.argument("name")
@click.option("--force", is_flag=True, help="Also delete a pool of which nodes have blocks.")
@_asks_store
def delete(kind: str, name: str, force: bool, config: Path, as_json: bool) -> None:
    """Delete one of the cluster's objects. To delete a BGPNode says that the node is dead."""
    objects = _objects()
    document, code = objects.answered(config, lambda store: objects.delete(store, kind, name, force=force))
    _finish(objects.deleted_text, document, code, as_json)


@main.command()
@_asks_store
def nodes(config: Path, as_json: bool) -> None:
    """Show the cluster's nodes."""
    objects = _objects()
    document, code = objects.answered(config, objects.nodes, writes=False)
    _finish(objects.nodes_text, document, code, as_json)


@main.command("new-exporter")
@click.argument("name")
@click.option("--into", "parent", type=click.Path(path_type=Path, file_okay=False), default=Path(), metavar="DIR",
              help="Where to make the folder bgpcni-NAME. Default: the current folder.")  # fmt: skip
def new_exporter(name: str, parent: Path) -> None:
    """Make a package with an exporter and its tests, which work, to begin your own with."""
    from bgpcni.operator import skeleton

    try:
        for path in skeleton.write(name, parent):
            click.echo(path)
    except (CniError, OSError) as error:
        click.echo(f"bgpcni new-exporter: {error}", err=True)
        sys.exit(1)


@main.command()
@click.option("--config", type=click.Path(path_type=Path), default=paths.AGENT_CONFIG, show_default=True)
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), default=None, metavar="PATH",
              help=f"Where to listen. Default: $BGPCNI_SOCKET, or {paths.SOCKET}.")  # fmt: skip
@click.option("--metrics", metavar="ADDR:PORT", help="Serve Prometheus metrics on this loopback address.")
@click.option("--metrics-beyond-loopback", is_flag=True, help="Allow --metrics an address that other hosts can reach.")
@click.option("--log-json", is_flag=True, help="Log JSON objects, one for each line.")
def agent(
    config: Path, socket_path: Path | None, metrics: str | None, metrics_beyond_loopback: bool, log_json: bool
) -> None:
    """Run the node's resident process in the foreground."""
    from bgpcni.agent.agent import Agent
    from bgpcni.agent.logs import configure

    configure(as_json=log_json)
    try:
        Agent(config, _socket(socket_path), metrics, beyond_loopback=metrics_beyond_loopback).run()
    except CniError as error:
        click.echo(f"bgpcni agent: {error.msg}", err=True)
        sys.exit(1)


@main.command()
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=paths.RUN_DIR,
    show_default=True,
    envvar="BGPCNI_RUN_DIR",
    metavar="DIR",
    help="The folder that it shares with the agent, at the same path.",
)
@click.option("--type", "kind", default="exabgp", show_default=True, metavar="TYPE", help="The exporter whose speaker.")
@click.option("--name", default=None, metavar="NAME", help="The exporter's name in agent.toml. Default: its type.")
@click.option("--log-json", is_flag=True, help="Log JSON objects, one for each line.")
def speaker(run_dir: Path, kind: str, name: str | None, log_json: bool) -> None:
    """Run ExaBGP in the foreground for an agent elsewhere, such as in another pod.

    It waits for the configuration that the agent writes. When it ends, peers with graceful restart keep the routes.
    Each exporter in agent.toml that runs an ExaBGP can have a speaker of its own.
    """
    from bgpcni import extensions
    from bgpcni.agent.logs import configure
    from bgpcni.convergence import catalog

    configure(as_json=log_json)
    try:
        extensions.cache_in(run_dir)
        catalog.load(kind).speak(run_dir, name or kind)
    except CniError as error:
        click.echo(f"bgpcni speaker: {error.msg}", err=True)
        sys.exit(1)


@main.command("looking-glass")
@click.option("--listen", default="127.0.0.1:8179", show_default=True, metavar="ADDRESS:PORT|unix:PATH",
              help="Where to serve the pages.")  # fmt: skip
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), default=None, metavar="PATH",
              help=f"The agent's socket. Default: $BGPCNI_SOCKET, or {paths.READ_SOCKET} in run_dir.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path), metavar="FILE",
              help="Serve only who sends the word in this file, as `Authorization: Bearer WORD`.")  # fmt: skip
@click.option(
    "--certificate", type=click.Path(path_type=Path), metavar="FILE", help="Serve by TLS, with this certificate."
)
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="The key of the certificate.")
@click.option("--client-ca", type=click.Path(path_type=Path), metavar="FILE",
              help="Serve only who has a certificate of these authorities.")  # fmt: skip
@click.option("--host", "hosts", multiple=True, metavar="NAME",
              help="A host name by which clients call it. May be given several times.")  # fmt: skip
@click.option("--log-json", is_flag=True, help="Log JSON objects, one for each line.")
def looking_glass(
    listen: str,
    socket_path: Path | None,
    token_file: Path | None,
    certificate: Path | None,
    key: Path | None,
    client_ca: Path | None,
    hosts: tuple[str, ...],
    log_json: bool,
) -> None:
    """Serve web pages about this node, read only.

    It asks the agent and needs no root. Other hosts can only be served by TLS, and with a token or client certificates.
    """
    try:
        from bgpcni.looking_glass import run
    except ImportError as error:
        click.echo(f"bgpcni: not installed ({error}): pip install 'bgpcni[looking-glass]'", err=True)
        sys.exit(1)
    from bgpcni.agent.logs import configure

    configure(as_json=log_json)
    try:
        run.run(
            _questions(socket_path), listen,
            token=token_file, certificate=certificate, key=key, client_ca=client_ca, names=hosts,
        )  # fmt: skip
    except CniError as error:
        click.echo(f"bgpcni looking-glass: {error.msg}", err=True)
        sys.exit(1)


def _questions(given: Path | None) -> Path:
    """The socket for programs that only ask."""
    named = given or os.environ.get("BGPCNI_SOCKET")
    return Path(named) if named else Path(os.environ.get("BGPCNI_RUN_DIR") or _folders()[0], paths.READ_SOCKET)


def _places(command: F) -> F:
    """The options of commands that put the plugin in place or take it away."""
    command = click.option(
        "--conf-dir", type=click.Path(path_type=Path), default=Path("/etc/cni/net.d"), show_default=True,
        help="Folder for the sample configuration, which gets a name that runtimes ignore.",
    )(command)  # fmt: skip
    return click.option(
        "--bin-dir", type=click.Path(path_type=Path), default=None, metavar="DIR",
        help="Folder for the plugin. Default: where the runtimes of this host look, or /opt/cni/bin.",
    )(command)  # fmt: skip


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes this shell complete commands, options and the names that the agent knows.

    bash: source <(bgpcni completion bash). zsh: source <(bgpcni completion zsh). fish: bgpcni completion fish | source.
    """
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(ShellComplete.source(kind(main, {}, "bgpcni", "_BGPCNI_COMPLETE")))


@main.command()
@_places
@click.option(
    "--without-python",
    is_flag=True,
    help="The agent does every call: for a host without this Python, such as one that a pod installs to.",
)
@click.option("--sample/--no-sample", default=True, help="Whether to put the sample configuration in place.")
def install(bin_dir: Path | None, conf_dir: Path, without_python: bool, sample: bool) -> None:
    """Put the plugin executable (as bgpcni, bagpipe and bgpcni-ipam) and the sample configuration in place."""
    from bgpcni.launcher import install as installer

    try:
        places = installer.places(bin_dir)
        python = None if without_python else sys.executable
        installed = installer.install(places.folders, conf_dir if sample else None, python)
    except CniError as error:
        click.echo(f"bgpcni install: {error.msg}", err=True)
        sys.exit(1)
    click.echo(installer.render(installed))
    for warning in (*places.warnings, *installed.warnings):
        click.echo(f"bgpcni install: warning: {warning}", err=True)


@main.command()
@_places
@click.option("--purge", is_flag=True, help="Also records and all else that is kept; refused while any of it is used.")
def uninstall(bin_dir: Path | None, conf_dir: Path, purge: bool) -> None:
    """Remove what install put in place, and the network that the agent wrote. Configurations that somebody changed
    stay; so do records, but for --purge."""
    from bgpcni.cluster import network
    from bgpcni.launcher import install as installer
    from bgpcni.operator import purge as purging

    run_dir, data_dir = _folders()
    try:
        kept = purging.purge(run_dir, data_dir, network.written(conf_dir)) if purge else []
        written = (conf_dir / network.NAME,) if network.take_away(conf_dir) else ()  # before the plugin that it names
        uninstalled = installer.uninstall(installer.places_to_clear(bin_dir), conf_dir)
    except CniError as error:
        click.echo(f"bgpcni uninstall: {error.msg}", err=True)
        sys.exit(1)
    uninstalled = replace(uninstalled, removed=(*written, *uninstalled.removed))
    click.echo(installer.render_uninstalled(uninstalled, kept))
    if left := installer.attached(data_dir):
        text = f"{left} interfaces of containers are still there, and runtimes need the plugin to delete them"
        click.echo(f"bgpcni uninstall: warning: {text}", err=True)


def _folders() -> tuple[Path, Path]:
    """run_dir and data_dir of agent.toml, the defaults where that cannot be read."""
    from bgpcni.config.agent import load

    try:
        config = load(paths.AGENT_CONFIG)
    except CniError:
        return paths.RUN_DIR, paths.DATA_DIR
    return Path(config.run_dir), Path(config.data_dir)


if __name__ == "__main__":
    main()
