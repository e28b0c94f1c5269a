"""The resident process of a node: socket, requests, lifecycle, the watch over what vanishes."""
