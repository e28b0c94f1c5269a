"""pyroute2, brought in when it is first needed: its import takes longer than an ADD, and most calls do without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bgpcni.kernel.netlink import NetlinkError

if TYPE_CHECKING:
    from pyroute2 import IPRoute


@contextmanager
def iproute() -> Iterator[IPRoute]:
    """A socket of the calling thread's network namespace, for this thread only. Refusals are our NetlinkError."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError as Refused

    try:
        with IPRoute() as library:
            yield library
    except Refused as error:
        raise NetlinkError(error.code, "") from None
