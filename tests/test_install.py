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

from bgpcni.config.agent import AgentConfig, BgpTable, NeighborTable, PolicyTable
from bgpcni.config.network import parse
from bgpcni.errors import InvalidConfiguration, IoFailure
from bgpcni.launcher import install as installer
from bgpcni.launcher.install import FIELD, MARKER, SAMPLE, SAMPLES, install, patched, render, script
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
def test_the_plugin_comes_under_two_names_and_knows_its_python(tmp_path: Path, python: Path) -> None:
    """Compiled here, mode 0755, and it executes the interpreter fixed at install, in isolated mode."""
    installed = install(tmp_path / "opt/cni/bin", None, python)
    assert installed.launcher == "compiled here"
    assert installed.plugins == (tmp_path / "opt/cni/bin/bgpcni", tmp_path / "opt/cni/bin/bagpipe")
    assert installed.written == installed.plugins
    assert sorted((tmp_path / "opt/cni/bin").iterdir()) == sorted(installed.plugins)
    for plugin in installed.plugins:
        assert plugin.stat().st_mode & 0o7777 == 0o755
        assert run(plugin) == f"{python} -I -m bgpcni.plugin\n"


@pytest.mark.usefixtures("no_compiler")
@pytest.mark.parametrize("folder", [".", "d" * 200])
def test_without_a_compiler_the_plugin_is_a_script_and_says_why(tmp_path: Path, python: Path, folder: str) -> None:
    """Also for an interpreter whose path has a blank, or is longer than a `#!` line may be."""
    (tmp_path / folder).mkdir(exist_ok=True)
    python = python.rename(tmp_path / folder / python.name)
    installed = install(tmp_path / "bin", None, python)
    assert installed.launcher == "script"
    assert installed.reason == "no compiler (bgpcni-has-no-compiler)"
    assert installed.reason in render(installed)
    assert run(installed.plugins[0]) == f"{python} -I -m bgpcni.plugin\n"


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
    installed = install(tmp_path / "bin", None, python)
    assert installed.launcher == "script"
    assert "the wheel's launcher: " in installed.reason
    assert run(installed.plugins[1]) == f"{python} -I -m bgpcni.plugin\n"


@pytest.mark.usefixtures("no_compiler")
def test_installing_again_changes_nothing(tmp_path: Path) -> None:
    first = install(tmp_path / "bin", tmp_path / "net.d")
    before = {path: path.stat().st_ino for path in first.written}
    again = install(tmp_path / "bin", tmp_path / "net.d")
    assert len(before) == 3
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
        installed = install(bin_dir)
        assert running.read() == b"old"
    assert installed.written == installed.plugins
    assert not (bin_dir / "bagpipe").is_symlink()
    assert elsewhere.read_bytes() == b"not ours"
    assert sorted(path.name for path in bin_dir.iterdir()) == ["bagpipe", "bgpcni"]


@pytest.mark.usefixtures("no_compiler")
def test_a_changed_configuration_is_kept(tmp_path: Path) -> None:
    """Edited, replaced by a link, emptied: it is the operator's, and he is told that it was left alone."""
    conf = tmp_path / SAMPLE
    assert install(tmp_path / "bin", tmp_path).written[-1] == conf
    assert conf.read_bytes() == (SAMPLES / SAMPLE).read_bytes()
    assert conf.stat().st_mode & 0o7777 == 0o644
    for content in (conf.read_bytes() + b"\n", b""):
        conf.write_bytes(content)
        installed = install(tmp_path / "bin", tmp_path)
        assert (installed.written, installed.kept) == ((), (conf,))
        assert f"kept  {conf}" in render(installed)
        assert conf.read_bytes() == content
    conf.unlink()
    conf.symlink_to(tmp_path / "nowhere")
    assert install(tmp_path / "bin", tmp_path).kept == (conf,)
    assert conf.is_symlink()


