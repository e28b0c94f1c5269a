"""The URLs that a network configuration may have: plain HTTP to this node, by address. Pure.

Network configurations may come from tenants, and our HTTP client runs as root. So it must not look up a name, nor reach
another machine; URLs that do belong in agent.toml. The exporter itself must not follow redirects or use a proxy.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit


def loopback_url(text: str) -> str:
    """The URL, made anew from its parts, without a slash at the end: `http://127.0.0.1:8082/base`, `http://[::1]:8082`.

    Raises ValueError for anything but http to a literal loopback address: for names (also `localhost`), other spellings
    of an address, user names, queries and fragments.
    """
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(f"{text!a} is not a URL")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!a} is not a URL: {error}") from None
    if parts.scheme != "http" or parts.query or parts.fragment or "@" in parts.netloc or "?" in text or "#" in text:
        raise ValueError(f"{text!a}: must be http://ADDRESS:PORT/PATH, without user, query and fragment")
    try:
        address = ip_address(parts.hostname or "")
    except ValueError:
        raise ValueError(f"{text!a}: a literal loopback address is needed, not {parts.hostname!a}") from None
    if not address.is_loopback or (isinstance(address, IPv6Address) and (address.ipv4_mapped or address.scope_id)):
        raise ValueError(f"{text!a}: {address} is no loopback address of this node; others belong in agent.toml")
    host = f"[{address}]" if address.version == 6 else str(address)
    return f"http://{host}" + (f":{port}" if port is not None else "") + parts.path.rstrip("/")
