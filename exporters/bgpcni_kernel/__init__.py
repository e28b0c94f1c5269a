"""The exporter for a routing table of the kernel, from which a BGP daemon (FRR, BIRD) takes the routes."""

from bgpcni_kernel.exporter import Kernel

__all__ = ["Kernel"]
