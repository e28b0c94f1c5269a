"""The routes of other nodes: learned, chosen, and programmed into the kernel.

`rib` (pure) keeps what peers announced and chooses the best routes. `segment` (a VNI) and `vrf` (both pure) say what
the kernel should have; `routed` (pure) is what a VRF and the node's own table have in common. `program` (pure) compares
that with what the kernel has. `places` send the difference to the kernel. `dataplane` has the thread and its queue.

`claims` refuses attachments that cannot be on one node together.
"""
