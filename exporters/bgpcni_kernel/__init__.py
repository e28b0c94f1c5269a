"""The kernel's routing table as the speaker's source: whatever daemon reads it announces what it finds there."""

from bgpcni_kernel.exporter import Kernel

__all__ = ["Kernel"]
