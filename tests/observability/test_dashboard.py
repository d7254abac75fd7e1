"""The dashboard's file: Grafana's own schema, and what every panel owes to who reads it."""

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
    "Who is refused, and why?",
    "Are the keys fresh?",
    "Is introspection healthy?",
    "Do the caches work?",
    "Is it saturated?",
    "What is configured?",
]
_ENVOY = {f"envoy_http_ext_authz_{name}" for name in ("ok", "denied", "error", "failure_mode_allowed")}
_PROCESS = {
    f"process_{name}"
    for name in (
        "cpu_seconds_total", "max_fds", "open_fds", "resident_memory_bytes", "start_time_seconds",
    )
}  # fmt: skip


def test_it_is_what_grafanas_own_types_take() -> None:
    register_default_plugins()
    taken = json.loads(JSONEncoder(sort_keys=True, indent=2).encode(Dashboard.from_json(DASHBOARD)))
    assert dropped(DASHBOARD, taken) == _DATA_SOURCE_OWN


def dropped(given: Any, taken: Any) -> set[str]:
    """The names that the types do not know; what they know they must keep as it is."""
    match given, taken:
        case dict(), dict():
            both = [dropped(value, taken[name]) for name, value in given.items() if name in taken]
            return set().union(given.keys() - taken.keys(), *both)
        case list(), list():
            return set().union(*(dropped(*pair) for pair in zip(given, taken, strict=True)))
        case _:
            assert given == taken
            return set()


def test_it_is_written_as_it_is_generated_from_its_values() -> None:
    assert FILE.read_text() == json.dumps(DASHBOARD, indent=2, ensure_ascii=False) + "\n"


def test_it_asks_an_operators_questions_from_top_to_bottom() -> None:
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == _QUESTIONS
    tops = [panel["gridPos"]["y"] for panel in DASHBOARD["panels"]]
    assert tops == sorted(tops)


def test_no_panel_lies_over_another() -> None:
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
        assert one["x"] + one["w"] <= 24


def test_numbers_and_titles_are_each_ones_own() -> None:
    for name in ("id", "title"):
        values = [panel[name] for panel in DASHBOARD["panels"]]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_of_which_source_in_which_unit(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 30
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] in {"table", "heatmap", "state-timeline"}


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_series_is_chosen_by_namespace_and_ours_by_job(query: Query) -> None:
    for name, selector in re.findall(r"\b((?:authz|envoy|process)_\w+)\{(.*?)\}", query.expr):
        assert 'namespace=~"$namespace"' in selector
        assert 'job=~"$job"' in selector or name.startswith("envoy_")
    assert len(re.findall(r"\b(?:authz|envoy|process)_\w+", query.expr)) == len(
        re.findall(r"\b(?:authz|envoy|process)_\w+\{", query.expr)
    )


def test_every_metric_of_ours_is_shown_and_no_other_is_asked_for() -> None:
    registries = Metrics(transport="grpcio").registry, SupervisorMetrics().registry
    ours = {family.name for each in registries for family in each.collect() if family.name.startswith("authz_")}
    asked = {name for each in QUERIES for name in re.findall(r"\b[a-z]+_\w+(?=\{)", each.expr)}
    asked = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    shown = {name.removesuffix("_total") for name in asked if name.startswith("authz_")}
    # Each is told by another: by _age_seconds, by _breaker_open, and by what is left of the certificate.
    told = {
        "authz_jwks_last_success_timestamp_seconds",
        "authz_introspection_breaker_state",
        "authz_tls_certificate_not_before_timestamp_seconds",
    }
    assert shown == ours - told
    assert {name for name in asked if not name.startswith("authz_")} == _ENVOY | _PROCESS


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_reason_in_a_query_is_one(query: Query) -> None:
    told = [reason for group in re.findall(r'reason[!=~]+"(.*?)"', query.expr) for reason in group.split("|")]
    assert set(told) <= {reason.value for reason in Reason}


def test_the_variables_are_data_source_job_and_namespace() -> None:
    assert list(VARIABLES) == ["datasource", "job", "namespace"]
    assert VARIABLES["datasource"]["type"] == "datasource"
    # A Prometheus outside of Kubernetes gives no namespace, and all means these too.
    assert VARIABLES["namespace"]["allValue"] == ".*"
