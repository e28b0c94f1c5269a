"""The `bgpcni` command of operators. (The plugin of the same name in bin-dir is the launcher's.)"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from bgpcni import __version__, paths
from bgpcni.errors import CniError
from bgpcni.operator import client

Document = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])


@click.group()
@click.version_option(__version__, prog_name="bgpcni")
def main() -> None:
    """A CNI plugin that announces every container it connects over BGP."""


def _asks(command: F) -> F:
    """The options of every command that asks the agent."""
    command = click.option(
        "--socket", "socket_path", type=click.Path(path_type=Path), default=None, metavar="PATH",
        help="The agent's socket; else $BGPCNI_SOCKET, else " + str(paths.SOCKET) + ".",
    )(command)  # fmt: skip
    return click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")(command)


def _finish(name: str, document: Document, code: int, as_json: bool) -> NoReturn:
    if as_json:
        click.echo(json.dumps(document))
    elif "error" in document:
        click.echo(f"bgpcni: {document['error']}", err=True)
    else:
        from bgpcni.operator import render

        click.echo(render.RENDERERS[name](document), nl=False)
    sys.exit(code)


def _socket(given: Path | None) -> Path:
    return given or Path(os.environ.get("BGPCNI_SOCKET") or paths.SOCKET)


def _ask(
    name: str,
    socket_path: Path | None,
    as_json: bool,
    *,
    without: Callable[[Any, Any], tuple[Document, int]] | None = None,
    **arguments: Any,
) -> NoReturn:
    """Ask the agent; `without` answers from the records when there is no agent and none is meant to be."""
    try:
        document, code = client.ask(_socket(socket_path), name, **arguments)
    except client.NoAgent as error:
        document, code = {"schema": 1, "error": str(error)}, 1
        if without is not None and socket_path is None and error.absent:
            document, code = _without_agent(without, str(error))
    _finish(name, document, code, as_json)


def _without_agent(answer: Callable[[Any, Any], tuple[Document, int]], reason: str) -> tuple[Document, int]:
    from bgpcni import locks, plugin
    from bgpcni.operator import answers

    if plugin.why_not(os.environ):
        return {"schema": 1, "error": reason}, 1
    try:
        node = plugin.open_node(os.environ)
        writers = locks.WriterLocks(node.store.run_fd, node.store.data_fd)
        writers.as_call()
    except locks.Busy:
        return {"schema": 1, "error": "an agent is starting or does not answer"}, 1
    except CniError as error:
        return {"schema": 1, "error": error.msg}, 1
    try:
        return answer(answers, node)
    except CniError as error:
        return {"schema": 1, "error": error.msg}, 1
    finally:
        writers.release()


@main.command()
@_asks
def status(socket_path: Path | None, as_json: bool) -> None:
    """Is all well? Exit code 1 if there are problems."""
    _ask("status", socket_path, as_json, without=lambda answers, node: answers.status(node))


@main.command()
@_asks
def attachments(socket_path: Path | None, as_json: bool) -> None:
    """Every interface we made or announce."""
    _ask("attachments", socket_path, as_json, without=lambda answers, node: answers.attachments(node))


@main.command()
@click.option("--received", is_flag=True, help="The routes that peers announced, and what became of them.")
@_asks
def routes(received: bool, socket_path: Path | None, as_json: bool) -> None:
    """Every route wanted, and how far it got. Exit code 1 if any is not announced."""
    if received:
        _ask("received", socket_path, as_json, without=lambda answers, node: answers.received(node))
    _ask("routes", socket_path, as_json, without=lambda answers, node: answers.routes(node))


@main.command()
@_asks
def peers(socket_path: Path | None, as_json: bool) -> None:
    """The BGP sessions. Exit code 1 if any is not Established."""
    _ask("peers", socket_path, as_json, without=lambda answers, node: answers.peers(node))


@main.command()
@click.argument("what")
@_asks
def explain(what: str, socket_path: Path | None, as_json: bool) -> None:
    """The way from request to route of WHAT: a container ID, address, prefix or network."""
    _ask("explain", socket_path, as_json, what=what, without=lambda answers, node: answers.explain(node, what))


@main.command()
@_asks
def sync(socket_path: Path | None, as_json: bool) -> None:
    """Retry what is late, once. Exit code 1 if something still is."""
    _ask("sync", socket_path, as_json, without=lambda answers, node: answers.sync(node))


@main.command()
@click.argument("container_id", metavar="ID")
@click.option("--force", is_flag=True, help="Yes, though a peer may still have a route to the address.")
@_asks
def release(container_id: str, force: bool, socket_path: Path | None, as_json: bool) -> None:
    """Give back the addresses of container ID although its withdrawal is not confirmed."""
    _ask(
        "release", socket_path, as_json, id=container_id, force=force,
        without=lambda answers, node: answers.release(node, container_id, force=force),
    )  # fmt: skip


@main.command()
@_asks
def drain(socket_path: Path | None, as_json: bool) -> None:
    """Withdraw every route and end the speaker."""
    _ask("drain", socket_path, as_json)


@main.command()
@_asks
def reload(socket_path: Path | None, as_json: bool) -> None:
    """Have the agent read agent.toml again; a bad file changes nothing."""
    _ask("reload", socket_path, as_json)


def _runs_plugins(command: F) -> F:
    """The options of commands that run a network's plugins themselves, as a runtime does."""
    for option in (
        click.option("--bin-dir", default=None, metavar="DIR[:DIR]",
                     help="Where the plugins are; else $CNI_PATH, else where runtimes look."),
        click.option("--conf-dir", type=click.Path(path_type=Path), default=Path("/etc/cni/net.d"), show_default=True,
                     help="Where the network's configuration or list is."),
        click.option("--network", required=True, metavar="NAME", help="The network's name in its configuration."),
    ):  # fmt: skip
        command = option(command)
    return command


