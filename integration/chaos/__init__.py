"""Chaos: containers come and go at random on two nodes with two peers, while everything around them fails.

A seed decides what is called, in which order, and what fails when: `plan.py` draws it, `run.py` carries it out,
`calls.py` makes the calls and knows what each container should be, `faults.py` breaks and mends, `look.py` compares
what there is with what there should be, `site.py` is the laboratory, `history.py` what happened.
"""
