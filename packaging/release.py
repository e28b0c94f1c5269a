#!/usr/bin/env python3
"""Makes everything that is published of a version, into build/release: `make release`.

    bgpcni-VERSION-py3-none-….whl      for x86_64 and aarch64; the launcher in it is static, so glibc and musl will do
    bgpcni-VERSION.tar.gz              the source; it can be built without a network
    bgpcni_VERSION_amd64.deb           with all Python libraries, for Debian 13
    bgpcni-VERSION.cdx.json            what the package consists of (CycloneDX)
    SHA256SUMS

What is committed is built, not what lies in the folder. Built twice from the same commit, it is the same, bit for bit;
`--twice` proves that. It needs what `scripts/setup --release` installs, and PyPI for libraries and the cross-compiler.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build/release"
ZIG = "ziglang==0.15.1"
MACHINES = {
    "x86_64": "manylinux_2_17_x86_64.musllinux_1_1_x86_64",
    "aarch64": "manylinux_2_17_aarch64.musllinux_1_1_aarch64",
}
"""Each processor, and the platforms of its wheel: the only thing compiled is the launcher, which links to nothing."""
DEBIAN_PYTHON = "3.13"
EXTRAS = "etcd,kubernetes,looking-glass,otel"
GLIBC = (17, 28, 34, 35, 36)


def run(*command: str | Path, folder: Path = ROOT, more: Mapping[str, str] | None = None) -> str:
    """Run a program; what it prints. Ends this one with its output if it fails."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=os.environ | dict(more or {}),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"release: {' '.join(str(word) for word in command)} failed\n{done.stdout[-4000:]}")
    return done.stdout


def epoch() -> str:
    return run("git", "log", "-1", "--format=%ct").strip()


def version() -> str:
    (found,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / "bgpcni/__init__.py").read_text(), re.M)
    return str(found)


def checkout(target: Path) -> Path:
    """What is committed, in a new folder. Everything in it has the time of the commit."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")
    return target


def backend(hook: str, folder: Path, out: Path, more: Mapping[str, str]) -> Path:
    """Call setuptools as pip does; the file that it made."""
    call = f"import setuptools.build_meta as b; print('made', b.{hook}({str(out)!r}))"
    (name,) = re.findall(r"^made (.+)$", run(sys.executable, "-c", call, folder=folder, more=more), re.M)
    return out / name


def sdist(work: Path, out: Path) -> Path:
    """The source distribution, its files in order and without this machine's owners and times."""
    made = backend("build_sdist", checkout(work / "sdist"), work, {})
    with tarfile.open(made) as tar:
        members = [(member, tar.extractfile(member)) for member in tar.getmembers()]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new:
            for member, content in sorted(members, key=lambda item: item[0].name):
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                member.mtime = int(epoch())
                member.pax_headers = {}
                new.addfile(member, content)
    target = out / made.name
    target.write_bytes(gzip.compress(packed.getvalue(), mtime=int(epoch())))
    return target


def wheel(machine: str, work: Path, out: Path, zig: Path) -> Path:
    """The wheel for a processor, with the launcher cross-compiled."""
    source = checkout(work / f"wheel-{machine}")
    compiler = f"{sys.executable} -m ziglang cc -target {machine}-linux-musl -Wl,--build-id=none"
    more = {"PYTHONPATH": str(zig), "CC": compiler, "BGPCNI_WHEEL_PLATFORM": MACHINES[machine],
            "ZIG_GLOBAL_CACHE_DIR": str(zig / "cache"), "ZIG_LOCAL_CACHE_DIR": str(zig / "cache")}  # fmt: skip
    # Zig compiles its C library for these flags when it is first needed, which takes longer than the build waits.
    flags = runpy.run_path(str(source / "bgpcni/launcher/build.py"))["FLAGS"]
    run(*compiler.split(), "-static", *flags, "-o", work / "launcher", source / "bgpcni/launcher/launcher.c", more=more)
    made = backend("build_wheel", source, out, more)
    with zipfile.ZipFile(made) as packed:
        if "bgpcni/launcher/launcher" not in packed.namelist():
            sys.exit(f"release: {made.name} has no launcher")
    return made


