"""The exporter for a gobgpd on this node, over its gRPC API. gobgpd has the sessions."""

try:
    import grpc  # noqa: F401  # said here, before anything else fails on it
except ImportError as error:
    raise ImportError(f"{error}; it comes with `pip install bgpcni[gobgp]`") from error

from bgpcni_gobgp.exporter import GoBGP

__all__ = ["GoBGP"]
