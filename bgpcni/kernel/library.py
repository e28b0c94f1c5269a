"""pyroute2, imported when it is first needed: its import takes longer than an ADD, and most calls do not need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bgpcni.kernel.netlink import NetlinkError

if TYPE_CHECKING:
    from pyroute2 import IPRoute


@contextmanager
def iproute() -> Iterator[IPRoute]:
    """A socket in the network namespace of the calling thread, for this thread only. Raises our own NetlinkError."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError as Refused

    try:
        with IPRoute() as library:
            yield library
    except Refused as error:
        raise NetlinkError(error.code, "") from None