def _listed(socket_path: Path | None, name: str) -> list[Document]:
    """The list that is the agent's answer to a command, empty where no agent answers."""
    try:
        document, _ = client.ask(_socket(socket_path), name)
    except client.NoAgent:
        return []
    return list(document.get(name, []))


def _place(conf_dir: Path, bin_dir: str | None, socket_path: Path | None) -> Any:
    from bgpcni.operator import attach as attaching

    environment = dict(os.environ) | ({"BGPCNI_SOCKET": str(socket_path)} if socket_path else {})
    return attaching.Place(
        conf_dir,
        attaching.plugin_folders(bin_dir, environment),
        attaching.open_memory(environment),
        environment,
        lambda text: click.echo(text, nl=False, err=True),
    )


@main.command()
@click.option("--pid", type=click.IntRange(min=1), required=True, metavar="N", help="A process in the container.")
@click.option("--ifname", default="eth0", show_default=True, metavar="NAME", help="The interface to make there.")
@click.option("--id", "container_id", default=None, metavar="ID", help="The container's ID; else pid-N.")
@_runs_plugins
@_asks
def attach(
    pid: int,
    ifname: str,
    container_id: str | None,
    network: str,
    conf_dir: Path,
    bin_dir: str | None,
    socket_path: Path | None,
    as_json: bool,
) -> None:
    """Connect the network namespace of a process, such as of a container started with --network none.

    Runs the network's configuration, or its whole list, as a runtime does; shows the namespace to `ip netns` under
    the container's ID if that name is free.
    """
    from bgpcni.operator import attach as attaching

    try:
        place = _place(conf_dir, bin_dir, socket_path)
        document = attaching.attach(place, pid, network, ifname, container_id or attaching.default_id(pid))
    except CniError as error:
        _finish("attach", {"schema": 1, "error": error.msg}, 1, as_json)
    document["announcements"] = attaching.announcements(_listed(socket_path, "routes"), document)
    _finish("attach", document, 0, as_json)


@main.command()
@click.option("--pid", type=click.IntRange(min=1), default=None, metavar="N", help="The process given to attach.")
@click.option("--id", "container_id", default=None, metavar="ID", help="The container's ID.")
@click.option("--ifname", default=None, metavar="NAME", help="One interface alone; else all of this network.")
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
    """Take back what attach did, also when the process or its namespace is gone. Nothing there is success."""
    from bgpcni.operator import attach as attaching

    if (pid is None) == (container_id is None):
        raise click.UsageError("give one of --pid and --id")
    try:
        place = _place(conf_dir, bin_dir, socket_path)
        document = attaching.detach(
            place, network, pid, container_id, ifname, lambda: _listed(socket_path, "attachments")
        )
    except CniError as error:
        _finish("detach", {"schema": 1, "error": error.msg}, 1, as_json)
    _finish("detach", document, 0, as_json)


@main.command()
@click.option("--config", type=click.Path(path_type=Path), default=paths.AGENT_CONFIG, show_default=True)
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), default=None, metavar="PATH",
              help=f"Where to listen; else $BGPCNI_SOCKET, else {paths.SOCKET}.")  # fmt: skip
@click.option("--metrics", metavar="ADDR:PORT", help="Serve Prometheus metrics there, on a loopback address.")
@click.option("--metrics-beyond-loopback", is_flag=True, help="Let --metrics be an address that others reach.")
@click.option("--log-json", is_flag=True, help="Log lines as JSON objects.")
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
@click.option("--log-json", is_flag=True, help="Log lines as JSON objects.")
def speaker(run_dir: Path, kind: str, log_json: bool) -> None:
    """Run ExaBGP in the foreground for an agent elsewhere, such as in another pod.

    It waits for the configuration that the agent writes. When it ends, peers with graceful restart keep the routes.
    """
    from bgpcni.agent.logs import configure
    from bgpcni.convergence import catalog

    configure(as_json=log_json)
    try:
        catalog.cache_in(run_dir)
        catalog.load(kind).speak(run_dir)
    except CniError as error:
        click.echo(f"bgpcni speaker: {error.msg}", err=True)
        sys.exit(1)


def _places(command: F) -> F:
    """The options of commands that put the plugin in place or take it away."""
    command = click.option(
        "--conf-dir", type=click.Path(path_type=Path), default=Path("/etc/cni/net.d"), show_default=True,
        help="Where the sample configuration belongs, under a name that runtimes ignore.",
    )(command)  # fmt: skip
    return click.option(
        "--bin-dir", type=click.Path(path_type=Path), default=None, metavar="DIR",
        help="The folder of plugins; else where the runtimes of this host look, else /opt/cni/bin.",
    )(command)  # fmt: skip


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
