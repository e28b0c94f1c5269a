"""Real runtimes on a node of the laboratory: containerd by itself and through the CRI, Docker's engine, podman.

A `Machine` gives a node mount and PID namespaces of its own, so that a runtime may use its usual folders, and all of
its processes end with the node. Nothing of the host is seen or touched by it.
"""

from integration.runtimes.machine import Machine, NoMachine, enclose

__all__ = ["Machine", "NoMachine", "enclose"]
