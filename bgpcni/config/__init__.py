"""What people write: the network configuration and agent.toml, validated into frozen models. Pure."""
