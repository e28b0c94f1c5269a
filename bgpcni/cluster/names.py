"""Which object of the cluster is this node."""

from __future__ import annotations

import os
import socket

from bgpcni.config.agent import ClusterTable


def node_name(table: ClusterTable) -> str:
    """`cluster.node`, else $NODE_NAME, else the host's name."""
    return table.node or os.environ.get("NODE_NAME") or socket.gethostname().lower()
