"""ExaBGP as the speaker: run and supervised by our agent, or one that the user already runs."""
