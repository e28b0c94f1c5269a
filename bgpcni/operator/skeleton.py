"""`bgpcni new-exporter`: a package with a complete exporter, and its tests, for somebody to begin with.

The files of `bgpcni/skeleton` are a working exporter with the name `example`. They are copied with another name.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path

from bgpcni import extensions
from bgpcni.errors import InvalidConfiguration

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "exporter.py": "bgpcni_example/__init__.py",
    "tests/toy.py": "tests/toy.py",
    "tests/test_exporter.py": "tests/test_exporter.py",
}
"""Each file of the skeleton, and where it is in the package."""


def write(name: str, parent: Path) -> list[Path]:
    """Make the package `bgpcni-NAME` in a new folder of that name below `parent`; the files that were written.

    Raises InvalidConfiguration for a name that cannot be used, and OSError.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]{1,30}", name) or keyword.iskeyword(name):
        form = "2 to 31 characters, a-z and 0-9, a letter first"
        raise InvalidConfiguration(f"NAME: {name!r} is not a name for an exporter: {form}")
    if name in extensions.installed("bgpcni.exporters"):
        raise InvalidConfiguration(f"NAME: an exporter {name!r} is installed already")
    folder = parent / f"bgpcni-{name}"
    if folder.exists():
        raise InvalidConfiguration(f"{folder} exists already")
    written = []
    for source, target in FILES.items():
        text = (Path(__file__).parents[1] / "skeleton" / source).read_text()
        path = folder / target.replace("example", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("Example", name.capitalize()).replace("example", name))
        written.append(path)
    return written
