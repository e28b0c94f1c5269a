"""How long a test waits for something that should happen at once.

Each bound fits a machine without other load. It is multiplied by `SCALE`, so that a busy or slow machine meets it, too.
A bound costs time only if the test fails.
"""

from __future__ import annotations

import os

SCALE = float(os.environ.get("BGPCNI_TEST_SCALE", "10"))
"""How many times slower this machine may be than one without other load."""

SECONDS = 30 * SCALE
"""The longest that a single wait takes, in seconds."""
