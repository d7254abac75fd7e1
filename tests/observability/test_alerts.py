"""promtool accepts the alerts, they fire exactly when they must, and each has a runbook."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import authz_service
from authz_service.core.reasons import Reason
from authz_service.telemetry.metrics import Metrics, SupervisorMetrics
from generate import CHART

ALERTS = CHART / "alerts" / "authz-service.yaml"
CASES = Path(__file__).parent / "alerts.yaml"
RULES: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
}
RUNBOOKS = (CHART.parent.parent / "docs" / "runbooks.md").read_text()


def promtool(programs: Path, *arguments: str) -> None:
    command = [str(programs / "promtool"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_them(prometheus_programs: Path) -> None:
    promtool(prometheus_programs, "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


def test_they_fire_with_these_annotations_and_no_earlier(prometheus_programs: Path) -> None:
    promtool(prometheus_programs, "test", "rules", str(CASES))


@pytest.mark.parametrize("alert", RULES)
def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet(alert: str) -> None:
    cases = [
        (test["input_series"], case["exp_alerts"])
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == alert
    ]
    assert any(fires for _, fires in cases)
    assert any(series and not fires for series, fires in cases)


@pytest.mark.parametrize("alert", RULES)
def test_every_alert_has_a_severity_and_a_runbook(alert: str) -> None:
    rule = RULES[alert]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{alert.lower()}"
    _, _, runbook = RUNBOOKS.partition(f"\n## {alert}\n")
    section = runbook.partition("\n## ")[0]
    assert f"Severity: {rule['labels']['severity']}." in section
    for part in ("**Means**", "**Look**", "**Do**"):
        assert part in section


def test_every_runbook_belongs_to_an_alert() -> None:
    assert re.findall(r"^## (Authz\w+)$", RUNBOOKS, re.MULTILINE) == list(RULES)


def test_every_log_event_in_the_runbooks_exists() -> None:
    named = re.findall(r"\b(?:[Ee]vents?|log line) `([^`]+)`", " ".join(RUNBOOKS.split()))
    assert len(named) > 10
    assert [each for each in named if each not in string_constants()] == []


@cache
def string_constants() -> frozenset[str]:
    """The string literals of the program."""
    modules = [ast.parse(file.read_bytes()) for file in Path(authz_service.__file__).parent.rglob("*.py")]
    literals = [node for module in modules for node in ast.walk(module) if isinstance(node, ast.Constant)]
    return frozenset(each.value for each in literals if isinstance(each.value, str))


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_queries_existing_metrics_and_reasons(alert: str) -> None:
    expr = RULES[alert]["expr"]
    families = [*Metrics(transport="grpcio").registry.collect(), *SupervisorMetrics().registry.collect()]
    ours = {f"{family.name}{'_total' * (family.type == 'counter')}" for family in families}
    queried = {re.sub(r"_(bucket|count)$", "", name) for name in re.findall(r"\bauthz_\w+", expr)}
    assert queried <= ours
    reasons = [reason for group in re.findall(r'reason[!=~]+"(.*?)"', expr) for reason in group.split("|")]
    assert set(reasons) <= {reason.value for reason in Reason}


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_aggregates_by_job_and_namespace(alert: str) -> None:
    for clause in re.findall(r"\bby \((.*?)\)", RULES[alert]["expr"]):
        assert clause.startswith("job, namespace")
