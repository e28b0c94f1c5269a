"""ExaBGP as the speaker: run and supervised by our agent, or one that the user already runs.

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
