"""What the image's build stage runs: a virtual environment with bgpcni out of wheels, and the list of what is in it.

    assemble.py CONTEXT TARGET

CONTEXT holds `wheels/` (pip's own among them) and `constraints.txt`; `$EXTRAS` names optional dependencies. TARGET is
the virtual environment, without pip. With `$LISTED=python` the list leaves Debian's packages out. Standard library
only, for the base image has nothing else; no network.
"""

from __future__ import annotations

import compileall
import json
import os
import py_compile
import shutil
import subprocess
import sys
import uuid
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

SBOM = "share/sbom/bgpcni.cdx.json"
"""Below TARGET: a CycloneDX document."""
DPKG = (Path("/var/lib/dpkg/status"), *sorted(Path("/var/lib/dpkg/status.d").glob("*")))
"""Where Debian's base images say what they are made of."""


def main(context: Path, target: Path) -> None:
    """Make the environment. Raises CalledProcessError where a wheel is missing or breaks a constraint."""
    venv.create(target, symlinks=True, with_pip=False)
    (pip,) = (context / "wheels").glob("pip-*.whl")
    extras = os.environ.get("EXTRAS", "")
    subprocess.run(
        [sys.executable, f"{pip}/pip", "--python", target / "bin/python", "--disable-pip-version-check", "--no-input",
         "install", "--quiet", "--no-cache-dir", "--no-index", "--no-compile", "--root-user-action=ignore",
         "--find-links", context / "wheels", "--constraint", context / "constraints.txt",
         f"bgpcni[{extras}]" if extras else "bgpcni"],
        check=True,
    )  # fmt: skip
    shutil.rmtree(target / "etc", ignore_errors=True)  # ExaBGP's examples
    (packages,) = (target / "lib").glob("python3.*/site-packages")
    # The root is read-only and the files' times are the build's: bytecode is made now, and never compared.
    compileall.compile_dir(packages, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    sbom = target / SBOM
    sbom.parent.mkdir(parents=True)
    sbom.write_text(json.dumps(bill(packages), indent=1, sort_keys=True) + "\n")


def bill(packages: Path) -> dict[str, Any]:
    """The software bill of materials: Debian's packages and the Python distributions, in order of name."""
    whole = os.environ.get("LISTED") != "python"
    found = sorted([*(debian() if whole else ()), *python(packages)], key=lambda one: one["purl"])
    name = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(found, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "serialNumber": f"urn:uuid:{name}",
        "metadata": {
            "component": {"type": "container" if whole else "application", "name": "bgpcni", "bom-ref": "bgpcni"}
        },
        "components": found,
    }


def debian() -> Iterator[dict[str, Any]]:
    for path in DPKG:
        for paragraph in path.read_text().split("\n\n") if path.is_file() else ():
            lines = (line.partition(": ") for line in paragraph.splitlines() if not line.startswith(" "))
            field = {key: value for key, _, value in lines}
            if "Package" in field:
                name, version, arch = field["Package"], field["Version"], field["Architecture"]
                quoted = version.replace("+", "%2B").replace(":", "%3A")
                yield component(name, version, f"pkg:deb/debian/{name}@{quoted}?arch={arch}")


def python(packages: Path) -> Iterator[dict[str, Any]]:
    for found in distributions(path=[str(packages)]):
        name = found.metadata["Name"]
        part = component(name, found.version, f"pkg:pypi/{name.lower().replace('_', '-')}@{found.version}")
        if text := licence(found):
            part["licenses"] = [{"license": {"name": text}}]
        yield part


def licence(found: Distribution) -> str:
    """The expression or the short text that a distribution gives, "" where it gives a whole licence or none."""
    text = str(found.metadata.get("License-Expression") or found.metadata.get("License") or "")
    return "" if "\n" in text else text


def component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
