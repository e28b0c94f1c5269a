"""What holds for the whole of `bgpcni`, and no linter checks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import bgpcni

ROOT = Path(bgpcni.__file__).parent
NAMES = re.compile(r"\b(exabgp|bagpipe|gobgp)\b|^frr$", re.IGNORECASE)
FIXED = {
    ("config/agent.py", "exabgp"),  # the default of default_exporters
    ("cluster/network.py", "bagpipe"),  # the second name of the plugin
    ("node/plan.py", "bagpipe"),  # `type: bagpipe` without exporters means this one
}
"""Where the public interface itself names an exporter."""


def strings(module: ast.Module) -> Iterator[str]:
    """The string constants of a module, but for docstrings: strings that are statements of their own."""
    docs = {id(node.value) for node in ast.walk(module) if isinstance(node, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_no_exporter_is_named_but_where_the_interface_names_one() -> None:
    """So a new exporter needs no change in `bgpcni`, and one that is not installed is missed by nothing."""
    named = {
        (str(path.relative_to(ROOT)), text)
        for path in ROOT.rglob("*.py")
        if "launcher" not in path.parts  # its executable has the name `bagpipe`, whatever it announces through
        for text in strings(ast.parse(path.read_text()))
        if NAMES.search(text)
    }
    assert named == FIXED
