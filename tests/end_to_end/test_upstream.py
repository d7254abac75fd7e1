"""Identity headers, their encodings, and the token in another header, with the real Envoy and the real program."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from authz_service.core import base64url
from authz_service.core.upstream_metadata import MAX_DEPTH
from support.envoy_bootstrap import VariedBootstrap, connection_manager
from support.mesh import Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service.demo.envoy import Envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = """
  - name: elsewhere
    match: {paths: [/elsewhere]}
    credential: {header: cf-access-jwt-assertion}
  - name: things
    match: {paths: [/things]}
  - name: strict
    match: {paths: [/strict]}
    require: {scopes: [none-has-it]}
upstream:
  metadata: {tenant: tenant, org: org, note: note}
  headers:
    x-auth-subject: sub
    x-groups: groups
    x-roles: realm_access.roles
    x-groups-json: {claim: groups, encoding: json}
    x-claims: {claim: "*", encoding: base64url-json}
  forward_authorization: false
"""
ASSERTION = "cf-access-jwt-assertion"


class MetadataBootstrap(VariedBootstrap):
    """An Envoy that shows the dynamic metadata in headers of its responses."""

    def document(self) -> dict[str, Any]:
        document = super().document()
        (host,) = connection_manager(document)["route_config"]["virtual_hosts"]
        host["response_headers_to_add"] += [
            {"header": {"key": f"x-{name}", "value": f"%DYNAMIC_METADATA(envoy.filters.http.ext_authz:{name})%"}}
            for name in ("tenant", "org", "note")
        ]
        return document


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("upstream"), SETTINGS) as mesh:
        mesh.bootstrap = MetadataBootstrap(mesh.bootstrap.sidecar, mesh.bootstrap.upstream_port)
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=[False, True], ids=["headers", "raw-headers"])
async def envoy(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[Envoy]:
    async with mesh.envoy(encode_raw_headers=request.param) as envoy:
        yield envoy


async def received(envoy: Envoy, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """The headers that the upstream received."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{envoy.port}{path}", headers=headers) as response,
    ):
        assert response.status == 200, await response.text()
        return dict((await response.json())["headers"])


async def reason(envoy: Envoy, path: str, headers: list[tuple[str, str]]) -> str:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{envoy.port}{path}", headers=headers) as response,
    ):
        return str((await response.json(content_type=None))["type"]).rpartition(":")[2]


async def omitted(mesh: Mesh) -> dict[str, float]:
    families = text_string_to_metric_families(await mesh.metrics())
    samples = [each for family in families for each in family.samples]
    return {each.labels["header"]: each.value for each in samples if "headers_omitted_total" in each.name}


async def test_every_encoding_arrives_and_what_cannot_be_sent_is_left_out_and_counted(mesh: Mesh, envoy: Envoy) -> None:
    before = await omitted(mesh)
    assert before.keys() == {"x-auth-subject", "x-groups", "x-roles", "x-groups-json", "x-claims"}
    groups = ["CN=ops,DC=corp", "caf\u00e9\r\nx-auth-subject: root"]
    token = mesh.provider.access_token(groups=groups, realm_access={"roles": ["admin", 7]})
    sent = {"authorization": f"Bearer {token}", "x-groups": "forged", "x_groups": "forged"}
    for _ in range(2):
        headers = await received(envoy, "/things", sent)
        assert headers["x-auth-subject"] == "alice"
        assert headers["x-roles"] == "admin,7"
        assert json.loads(headers["x-groups-json"]) == groups
        assert json.loads(base64url.decode(headers["x-claims"]))["realm_access"] == {"roles": ["admin", 7]}
        assert not {"x-groups", "x_groups", "authorization"} & headers.keys()
    assert await omitted(mesh) == before | {"x-groups": before["x-groups"] + 2}


async def test_the_token_is_read_from_the_rules_header_and_removed(mesh: Mesh, envoy: Envoy) -> None:
    token = mesh.provider.access_token()
    headers = await received(envoy, "/elsewhere", {ASSERTION: token, "authorization": "Bearer x"})
    assert headers["x-auth-subject"] == "alice"
    assert not {ASSERTION, "authorization"} & headers.keys()
    disguised = {"authorization": f"Bearer {token}", ASSERTION: "forged", "cf_access_jwt_assertion": "forged"}
    assert "forged" not in (await received(envoy, "/things", disguised)).values()
    assert "forged" not in (await received(envoy, "/public/x", disguised)).values()


async def test_another_credential_than_the_rules_is_denied(mesh: Mesh, envoy: Envoy) -> None:
    token = mesh.provider.access_token()
    assert await reason(envoy, "/elsewhere", [("authorization", f"Bearer {token}")]) == "missing_token"
    assert await reason(envoy, "/things", [(ASSERTION, token)]) == "missing_token"
    for headers in (
        [(ASSERTION, token), (ASSERTION, token)],
        [(ASSERTION, f"{token},{token}")],
        [(ASSERTION, "")],
        [(ASSERTION, f"Bearer {token}")],
        [(ASSERTION, token), ("cf_access_jwt_assertion", token)],
    ):
        assert await reason(envoy, "/elsewhere", headers) == "malformed_request"


@pytest.mark.parametrize(("path", "status"), [("/things", 200), ("/strict", 403), ("/public/x", 200)])
async def test_envoy_reads_the_metadata_of_a_valid_token(mesh: Mesh, envoy: Envoy, path: str, status: int) -> None:
    org: Any = "x"
    for _ in range(MAX_DEPTH - 1):
        org = {"a": org}
    token = mesh.provider.access_token(tenant=7, org=org, note="a\r\nx-tenant: 8")
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {token}"}) as session:
        for _ in range(2):  # the second response is a cached one
            async with session.get(f"http://127.0.0.1:{envoy.port}{path}") as response:
                assert response.status == status
                assert "x-note" not in response.headers
                if path == "/public/x":  # its token is ignored
                    assert "x-tenant" not in response.headers
                    continue
                assert response.headers["x-tenant"] == "7"
                assert json.loads(response.headers["x-org"]) == org
