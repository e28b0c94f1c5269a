"""A double of the Kubernetes API, and what keeps it honest: recordings of a real server, and the real kubectl.

It has no controllers, scheduler or kubelet, and no protobuf; see README.md there for what it can do.
"""
