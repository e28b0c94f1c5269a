"""Links, addresses, routes, neighbours, namespaces, nf_tables: the kernel, and nothing of networks or BGP.

What the rest of bgpcni wants of the kernel goes through here; an exporter that needs messages of its own packs them
with `netlink`.
"""
