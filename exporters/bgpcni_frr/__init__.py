"""The exporter for EVPN through the host's FRR: it prepares the kernel, and FRR announces what it finds there."""

from bgpcni_frr.exporter import FRR

__all__ = ["FRR"]
