"""`bgpcni install`: what it puts where, what it never touches, and that a wheel brings all that it needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from bgpcni.config.agent import AgentConfig, BgpTable, NeighborTable, PolicyTable, load
from bgpcni.config.network import decode, parse
from bgpcni.errors import InvalidConfiguration, IoFailure
from bgpcni.launcher import install as installer
from bgpcni.launcher import runtimes
from bgpcni.launcher.install import (
    FIELD,
    LIVE,
    MARKER,
    NAMES,
    OURS,
    SAMPLE,
    SAMPLES,
    install,
    patched,
    places,
    places_to_clear,
    render,
    render_uninstalled,
    script,
    uninstall,
)
from bgpcni.operator import cli
from bgpcni.testing.patience import SECONDS

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "bgpcni-has-no-compiler")


@pytest.fixture
def needs_compiler() -> None:
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler, cc")


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """An interpreter that tells what it was asked to run, or is the real one when it is to run a script."""
    path = tmp_path / "a python"
    path.write_text(f'#!/bin/sh\n[ "$1" = -IS ] && exec "{sys.executable}" "$@"\necho "$0 $*"\n')
    path.chmod(0o755)
    return path


def run(plugin: Path) -> str:
    """The plugin with no agent to answer."""
    environment = {"BGPCNI_SOCKET": "/dev/null", "CNI_COMMAND": "VERSION", "PATH": os.defpath}
    done = subprocess.run([plugin], env=environment, input=b"", capture_output=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


@pytest.mark.usefixtures("needs_compiler")
def test_the_plugin_comes_under_three_names_and_knows_its_python(tmp_path: Path, python: Path) -> None:
    """Compiled here, mode 0755, and it executes the interpreter fixed at install, in isolated mode."""
    installed = install([tmp_path / "opt/cni/bin"], None, python)
    assert installed.launcher == "compiled here"
    assert installed.plugins == tuple(tmp_path / "opt/cni/bin" / name for name in ("bgpcni", "bagpipe", "bgpcni-ipam"))
    assert installed.written == installed.plugins
    assert sorted((tmp_path / "opt/cni/bin").iterdir()) == sorted(installed.plugins)
    for plugin in installed.plugins:
        assert plugin.stat().st_mode & 0o7777 == 0o755
        module = "bgpcni.ipam_plugin" if plugin.name == "bgpcni-ipam" else "bgpcni.plugin"
        assert run(plugin) == f"{python} -I -m {module}\n"


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("folder", [".", "d" * 200])
def test_without_a_compiler_the_plugin_is_a_script_and_says_why(tmp_path: Path, python: Path, folder: str) -> None:
    """Also for an interpreter whose path has a blank, or is longer than a `#!` line may be."""
    (tmp_path / folder).mkdir(exist_ok=True)
    python = python.rename(tmp_path / folder / python.name)
    installed = install([tmp_path / "bin"], None, python)
    assert installed.launcher == "script"
    assert installed.reason == "no compiler (bgpcni-has-no-compiler)"
    assert installed.reason in render(installed)
    assert run(installed.plugins[0]) == f"{python} -I -m bgpcni.plugin\n"
    assert run(installed.plugins[2]) == f"{python} -I -m bgpcni.ipam_plugin\n"


def test_a_plain_path_starts_the_script_without_a_shell() -> None:
    assert script(b"/usr/bin/python3").startswith(b"#!/usr/bin/python3 -IS\n")
    assert b"PYTHON = '/usr/bin/python3'\n" in script(b"/usr/bin/python3")


@pytest.mark.usefixtures("no_compiler")
def test_the_wheels_launcher_is_used_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Path
) -> None:
    """One that does not run here (another machine's, damaged) is not put in place, and the reason is told."""
    broken = tmp_path / "launcher"
    monkeypatch.setattr(installer, "PREBUILT", broken)
    broken.write_bytes(b"\x7fELF, or so it says " + MARKER + bytes(FIELD))
    installed = install([tmp_path / "bin"], None, python)
    assert installed.launcher == "script"
    assert "the wheel's launcher: " in installed.reason
    assert run(installed.plugins[1]) == f"{python} -I -m bgpcni.plugin\n"


@pytest.mark.usefixtures("needs_compiler")
def test_without_python_a_call_that_no_agent_answers_is_refused(tmp_path: Path) -> None:
    """As a pod installs for its node: the plugin alone, and it knows that there is no Python to fall back on."""
    options = ["--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "net.d")]
    done = CliRunner().invoke(cli.main, ["install", *options, "--without-python", "--no-sample"])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "net.d").exists()
    environment = {"BGPCNI_SOCKET": "/dev/null", "CNI_COMMAND": "ADD"}
    call = subprocess.run([tmp_path / "bin/bgpcni"], env=environment, input=b"{}", capture_output=True, check=False)
    assert (call.returncode, json.loads(call.stdout)["code"]) == (1, 11)
    assert b"installed on this node without its Python" in call.stdout
    done = CliRunner().invoke(cli.main, ["uninstall", *options])
    assert (done.exit_code, list((tmp_path / "bin").iterdir())) == (0, [])


@pytest.mark.usefixtures("no_compiler")
def test_without_python_a_script_is_no_plugin(tmp_path: Path) -> None:
    with pytest.raises(IoFailure) as error:
        install([tmp_path / "bin"], None, None)
    expected = "without Python only a compiled launcher can be installed: no compiler (bgpcni-has-no-compiler)"
    assert error.value.msg == expected
    assert list((tmp_path / "bin").iterdir()) == []


@pytest.mark.usefixtures("no_compiler")
def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    first = install([tmp_path / "bin"], tmp_path / "net.d")
    before = {path: path.stat().st_ino for path in first.written}
    again = install([tmp_path / "bin"], tmp_path / "net.d")
    assert len(before) == 4
    assert (again.written, again.kept) == ((), ())
    assert before == {path: path.stat().st_ino for path in before}
    assert "up to date" in render(again)


@pytest.mark.usefixtures("no_compiler")
def test_an_older_plugin_is_replaced_whole(tmp_path: Path) -> None:
    """A call that runs keeps the old file; nothing half written is ever under the name; links are not followed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"not ours")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "bgpcni").write_bytes(b"old")
    (bin_dir / "bagpipe").symlink_to(elsewhere)
    with (bin_dir / "bgpcni").open("rb") as running:
        installed = install([bin_dir])
        assert running.read() == b"old"
    assert installed.written == installed.plugins
    assert not (bin_dir / "bagpipe").is_symlink()
    assert elsewhere.read_bytes() == b"not ours"
    assert sorted(path.name for path in bin_dir.iterdir()) == ["bagpipe", "bgpcni", "bgpcni-ipam"]


@pytest.mark.usefixtures("no_compiler")
def test_a_changed_configuration_is_kept(tmp_path: Path) -> None:
    """Edited, replaced by a link, emptied: it is the operator's, and he is told that it was left alone."""
    conf = tmp_path / SAMPLE
    assert install([tmp_path / "bin"], tmp_path).written[-1] == conf
    assert conf.read_bytes() == (SAMPLES / LIVE).read_bytes()
    assert conf.stat().st_mode & 0o7777 == 0o644
    for content in (conf.read_bytes() + b"\n", b""):
        conf.write_bytes(content)
        installed = install([tmp_path / "bin"], tmp_path)
        assert (installed.written, installed.kept) == ((), (conf,))
        assert f"kept  {conf}" in render(installed)
        assert conf.read_bytes() == content
    conf.unlink()
    conf.symlink_to(tmp_path / "nowhere")
    assert install([tmp_path / "bin"], tmp_path).kept == (conf,)
    assert conf.is_symlink()


@pytest.mark.usefixtures("no_compiler")
def test_an_unchanged_sample_of_an_earlier_release_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = b'{"type": "bagpipe", "name": "old"}\n'
    monkeypatch.setattr(installer, "OLDER_SAMPLES", frozenset({hashlib.sha256(earlier).hexdigest()}))
    (tmp_path / SAMPLE).write_bytes(earlier)
    installed = install([tmp_path / "bin"], tmp_path)
    assert (installed.written[-1], installed.kept) == (tmp_path / SAMPLE, ())
    assert (tmp_path / SAMPLE).read_bytes() == (SAMPLES / LIVE).read_bytes()


@pytest.mark.usefixtures("no_compiler")
def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IoFailure, match=re.escape(str(tmp_path / "file"))):
        install([tmp_path / "file" / "bin"])


