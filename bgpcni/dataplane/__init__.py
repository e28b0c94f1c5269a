"""What other nodes' routes mean for this one: learned, chosen, and programmed into the kernel.

`rib` (pure) keeps what peers announced and chooses the best; `segment` (pure, a VNI), `vrf` and `unicast` (the node's
own table) say what the kernel should have of it; `program` (pure) compares that with what it has; `apply` sends what
differs; `dataplane` puts them together. `claims` keeps bridge and VNI, VRF and its VNI, one to one.
"""
