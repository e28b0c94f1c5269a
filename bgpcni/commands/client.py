"""Asks the agent one command through its socket."""

from __future__ import annotations

import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

from bgpcni.launcher import protocol

COMMAND_SECONDS = 120.0
_CREDENTIALS = struct.Struct("=iII")


class NoAgent(Exception):
    """No agent answered; the message says on which socket, and why. `absent`: there is no agent at all."""

    def __init__(self, text: str, *, absent: bool = False) -> None:
        super().__init__(text)
        self.absent = absent


def ask(path: Path, command: str, *, within: float = COMMAND_SECONDS, **arguments: Any) -> tuple[dict[str, Any], int]:
    """One command and its arguments → the JSON document and the exit code, `within` seconds. Raises NoAgent."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(min(within, protocol.HELLO_SECONDS))
            sock.connect(str(path))
            _check_owner(sock)
            if sock.recv(1) != protocol.HELLO:
                raise NoAgent(f"{path}: what answers there is not the agent")
            sock.settimeout(within)
            body = json.dumps({"command": command, **arguments}).encode()
            sock.sendall(protocol.HEADER.pack(protocol.MAGIC, protocol.COMMAND, 0, len(body)) + body)
            code, _, length, errors = protocol.REPLY.unpack(_exactly(sock, protocol.REPLY.size))
            text = _exactly(sock, length + errors)[:length]
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NoAgent(f"no agent answers on {path}: {error.strerror}; start bgpcni agent", absent=True) from None
    except PermissionError:
        raise NoAgent(f"this user may not ask the agent on {path}: run the command as root") from None
    except TimeoutError:
        raise NoAgent(f"{path}: the agent did not answer in time; see its log") from None
    except (OSError, EOFError) as error:
        raise NoAgent(
            f"no answer on {path}: {getattr(error, 'strerror', None) or error}; see the agent's log"
        ) from None
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise NoAgent(f"{path}: what answers there is not the agent")
    return document, int(code)


def agent_pid(path: Path) -> int | None:
    """The process that listens on the agent's socket; None if none does, or it cannot be seen from here."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(protocol.HELLO_SECONDS)
            sock.connect(str(path))
            raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:
        return None
    pid, _, _ = _CREDENTIALS.unpack(raw)
    return int(pid) or None


def _check_owner(sock: socket.socket) -> None:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    if uid not in (0, os.geteuid()):
        raise NoAgent(f"the socket belongs to user {uid}, not to root")


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            raise EOFError("the agent went away")
        data += piece
    return bytes(data)
