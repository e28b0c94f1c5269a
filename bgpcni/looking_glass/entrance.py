"""Where the looking glass listens, and who may come in: other hosts only by TLS, with a token or certificate."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from bgpcni.config.secret import read_secret
from bgpcni.errors import InvalidConfiguration, IoFailure
from bgpcni.sockets import Access, bound

BACKLOG = 64
UNIX_ACCESS = Access(0o660)
_BUFFER = 64 << 10
"""Octets that the kernel keeps for a client who does not read them."""
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Place:
    """A unix socket, or an address and a port."""

    path: Path | None = None
    address: IPv4Address | IPv6Address | None = None
    port: int = 0

    @property
    def local(self) -> bool:
        """Whether only this host can reach it."""
        return self.address is None or self.address.is_loopback

    def url(self, *, tls: bool) -> str:
        if self.address is None:
            return f"unix:{self.path}"
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"http{'s' * tls}://{host}:{self.port}/"


@dataclass(frozen=True, slots=True)
class Entrance:
    """`token`: who has it may ask, "" if none is needed. `names`: the host names by which clients call it."""

    place: Place
    token: str = ""
    tls: ssl.SSLContext | None = None
    names: frozenset[str] = frozenset({"localhost"})


def place(text: str) -> Place:
    """The place that `--listen` names. Raises InvalidConfiguration."""
    if text.startswith("unix:"):
        path = Path(text.removeprefix("unix:"))
        if not path.is_absolute():
            raise InvalidConfiguration(f"--listen: {text!r}: the path after unix: does not begin with /")
        return Place(path=path)
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        if (address.version == 6) != host.startswith("["):
            raise ValueError
    except ValueError:
        wanted = "ADDRESS:PORT with a literal address, such as 127.0.0.1:8179 or [::1]:8179, nor unix:/PATH"
        raise InvalidConfiguration(f"--listen: {text!r} is neither {wanted}") from None
    if not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise InvalidConfiguration(f"--listen: {port!r} is not a port")
    return Place(address=address, port=int(port))


def entrance(
    where: Place,
    *,
    token: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    client_ca: Path | None = None,
    names: Sequence[str] = (),
) -> Entrance:
    """What these files give. Raises InvalidConfiguration if others could come in unasked, or a file cannot be used."""
    if (certificate is None) != (key is None):
        raise InvalidConfiguration("--certificate and --key go together")
    if client_ca is not None and certificate is None:
        raise InvalidConfiguration("--client-ca needs --certificate and --key")
    if certificate is not None and where.address is None:
        raise InvalidConfiguration("--certificate: TLS is not for a unix socket")
    if not where.local and certificate is None:
        raise InvalidConfiguration(
            f"--listen: other hosts can reach {where.address}, and would read everything: add --certificate and --key, "
            "and --token-file or --client-ca"
        )
    if not where.local and token is None and client_ca is None:
        raise InvalidConfiguration(
            f"--listen: other hosts can reach {where.address}, and anybody could ask: add --token-file or --client-ca"
        )
    lowered = [name.lower().rstrip(".") for name in names]
    for name in lowered:
        if not _HOST.match(name):
            raise InvalidConfiguration(f"--host: {name!r} is not the name of a host")
    return Entrance(
        where,
        _token(token) if token is not None else "",
        _tls(certificate, key, client_ca) if certificate is not None and key is not None else None,
        frozenset({"localhost", *lowered}),
    )


def _token(path: Path) -> str:
    try:
        token = read_secret(str(path)).strip()
    except ValueError as error:
        raise InvalidConfiguration(f"--token-file: {error}") from None
    if not token or any(character.isspace() for character in token):
        raise InvalidConfiguration(f"--token-file: {path} does not hold one word: the token")
    return token


def _tls(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        words = error.strerror or str(error)
        raise InvalidConfiguration(f"--certificate: {certificate} with {key}: {words}") from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidConfiguration(f"--client-ca: {client_ca}: {error.strerror or error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def listen(where: Place) -> socket.socket:
    """A socket that listens there. Raises IoFailure, TryAgain."""
    if where.address is None:
        assert where.path is not None
        return bound(where.path, UNIX_ACCESS, BACKLOG)
    family = socket.AF_INET6 if where.address.version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((str(where.address), where.port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise IoFailure(f"--listen: {where.address} port {where.port}: {error.strerror}") from None
    return made
