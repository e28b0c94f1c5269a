"""What users write, the network configuration and agent.toml, validated into frozen models. Pure."""
