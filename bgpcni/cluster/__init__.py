"""This node as a member of a cluster. Imported only where agent.toml has `[cluster]`; plugin calls never do."""
