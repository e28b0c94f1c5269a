"""The storm: containers come and go on the nodes of one cluster, whose store's members are killed and cut off.

A seed decides what is called and what fails when: `plan.py` draws it, `run.py` carries it out on the laboratory of
`site.py`, and `history.py` says what in the history must not be.
"""
