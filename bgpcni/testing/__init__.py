"""The tests that an exporter must pass: inherit `ExporterSuite`, give it the real speaker, run pytest. Needs pytest.

It imports only the contract from bgpcni, so that any project can use it.
"""

from bgpcni.testing.speaker import Speaker, Woken
from bgpcni.testing.suite import ExporterSuite

__all__ = ["ExporterSuite", "Speaker", "Woken"]
