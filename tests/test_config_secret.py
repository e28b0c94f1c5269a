"""Password files: one that others can read or change is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bgpcni.config.secret import read_secret


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    return path


def test_a_file_for_its_owner_alone_is_read(secret: Path) -> None:
    """Without the end of the line; 0400 will do as well."""
    assert read_secret(str(secret)) == "s3cret"
    secret.chmod(0o400)
    assert read_secret(str(secret)) == "s3cret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_one_that_is_open_to_others_is_refused(secret: Path, mode: int) -> None:
    """The message says what to do."""
    secret.chmod(mode)
    with pytest.raises(ValueError, match="chmod 0600"):
        read_secret(str(secret))


def test_links_folders_fifos_and_nothing_are_refused(secret: Path, tmp_path: Path) -> None:
    """A file of another kind is refused and never blocks."""
    (tmp_path / "link").symlink_to(secret)
    os.mkfifo(tmp_path / "fifo", 0o600)
    (tmp_path / "binary").write_bytes(b"\xff")
    (tmp_path / "binary").chmod(0o600)
    for name in ("link", "fifo", "binary", "missing", "."):
        with pytest.raises(ValueError, match=r"No such file|Too many|not a plain file|not ASCII"):
            read_secret(str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to give a file away")
def test_another_users_file_is_refused(secret: Path) -> None:
    """A file of another user is refused, because that user could change it at any time."""
    os.chown(secret, 65534, 65534)
    with pytest.raises(ValueError, match="belongs to user 65534"):
        read_secret(str(secret))
