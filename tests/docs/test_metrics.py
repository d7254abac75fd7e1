"""The pages on metrics, monitoring, the audit log and traces: names, types, labels, limits and queries."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, get_args

import pytest
import yaml

from authz_service.admin import exchange, limits, pages
from authz_service.core.decision import Deny
from authz_service.core.reasons import Reason
from authz_service.runtime.application import _without_keys
from authz_service.telemetry import background_log_stream, decision_output, spans
from authz_service.telemetry.families import CHECK_BOUNDS
from authz_service.telemetry.supervisor_metrics import SupervisorMetrics
from generate import CHART
from support.console import printed
from support.documents import blocks, code, page, section, table, tables
from support.documents import pages as documents
from support.missing import not_proved, program
from support.prometheus import programs
from support.samples import collected, with_every_series

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client import Metric

METRICS, MONITOR = page("reference/metrics"), page("how-to/monitor")
AUDIT_LOG, TRACES = page("how-to/audit-log"), page("how-to/traces")
ROWS = {
    name.strip("`"): (kind, code(labels), meaning)
    for each in tables(METRICS)
    if each.head[0] == "metric"
    for name, kind, labels, meaning in each.rows
}


def existing() -> dict[str, Metric]:
    metrics = with_every_series()
    metrics.record_decision(Deny(Reason.EXPIRED), 0.001)
    families = collected(metrics.registry, SupervisorMetrics().registry)
    named = {f"{each.name}_total" if each.type == "counter" else each.name: each for each in families}
    return {name: each for name, each in named.items() if name.startswith("authz_")}


EXISTING = existing()


def test_the_page_has_exactly_the_existing_metrics() -> None:
    assert set(ROWS) == set(EXISTING), "docs/reference/metrics.md has a row for each metric, and no other"
    assert set(re.findall(r"`(authz_[a-z_]+)`", METRICS)) == set(ROWS)


@pytest.mark.parametrize("name", documents())
def test_every_metric_in_a_page_exists(name: str) -> None:
    named = set(re.findall(r"\b(authz_[a-z_]+)(?:\{|`)", page(name)))
    assert named - {"authz_policy", "authz_service"} <= set(EXISTING)


@pytest.mark.parametrize("name", ROWS)
def test_a_metric_has_the_type_and_the_labels_on_the_page(name: str) -> None:
    kind, labels, _ = ROWS[name]
    assert kind == EXISTING[name].type
    samples = [sample for sample in EXISTING[name].samples if not sample.name.endswith("_created")]
    assert {label for sample in samples for label in sample.labels} - {"le"} == set(labels)
    assert samples


@pytest.mark.parametrize("label", ["result", "state", "source", "decision"])
def test_the_page_names_every_value_of_a_label_from_a_closed_list(label: str) -> None:
    for name, (_, labels, meaning) in ROWS.items():
        if label in labels:
            described = f"{meaning} {section(METRICS, '## Decisions')}" if label == "decision" else meaning
            values = {sample.labels[label] for sample in EXISTING[name].samples}
            assert values <= set(re.findall("`([a-z_]+)`", described)), name


def test_the_buckets_are_those_on_the_page() -> None:
    assert f"buckets from {CHECK_BOUNDS[0] * 1e6:.0f} µs to {CHECK_BOUNDS[-1]} s" in METRICS


def test_readiness_answers_what_the_page_shows() -> None:
    class Keys:
        issuer = "main"

        class first_keys:  # noqa: N801 - an attribute of the cache
            @staticmethod
            def is_set() -> bool:
                return False

    missing = _without_keys([Keys()])  # type: ignore[list-item]
    shown = json.loads(blocks(section(METRICS, "## Health"), "json")[0].text)
    assert json.loads(pages.readiness(lambda: missing, pages.none).body) == shown
    assert pages.readiness(lambda: missing, pages.none).status == 503
    assert pages.readiness(pages.none, lambda: missing).status == 200
    documented = [row[0].strip("`") for row in table(METRICS, "page")]
    assert {"/metrics", *documented} == {each.value for each in pages.Page}


def test_the_limits_of_the_admin_port_are_those_of_the_program() -> None:
    text = " ".join(section(METRICS, "## The admin port").split())
    for shown in (
        "at most a tenth of the time" if pages._MAX_SHARE == 0.1 else "",
        "never longer than a second" if pages._MAX_PAUSE == 1.0 else "",
        f"within {limits.HEADER_TIMEOUT:.0f} seconds, and have at most {exchange.MAX_HEAD_BYTES >> 10} KiB",
        f"closed after {limits.KEEPALIVE_TIMEOUT:.0f} seconds",
        f"at most {limits.MAX_CONNECTIONS} connections",
    ):
        assert shown
        assert shown in text


# Monitoring.

QUERIES = [
    *(block.text.strip() for name in ("how-to/monitor", "how-to/audit-log") for block in blocks(page(name), "promql")),
    *(query.replace(r"\|", "|") for query in re.findall(r"^\| .*\? \| `(.*)` \|$", MONITOR, re.MULTILINE)),
]


def test_every_query_is_one_of_existing_metrics_and_reasons(tmp_path: Path) -> None:
    assert len(QUERIES) == 8
    for query in QUERIES:
        names = {re.sub("_(bucket|count|sum)$", "", name) for name in re.findall(r"\bauthz_\w+", query)}
        assert names
        assert names <= set(EXISTING)
        reasons = [each for group in re.findall(r'reason=~"(.*?)"', query) for each in group.split("|")]
        assert set(reasons) <= set(Reason)
    rules = [{"alert": f"Query{number}", "expr": query} for number, query in enumerate(QUERIES)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "page", "rules": rules}]}))
    if (folder := programs()) is None:
        not_proved("that the queries of the page on monitoring are valid", missing="Prometheus")
    command = [str(folder / "promtool"), "check", "rules", str(tmp_path / "rules.yaml")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_objectives_and_burn_rates_are_those_of_the_alerts() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["monitoring"]["prometheusRule"]["slo"]
    text = section(MONITOR, "## 4. Choose your objectives")
    assert f"| {values['availability']} % |" in text
    assert f"within {values['latencyThreshold'].removesuffix('ms')} ms | {values['latency']} % |" in text
    alerts = yaml.safe_load((CHART / "alerts" / "authz-service.yaml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    failing = {reason for rule in rules if rule.get("record") == "authz:checks_bad:increase5m"
               for group in re.findall(r'reason=~"(.*?)"', rule["expr"]) for reason in group.split("|")}  # fmt: skip
    assert set(re.findall(r"`([a-z_]+)`\]\(\.\./reference/reasons", text)) == failing
    rates = {
        (rule["labels"]["severity"], rate, window)
        for rule in rules
        if rule.get("alert") in {"AuthzDecisionsFail", "AuthzErrorBudget"}
        for window, rate in re.findall(r'window="(\w+)"} > ([\d.]+)', rule["expr"])
    }
    units = {"minutes": "m", "hour": "h", "hours": "h", "day": "d", "days": "d"}
    shown = re.findall(r"^\| (critical|warning) \| ([\d.]+) \| (\d+) (\w+) and (\d+) (\w+) \|", text, re.MULTILINE)
    assert {
        (severity, rate, f"{number}{units[unit]}")
        for severity, rate, *windows in shown
        for number, unit in (windows[:2], windows[2:])
    } == rates
    assert len(rates) == 8


# The audit log.


def test_the_count_of_denials_prints_what_the_page_shows(tmp_path: Path) -> None:
    jq = program("jq", "that the command which counts denials prints what the page shows")
    expired = {"decision": "deny", "reason": "expired", "issuer": "main", "client_id": "mobile-app", "subject": "u1"}
    unknown = {"decision": "deny", "reason": "unknown_issuer", "unverified_issuer": "https://old.example.com/"}
    lines = [*[expired] * 42, *[unknown] * 3, expired | {"decision": "allow"}]
    (tmp_path / "decisions.log").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (_, command), (shown,) = blocks(AUDIT_LOG, "sh"), blocks(AUDIT_LOG, "text")
    script = command.text.replace("jq ", f"{jq} ", 1)
    assert [line.strip().split("\t") for line in printed(script, tmp_path).splitlines()] == [
        line.strip().split("\t") for line in shown.text.splitlines()
    ]


def test_the_limits_of_the_audit_log_are_those_of_the_program() -> None:
    text = " ".join(AUDIT_LOG.split())
    backlog = background_log_stream
    assert f"a backlog of {backlog._MAX_LINES:,} lines or {backlog._MAX_CHARACTERS >> 20} MiB" in text
    assert f"mode {decision_output._MODE:04o}" in text
    assert decision_output._RECONNECT_INTERVAL == 0.5
    assert "after half a second" in text


# Traces.


def test_the_spans_and_their_limit_are_those_of_the_program() -> None:
    assert {row[0].strip("`") for row in table(TRACES, "span")} == set(get_args(spans.SpanName))
    assert f"Up to {spans.MAX_WAITING:,} spans" in TRACES
    attributes = {name for text in [(CHART.parents[1] / "authz_service/telemetry/spans.py").read_text()]
                  for name in re.findall(r'"(authz\.\w+)"', text)}  # fmt: skip
    assert set(re.findall(r"`(authz\.\w+)`", TRACES)) == attributes
