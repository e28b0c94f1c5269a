"""A gobgpd of the node's, over its gRPC API: announces what it is told, with the sessions that it has."""

try:
    import grpc  # noqa: F401  # said here, before anything else fails on it
except ImportError as error:
    raise ImportError(f"{error}; it comes with `pip install bgpcni[gobgp]`") from error

from bgpcni_gobgp.exporter import GoBGP

__all__ = ["GoBGP"]
