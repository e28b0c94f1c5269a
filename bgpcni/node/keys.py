"""Names the key of the network configuration in an error of `kernel`, which knows the kernel's terms alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bgpcni.errors import CheckFailed, InvalidConfiguration, InvalidNamespace, Unfit, Unsupported, UnsupportedField
from bgpcni.kernel.namespace import NotANamespace

KEYS = {"bridge": "bridge", "MTU": "mtu", "address": "ipam", "VRF": "bgp.vrf"}
"""What does not fit → the key that asked for it."""


@contextmanager
def asked_by(key: str = "") -> Iterator[None]:
    """Errors of the block get their CNI code and the key that asked for what failed.

    `key` may be left out where the block fails for what `KEYS` names, or for the container's namespace.
    """
    try:
        yield
    except NotANamespace as error:
        raise InvalidNamespace(f"CNI_NETNS: {error}") from None
    except Unfit as error:
        raise InvalidConfiguration(f"{KEYS[error.about]}: {error.msg}") from None
    except Unsupported as error:
        raise UnsupportedField(f"{key}: {error.msg}") from None
    except CheckFailed as error:
        raise CheckFailed(f"{key}: {error.msg}") from None
