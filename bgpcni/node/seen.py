"""What the reconciler remembers of an attachment between two looks. In memory: a restart begins anew."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Seen:
    """One attachment. Times are those of `clock.monotonic`.

    `leaving`: it is leaving, also if the disk did not let its record say so. `torn_down`: we made sure that its link is
    gone; `had_link`: the link was there until then. `trouble`: the error that the last look ended with; `pause`: for
    how many seconds the attachment is left alone after it.
    """

    leaving: bool = False
    torn_down: bool = False
    had_link: bool = False
    gone: float | None = None
    announced: float | None = None
    vain: float | None = None
    waits: float | None = None
    trouble: str = ""
    pause: float = 0.0
