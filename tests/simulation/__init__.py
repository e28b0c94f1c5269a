"""The node's core on a seeded scheduler, with models of kernel, disk, speakers, peers and clock.

`scheduler`: actors in place of threads, a virtual clock, locks that know them. `models`: what the core stands on.
`world`: a node put together from the real core and the models, its runtime, its operator, and the invariants.
`history`: makes a history from a seed, runs it, and shrinks one that fails. `mutants`: corrections that are undone.
"""