def test_an_interpreters_path_that_does_not_fit_is_refused() -> None:
    """Never cut short, never a path that a shell or Python would read otherwise."""
    image = b"x" + MARKER + bytes(FIELD - len(MARKER)) + b"y"
    longest = b"/" + b"p" * (FIELD - 2)
    assert patched(image, longest) == b"x" + longest + b"\0y"
    assert patched(image, b"/p").startswith(b"x/p\0")
    with pytest.raises(InvalidConfiguration):
        patched(image, longest + b"p")
    with pytest.raises(IoFailure):
        patched(b"no field", b"/p")
    for path in (b"/it's", b"/a\\b", b"/a\nb", b"/\xff"):
        with pytest.raises(InvalidConfiguration):
            script(path)


def below(root: Path, name: str, text: str = "") -> Path:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# As Debian 13's package containerd 1.7.24 ships it.
DEBIAN = """\
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"""
V3 = """\
version = 3
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dir = '/srv/cni'
  conf_dir = '/etc/cni/net.d'
"""
V3_LIST = """\
version = 3
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['/srv/one', '/srv/two']
"""
CRIO = """\
[crio.network]
plugin_dirs = ["/srv/crio/"]
"""


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        ({}, ["/opt/cni/bin"]),
        ({"/usr/lib/cni/bridge": ""}, ["/usr/lib/cni"]),
        ({"/etc/containerd/config.toml": DEBIAN}, ["/usr/lib/cni"]),
        ({"/etc/containerd/config.toml": DEBIAN.replace("/usr/lib/cni", "/srv/x")}, ["/srv/x"]),
        ({"/etc/containerd/config.toml": V3}, ["/srv/cni"]),
        ({"/etc/containerd/config.toml": V3_LIST}, ["/srv/one"]),
        ({"/etc/containerd/config.toml": V3_LIST, "/srv/two/bridge": ""}, ["/srv/two"]),
        ({"/usr/bin/containerd": ""}, ["/opt/cni/bin"]),
        ({"/usr/bin/containerd": "", "/usr/lib/cni/bridge": ""}, ["/usr/lib/cni"]),
        ({"/etc/containerd/config.toml": "version = 3\n", "/usr/lib/cni/x": "", "/opt/cni/bin/x": ""},
         ["/usr/lib/cni", "/opt/cni/bin"]),
        ({"/etc/containerd/config.toml": 'disabled_plugins = ["cri"]\n'}, ["/opt/cni/bin"]),
        ({"/etc/containerd/config.toml": 'version = 3\nimports = ["conf.d/*.toml"]\n',
          "/etc/containerd/conf.d/cni.toml": V3}, ["/srv/cni"]),
        ({"/etc/crio/crio.conf": CRIO}, ["/srv/crio"]),
        ({"/etc/crio/crio.conf.d/10-x.conf": CRIO, "/etc/crio/crio.conf": "[crio]\n"}, ["/srv/crio"]),
        ({"/etc/crio/crio.conf": CRIO, "/etc/containerd/config.toml": DEBIAN}, ["/usr/lib/cni", "/srv/crio"]),
    ],
)  # fmt: skip
def test_the_plugin_goes_where_the_runtimes_of_the_host_look(
    tmp_path: Path, files: dict[str, str], folders: list[str]
) -> None:
    for name, text in files.items():
        below(tmp_path, name, text)
    assert places(root=tmp_path) == installer.Places(tuple(tmp_path / folder[1:] for folder in folders))


