"""run_dir and data_dir: nobody else may write to them, and links are not followed."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from bgpcni.errors import IoFailure
from bgpcni.folders import listed, open_below, open_folder


def test_a_missing_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """Missing parents are made, too, and no umask makes them writable for others."""
    before = os.umask(0)
    try:
        fd = open_folder(tmp_path / "a" / "b")
    finally:
        os.umask(before)
    assert os.fstat(fd).st_mode & 0o777 == 0o700
    below = open_below("c", fd, tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700
    assert not os.get_inheritable(fd)
    os.close(below)
    os.close(open_folder(tmp_path / "a" / "b"))
    os.close(fd)


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    """A folder that others can write to is refused, because root acts on its files. The message says what to do."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(mode)
    with pytest.raises(IoFailure, match="chmod 0700"):
        open_folder(tmp_path / "d")


def test_a_folder_that_others_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o755)
    with caplog.at_level(logging.WARNING):
        os.close(open_folder(tmp_path / "d"))
    assert "can be read by other users (mode 0755)" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a folder to another user needs root")
def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(0o700)
    os.chown(tmp_path / "d", 65534, 65534)
    with pytest.raises(IoFailure, match="belongs to user 65534"):
        open_folder(tmp_path / "d")


def test_links_and_files_are_no_folders(tmp_path: Path) -> None:
    """A link could lead into another user's hands."""
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(IoFailure, match=name):
            open_folder(tmp_path / name)
    fd = open_folder(tmp_path / "real")
    (tmp_path / "real" / "link").symlink_to(tmp_path)
    with pytest.raises(IoFailure, match="link"):
        open_below("link", fd, tmp_path / "real")
    os.close(fd)


@pytest.mark.parametrize(("mode", "taken"), [(0o755, True), (0o1777, True), (0o777, False), (0o775, False)])
def test_the_way_to_a_folder_is_nobody_elses(tmp_path: Path, mode: int, taken: bool) -> None:
    """Who can write above could put another folder in its place; the sticky bit, as of /tmp, keeps him off."""
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(mode)
    if taken:
        os.close(open_folder(above / "run"))
    else:
        with pytest.raises(IoFailure, match="could replace what is in it"):
            open_folder(above / "run")
        assert not (above / "run").exists()


def test_a_listing_is_whole_whoever_lists_the_same_folder_meanwhile(tmp_path: Path) -> None:
    """A descriptor has one place to read on from: a listing that is under way elsewhere has moved it."""
    fd = open_folder(tmp_path / "d")
    for name in "abc":
        (tmp_path / "d" / name).touch()
    with os.scandir(fd) as elsewhere:
        next(elsewhere)
        assert sorted(listed(fd)) == ["a", "b", "c"]
        assert len(list(elsewhere)) == 2
    for name in "abc":
        (tmp_path / "d" / name).unlink()
    (tmp_path / "d").rmdir()
    assert listed(fd) == []
    os.close(fd)
