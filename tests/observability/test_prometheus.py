"""The dashboard's queries and the alerts on a real Prometheus, which reads the real sidecar and the real Envoy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
import trustme
import yaml
from transport.pki import TlsFiles

from authz_service.demo.envoy import Envoy
from authz_service.demo.identity_provider import AUDIENCE, IdentityProvider
from authz_service.demo.introspection import API_ID, API_SECRET
from authz_service.demo.run import send
from authz_service.demo.samples import SECRET_FILE, Sample, configuration, samples
from authz_service.demo.upstream import Upstream
from generate import CHART
from support.dashboard import QUERIES, VARIABLES, Query, choices
from support.envoy_bootstrap import VariedBootstrap
from support.prometheus import Prometheus, running_prometheus
from support.sidecar_process import SidecarProcess
from support.transmitter import Transmitter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALERTS = CHART / "alerts" / "authz-service.yaml"
CHECKS, UNDECIDED = 'sum(authz_checks_total{job="authz-service"})', "sum(envoy_http_ext_authz_failure_mode_allowed)"
FAILED = "sum(authz_transport_failures_total)"
TRACE = "0af7651916cd43dd8448eb211c80319c"
EVENTS = 'sum(authz_security_events_total{type="session-revoked"})'
_WINDOW_TIMEOUT = 90.0  # the window of an hour is added up at full minutes
CHANGED = 'sum(authz_config_reloads_total{job="authz-service"})'


@dataclass(frozen=True)
class Observed:
    """A Prometheus with mixed traffic, and the start of that traffic. ``fail`` sends requests that fail."""

    prometheus: Prometheus
    start: float
    fail: Callable[[int], Awaitable[None]]


def settings(provider: IdentityProvider, folder: Path) -> dict[str, Any]:
    """The configuration of the demo, with frequent fetches, a shadow rule, and an issuer that rejects our secret."""
    found: dict[str, Any] = yaml.safe_load(configuration(provider.issuer, AUDIENCE, str(folder / "authz.sock")))
    found["issuers"][0]["keys"] = {"refresh_interval": "1s", "min_refresh_interval": "1s"}
    partner = {"client_id": API_ID, "client_secret_file": "wrong-secret", "endpoint": f"{provider.issuer}/introspect"}
    found["issuers"].append(
        {
            "issuer": "https://partner.demo/",
            "name": "partner",
            "audiences": [AUDIENCE],
            "keys": {"discovery": False},
            "introspection": partner,
        }
    )
    for rule in found["rules"]:
        if "require" in rule:
            rule["require"]["issuers"] = ["demo"]
    found["rules"] += [
        {"name": "partners", "match": {"paths": ["/v1/partners"]}, "require": {"issuers": ["partner"]}},
        {"name": "trial", "match": {"paths": ["/v1/trial"]}, "require": {"scopes": ["trial"]}, "mode": "shadow"},
    ]
    (folder / SECRET_FILE).write_text(API_SECRET)
    (folder / "wrong-secret").write_text("wrong")
    (folder / "revocations.yaml").write_text("revocations: [{issuer: demo, subject: thief}]")
    found["revocations_file"] = "revocations.yaml"
    return found


def mixed(provider: IdentityProvider) -> list[Sample]:
    """The demo's requests, and one of each kind that it has not."""
    good, opaque = provider.access_token(), provider.opaque_token()
    return [
        *samples(provider),
        *(Sample("opaque token again", "/v1/appointments/7", 200, "ok", opaque) for _ in range(2)),
        Sample("traced", "/v1/appointments/7", 200, "ok", good, headers={"traceparent": f"00-{TRACE}-{'b' * 16}-01"}),
        Sample("in shadow", "/v1/trial", 200, "insufficient_scope", good),
        Sample("revoked", "/v1/appointments/7", 401, "revoked", provider.access_token(sub="thief")),
        undecided(provider),
    ]


def undecided(provider: IdentityProvider) -> Sample:
    return Sample("of a partner", "/v1/partners", 503, "introspection_unavailable", provider.opaque_token())


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def observed(prometheus_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Observed]:
    folder, plain, tls = (tmp_path_factory.mktemp(name) for name in ("prometheus", "plain", "tls"))
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(IdentityProvider())
        upstream = await stack.enter_async_context(Upstream())
        config = plain / "config.yaml"
        transmitter = await stack.enter_async_context(Transmitter())
        first = settings(provider, plain)
        events = transmitter.security_events(folder, interval="100ms", snapshot_file="events")
        first["issuers"].append(
            {"issuer": transmitter.issuer, "name": "staff", "audiences": [AUDIENCE], "security_events": events}
        )
        config.write_text(yaml.safe_dump(first))
        sidecar = await stack.enter_async_context(SidecarProcess(config, plain / "log"))
        # Another instance without traffic, with a certificate and two workers.
        (tls / "config.yaml").write_text(yaml.safe_dump(settings(provider, tls) | {"server": secure(tls)}))
        other = await stack.enter_async_context(SidecarProcess(tls / "config.yaml", tls / "log"))
        envoy = await stack.enter_async_context(
            Envoy(VariedBootstrap(first["server"]["grpc_address"], upstream.port, timeout="20s"), plain)
        )
        # And an Envoy that finds no sidecar and lets everything through.
        no_sidecar = VariedBootstrap(f"unix:{folder}/none.sock", upstream.port, failure_mode_allow=True)
        fail_open = await stack.enter_async_context(Envoy(no_sidecar, folder))
        jobs = {
            "authz-service": [f"{each.admin_url}/metrics" for each in (sidecar, other)],
            "envoy": [f"http://127.0.0.1:{each.admin_port}/stats/prometheus" for each in (envoy, fail_open)],
        }
        prometheus = await stack.enter_async_context(running_prometheus(folder, prometheus_programs, jobs, ALERTS))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await prometheus.wait_for("count(up == 1)", 4)
        start = time.time()
        sent = 0
        for changes in range(1, 4):  # an increase is seen where Prometheus saw what was before
            for sample in mixed(provider):
                outcome = await send(session, envoy.port, sample)
                assert (outcome.status, outcome.reason) == (sample.status, sample.reason), sample.title
                sent += 1
            await transmitter.revoke_session("u1", f"s{changes}")
            await connect_without_tls(other.records("listening")[0]["grpc_port"])
            await send(session, fail_open.port, Sample("without a decision", "/v1/appointments/7", 200, ""))
            config.write_text(yaml.safe_dump(first | {"logging": {"level": ["info", "debug"][changes % 2]}}))
            await prometheus.wait_for(CHECKS, sent)
            await prometheus.wait_for(UNDECIDED, changes)
            await prometheus.wait_for(CHANGED, changes)
            await prometheus.wait_for(EVENTS, changes)
            await prometheus.wait_for(FAILED, changes)
        # Windows are added up at full minutes.
        await prometheus.wait_for('count(authz:burn_rate{window="1h"} > 0)', 1, within=_WINDOW_TIMEOUT)

        async def fail(count: int) -> None:
            for _ in range(count):
                await send(session, envoy.port, undecided(provider))

        yield Observed(prometheus, start, fail)