def test_debians_own_containerd_is_understood() -> None:
    """The file of this very host, where the package has put one, is the one above or at least read without a word."""
    if not runtimes.CONTAINERD.is_file() or "/usr/lib/cni" not in runtimes.CONTAINERD.read_text():
        pytest.skip("needs Debian's containerd, for its configuration")
    assert runtimes.find().warnings == ()
    assert runtimes.DEBIAN in places().folders


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """It does not keep the plugin from being installed where that runtime looks by default."""
    file = below(tmp_path, "/etc/containerd/config.toml", "version = \n")
    found = places(root=tmp_path)
    assert found.folders == (tmp_path / "opt/cni/bin",)
    assert len(found.warnings) == 1
    assert str(file) in found.warnings[0]


@pytest.mark.parametrize("text", ["plugins = 3\n", "[plugins]\ncri = []\n", '[plugins.cri.cni]\nbin_dir = ["x", 3]\n'])
def test_a_configuration_of_another_shape_names_no_folder(tmp_path: Path, text: str) -> None:
    below(tmp_path, "/etc/containerd/config.toml", text)
    assert places(root=tmp_path).folders == (tmp_path / "opt/cni/bin",)


def test_bin_dir_is_obeyed_with_a_warning_if_no_runtime_looks_there(tmp_path: Path) -> None:
    below(tmp_path, "/etc/containerd/config.toml", DEBIAN)
    assert places(tmp_path / "usr/lib/cni", tmp_path) == installer.Places((tmp_path / "usr/lib/cni",))
    other = places(tmp_path / "srv", tmp_path)
    assert other.folders == (tmp_path / "srv",)
    assert other.warnings == (
        f"{tmp_path}/srv: no runtime found on this host looks there (containerd of this host looks in "
        f"{tmp_path}/usr/lib/cni)",
    )


