"""The configuration that people write: network configurations and agent.toml, validated into frozen models. Pure."""