def deb(own: Path, work: Path, out: Path) -> tuple[Path, Path]:
    """The Debian package around the wheel `own`, and the list of what is in it."""
    folder = work / "deb/bgpcni"
    shutil.rmtree(folder.parent, ignore_errors=True)
    source = checkout(work / "deb/source")
    shutil.copytree(source / "packaging/debian", folder / "debian")
    (folder / "wheels").mkdir()
    shutil.copy(own, folder / "wheels")
    platforms = ["linux_x86_64", *(f"manylinux_2_{glibc}_x86_64" for glibc in GLIBC)]
    run(sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", DEBIAN_PYTHON,
        *(word for platform in platforms for word in ("--platform", platform)), "-c", ROOT / "constraints.txt",
        "-d", folder / "wheels", f"{folder / 'wheels' / own.name}[{EXTRAS}]", "pip")  # fmt: skip
    for name in ("constraints.txt", "deploy/assemble.py", "conf/agent.toml"):
        shutil.copy(source / name, folder)
    (folder / "units").mkdir()
    places = {"bgpcni.service": "debian/bgpcni.service", "bgpcni-sysusers.conf": "debian/bgpcni.sysusers"}
    for unit in (source / "conf/systemd").iterdir():
        text = unit.read_text().replace("/opt/bgpcni/bin/", "/usr/bin/")
        (folder / places.get(unit.name, f"units/{unit.name}")).write_text(text)
    stamp = run("date", "--utc", "--rfc-email", f"--date=@{epoch()}").strip()
    maintainer = re.search(r"^Maintainer: (.+)$", (folder / "debian/control").read_text(), re.M)
    assert maintainer
    (folder / "debian/changelog").write_text(
        f"bgpcni ({version()}) trixie; urgency=medium\n\n  * New upstream version.\n\n -- {maintainer[1]}  {stamp}\n"
    )
    run(sys.executable, "-m", "bgpcni.operator.manual", folder / "man", folder=source)
    (folder / "debian/bgpcni.manpages").write_text("man/*.1\n")
    run("dpkg-buildpackage", "--build=binary", "--no-sign", folder=folder)
    (made,) = folder.parent.glob("bgpcni_*.deb")
    bill = folder / "debian/bgpcni/usr/lib/bgpcni/share/sbom/bgpcni.cdx.json"
    shutil.copy(bill, out / f"bgpcni-{version()}.cdx.json")
    return Path(shutil.copy(made, out)), out / f"bgpcni-{version()}.cdx.json"


def build(out: Path) -> dict[str, str]:
    """Everything, into an empty folder; the SHA-256 of each file."""
    shutil.rmtree(out, ignore_errors=True)
    work, zig = out.parent / "release-work", out.parent / "zig"
    shutil.rmtree(work, ignore_errors=True)
    out.mkdir(parents=True)
    work.mkdir()
    if not (zig / "ziglang").is_dir():
        run(sys.executable, "-m", "pip", "install", "-q", "--target", zig, ZIG)
    sdist(work, out)
    wheels = [wheel(machine, work, out, zig) for machine in MACHINES]
    deb(wheels[0], work, out)
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.iterdir())}
    (out / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    shutil.rmtree(work)
    return sums


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Makes all packages of a version, into build/release.")
    parser.add_argument("--twice", action="store_true", help="build everything twice, and fail if a bit differs")
    asked = parser.parse_args(arguments)
    os.environ |= {"SOURCE_DATE_EPOCH": epoch(), "LC_ALL": "C.UTF-8", "TZ": "UTC", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    os.umask(0o022)
    first = build(OUT)
    if asked.twice:
        second = build(OUT.with_name("release-again"))
        if differ := [name for name in first if first[name] != second.get(name)]:
            sys.exit(f"release: built twice, these differ: {', '.join(differ)}")
        shutil.rmtree(OUT.with_name("release-again"))
    for name, digest in first.items():
        print(f"{digest}  {(OUT / name).stat().st_size:>10}  {OUT.relative_to(ROOT)}/{name}")


if __name__ == "__main__":
    main(sys.argv[1:])
