"""The only package that talks to the kernel about links, addresses, routes and namespaces."""
