"""The alert rules, judged by Prometheus' own tool: each fires when it should and only then, and has a page to go to."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bgpcni.dataplane.guard import HARMFUL
from integration.prometheus import metrics_of

ROOT = Path(__file__).parent.parent
RULES, TESTS = ROOT / "conf/prometheus/alerts.yml", ROOT / "conf/prometheus/alerts.test.yml"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("words", [("check", "rules", RULES), ("test", "rules", TESTS)], ids=["syntax", "unit tests"])
def test_prometheus_takes_them(words: tuple[str, str, Path]) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("not installed: prometheus")
    done = subprocess.run([promtool, *words], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_both_ways() -> None:
    """One series for which it fires, and one for which it does not."""
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_each_alert_says_what_to_do() -> None:
    """Its runbook leads to its chapter, whose first words are its severity and its delay."""
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert anchor == rule["alert"].lower()
        chapter = re.search(rf"^## {rule['alert']}\n\n(.*?)(?=^## |\Z)", (ROOT / page).read_text(), re.S | re.M)
        assert chapter is not None, rule["alert"]
        delay = f", after {rule['for']}" if "for" in rule else ""
        assert chapter[1].startswith(f"*{rule['labels']['severity']}*{delay}. ")
        assert "\n- " in chapter[1]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_their_metrics_exist() -> None:
    """A metric that is renamed would silence its alert without a word."""
    for rule in rules():
        assert metrics_of(rule["expr"]), rule["alert"]
    (harmful,) = (rule["expr"] for rule in rules() if rule["alert"] == "BgpcniHarmfulRoutes")
    assert f'reason=~"{"|".join(HARMFUL)}"' in harmful
