"""ExaBGP as the speaker: run by our agent, or one that the user runs already.

    exporter    the verbs of the contract           protocol   commands and events, which both ends share
    dialect     how ExaBGP is told of routes        engine     ExaBGP with our command, a process of its own
    supervisor  starts ExaBGP, stays connected      relay      ExaBGP's API process, to which the agent connects
    events      notes what ExaBGP tells             process    starts, adopts and ends the process of ExaBGP
    advertised  which peer has which route          configure  writes ExaBGP's configuration
    quarantine  routes over which sessions end      received   counts and bounds the routes of each peer
    lines link  what is sent, and the connection    receiver   the thread that decodes them
    claim       the lock by which a process is known   speaker  `bgpcni speaker`: runs ExaBGP in another pod
    homes       which ExaBGP is whose

Each part is made of parts that exist already, and is given all that it needs when it is made: `shared`, `receiver`,
`events`, `supervisor`, `exporter`, in this order. The exporter is imported only when it is asked for, since the engine
and the relay need none of it.
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
