"""ExaBGP with one more API command, `bgpcni`, which takes encoded routes: `python -m bgpcni_exabgp.engine CONF`.

    __main__  starts it                      command   does what the agent's commands say (`bgpcni_exabgp.protocol`)
    claims    only one runs at a time        watch     how far each session got, and what its peer tells
    check     is this the ExaBGP we know?    rib       the Adj-RIB-Out that replaces ExaBGP's
    longlived a capability that it lacks     patches   the functions of ExaBGP that are replaced in memory

ExaBGP keeps the sessions, the state machine, the capabilities and the timers, and its files on disk are not changed.
Of this project only `protocol` and `process` are imported here, which need the standard library alone.
"""
