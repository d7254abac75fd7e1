"""The dashboard's file: Grafana's own schema, and what every panel must have."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from authz_service.core.reasons import Reason
from authz_service.telemetry.metrics import Metrics
from authz_service.telemetry.supervisor_metrics import SupervisorMetrics
from generate import CHART
from support.dashboard import DASHBOARD, FILE, PANELS, QUERIES, ROWS, VARIABLES, Query
from support.documents import page
from support.samples import collected, with_every_series

# What the Prometheus data source keeps in an annotation and in a variable: the schema of a dashboard does not know it.
_DATA_SOURCE_OWN = {"step", "tagKeys", "textFormat", "titleFormat", "useValueForTime", "definition"}
_QUESTIONS = [
    "Is it working?",
    "Which requests are denied, and why?",
    "Which instances are there, and are they alike?",
    "Do connections fail?",
    "Are the keys fresh?",
    "Is introspection healthy?",
    "How long do decisions take, and what does Envoy see?",
    "Are there signs of an attack, or of a wrong client?",
    "Are proofs of possession valid?",
    "Are revoked tokens denied?",
    "Do the caches work?",
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


def test_its_rows_are_an_operators_questions_in_order_and_those_for_details_are_collapsed() -> None:
    assert [row["title"] for row in ROWS] == _QUESTIONS
    assert [row["title"] for row in ROWS if not row["collapsed"]] == _QUESTIONS[:3]
    tops = [panel["gridPos"]["y"] for panel in DASHBOARD["panels"]]
    assert tops == sorted(tops)
    for row in ROWS:
        assert bool(row["panels"]) == row["collapsed"]
        assert all(panel["gridPos"]["y"] > row["gridPos"]["y"] for panel in row["panels"])


@pytest.mark.parametrize("panels", [DASHBOARD["panels"], *(row["panels"] for row in ROWS if row["collapsed"])])
def test_no_panel_overlaps_another(panels: list[dict[str, Any]]) -> None:
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above
        assert one["x"] + one["w"] <= 24


def test_ids_and_titles_are_unique() -> None:
    for name in ("id", "title"):
        values = [panel[name] for panel in [*ROWS, *PANELS]]
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_every_panel_has_a_description_a_source_and_a_unit(panel: dict[str, Any]) -> None:
    assert len(panel["description"]) > 30
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])
    assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] in {"table", "heatmap", "state-timeline"}


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_series_is_selected_by_each_variable_whose_label_it_has(query: Query) -> None:
    labels = {
        each.name: {label for sample in each.samples for label in sample.labels}
        for each in collected(with_every_series().registry, SupervisorMetrics().registry)
    }
    for name, selector in re.findall(_SERIES + r"\{(.*?)\}", query.expr):
        selected = set(re.findall(r'(\w+)=~"\$\1"', selector))
        family = re.sub(r"_(total|bucket|count|sum)$", "", name)
        expected = {"namespace", "job", "instance"} | ({"issuer", "rule"} & labels.get(family, set()))
        if name.startswith(("envoy_", "ALERTS")):
            expected = {"namespace"}
        if name.startswith("authz:"):
            expected = {"namespace", "job"}
        assert selected == expected, name
    assert len(re.findall(_SERIES, query.expr)) == len(re.findall(_SERIES + r"\{", query.expr))


_SERIES = r"\b((?:authz|envoy|process)[_:][\w:]+|ALERTS\b)"


def test_it_shows_every_metric_of_ours_and_queries_no_other() -> None:
    registries = Metrics(transport="grpcio").registry, SupervisorMetrics().registry
    ours = {family.name for family in collected(*registries) if family.name.startswith("authz_")}
    queried = {name for each in QUERIES for name in re.findall(r"(?<![\w:])[a-z]+_\w+(?=\{)", each.expr)}
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


def test_recorded_series_exist() -> None:
    rules = (CHART / "alerts" / "authz-service.yaml").read_text()
    queried = {name for each in QUERIES for name in re.findall(r"\bauthz:[\w:]+", each.expr)}
    assert queried
    assert all(f"- record: {name}\n" in rules for name in queried)


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_reason_in_a_query_exists(query: Query) -> None:
    reasons = [reason for group in re.findall(r'reason[!=~]+"(.*?)"', query.expr) for reason in group.split("|")]
    assert set(reasons) <= {reason.value for reason in Reason}


def test_the_variables_select_sources_and_labels() -> None:
    assert list(VARIABLES) == ["datasource", "job", "namespace", "instance", "issuer", "rule", "logs"]
    assert {name for name, each in VARIABLES.items() if each["type"] == "datasource"} == {"datasource", "logs"}
    # Outside of Kubernetes there is no namespace label, and "all" must include such series.
    assert VARIABLES["namespace"]["allValue"] == ".*"


def test_every_panel_in_the_runbooks_exists() -> None:
    runbooks = " ".join(page("reference/alerts").split())
    named = set(re.findall(r"(?<!\*)\*([A-Z][^*]+)\*(?!\*)", runbooks)) - {"Target health"}  # a page of Prometheus
    assert len(named) > 15
    assert named <= {panel["title"] for panel in PANELS}


def links() -> list[dict[str, Any]]:
    """The links of the dashboard, of panels, and of values in panels."""
    found = [*DASHBOARD["links"]]
    for panel in PANELS:
        found += panel.get("links", []) + panel["fieldConfig"]["defaults"].get("links", [])
        properties = [each for override in panel["fieldConfig"]["overrides"] for each in override["properties"]]
        found += [link for each in properties if each["id"] == "links" for link in each["value"]]
    return found


def test_it_links_to_runbooks_to_explore_and_to_logs() -> None:
    assert [link["title"] for link in DASHBOARD["links"]] == ["Runbooks", "Explore", "Denials in the log"]
    assert all(link["targetBlank"] for link in links())


@pytest.mark.parametrize("link", links(), ids=lambda link: link["title"])
def test_a_link_leads_to_an_existing_runbook_or_to_a_query_in_explore(link: dict[str, Any]) -> None:
    if not link["url"].startswith("/explore?"):
        address, _, alert = link["url"].partition("#")
        assert address == "https://github.com/OWNER/REPOSITORY/blob/main/docs/reference/alerts.md"
        runbooks = page("reference/alerts")
        assert not alert or re.search(rf"^## {alert}$", runbooks, re.MULTILINE | re.IGNORECASE)
        return
    parameters = dict(parse_qsl(urlsplit(link["url"]).query))
    (pane,) = json.loads(parameters["panes"]).values()
    assert parameters["schemaVersion"] == "1"
    assert pane["datasource"] in {"${datasource}", "${logs}"}
    assert pane["range"] == {"from": "${__from}", "to": "${__to}"}
    used = set(re.findall(r"\$\{(\w+)[:}]", json.dumps(pane)))
    assert used <= {*VARIABLES, "__from", "__to"} | {"__field"}
