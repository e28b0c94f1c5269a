"""All causes that `bgpcni doctor` knows, in the order in which it reports them."""

from __future__ import annotations

from bgpcni.doctor.cause import Cause
from bgpcni.doctor.causes import host, install, network, sessions

_MODULES = (install, host, network, sessions)
CAUSES = tuple(found for module in _MODULES for found in vars(module).values() if isinstance(found, Cause))
