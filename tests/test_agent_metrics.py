"""Where the metrics are served: on loopback, unless somebody asks for more by name."""

from __future__ import annotations

import logging

import pytest

from bgpcni.agent import metrics
from bgpcni.errors import InvalidConfiguration


@pytest.mark.parametrize(
    ("where", "place"),
    [("127.0.0.1:9099", ("127.0.0.1", 9099)), ("[::1]:1", ("::1", 1)), ("127.8.0.1:65535", ("127.8.0.1", 65535))],
)
def test_loopback_needs_no_permission(where: str, place: tuple[str, int], caplog: pytest.LogCaptureFixture) -> None:
    assert metrics.place(where, beyond_loopback=False) == place
    assert metrics.place(where, beyond_loopback=True) == place
    assert not caplog.records


@pytest.mark.parametrize("where", ["0.0.0.0:9099", "[::]:9099", "192.0.2.1:9099", "[2001:db8::1]:9099"])
def test_elsewhere_is_asked_for_by_name_and_warned_of(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is served without the flag; with it, a warning says what that means."""
    with pytest.raises(InvalidConfiguration, match=r"is not a loopback address.*--metrics-beyond-loopback"):
        metrics.place(where, beyond_loopback=False)
    with caplog.at_level(logging.WARNING):
        address, port = metrics.place(where, beyond_loopback=True)
    assert (address in where, port) == (True, 9099)
    assert "without a password" in caplog.text


@pytest.mark.parametrize("where", ["9099", ":9099", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "name:1", "::1:x"])
def test_what_is_no_address_and_port_is_said(where: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"--metrics: .* is not ADDR:PORT, such as"):
        metrics.place(where, beyond_loopback=True)
