"""The looking glass: web pages about this node, read only, in a process of its own that asks the agent.

    entrance (where to listen, who may come in) → server (HTTP within bounds) → guard → app → answers → pages

It knows the documents of the operator's commands and the client that asks for them, and nothing of the agent. What the
pages say is made by pure functions (`words`, `way`, `drawing`); templates only place it.
"""
