"""BaGPipe BGP as the speaker: a daemon that runs already on this node, told over its REST API."""

from bgpcni_bagpipe.exporter import BaGPipe

__all__ = ["BaGPipe"]
