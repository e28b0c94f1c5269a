"""Default paths."""

from __future__ import annotations

from pathlib import Path

AGENT_CONFIG = Path("/etc/bgpcni/agent.toml")
SOCKET = Path("/run/bgpcni/agent.sock")
RUN_DIR = Path("/run/bgpcni")
DATA_DIR = Path("/var/lib/bgpcni")
SAMPLES = Path(__file__).with_name("samples")
"""The sample configurations (`conf/` in the repository)."""
