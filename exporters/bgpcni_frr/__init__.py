"""The host's FRR as the speaker of EVPN: the kernel is prepared, FRR announces what it finds there."""

from bgpcni_frr.exporter import FRR

__all__ = ["FRR"]
