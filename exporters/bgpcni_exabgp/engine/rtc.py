"""Route target constraint (RFC 4684): ExaBGP knows the family on the wire, but not in its configuration."""

from __future__ import annotations

from exabgp.configuration.neighbor.family import ParseFamily
from exabgp.protocol.family import AFI, SAFI


def accept_rtc() -> None:
    """Let the configuration have the family."""
    ParseFamily.convert["ipv4"].setdefault("rtc", (AFI.ipv4, SAFI.rtc))
