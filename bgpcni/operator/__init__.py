"""What an operator types: the command line, the client that asks the agent, and what runs in its own process."""
