"""What other nodes' routes mean for this one: learned, chosen, and programmed into the kernel.

`rib` (pure) keeps what peers announced and chooses the best; `program` (pure) compares what the kernel should have
with what it has; `dataplane` does both with the kernel, and is the only user of `kernel.vxlan`.
"""
