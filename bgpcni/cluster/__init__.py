"""The cluster: objects that configure many nodes, the stores that keep them, and what a node owes its cluster."""
