"""Writes a file whole or not at all, through a loss of power too: under another name first, which is then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def beside(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A complete file in the folder of `path`; it is removed afterwards unless it was renamed. Raises OSError.

    Its name begins with a dot and ends in random letters.
    """
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            os.fsync(fd)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def put(path: Path, content: bytes, mode: int) -> None:
    """Have this content and mode in the file, atomically. Raises OSError."""
    with beside(path, content, mode) as temporary:
        temporary.replace(path)
