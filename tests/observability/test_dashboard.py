"""The dashboard's file: Grafana's own schema, and what every panel must have."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from authz_service.core.reasons import Reason
from authz_service.telemetry.metrics import Metrics, SupervisorMetrics
from support.dashboard import DASHBOARD, FILE, PANELS, QUERIES, VARIABLES, Query

# What the Prometheus data source keeps in an annotation and in a variable: the schema of a dashboard does not know it.
_DATA_SOURCE_OWN = {"step", "tagKeys", "textFormat", "titleFormat", "useValueForTime", "definition"}
_QUESTIONS = [
    "Is it working?",
    "Which requests are denied, and why?",
    "Are the keys fresh?",
    "Is introspection healthy?",
    "Are proofs of possession valid?",
    "Are revoked tokens refused?",
    "Do the caches work?",
    "Do connections fail?",
    "Is it saturated?",
    "How is it configured?",
]
_ENVOY = {f"envoy_http_ext_authz_{name}" for name in ("ok", "denied", "error", "failure_mode_allowed")}
_PROCESS = {
    f"process_{name}"
    for name in (
        "cpu_seconds_total", "max_fds", "open_fds", "resident_memory_bytes", "start_time_seconds",
    )
}  # fmt: skip


def test_grafanas_own_types_accept_it() -> None:
    register_default_plugins()
    taken = json.loads(JSONEncoder(sort_keys=True, indent=2).encode(Dashboard.from_json(DASHBOARD)))
    assert dropped(DASHBOARD, taken) == _DATA_SOURCE_OWN


def dropped(given: Any, taken: Any) -> set[str]:
    """The members that the types drop. All others must be unchanged."""
    match given, taken:
        case dict(), dict():
            both = [dropped(value, taken[name]) for name, value in given.items() if name in taken]
            return set().union(given.keys() - taken.keys(), *both)
        case list(), list():
            return set().union(*(dropped(*pair) for pair in zip(given, taken, strict=True)))
        case _:
            assert given == taken
            return set()


def test_the_file_is_formatted_as_json_dumps_does() -> None:
    assert FILE.read_text() == json.dumps(DASHBOARD, indent=2, ensure_ascii=False) + "\n"


def test_its_rows_are_an_operators_questions_in_order() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == _QUESTIONS
    tops = [panel["gridPos"]["y"] for panel in DASHBOARD["panels"]]
    assert tops == sorted(tops)


def test_no_panel_overlaps_another() -> None:
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
        assert one["x"] + one["w"] <= 24


def test_ids_and_titles_are_unique() -> None:
    for name in ("id", "title"):
        values = [panel[name] for panel in DASHBOARD["panels"]]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_has_a_description_a_source_and_a_unit(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 30
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] in {"table", "heatmap", "state-timeline"}


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_series_is_selected_by_namespace_and_ours_by_job(query: Query) -> None:
    for name, selector in re.findall(r"\b((?:authz|envoy|process)_\w+)\{(.*?)\}", query.expr):
        assert 'namespace=~"$namespace"' in selector
        assert 'job=~"$job"' in selector or name.startswith("envoy_")
    assert len(re.findall(r"\b(?:authz|envoy|process)_\w+", query.expr)) == len(
        re.findall(r"\b(?:authz|envoy|process)_\w+\{", query.expr)
    )


def test_it_shows_every_metric_of_ours_and_queries_no_other() -> None:
    registries = Metrics(transport="grpcio").registry, SupervisorMetrics().registry
    ours = {family.name for each in registries for family in each.collect() if family.name.startswith("authz_")}
    queried = {name for each in QUERIES for name in re.findall(r"\b[a-z]+_\w+(?=\{)", each.expr)}
    queried = {re.sub(r"_(bucket|count|sum)$", "", name) for name in queried}
    shown = {name.removesuffix("_total") for name in queried if name.startswith("authz_")}
    # Others show these: _age_seconds, _breaker_open, and the remaining lifetime of the certificate.
    redundant = {
        "authz_jwks_last_success_timestamp_seconds",
        "authz_introspection_breaker_state",
        "authz_tls_certificate_not_before_timestamp_seconds",
    }
    assert shown == ours - redundant
    assert {name for name in queried if not name.startswith("authz_")} == _ENVOY | _PROCESS


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_reason_in_a_query_exists(query: Query) -> None:
    reasons = [reason for group in re.findall(r'reason[!=~]+"(.*?)"', query.expr) for reason in group.split("|")]
    assert set(reasons) <= {reason.value for reason in Reason}


def test_the_variables_are_data_source_job_and_namespace() -> None:
    assert list(VARIABLES) == ["datasource", "job", "namespace"]
    assert VARIABLES["datasource"]["type"] == "datasource"
    # Outside of Kubernetes there is no namespace label, and "all" must include such series.
    assert VARIABLES["namespace"]["allValue"] == ".*"