def test_the_usual_bin_dir_needs_no_warning_where_no_runtime_is(tmp_path: Path) -> None:
    assert places(tmp_path / "opt/cni/bin", tmp_path).warnings == ()
    assert len(places(tmp_path / "srv", tmp_path).warnings) == 1


@pytest.mark.usefixtures("no_compiler")
def test_an_earlier_installation_elsewhere_is_kept_up_to_date(tmp_path: Path) -> None:
    """It was made where no runtime of Debian looks; somebody's CNI_PATH may lead there."""
    below(tmp_path, "/etc/containerd/config.toml", DEBIAN)
    install([tmp_path / "opt/cni/bin"])
    assert places(root=tmp_path).folders == (tmp_path / "usr/lib/cni", tmp_path / "opt/cni/bin")


@pytest.mark.usefixtures("no_compiler")
def test_the_sample_is_no_network(tmp_path: Path) -> None:
    """No runtime, nor `bgpcni attach`, takes it for one: containerd, CRI-O and libcni read these endings alone."""
    installed = install([tmp_path / "bin"], tmp_path / "net.d")
    assert [path.name for path in (tmp_path / "net.d").iterdir()] == ["10-bagpipe.conf.sample"]
    assert not any(path.suffix in (".conf", ".conflist", ".json") for path in (tmp_path / "net.d").iterdir())
    assert installed.warnings == ()


@pytest.mark.usefixtures("no_compiler")
def test_a_sample_that_is_live_from_an_earlier_installation_is_told_and_left(tmp_path: Path) -> None:
    """Somebody may use it by now. One that was changed, or written by hand, is nobody's business."""
    (tmp_path / LIVE).write_bytes((SAMPLES / LIVE).read_bytes())
    installed = install([tmp_path / "bin"], tmp_path)
    assert (tmp_path / LIVE).read_bytes() == (SAMPLES / LIVE).read_bytes()
    assert len(installed.warnings) == 1
    assert f"{tmp_path / LIVE}: an earlier" in installed.warnings[0]
    (tmp_path / LIVE).write_text("{}")
    assert install([tmp_path / "bin"], tmp_path).warnings == ()


@pytest.mark.parametrize("kind", ["compiled", "script"])
def test_uninstall_takes_away_what_install_put_there(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """Also the sample under the name that made it live, unchanged: its plugin is gone. Doing it again is no error."""
    request.getfixturevalue("needs_compiler" if kind == "compiled" else "no_compiler")
    net_d = tmp_path / "net.d"
    installed = install([tmp_path / "a", tmp_path / "b"], net_d)
    assert all(OURS in path.read_bytes() for path in installed.plugins)
    (net_d / LIVE).write_bytes((SAMPLES / LIVE).read_bytes())
    (net_d / "10-tenant-a.conf").write_text("{}")
    gone = uninstall([tmp_path / "a", tmp_path / "b"], net_d)
    assert set(gone.removed) == {*installed.written, net_d / LIVE}
    assert gone.kept == ()
    assert [path.name for path in net_d.iterdir()] == ["10-tenant-a.conf"]
    assert "removed" in render_uninstalled(gone)
    assert uninstall([tmp_path / "a", tmp_path / "none"], net_d) == installer.Uninstalled((), ())
    assert render_uninstalled(installer.Uninstalled((), ())) == "nothing of bgpcni was found"


@pytest.mark.usefixtures("no_compiler")
def test_uninstall_leaves_what_is_not_ours(tmp_path: Path) -> None:
    """Another plugin of that name, a link, a folder, a sample that was changed: they stay, and he is told."""
    install([tmp_path / "bin"], tmp_path)
    (tmp_path / "bin/bagpipe").unlink()
    (tmp_path / "bin/bagpipe").write_text("#!/bin/sh\n")
    (tmp_path / "bin/bgpcni").rename(tmp_path / "elsewhere")
    (tmp_path / "bin/bgpcni").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "bin/bgpcni-ipam").unlink()
    (tmp_path / "bin/bgpcni-ipam").mkdir()
    (tmp_path / SAMPLE).write_text("{}")
    gone = uninstall([tmp_path / "bin"], tmp_path)
    assert gone.removed == ()
    assert gone.kept == (*(tmp_path / "bin" / name for name in NAMES), tmp_path / SAMPLE)
    assert all(os.path.lexists(path) for path in gone.kept)
    assert f"kept  {tmp_path / SAMPLE}" in render_uninstalled(gone)


