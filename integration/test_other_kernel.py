"""The laboratory's other kernel: what a test asks for with the marker `kernel` is there when it runs."""

from __future__ import annotations

import pytest

from integration.lab import Lab
from integration.lab.kernel import PROBES


@pytest.mark.kernel("vrf", "vlan_filtering")
@pytest.mark.parametrize("feature", PROBES)
def test_a_marked_test_runs_where_the_kernel_has_what_it_asks_for(lab: Lab, feature: str) -> None:
    """Here, or in a user-mode Linux."""
    lab.namespace().ip(*PROBES[feature])
