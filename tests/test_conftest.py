"""The root conftest.py: missing parts are reported, and slow machines get more time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SKIPPED = "import pytest\n\ndef test_one():\n    pytest.skip('Linux ignores the set-uid bit of scripts')\n"
FILES = {
    "test_a.py": SKIPPED,
    "test_module.py": "import pytest\npytest.importorskip('no_such_module')\n",
    "test_slow.py": "import pytest, time\n\n@pytest.mark.timeout(1)\ndef test_one():\n    time.sleep(2)\n",
    "tests/test_launcher.py": SKIPPED,
}


def results(folder: Path, **environment: str) -> dict[str, str]:
    """What became of each file in a test session of its own, under the root conftest.py."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    flags = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "no:cacheprovider", "-p", "conftest"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("BGPCNI_", "PYTEST_"))}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            *flags,
            "--continue-on-collection-errors",
            "-rA",
            "--timeout-method=signal",
            *FILES,
        ],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    summary = done.stdout.rpartition("short test summary info")[2]
    return {name: next((line.split()[0] for line in summary.splitlines() if name in line), summary) for name in FILES}


def test_a_skip_is_a_failure_where_all_parts_are_required(tmp_path: Path) -> None:
    """Unless its place and its words are on the list; and a module that is skipped as a whole is an error. Elsewhere
    both are skips. A test's own bound is multiplied like every other."""
    assert results(tmp_path) == {
        "test_a.py": "SKIPPED",
        "test_module.py": "SKIPPED",
        "test_slow.py": "PASSED",
        "tests/test_launcher.py": "SKIPPED",
    }
    assert results(tmp_path, BGPCNI_PARTS="required", BGPCNI_TEST_SCALE="1") == {
        "test_a.py": "FAILED",
        "test_module.py": "ERROR",
        "test_slow.py": "FAILED",
        "tests/test_launcher.py": "SKIPPED",
    }