@pytest.mark.usefixtures("no_compiler")
def test_uninstall_looks_in_every_folder_that_install_may_have_chosen(tmp_path: Path) -> None:
    """A runtime may have been installed, or have gone, since."""
    below(tmp_path, "/etc/crio/crio.conf", CRIO)
    usual = (tmp_path / "usr/lib/cni", tmp_path / "opt/cni/bin")
    assert places_to_clear(root=tmp_path) == (tmp_path / "srv/crio", *usual)
    assert places_to_clear(tmp_path / "x", tmp_path) == (tmp_path / "x",)


def test_uninstall_tells_of_containers_that_are_still_attached(tmp_path: Path) -> None:
    """A runtime that wants to delete them will find no plugin."""
    record = tmp_path / "attachments/up/tenant-a/c1.json"
    assert installer.attached(tmp_path) == 0
    record.parent.mkdir(parents=True)
    record.touch()
    assert installer.attached(tmp_path) == 1


@pytest.mark.usefixtures("no_compiler")
def test_the_commands_install_and_uninstall(tmp_path: Path) -> None:
    """As an operator types them, on this host: warnings on stderr, what was done on stdout."""
    options = ["--bin-dir", str(tmp_path / "bin"), "--conf-dir", str(tmp_path / "net.d")]
    done = CliRunner().invoke(cli.main, ["install", *options])
    assert done.exit_code == 0, done.output
    assert f"wrote  {tmp_path}/bin/bgpcni-ipam\n" in done.stdout
    assert f"{tmp_path}/bin: no runtime found on this host looks there" in done.stderr
    done = CliRunner().invoke(cli.main, ["uninstall", *options])
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "bin").iterdir()) == list((tmp_path / "net.d").iterdir()) == []
    (tmp_path / "net.d").rmdir()
    (tmp_path / "net.d").touch()
    done = CliRunner().invoke(cli.main, ["install", *options])
    assert (done.exit_code, done.stdout) == (1, "")
    assert str(tmp_path / "net.d") in done.stderr


def test_without_an_agent_toml_the_agent_points_to_the_sample(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration) as error:
        load(tmp_path / "agent.toml")
    (named,) = re.findall(r"the sample (\S+) ", error.value.msg)
    assert Path(named).samefile(SAMPLES / "agent.toml")
    assert str(tmp_path / "agent.toml") in error.value.msg


def test_the_samples_are_valid() -> None:
    """JSON of cniVersion 1.0.0 (containerd rejects results of 1.1.0); the chain has the plugin first."""
    article = json.loads((SAMPLES / "10-bagpipe.conf").read_text())
    chain = json.loads((SAMPLES / "20-bgpcni-chain.conflist").read_text())
    assert article["cniVersion"] == chain["cniVersion"] == "1.0.0"
    assert (article["type"], article["mtu"], "exporters" in article) == ("bagpipe", "1500", False)
    assert [plugin["type"] for plugin in chain["plugins"]] == ["bgpcni", "portmap"]
    first = {"cniVersion": "1.0.0", "name": chain["name"], **chain["plugins"][0]}
    for ours in (article, first):
        _, warnings = parse(decode(json.dumps(ours).encode()))
        assert warnings == ()
    for block in re.findall(r"```json\n(.*?)```", (SAMPLES / "README.md").read_text(), re.DOTALL):
        assert json.loads(block)["cniVersion"] == "1.0.0"
    assert (REPOSITORY / "conf").samefile(SAMPLES)


