"""The map of the tests in integration/README.md names every file, and no other."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_file_of_tests_is_on_the_map() -> None:
    """Whoever looks for who promises something finds it there."""
    text = (ROOT / "integration/README.md").read_text()
    section = text.partition("## Which tests promise what")[2].partition("\n## ")[0]
    rows = [cells for line in section.splitlines() if len(cells := line.split("|")) == 5]
    for folder, column in (("tests", 2), ("integration", 3)):
        named = {name for cells in rows for name in re.findall(r"`(\w+)`", cells[column])}
        assert named == {path.stem.removeprefix("test_") for path in (ROOT / folder).glob("test_*.py")}
