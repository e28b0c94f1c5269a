"""Default paths."""

from __future__ import annotations

from pathlib import Path

AGENT_CONFIG = Path("/etc/bgpcni/agent.toml")
SOCKET = Path("/run/bgpcni/agent.sock")
RUN_DIR = Path("/run/bgpcni")
READ_SOCKET = "read.sock"
"""In run_dir: the socket that answers commands which change nothing."""
DATA_DIR = Path("/var/lib/bgpcni")
CONF_DIR = Path("/etc/cni/net.d")
"""Where container runtimes look for networks."""
SAMPLES = Path(__file__).with_name("samples")
"""The sample configurations (`conf/` in the repository)."""
