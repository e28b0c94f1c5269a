"""A real Prometheus in a network namespace, and the names that an expression of PromQL uses."""

from __future__ import annotations

import json
import re
import shutil
import urllib.parse
from collections.abc import Sequence
from typing import Any

from bgpcni.agent import figures
from integration.lab import Daemon, Lab, Namespace, NotHere
from integration.lab.namespace import Argument

ADDRESS = "127.0.0.1:9190"
OTHERS = frozenset(
    ("up", "process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_cpu_seconds_total")
)
"""Metrics that are not ours: of Prometheus itself, and of any process."""


class Prometheus(Daemon):
    """It scrapes `target` each second as the job `bgpcni`."""

    def __init__(self, lab: Lab, namespace: Namespace, target: str) -> None:
        program = shutil.which("prometheus")
        if program is None:
            raise NotHere("not installed: prometheus")
        super().__init__(namespace, lab.folder / "prometheus")
        self.program = program
        job = {"job_name": "bgpcni", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
        (self.folder / "prometheus.yml").write_text(json.dumps({"scrape_configs": [job]}))
        lab.adopt(self)

    def argv(self) -> Sequence[Argument]:
        return [
            self.program, f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address={ADDRESS}", "--log.level=warn",
        ]  # fmt: skip

    def answers(self) -> bool:
        return "ready" in self._get("-/ready").lower()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query: a list of series, each with its value."""
        document = json.loads(self._get("api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        assert document["status"] == "success", document
        return list(document["data"]["result"])

    def _get(self, path: str) -> str:
        return self.namespace.run("curl", "-s", "--max-time", "20", f"http://{ADDRESS}/{path}").stdout


def metrics_of(expression: str) -> set[str]:
    """The metrics that an expression names, without the suffixes of histograms. All are in `figures`, or in OTHERS."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    text = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\b(?:bgpcni|process)_\w+|\bup\b", text)}
    shown = {figure.shown for figure in figures.BY_NAME.values()}
    assert names <= shown | OTHERS, names - shown - OTHERS
    return names
