"""The tests that an exporter must pass: inherit `ExporterSuite`, give it the real speaker, run pytest. Needs pytest.

It imports only the contract from bgpcni, so that any project can use it.
The other modules are what our own tests share: waiting (`patience`), forced interleavings (`interleaving`), a double
of an exporter (`memory`).
"""

from bgpcni.testing.speaker import Speaker, Woken
from bgpcni.testing.suite import ExporterSuite

__all__ = ["ExporterSuite", "Speaker", "Woken"]
