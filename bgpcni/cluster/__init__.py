"""The cluster: its objects, the stores that keep them, and this node as a member of it.

Imported only if agent.toml has `[cluster]`; plugin calls never import it.
"""
