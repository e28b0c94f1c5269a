"""ExaBGP as the speaker: run and supervised by our agent, or one that the user already runs.

    exporter    the contract's verbs, and ExaBGP's life        engine   ExaBGP with our command, in its own process
    ledger      what each neighbour got of each route          relay    ExaBGP's API process: pipes to a unix socket
    lines link  what is sent to ExaBGP, and the connection     process  starts, adopts, ends ExaBGP
    received    what each neighbour told, bounded              hearing  the thread that tells it
    trial       the one bad route among many suspects          configure  its configuration file

The exporter is imported when asked for only: the engine and the relay are processes of their own that live in
this package and need none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgpcni_exabgp.exporter import ExaBGP

__all__ = ["ExaBGP"]


def __getattr__(name: str) -> object:
    if name == "ExaBGP":
        from bgpcni_exabgp.exporter import ExaBGP

        return ExaBGP
    raise AttributeError(name)
