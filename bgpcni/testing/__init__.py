"""What proves an exporter: inherit `ExporterSuite`, give it the real speaker, run pytest. Needs pytest.

Imports nothing of bgpcni but the contract, so that it can be used from any project. The other modules are what our own
tests share: waiting (`patience`), interleavings that are forced (`interleaving`), doubles (`memory`, `at_work`).
"""

from bgpcni.testing.speaker import Speaker, Woken
from bgpcni.testing.suite import ExporterSuite

__all__ = ["ExporterSuite", "Speaker", "Woken"]
