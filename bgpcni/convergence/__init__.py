"""From attachments to routes at the peers: derive the wanted routes, and drive each exporter until it announces
them."""
