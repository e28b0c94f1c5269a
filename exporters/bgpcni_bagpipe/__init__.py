"""The exporter for BaGPipe BGP: a daemon that already runs on this node, controlled over its REST API."""

from bgpcni_bagpipe.exporter import BaGPipe

__all__ = ["BaGPipe"]
