"""The complete rule language with a real Envoy, which forwards the headers and routes that the rules match."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from authz_service.demo.run import SampleResult, send
from authz_service.demo.samples import Sample
from support.mesh import Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service.demo.envoy import Envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = """
  - name: tenant
    match: {hosts: ["*.demo"], paths: ["/t/{tenant}/**"]}
    require:
      scopes: ["read:{tenant}"]
      claims: {tenant: {equals_path: tenant}, realm_access.roles: {contains: user}}
  - name: second-version
    match: {paths: [/versioned], headers: {X-Api-Version: "2"}}
  - name: first-version
    match: {paths: [/versioned]}
    access: public
  - name: pay
    match: {paths: [/pay]}
    require: {max_auth_age: 15m, acr_values: ["urn:mfa"]}
  - name: grpc
    match: {methods: [POST], paths: ["/shop.v1.Orders/Get", "/shop.v1.Health/**"]}
    require: {scopes: [orders]}
  - name: watched
    match: {paths: ["/watched/**"]}
    require: {scopes: [admin]}
    mode: shadow
  - name: billing
    policy: billing
    require: {scopes: [billing]}
cors_preflight: allow
"""
POLICIES = (("/billing", "billing"), ("/t/acme/billing", "billing"), ("/unknown", "unknown"))
PREFLIGHT = {"Origin": "https://app.demo", "Access-Control-Request-Method": "PUT"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("language"), RULES) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=[False, True], ids=["headers", "raw-headers"])
async def envoy(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[Envoy]:
    async with mesh.envoy(policies=POLICIES, encode_raw_headers=request.param) as envoy:
        yield envoy


def requests(mesh: Mesh) -> list[Sample]:
    token, now = mesh.provider.access_token, int(time.time())
    member = token(tenant="acme", scope="read:acme", realm_access={"roles": ["user"]})
    step_up = "insufficient_user_authentication"
    spoofed = {"x-auth-subject": "admin", "x_auth_subject": "admin"}
    no_identity: dict[str, str | None] = {"x-auth-subject": None, "x_auth_subject": None}
    return [
        Sample("own tenant", "/t/acme/a", 200, "ok", member),
        Sample("own tenant, escaped", "/t/%61cme/a", 200, "ok", member),
        Sample("other tenant", "/t/other/a", 403, "claim_mismatch", member),
        Sample("own tenant without the scope", "/t/acme/a", 403, "insufficient_scope",
               token(tenant="acme", realm_access={"roles": ["user"]}), error="insufficient_scope"),
        Sample("role that is not there", "/t/acme/a", 403, "claim_mismatch", token(tenant="acme", scope="read:acme")),
        Sample("matching header", "/versioned", 401, "missing_token", headers={"x-api-version": "2"}, error=""),
        Sample("header otherwise", "/versioned", 200, "public", headers={"x-api-version": "3"}),
        Sample("no header", "/versioned", 200, "public"),
        Sample("fresh and strong login", "/pay", 200, "ok", token(auth_time=now - 60, acr="urn:mfa")),
        Sample("old login", "/pay", 401, "stale_authentication", token(auth_time=now - 7200, acr="urn:mfa"),
               error=step_up),
        Sample("weak login", "/pay", 401, "weak_authentication", token(auth_time=now, acr="urn:pwd"), error=step_up),
        Sample("gRPC method", "/shop.v1.Orders/Get", 200, "ok", token(scope="orders"), "POST"),
        Sample("another gRPC method", "/shop.v1.Orders/Delete", 403, "no_rule", token(scope="orders"), "POST"),
        Sample("shadow, no token", "/watched/a", 200, "missing_token", headers=spoofed, upstream=no_identity),
        Sample("shadow, ID token", "/watched/a", 200, "id_token", mesh.provider.id_token(), headers=spoofed,
               upstream=no_identity),
        Sample("shadow, too little", "/watched/a", 200, "insufficient_scope", token(), headers=spoofed,
               upstream=no_identity),
        Sample("shadow, enough", "/watched/a", 200, "ok", token(scope="admin"), headers=spoofed,
               upstream={"x-auth-subject": "alice", "x_auth_subject": None}),
        Sample("shadow, ambiguous path", "/watched/%2e%2e/a", 400, "ambiguous_path"),
        Sample("route with a policy", "/billing/a", 200, "ok", token(scope="billing")),
        Sample("route with a policy, too little", "/billing/a", 403, "insufficient_scope", token(),
               error="insufficient_scope"),
        Sample("file order goes before a policy", "/t/acme/billing", 200, "ok", member),
        Sample("policy that no rule has", "/unknown", 403, "no_rule", token(scope="billing")),
        Sample("policy by a client's header", "/elsewhere", 403, "no_rule", token(scope="billing"),
               headers={"authz_policy": "billing", "x-authz-policy": "billing"}),
        Sample("preflight", "/t/acme/a", 200, "preflight", None, "OPTIONS", headers=PREFLIGHT | spoofed,
               upstream=no_identity),
        Sample("preflight with a credential", "/pay", 401, "inactive", "x.y.z", "OPTIONS", headers=PREFLIGHT,
               error="invalid_token"),
        Sample("OPTIONS that is not a preflight", "/pay", 401, "missing_token", None, "OPTIONS", error=""),
    ]  # fmt: skip


async def test_every_sample_gets_its_expected_result(mesh: Mesh, envoy: Envoy) -> None:
    wrong: list[tuple[str, SampleResult]] = []
    async with aiohttp.ClientSession() as session:
        for sample in requests(mesh):
            outcome = await send(session, envoy.port, sample)
            if not outcome.is_expected(sample):
                wrong.append((sample.title, outcome))
    assert wrong == []


async def logged(mesh: Mesh, path: str) -> dict[str, Any]:
    """The log record for a path, which a thread writes."""
    async with asyncio.timeout(10):
        while True:
            lines = (mesh.folder / "sidecar.log").read_text().splitlines()
            for record in map(json.loads, lines):
                if record.get("path") == path:
                    return dict(record)
            await asyncio.sleep(0.05)


async def test_unenforced_denials_in_shadow_mode_are_counted_and_logged(mesh: Mesh, envoy: Envoy) -> None:
    async def count() -> float:
        for family in text_string_to_metric_families(await mesh.metrics()):
            for sample in family.samples:
                if sample.labels.get("mode") == "shadow" and sample.labels["reason"] == "missing_token":
                    assert (sample.labels["decision"], sample.labels["rule"]) == ("deny", "watched")
                    return sample.value
        raise AssertionError("no such series")

    before = await count()
    async with aiohttp.ClientSession() as session:
        outcome = await send(session, envoy.port, Sample("watched", "/watched/counted", 200, "missing_token"))
    assert outcome.status == 200
    assert await count() == before + 1
    record = await logged(mesh, "/watched/counted")
    assert (record["decision"], record["mode"], record["reason"], record["status"]) == (
        "deny",
        "shadow",
        "missing_token",
        401,
    )
    assert record["cause"]
