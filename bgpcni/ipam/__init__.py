"""Where addresses come from: host-local built in, any other plugin executed."""
