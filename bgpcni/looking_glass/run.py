"""The looking glass put together, and run until SIGTERM."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bgpcni.looking_glass import entrance
from bgpcni.looking_glass.app import create
from bgpcni.looking_glass.asking import Asker
from bgpcni.looking_glass.server import Server

log = logging.getLogger(__name__)


def run(
    agent: Path,
    listen: str,
    *,
    token: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve pages about the node of the agent on this socket. Raises CniError if it cannot start."""
    where = entrance.place(listen)
    way_in = entrance.entrance(where, token=token, certificate=certificate, key=key, client_ca=client_ca, names=names)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    listener = entrance.listen(where)
    if where.address is not None:
        where = replace(where, port=listener.getsockname()[1])
    log.info("serving on %s, asking %s", where.url(tls=way_in.tls is not None), agent)
    try:
        Server(create(Asker(agent), way_in, socket.gethostname()), way_in.tls).run(sockets=[listener])
    finally:
        listener.close()
        if where.path is not None:
            where.path.unlink(missing_ok=True)
