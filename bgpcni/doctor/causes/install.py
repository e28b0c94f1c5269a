"""Causes in what is installed: the plugin, the networks of the runtimes, agent.toml, files' modes. Pure."""

from __future__ import annotations

import stat

from bgpcni.doctor.cause import Judgement, cause, error, ok, warning
from bgpcni.doctor.facts import Snapshot, known, listed
from bgpcni.launcher.install import NAMES


def _split(path: str) -> tuple[str, str]:
    """Folder and name."""
    folder, _, name = path.rpartition("/")
    return folder, name


@cause(
    symptom="ADD fails with `try again later`, and nothing is announced.",
    why="agent.toml is there, but no agent answers.",
    remedy="systemctl start bgpcni; journalctl -u bgpcni",
    fine="the agent answers",
)
def agent_away(seen: Snapshot) -> Judgement:
    answers = known(seen.answers)
    if not answers.error:
        return
    if answers.absent and known(seen.config) is None and not seen.config_problem:
        yield ok(f"no agent runs, and none is configured: {seen.config_path} does not exist")
    else:
        yield error(f"no agent answers: {answers.error}")


@cause(
    symptom="The agent does not start, or `bgpcni reload` is refused.",
    why="agent.toml has errors.",
    remedy="bgpcni validate {file}",
    fine="agent.toml is valid, or there is none",
)
def agent_toml(seen: Snapshot) -> Judgement:
    if seen.config_problem:
        yield error(seen.config_problem, file=seen.config_path)


@cause(
    symptom="A command or an option that the documentation has does not exist.",
    why="The agent that runs is of another release than this command.",
    remedy="systemctl restart bgpcni",
    fine="the agent is of the same release as this command, or none runs",
)
def agent_version(seen: Snapshot) -> Judgement:
    status = known(seen.answers).status
    if status is not None and (theirs := status.get("version")) != seen.version:
        yield warning(f"the agent is bgpcni {theirs}, this command is {seen.version}")


@cause(
    symptom="Everything else that `bgpcni status` says.",
    why="The agent itself knows of a problem.",
    remedy="bgpcni status; bgpcni explain NAME",
    fine="the agent reports no problem, or none runs",
)
def agent_problems(seen: Snapshot) -> Judgement:
    for problem in (known(seen.answers).status or {}).get("problems", ()):
        if problem.get("code") != "peer-down":  # each session has findings of its own
            yield warning(f"{problem.get('code')}: {problem.get('text')}")


@cause(
    symptom="ADD fails: an exporter is not installed; or nothing is announced through it.",
    why="An exporter that agent.toml names cannot be used.",
    remedy="install the package that provides it, or correct [exporters] and default_exporters in agent.toml",
    fine="the exporters of agent.toml are installed and accept their configuration",
)
def exporter_unusable(seen: Snapshot) -> Judgement:
    for name, reason in sorted(known(seen.exporters).items()):
        yield error(f"{name}: {reason}")


@cause(
    symptom="Containers get no network, or that of another plugin.",
    why="Runtimes use the first file of net.d by name only, and there are several, or none of ours, or a broken one.",
    remedy="ls {folder}; rename or remove the files that are not wanted; bgpcni validate {folder}/*",
    fine="there is one network file, and it is ours",
)
def network_files(seen: Snapshot) -> Judgement:
    files = known(seen.networks)
    for file in files:
        if file.problem:
            yield error(file.problem, folder=seen.conf_dir)
    valid = [file for file in files if not file.problem]
    mine = [file for file in valid if any(kind in NAMES for kind in file.types)]
    if not valid:
        yield warning(f"{seen.conf_dir} has no network: a runtime that reads it gives containers none",
                      folder=seen.conf_dir)  # fmt: skip
    elif not mine:
        yield warning(f"no network of {seen.conf_dir} is of bgpcni", folder=seen.conf_dir)
    elif len(valid) > 1:
        first = valid[0]
        rest = listed(_split(file.path)[1] for file in valid[1:])
        say = warning if first in mine else error
        yield say(f"{first.path} comes first by name, so runtimes do not use {rest}", folder=seen.conf_dir)
    names = [file.name for file in valid]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield warning(f"two files are about a network called {name}", folder=seen.conf_dir)


@cause(
    symptom="The runtime says that it cannot find the plugin bgpcni.",
    why="The plugin is in no folder in which a runtime of this host looks.",
    remedy="bgpcni install",
    fine="each runtime that was found has the plugin where it looks",
)
def plugin_folder(seen: Snapshot) -> Judgement:
    runtimes, plugins = known(seen.runtimes), known(seen.plugins)
    have = {_split(plugin.path)[0] for plugin in plugins if plugin.state in ("current", "other", "unknown")}
    for text in runtimes.warnings:
        yield warning(text)
    wanted = {str(folder) for folder in runtimes.looks or runtimes.folders}
    if wanted & have:
        return
    who = f"{' and '.join(runtimes.names)} of this host" if runtimes.names else "a runtime"
    say = error if runtimes.names else warning
    where = f"; it is in {listed(have)}" if have else ", nor anywhere else where runtimes look"
    yield say(f"the plugin is not in {listed(wanted)}, where {who} looks{where}")


@cause(
    symptom="Calls behave as in an older release, although the agent was upgraded.",
    why="The plugin in a folder of plugins is of another release than this one, or of somebody else.",
    remedy="bgpcni install --bin-dir {folder}",
    fine="the plugin is of this release",
)
def plugin_old(seen: Snapshot) -> Judgement:
    for plugin in known(seen.plugins):
        folder, name = _split(plugin.path)
        if plugin.state == "other":
            yield warning(f"{plugin.path} is of another release than this command", folder=folder)
        elif plugin.state == "foreign" and name == NAMES[0]:
            yield warning(f"{plugin.path} is not ours", folder=folder)
        elif plugin.state == "unknown":
            yield warning(f"{plugin.path}: it cannot be told of which release it is", folder=folder)


@cause(
    symptom="The agent refuses to start, or warns; another user could change what is announced.",
    why="A file or folder of bgpcni can be written or read by other users.",
    remedy="chown root {path}; chmod {mode} {path}",
    fine="nobody else may write our files, nor read those with secrets",
)
def file_modes(seen: Snapshot) -> Judgement:
    for item in known(seen.modes):
        words = {"path": item.path, "mode": f"{item.most:04o}"}
        mode = stat.S_IMODE(item.mode)
        if item.uid:
            yield error(f"{item.path} belongs to user {item.uid}", **words)
        elif mode & 0o022 & ~item.most:
            yield error(f"{item.path} can be written by other users (mode {mode:04o})", **words)
        elif mode & ~item.most & 0o077:
            yield warning(f"{item.path} can be read by other users (mode {mode:04o})", **words)
