"""promtool accepts the alerts, they fire and resolve exactly when they must, and each links to its runbook."""

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
from authz_service.telemetry.metrics import Metrics
from authz_service.telemetry.supervisor_metrics import SupervisorMetrics
from generate import CHART
from support.chart import manifests, one
from support.documents import page
from support.samples import collected

ALERTS = CHART / "alerts" / "authz-service.yaml"
CASES = Path(__file__).parent / "alerts.yaml"
_ALL = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in _ALL if "alert" in rule}
RECORDED: dict[str, str] = {
    f"{rule['record']} {rule.get('labels', '')}": rule["expr"] for rule in _ALL if "record" in rule
}
EXPRESSIONS = RECORDED | {name: rule["expr"] for name, rule in RULES.items()}
RUNBOOK_URL = "https://github.com/OWNER/REPOSITORY/blob/main/docs/reference/alerts.md"
RUNBOOKS = page("reference/alerts")


def promtool(programs: Path, *arguments: str) -> None:
    command = [str(programs / "promtool"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
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
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}#{alert.lower()}"
    _, _, runbook = RUNBOOKS.partition(f"\n## {alert}\n")
    section = runbook.partition("\n## ")[0]
    assert f"Severity: {rule['labels']['severity']}." in section
    assert re.findall(r"^\*\*(\w+)\*\*", section, re.MULTILINE) == ["Means", "Clients", "Look", "Do"]
    assert f"\n| [{alert}](#{alert.lower()}) | {rule['labels']['severity']} | " in RUNBOOKS


@pytest.mark.parametrize("alert", RULES)
def test_every_summary_names_the_job_the_namespace_and_the_pods(alert: str) -> None:
    summary = RULES[alert]["annotations"]["summary"]
    assert "$labels.job" in summary
    assert "$labels.namespace" in summary
    # AuthzAbsent has no pod to name.
    assert ("or $labels.pod $labels.instance" in summary or "or .Labels.pod .Labels.instance" in summary) != (
        alert == "AuthzAbsent"
    )


@pytest.mark.parametrize("alert", RULES)
def test_a_summary_lists_the_pods_of_its_own_job_namespace_and_issuer(alert: str) -> None:
    rule = RULES[alert]
    grouped = next(iter(re.findall(r"\bby \((.*?)\)", rule["expr"])), "")
    for query, arguments in re.findall(r"query \(printf `(.*?)` (.*?)\)", rule["annotations"]["summary"]):
        for label in ("job", "namespace", *({"issuer", "reason"} & set(grouped.split(", ")))):
            assert f"$labels.{label}" in arguments.split()
            assert re.search(rf"\b{label}=%(\[\d\])?q", query)


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


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_rule_queries_existing_metrics_and_reasons(name: str) -> None:
    expr = EXPRESSIONS[name]
    families = collected(Metrics(transport="grpcio").registry, SupervisorMetrics().registry)
    ours = {f"{family.name}{'_total' * (family.type == 'counter')}" for family in families}
    queried = {re.sub(r"_(bucket|count)$", "", name) for name in re.findall(r"\bauthz_\w+", expr)}
    assert queried <= ours
    reasons = [reason for group in re.findall(r'reason[!=~]+"(.*?)"', expr) for reason in group.split("|")]
    assert set(reasons) <= {reason.value for reason in Reason}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_rule_aggregates_by_job_and_namespace(name: str) -> None:
    for clause in re.findall(r"\bby \((.*?)\)", EXPRESSIONS[name]):
        assert clause.startswith("job, namespace")


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_the_threshold_of_the_latency_objective_is_a_bucket(name: str) -> None:
    samples = [each for family in collected(Metrics(transport="grpcio").registry) for each in family.samples]
    buckets = {each.labels["le"] for each in samples if each.name == "authz_check_duration_seconds_bucket"}
    assert set(re.findall(r'le="(.*?)"', EXPRESSIONS[name])) <= buckets


def rendered(folder: Path, **rule: Any) -> tuple[Path, str, str]:
    """The chart's rules of a default installation as a file, and the job and namespace that its monitor produces."""
    monitoring = {"serviceMonitor": {"enabled": False}, "podMonitor": {"enabled": True}, "prometheusRule": rule}
    found = manifests("service", {"monitoring": monitoring})
    monitor = one(found, "PodMonitor")
    labels = one(found, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    file = folder / "rules.yaml"
    file.write_text(yaml.safe_dump(one(found, "PrometheusRule")["spec"]))
    return file, labels[monitor["spec"]["jobLabel"]], monitor["metadata"]["namespace"]


def cases(folder: Path, rules: Path, *tests: dict[str, Any]) -> str:
    file = folder / "cases.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": list(tests)}))
    return str(file)


