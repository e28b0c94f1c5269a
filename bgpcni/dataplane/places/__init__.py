"""The places where learned routes go on a node: a VNI, a VRF, the node's own table, an L3VPN without a VRF.

`place` says what each of them can do. A further kind is a module here, and a line in `KINDS` of `dataplane.py`.
"""
