"""From attachments to routes at the peers: what is wanted is derived, each exporter is driven towards it."""