DOCUMENTS = sorted((REPOSITORY / "docs").rglob("*.md"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=[path.stem for path in DOCUMENTS])
def test_what_the_documents_show_is_valid(document: Path) -> None:
    """Network configurations and whole files agent.toml are taken as they stand, without a warning."""
    text = document.read_text()
    for network in re.findall(r"^```json[^\n]*\n(\{ \"cniVersion\".*?)```", text, re.DOTALL | re.MULTILINE):
        shown = json.loads(network)
        for plugin in shown.pop("plugins", [{}]):
            if plugin.get("type", "bgpcni") == "bgpcni":
                assert parse(decode(json.dumps(shown | plugin).encode()))[1] == ()
    for agent in re.findall(r"^```toml[^\n]*\n((?:run_dir|\[bgp\]).*?)```", text, re.DOTALL | re.MULTILINE):
        AgentConfig.model_validate(tomllib.loads(agent))


def test_the_unit_runs_what_is_installed() -> None:
    text = (REPOSITORY / "docs/start/install.md").read_text()
    (unit,) = re.findall(r"^ExecStart=(\S+) agent$", (SAMPLES / "systemd/bgpcni.service").read_text(), re.MULTILINE)
    assert f"python3 -m venv {Path(unit).parents[1]} && {Path(unit).with_name('pip')} install ." in text


def test_every_option_of_the_agents_sample_can_be_uncommented() -> None:
    """As shipped it changes nothing; without the `#` before its options it is all that the agent takes, and valid."""
    text = (SAMPLES / "agent.toml").read_text()
    assert tomllib.loads(text) == {}
    options = tomllib.loads(re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE))
    AgentConfig.model_validate(options)
    assert set(options) == set(AgentConfig.model_fields)
    assert set(options["bgp"]) == set(BgpTable.model_fields)
    keys = {field.alias or name for name, field in NeighborTable.model_fields.items()}
    assert {key for neighbor in options["bgp"]["neighbors"] for key in neighbor} == keys
    assert set(options["policy"]) == set(PolicyTable.model_fields)


def wheel(folder: Path, **environment: str) -> Path:
    """A wheel of a copy of this checkout (so that no `build` folder is left in it)."""
    source = folder / "source"
    keep = ("bgpcni", "exporters", "conf")
    for name in keep:
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in REPOSITORY.iterdir():
        if path.is_file() and path.suffix in {".toml", ".py", ".md", ""}:
            shutil.copy(path, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    if done.returncode != 0 and "No matching distribution" in done.stderr:
        pytest.skip("needs a package index, for setuptools")
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.usefixtures("needs_compiler")
def test_a_wheel_brings_the_launcher_to_a_node_without_a_compiler(tmp_path: Path) -> None:
    """Built where there is a compiler, for this platform and any Python; installed, it installs the plugin alone."""
    built = wheel(tmp_path)
    assert re.fullmatch(r"bgpcni-[^-]+-py3-none-linux_\w+\.whl", built.name)
    names = set(zipfile.ZipFile(built).namelist())
    assert {"bgpcni/launcher/launcher", "bgpcni_exabgp/__init__.py", "bgpcni/py.typed"} <= names
    assert {f"bgpcni/samples/{name}" for name in (LIVE, "agent.toml", "systemd/bgpcni.service")} <= names
    assert not {name.split("/")[0] for name in names} & {"exporters", "conf", "tests", "integration"}

    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(packages)
    program = (
        "import sys; from pathlib import Path; from bgpcni.launcher.install import install;"
        "print(install([Path(sys.argv[1])], Path(sys.argv[2])).launcher)"
    )
    done = subprocess.run(
        [python, "-I", "-c", program, tmp_path / "bin", tmp_path / "net.d"],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("from the wheel\n", "")
    assert os.fsencode(python) + b"\0" in (tmp_path / "bin/bgpcni").read_bytes()
    assert (tmp_path / "net.d" / SAMPLE).is_file()


def test_a_wheel_without_a_compiler_is_for_any_platform(tmp_path: Path) -> None:
    built = wheel(tmp_path, CC="bgpcni-has-no-compiler")
    assert built.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(built).namelist()
    assert "bgpcni/launcher/launcher" not in names
    assert {"bgpcni/launcher/launcher.c", "bgpcni/launcher/launcher.py"} <= set(names)


def test_the_release_of_an_installed_launcher_can_be_told(tmp_path: Path) -> None:
    """Compiled or a script; one of an earlier release, which did not note it; what is not ours is None."""
    noted = patched(b"bgpcni.plugin " + MARKER + bytes(FIELD - len(MARKER)), b"/usr/bin/python3")
    for content, expected in (
        (noted, installer.release(installer.BINARY)),
        (installer.script(b"/usr/bin/python3"), installer.release(installer.SCRIPT)),
        (b"an old one with bgpcni.plugin in it", ""),
        (b"#!/bin/sh\n", None),
    ):
        (tmp_path / "bgpcni").write_bytes(content)
        assert installer.installed_release(tmp_path / "bgpcni") == expected
        assert installer.is_of_this_release(expected or "") == bool(expected)