@pytest.mark.usefixtures("no_compiler")
def test_an_unchanged_sample_of_an_earlier_release_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = b'{"type": "bagpipe", "name": "old"}\n'
    monkeypatch.setattr(installer, "OLDER_SAMPLES", frozenset({hashlib.sha256(earlier).hexdigest()}))
    (tmp_path / SAMPLE).write_bytes(earlier)
    installed = install(tmp_path / "bin", tmp_path)
    assert (installed.written[-1], installed.kept) == (tmp_path / SAMPLE, ())
    assert (tmp_path / SAMPLE).read_bytes() == (SAMPLES / SAMPLE).read_bytes()


@pytest.mark.usefixtures("no_compiler")
def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IoFailure, match=re.escape(str(tmp_path / "file"))):
        install(tmp_path / "file" / "bin")


def test_an_interpreters_path_that_does_not_fit_is_refused() -> None:
    """Never cut short, never a path that a shell or Python would read otherwise."""
    image = b"x" + MARKER + bytes(FIELD - len(MARKER)) + b"y"
    longest = b"/" + b"p" * (FIELD - 2)
    assert patched(image, longest) == b"x" + longest + b"\0y"
    assert patched(image, b"/p") == b"x/p" + bytes(FIELD - 2) + b"y"
    with pytest.raises(InvalidConfiguration):
        patched(image, longest + b"p")
    with pytest.raises(IoFailure):
        patched(b"no field", b"/p")
    for path in (b"/it's", b"/a\\b", b"/a\nb", b"/\xff"):
        with pytest.raises(InvalidConfiguration):
            script(path)


def test_the_samples_are_valid() -> None:
    """JSON of cniVersion 1.0.0 (containerd rejects results of 1.1.0); the chain has the plugin first."""
    article = json.loads((SAMPLES / "10-bagpipe.conf").read_text())
    chain = json.loads((SAMPLES / "20-bgpcni-chain.conflist").read_text())
    assert article["cniVersion"] == chain["cniVersion"] == "1.0.0"
    assert (article["type"], article["mtu"], "exporters" in article) == ("bagpipe", "1500", False)
    assert [plugin["type"] for plugin in chain["plugins"]] == ["bgpcni", "portmap"]
    first = {"cniVersion": "1.0.0", "name": chain["name"], **chain["plugins"][0]}
    for ours in (article, first):
        _, warnings = parse(json.dumps(ours).encode())
        assert warnings == ()
    for block in re.findall(r"```json\n(.*?)```", (SAMPLES / "README.md").read_text(), re.DOTALL):
        assert json.loads(block)["cniVersion"] == "1.0.0"
    assert (REPOSITORY / "conf").samefile(SAMPLES)


def test_what_the_readme_shows_is_valid() -> None:
    """Its network configurations and its agent.toml are taken as they stand, without a warning."""
    text = (REPOSITORY / "README.md").read_text()
    networks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    agents = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert (len(networks), len(agents)) == (3, 1)
    assert [parse(network.encode())[1] for network in networks] == [()] * 3
    AgentConfig.model_validate(tomllib.loads(agents[0]))


def test_every_option_of_the_agents_sample_can_be_uncommented() -> None:
    """As shipped it changes nothing; without the `#` before its options it is all that the agent takes, and valid."""
    text = (SAMPLES / "agent.toml").read_text()
    assert tomllib.loads(text) == {}
    options = tomllib.loads(re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE))
    AgentConfig.model_validate(options)
    assert set(options) == set(AgentConfig.model_fields)
    assert set(options["bgp"]) == set(BgpTable.model_fields)
    assert set(options["bgp"]["neighbors"][0]) == set(NeighborTable.model_fields)
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
    assert {f"bgpcni/samples/{name}" for name in (SAMPLE, "agent.toml", "systemd/bgpcni.service")} <= names
    assert not {name.split("/")[0] for name in names} & {"exporters", "conf", "tests", "integration"}

    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(packages)
    program = (
        "import sys; from pathlib import Path; from bgpcni.launcher.install import install;"
        "print(install(Path(sys.argv[1]), Path(sys.argv[2])).launcher)"
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
