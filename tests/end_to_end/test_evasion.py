"""Untrimmed header values, path parameters, encoded slashes and preflights do not evade rules, with a real Envoy."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from transport.http2.client import ClientHalf

from authz_service.demo.samples import HOST
from authz_service.transport.http2 import frames
from support.mesh import Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service.demo.envoy import Envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES = """
  - name: second-version
    match: {paths: ["/tenants/**"], headers: {x-api-version: "2"}}
    require: {scopes: [strict]}
  - name: first-version
    match: {paths: ["/tenants/**"]}
  - name: admin
    match: {paths: [/things/admin], case_insensitive: true}
    require: {scopes: [admin]}
  - name: purge
    match: {paths: ["/things/{id}:purge"], case_insensitive: true}
    require: {scopes: [purge]}
  - name: thing
    match: {paths: ["/things/{id}"]}
  - name: registry
    match: {paths: ["/npm/-/**"]}
    require: {scopes: [admin]}
  - name: package
    match: {paths: ["/npm/{name}"], encoded_slash: true}
    require: {claims: {package: {equals_path: name}}}
cors_preflight: allow
"""
RESPONSE_TIMEOUT = 10.0
PREFLIGHT = [("origin", "https://app.demo"), ("access-control-request-method", "DELETE")]


@dataclass(frozen=True)
class Seen:
    """The response for the client, and the headers that the upstream received."""

    status: int
    reason: str
    upstream: dict[str, str]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("evasion"), RULES) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=[False, True], ids=["headers", "raw-headers"])
async def envoy(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[Envoy]:
    async with mesh.envoy(encode_raw_headers=request.param) as envoy:
        yield envoy


async def sent(envoy: Envoy, path: str, *headers: tuple[str, str], method: str = "GET", host: str = HOST) -> Seen:
    """One request over HTTP/2 with exactly these header fields."""
    reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
    speaker = ClientHalf()
    head = ((":method", method), (":scheme", "http"), (":path", path), (":authority", host))
    block = speaker.block(*headers, head=head, plain=())
    flags = frames.END_HEADERS | frames.END_STREAM
    writer.write(frames.PREFACE + frames.settings({}) + speaker.headers(1, block, flags))
    async with asyncio.timeout(RESPONSE_TIMEOUT):
        while not (1 in speaker.responses and (speaker.responses[1].ended or speaker.responses[1].reset is not None)):
            chunk = await reader.read(65_536)
            assert chunk, f"Envoy closed the connection: {speaker.goaways}"
            speaker.receive(chunk)
    writer.close()
    answer = speaker.responses[1]
    assert answer.reset is None, answer
    document: dict[str, Any] = json.loads(answer.data or b"{}")
    reason = answer.headers[0].get("x-authz-reason") or str(document.get("type", "")).rpartition(":")[2]
    return Seen(int(answer.headers[0][":status"]), reason, document.get("headers", {}))


def bearer(mesh: Mesh, **claims: Any) -> tuple[str, str]:
    return "authorization", f"Bearer {mesh.provider.access_token(**claims)}"


async def test_a_value_that_the_upstream_reads_trimmed_is_compared_trimmed(mesh: Mesh, envoy: Envoy) -> None:
    token = bearer(mesh)
    assert (await sent(envoy, "/tenants/a", token)).status == 200
    assert (await sent(envoy, "/tenants/a", token, ("x-api-version", "1"))).status == 200
    for value in ("2", " 2", "2 ", "\t2", "2\t"):
        seen = await sent(envoy, "/tenants/a", token, ("x-api-version", value))
        assert (seen.status, seen.reason) == (403, "insufficient_scope"), value
    strict = bearer(mesh, scope="strict")
    seen = await sent(envoy, "/tenants/a", strict, ("x-api-version", " 2"))
    assert (seen.status, seen.upstream["x-api-version"]) == (200, "2")  # as the upstream reads it


@pytest.mark.parametrize(
    "headers",
    [
        [("x-api-version", "2"), ("x-api-version", "2")],
        [("x-api-version", "1"), ("x-api-version", "2")],
        [("x-api-version", "1, 2")],
        [("x-api-version", ""), ("x-api-version", "2")],
        [("x_api_version", "2")],
        [("x-api-version", "1"), ("x_api_version", "2")],
    ],
    ids=str,
)
async def test_an_ambiguous_header_matches_no_rule(mesh: Mesh, envoy: Envoy, headers: list[tuple[str, str]]) -> None:
    seen = await sent(envoy, "/tenants/a", bearer(mesh), *headers)
    assert (seen.status, seen.reason) == (403, "no_rule")


@pytest.mark.parametrize("value", ["{} ", " {}", "\t{}", "{}\t", "{}, {}", " {} "])
async def test_a_credential_with_whitespace_around_it_is_malformed(mesh: Mesh, envoy: Envoy, value: str) -> None:
    name, credential = bearer(mesh)
    seen = await sent(envoy, "/tenants/a", (name, value.replace("{}", credential)))
    assert (seen.status, seen.reason) == (400, "malformed_request")


async def test_parameters_and_another_case_do_not_bypass_a_literal(mesh: Mesh, envoy: Envoy) -> None:
    token = bearer(mesh)
    expected = {
        "/things/7": (200, "ok"),
        "/things/admin": (403, "insufficient_scope"),
        "/things/ADMIN": (403, "insufficient_scope"),
        "/things/%41dmin": (403, "insufficient_scope"),
        "/things/admin;x=1": (400, "ambiguous_path"),
        "/things/admin%3Bx=1": (400, "ambiguous_path"),
        "/things/admin/": (403, "no_rule"),
    }
    seen = {path: await sent(envoy, path, token) for path in expected}
    assert {path: (each.status, each.reason) for path, each in seen.items()} == expected


async def test_a_custom_verb_is_not_decided_by_the_rule_of_the_item(mesh: Mesh, envoy: Envoy) -> None:
    expected = {
        "/things/7": (200, "ok"),
        "/things/7:8": (200, "ok"),
        "/things/7:purge": (403, "insufficient_scope"),
        "/things/7:PURGE": (403, "insufficient_scope"),
        "/things/7%3Apurge": (403, "insufficient_scope"),
        "/things/7:%70urge": (403, "insufficient_scope"),
        "/things/7:purge?x": (403, "insufficient_scope"),
        "/things/7:purge;x": (400, "ambiguous_path"),
        "/things/7:purge/": (403, "no_rule"),
        "/things/7%2f:purge": (400, "ambiguous_path"),
    }
    token = bearer(mesh)
    seen = {path: await sent(envoy, path, token) for path in expected}
    assert {path: (each.status, each.reason) for path, each in seen.items()} == expected
    assert (await sent(envoy, "/things/7:purge", bearer(mesh, scope="purge"))).status == 200


SLASHES = {
    "/npm/@scope%2fname": (200, "ok"),
    "/npm/@scope%2Fname?write=true": (200, "ok"),
    "/npm/@scope%2fother": (403, "claim_mismatch"),
    "/npm/@scope/name": (403, "no_rule"),
    "/npm/-%2fname": (400, "ambiguous_path"),  # /npm/-/name is of the registry
    "/npm/%2d%2fname": (400, "ambiguous_path"),
    "/npm%2f@scope%2fname": (400, "ambiguous_path"),
    "/npm/@scope%2f..": (400, "ambiguous_path"),
    "/npm/@scope%2f%2e%2e%2f-%2fusers": (400, "ambiguous_path"),
    "/npm/@scope%2f": (400, "ambiguous_path"),
    "/npm/%2f@scope": (400, "ambiguous_path"),
    "/npm/@scope%2f%2fname": (400, "ambiguous_path"),
    "/npm/@scope%252fname": (400, "ambiguous_path"),
    "/npm/@scope%5cname": (400, "ambiguous_path"),
    "/npm/@scope%2fname;x": (400, "ambiguous_path"),
    "/things/a%2fb": (400, "ambiguous_path"),
    "/things%2fadmin": (400, "ambiguous_path"),
}


async def test_encoded_slashes_reach_only_a_rule_that_allows_them(mesh: Mesh, envoy: Envoy) -> None:
    token = bearer(mesh, package="@scope/name")
    seen = {path: await sent(envoy, path, token) for path in SLASHES}
    assert {path: (each.status, each.reason) for path, each in seen.items()} == SLASHES


async def test_an_envoy_that_decodes_slashes_weakens_no_rule(mesh: Mesh) -> None:
    token, admin = bearer(mesh, package="@scope/name"), bearer(mesh, scope="admin")
    async with mesh.envoy(escaped_slashes="UNESCAPE_AND_FORWARD") as envoy:
        assert (await sent(envoy, "/npm/@scope%2fname", token)).reason == "no_rule"
        assert (await sent(envoy, "/npm/-%2fusers", token)).reason == "insufficient_scope"
        assert (await sent(envoy, "/npm/-%2fusers", admin)).status == 200
    async with mesh.envoy(escaped_slashes="KEEP_UNCHANGED") as envoy:
        assert (await sent(envoy, "/npm/@scope%2fname", token)).status == 200
    async with mesh.envoy(escaped_slashes="REJECT_REQUEST") as envoy:
        assert (await sent(envoy, "/npm/@scope%2fname", token)).status == 400


async def test_a_browsers_preflight_passes_where_a_rule_matches(mesh: Mesh, envoy: Envoy) -> None:
    seen = await sent(envoy, "/things/7", *PREFLIGHT, method="OPTIONS")
    assert (seen.status, seen.reason) == (200, "preflight")
    for path, more in (
        ("/internal", []),
        ("/things/7/parts", []),
        ("/things/7;x", []),
        ("/things/7", [("x-http-method-override", "DELETE")]),
        ("/things/7", [("x_http_method_override", "DELETE")]),
        ("/things/7", [("x-method-override", "DELETE")]),
        ("/things/7", [("origin", "https://other.demo")]),
        ("/things/7", [("access-control-request-method", "GET")]),
    ):
        seen = await sent(envoy, path, *PREFLIGHT, *more, method="OPTIONS")
        assert seen.status in {400, 401, 403}, (path, more)
        assert seen.upstream == {}
