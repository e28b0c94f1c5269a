"""The executable that a runtime starts, its protocol with the agent, and its installation."""
