"""The document of what is replaced in ExaBGP names just what is replaced."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from bgpcni_exabgp.engine import patches, rtc

DOCUMENT = Path(__file__).parent.parent / "docs" / "reference" / "exabgp.md"


def replaced() -> set[str]:
    """What the modules assign to, or change in place, in the objects of ExaBGP that they have imported."""
    return {name for module in (patches, rtc) for name in _replaced(ast.parse(Path(module.__file__).read_text()))}


def _replaced(tree: ast.Module) -> set[str]:
    imported = {
        name.asname or name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom | ast.Import)
        for name in node.names
        if (node.module or "" if isinstance(node, ast.ImportFrom) else name.name).startswith("exabgp")
    } | {"exabgp"}
    names = set()
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        call = node.func if isinstance(node, ast.Call) else None
        if isinstance(call, ast.Attribute) and call.attr in ("update", "remove", "insert", "setdefault"):
            targets = [call.value]
        for each in targets:
            target = each.value if isinstance(each, ast.Subscript) else each
            text = ast.unparse(target)
            if isinstance(target, ast.Attribute) and text.partition(".")[0] in imported:
                names.add(text)
    return names


def test_each_replaced_function_is_in_the_document() -> None:
    """Who reads the table knows all that is different from the ExaBGP on the disk, and nothing there is out of date."""
    rows = re.findall(r"^\| `([\w.]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == replaced()
