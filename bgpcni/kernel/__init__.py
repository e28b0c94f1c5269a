"""Links, addresses, routes, neighbours, namespaces, nf_tables: the kernel, and nothing of networks or BGP.

The rest of bgpcni asks the kernel through this package. An exporter that needs other messages packs them with
`netlink`.
"""