def fires(alert: str, at: str, labels: dict[str, str], **annotations: str) -> dict[str, Any]:
    return {
        "alertname": alert,
        "eval_time": at,
        "exp_alerts": [{"exp_labels": labels, "exp_annotations": annotations}],
    }


def quiet(alert: str, at: str) -> dict[str, Any]:
    return {"alertname": alert, "eval_time": at, "exp_alerts": []}


def test_a_release_that_is_not_scraped_is_absent_whatever_others_there_are(
    prometheus_programs: Path, tmp_path: Path
) -> None:
    rules, job, namespace = rendered(tmp_path, runbookUrl="https://wiki.example/authz")
    promtool(prometheus_programs, "check", "rules", "--lint=all", "--lint-fatal", str(rules))
    other, own = (
        {"series": f'authz_build_info{{job="{job}", namespace="{each}", pod="p", version="1"}}', "values": "1+0x10"}
        for each in ("other", namespace)
    )
    absent = fires(
        "AuthzAbsent",
        "8m",
        {"severity": "critical", "job": job, "namespace": namespace},
        summary=f"No instance of {namespace}/{job} is left",
        description=f"Prometheus scrapes no instance of {namespace}/{job} any more. Its Envoys deny every request or, "
        "with failure_mode_allow, allow every request, or Prometheus has lost the targets. "
        "No other alert of it can fire.",
        runbook_url="https://wiki.example/authz#authzabsent",
    )
    without = {"interval": "1m", "input_series": [other], "alert_rule_test": [absent]}
    scraped = {"interval": "1m", "input_series": [other, own], "alert_rule_test": [quiet("AuthzAbsent", "8m")]}
    promtool(prometheus_programs, "test", "rules", cases(tmp_path, rules, without, scraped))


def test_the_chart_sets_the_objectives(prometheus_programs: Path, tmp_path: Path) -> None:
    objectives = {"availability": 90, "latency": 99.95, "latencyThreshold": "1s", "minimum": 200}
    rules, job, _ = rendered(tmp_path, slo=objectives)
    found = {
        (rule["record"], *rule.get("labels", {}).values()): rule["expr"]
        for group in yaml.safe_load(rules.read_text())["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    assert found["authz:slo_budget", "availability"] == "vector(1 - 90 / 100)"
    assert found["authz:slo_budget", "latency"] == "vector(1 - 99.95 / 100)"
    assert found["authz:slo_minimum",] == "vector(200)"
    assert 'le="1.0"' in found["authz:checks_bad:increase5m", "latency"]
    assert 'le="0.05"' not in rules.read_text()
    # A failure rate that the default objective does not allow, and then slow requests, of which there are too few.
    series = {
        f'authz_checks_total{{job="{job}", decision="deny", reason="internal_error"}}': "0+20x60",
        f'authz_checks_total{{job="{job}", decision="allow", reason="ok"}}': "0+80x60",
        f'authz_check_duration_seconds_count{{job="{job}", decision="allow"}}': "0+100x60",
        f'authz_check_duration_seconds_bucket{{job="{job}", decision="allow", le="1.0"}}': "0+97x60",
    }
    promtool(
        prometheus_programs,
        "test",
        "rules",
        cases(
            tmp_path,
            rules,
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [quiet("AuthzDecisionsFail", "60m"), quiet("AuthzSlow", "60m")],
            },
        ),
    )
