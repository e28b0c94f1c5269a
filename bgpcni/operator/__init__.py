"""What an operator types: the `bgpcni` command and the answers behind it."""
