"""Tests our engine against every ExaBGP that it accepts and that PyPI has.

`python -m integration.exabgp_versions [VERSION…]`. Each version has a virtual environment of its own in `build/exabgp`,
in front of this checkout's.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from bgpcni_exabgp.engine.check import VERSIONS

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/test_exabgp_engine.py", "tests/test_exabgp_patches.py",
    "integration/test_exabgp_received.py", "integration/test_exabgp_suite.py",
)  # fmt: skip


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def accepted() -> list[str]:
    """The versions on PyPI that the engine's check lets pass, the oldest first."""
    pip = [sys.executable, "-m", "pip", "index", "versions", "exabgp"]
    said = subprocess.run(pip, check=True, capture_output=True, text=True).stdout
    line = next(line for line in said.splitlines() if line.startswith("Available versions:"))
    found = line.partition(":")[2].replace(" ", "").split(",")
    return sorted((one for one in found if VERSIONS[0] <= numbers(one) < VERSIONS[1]), key=numbers)


def environment(version: str) -> Path:
    """The Python of an environment with this ExaBGP; everything else in it is this checkout's."""
    place = ROOT / "build" / "exabgp" / version
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, symlinks=True)
    variables = {"base": str(place), "platbase": str(place)}
    packages = Path(sysconfig.get_path("purelib", vars=variables))
    if not (packages / "exabgp").exists():
        pip = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(packages),
            f"exabgp=={version}",
        ]
        subprocess.run(pip, check=True)
    ours = sysconfig.get_path("purelib")
    (packages / "checkout.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    return python


def main() -> int:
    failed = []
    for version in sys.argv[1:] or accepted():
        python = environment(version)
        asked = [str(python), "-I", "-c", "from importlib.metadata import version; print(version('exabgp'))"]
        found = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
        if found != version:
            raise SystemExit(f"{python} has ExaBGP {found}, not {version}")
        done = subprocess.run([python, "-m", "pytest", "-q", *TESTS], cwd=ROOT)
        print(f"ExaBGP {version}: {'failed' if done.returncode else 'passed'}", flush=True)
        if done.returncode:
            failed.append(version)
    if failed:
        print(f"failed with ExaBGP {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
