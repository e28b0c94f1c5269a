"""Metrics are served on loopback, unless an option explicitly allows another address."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner

from bgpcni.agent import logs, metrics
from bgpcni.census import Census
from bgpcni.errors import InvalidConfiguration
from bgpcni.operator.cli import main


@pytest.mark.parametrize(
    ("where", "place"),
    [("127.0.0.1:9099", ("127.0.0.1", 9099)), ("[::1]:1", ("::1", 1)), ("127.8.0.1:65535", ("127.8.0.1", 65535))],
)
def test_loopback_needs_no_permission(where: str, place: tuple[str, int]) -> None:
    assert metrics.place(where, beyond_loopback=False) == place
    assert metrics.place(where, beyond_loopback=True) == place


@pytest.mark.parametrize("where", ["0.0.0.0:9099", "[::]:9099", "192.0.2.1:9099", "[2001:db8::1]:9099"])
def test_elsewhere_is_asked_for_by_name(where: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"is not a loopback address.*--metrics-beyond-loopback"):
        metrics.place(where, beyond_loopback=False)
    address, port = metrics.place(where, beyond_loopback=True)
    assert (address in where, port) == (True, 9099)


@pytest.mark.parametrize(("where", "warned"), [("127.0.0.1:9099", False), ("0.0.0.0:9099", True), ("[::]:9099", True)])
def test_a_warning_says_what_it_means(
    where: str, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[int, str]] = []
    monkeypatch.setattr(metrics, "start_http_server", lambda port, address: (served.append((port, address)), None))
    monkeypatch.setattr(metrics.steps, "observe", lambda told: None)
    with caplog.at_level(logging.WARNING):
        metrics.Measures(where, Census(), beyond_loopback=True)
    assert len(served) == 1
    assert ("without a password" in caplog.text) is warned


def test_a_bad_address_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent ends before it has made a folder or taken a lock."""
    monkeypatch.setattr(logs, "configure", lambda **_: None)
    config = tmp_path / "agent.toml"
    config.write_text(f'run_dir = "{tmp_path}/run"\ndata_dir = "{tmp_path}/data"\n')
    found = CliRunner().invoke(main, ["agent", "--config", str(config), "--metrics", "0.0.0.0:9099"])
    assert (found.exit_code, "--metrics-beyond-loopback" in found.output) == (1, True)
    assert [path.name for path in tmp_path.iterdir()] == ["agent.toml"]


@pytest.mark.parametrize("where", ["9099", ":9099", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "name:1", "::1:x"])
def test_what_is_no_address_and_port_is_said(where: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"--metrics: .* is not ADDR:PORT, such as"):
        metrics.place(where, beyond_loopback=True)