async def connect_without_tls(port: int) -> None:
    """Be a client that a server with TLS counts as a failed connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


def secure(folder: Path) -> dict[str, Any]:
    """A server with a certificate and several workers."""
    files = TlsFiles(folder, trustme.CA().issue_cert("localhost"))
    return {
        "grpc_address": "127.0.0.1:0",
        "admin_address": "127.0.0.1:0",
        "workers": 2,
        "tls": files.written,
    }


@pytest.mark.parametrize("chosen", [{}, {"job": "authz-service", "namespace": "shop"}], ids=["all", "chosen"])
@pytest.mark.parametrize("query", QUERIES, ids=str)
async def test_every_query_of_the_dashboard_returns_data(
    observed: Observed, query: Query, chosen: dict[str, str]
) -> None:
    expr = query.substituted(**choices(**chosen))
    if query.instant:
        found = await observed.prometheus.query(expr)
        values = [each["value"] for each in found]
    else:
        found = await observed.prometheus.query_range(expr, observed.start, time.time())
        values = [value for each in found for value in each["values"]]
    assert any(value != "NaN" for _, value in values), expr
    for label in re.findall(r"\{\{(\w+)\}\}", query.legend):
        assert all(label in each["metric"] for each in found), f"{label} of {query.legend}"


@pytest.mark.parametrize("query", QUERIES, ids=str)
async def test_a_query_returns_nothing_of_another_namespace(observed: Observed, query: Query) -> None:
    expr = query.substituted(**choices(namespace="other"))
    assert await observed.prometheus.query(expr) == []


async def test_an_exemplar_names_the_trace_of_a_sampled_request(observed: Observed) -> None:
    found = await observed.prometheus.exemplars("authz_check_duration_seconds_bucket", observed.start)
    assert {"trace_id": TRACE} in found


async def test_the_variables_list_existing_values(observed: Observed) -> None:
    found = {}
    for name, variable in VARIABLES.items():
        if variable["type"] == "query":
            ((selector, label),) = re.findall(r"^label_values\((.*), (\w+)\)$", variable["query"]["query"])
            query = Query(name, selector).substituted(**choices())
            found[name] = await observed.prometheus.label_values(label, query)
    assert found.pop("job") == ["authz-service"]
    assert found.pop("namespace") == ["shop"]
    assert len(found.pop("instance")) == 2
    assert found.pop("issuer") == ["demo", "partner", "staff"]
    assert {"-", "trial"} < set(found.pop("rule"))
    assert found == {}


async def test_every_alert_is_evaluated_over_existing_series(observed: Observed) -> None:
    rules = await observed.prometheus.evaluated_rules()
    assert {rule["name"]: rule.get("lastError", "") for rule in rules} == dict.fromkeys(rule_names(), "")
    names = await observed.prometheus.label_values("__name__", '{__name__=~".+"}')
    for rule in rules:
        used = set(re.findall(r"\b(?:authz|envoy)[_:][\w:]+", rule["query"]))
        assert used <= set(names), rule["name"]


def rule_names() -> list[str]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule.get("alert") or rule["record"] for group in groups for rule in group["rules"]]


async def test_requests_without_a_decision_are_alerted_at_once(observed: Observed) -> None:
    await observed.prometheus.wait_for('count(ALERTS{alertname="AuthzLetsThroughUnasked", alertstate="firing"})', 1)


async def test_nothing_is_absent_while_it_is_scraped(observed: Observed) -> None:
    assert await observed.prometheus.alerts("AuthzAbsent") == []


async def test_a_few_failures_alert_nobody_and_more_do_with_the_pod(observed: Observed) -> None:
    burning = 'max(authz:burn_rate{slo="availability", window="1h"}) > 14.4'
    await observed.prometheus.wait_for(f"count({burning})", 1, within=_WINDOW_TIMEOUT)
    assert await observed.prometheus.alerts("AuthzDecisionsFail") == []
    await observed.fail(100)
    firing = 'count(ALERTS{alertname="AuthzDecisionsFail", alertstate="firing"})'
    await observed.prometheus.wait_for(firing, 1, within=_WINDOW_TIMEOUT)
    (alert,) = await observed.prometheus.alerts("AuthzDecisionsFail")
    assert alert["annotations"]["summary"] == "shop/authz-service cannot decide requests: authz-service-0"
