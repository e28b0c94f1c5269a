"""A call without an agent starts Python for one container: it must not pay for what it does not use."""

from __future__ import annotations

import subprocess
import sys

import pytest

NEVER = {
    "click", "exabgp", "grpc", "http.server", "jinja2", "opentelemetry", "prometheus_client", "pyroute2", "tomllib",
    "urllib3", "bgpcni.agent", "bgpcni.commands", "bgpcni.dataplane.dataplane", "bgpcni.doctor", "bgpcni.operator",
}  # fmt: skip
"""Modules for an agent, an operator or another exporter. Each takes milliseconds that every container would wait."""


def python(code: str, **how: bytes) -> str:
    """What a new interpreter prints that runs this code, isolated as the launcher starts it."""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=True, timeout=120, **how)
    return done.stdout.decode()


@pytest.mark.parametrize("module", ["bgpcni.plugin", "bgpcni.ipam_plugin"])
def test_a_call_without_an_agent_imports_only_what_it_uses(module: str) -> None:
    """Not even with the exporter of the article, which does work without an agent."""
    load = "from bgpcni.convergence import catalog; catalog.load('bagpipe')"
    found = set(python(f"import sys, {module}; {load}; print(*sys.modules)").split())
    assert module in found
    assert "bgpcni_bagpipe.rest" in found
    assert not NEVER & found


@pytest.mark.parametrize("module", ["bgpcni.plugin", "bgpcni.ipam_plugin"])
def test_a_process_for_one_call_looks_for_no_garbage(module: str) -> None:
    """Collections while it imports, and one as it ends, would take a good part of its time."""
    code = f"""
import gc, os, runpy
os.environ["CNI_COMMAND"] = "VERSION"
try:
    runpy.run_module({module!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
print(f"enabled={{gc.isenabled()}} frozen={{gc.get_freeze_count() > 0}}")
"""
    assert "enabled=False frozen=True" in python(code, input=b"{}")
