"""Where addresses come from: host-local is built in, any other IPAM plugin is executed."""
