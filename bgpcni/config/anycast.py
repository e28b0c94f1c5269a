"""What a container asks for of an anycast service: the shared addresses, and the health check on which they depend.
Pure.

`args.cni.anycast` and `args.cni.health` of a network configuration, or the annotations `bgpcni.dev/anycast` and
`bgpcni.dev/health` of a pod. Both give the same values.
"""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bgpcni.config.lists import texts
from bgpcni.ip import ip_address
from bgpcni.model import Health

MOST_ADDRESSES = 16
"""How many shared addresses one container may have."""


def address(value: str) -> str:
    """One shared address in canonical form. Raises ValueError."""
    if "/" in value:
        raise ValueError(f"{value!r} has a prefix length; a shared address is one address")
    found = ip_address(value)
    if "%" in value or found.is_link_local:
        raise ValueError(f"{value!r} is valid on one link only")
    if found.is_multicast or found.is_loopback or found.is_unspecified or found.is_reserved:
        raise ValueError(f"{value!r} cannot be the address of a service")
    return str(found)


def _once(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


Addresses = Annotated[
    tuple[Annotated[str, AfterValidator(address)], ...],
    BeforeValidator(texts),
    AfterValidator(_once),
    Field(max_length=MOST_ADDRESSES),
]


def _url(value: str) -> str:
    """`http://:8080/ready`: without a host, the shared address is asked."""
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{value!r} is not a URL: {error}") from None
    if parts.scheme != "http":
        raise ValueError(f"{value!r} is not a URL of the form http://:8080/ready")
    if parts.username is not None or parts.fragment or not value.isascii() or any(c <= " " for c in value):
        raise ValueError(f"{value!r} has more than a host, a port and a path")
    if port == 0:
        raise ValueError(f"{value!r}: port 0 is no port")
    if parts.hostname:
        try:
            ip_address(parts.hostname)
        except ValueError:
            raise ValueError(f"{value!r}: the host is not an IP address; leave it out to ask the shared one") from None
    return value


class HealthSection(BaseModel):
    """`health`: exactly one of `http` and `tcp`. `interval`: seconds from the beginning of one check to that of the
    next. After `rise` good checks in a row the address is announced, after `fall` bad ones it is withdrawn."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True)

    http: Annotated[str, AfterValidator(_url)] | None = None
    tcp: Annotated[int, Field(ge=1, le=65535)] | None = None
    interval: float = Field(default=2.0, ge=0.2, le=3600)
    rise: int = Field(default=1, ge=1, le=100)
    fall: int = Field(default=3, ge=1, le=100)

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.http is None) == (self.tcp is None):
            raise ValueError("needs exactly one of http and tcp")
        return self

    @property
    def check(self) -> Health:
        """What the record keeps of it."""
        if self.http is None:
            found = Health(kind="tcp", port=self.tcp or 0)
        else:
            parts = urlsplit(self.http)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            found = Health(kind="http", host=parts.hostname or "", port=parts.port or 80, path=path)
        return found.model_copy(update={"interval": self.interval, "rise": self.rise, "fall": self.fall})


def read_addresses(text: str) -> tuple[str, ...]:
    """The value of the annotation, addresses with commas between them. Raises ValueError."""
    found = _once(tuple(address(part) for part in texts(text)))
    if len(found) > MOST_ADDRESSES:
        raise ValueError(f"has {len(found)} addresses, but may have {MOST_ADDRESSES} at most")
    return found
