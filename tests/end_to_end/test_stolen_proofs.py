"""What a thief sends with a stolen DPoP token and a captured proof, through a real Envoy, in any spelling."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from authz_service.demo.samples import HOST
from support.dpop import DpopKey
from support.mesh import Mesh, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from authz_service.demo.envoy import Envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWNER, THIEF = DpopKey(), DpopKey(name="thief")
PATH = "/v1/appointments/7"
URL = f"https://{HOST}{PATH}"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("stolen")) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=[False, True], ids=["headers", "raw-headers"])
async def envoy(mesh: Mesh, request: pytest.FixtureRequest) -> AsyncIterator[Envoy]:
    async with mesh.envoy(encode_raw_headers=request.param) as envoy:
        yield envoy


async def reason(envoy: Envoy, *fields: str, target: str = PATH, host: str = HOST, method: str = "GET") -> str:
    """The reason of the decision about a request with exactly these header fields; "" if Envoy refuses it itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
    head = (f"{method} {target} HTTP/1.1", f"host: {host}", "connection: close", *fields)
    writer.write("\r\n".join([*head, "", ""]).encode("latin-1"))
    answer = (await reader.read()).decode("latin-1")
    writer.close()
    lines = answer.partition("\r\n\r\n")[0].splitlines()[1:]
    return dict(line.split(": ", 1) for line in lines).get("x-authz-reason", "")


def stolen(mesh: Mesh) -> str:
    return mesh.provider.access_token(cnf=OWNER.cnf)


def prove(token: str, key: DpopKey = OWNER, method: str = "GET", url: str = URL) -> str:
    return key.proof(method, url, token, now=time.time())


async def test_the_owner_is_let_in_by_any_spelling_of_the_request(mesh: Mesh, envoy: Envoy) -> None:
    token = stolen(mesh)

    async def owner(*more: str, scheme: str = "DPoP ", header: str = "dpop: {}", **request: str) -> str:
        proof = header.format(prove(token))
        return await reason(envoy, f"authorization: {scheme}{token}", proof, *more, **request)

    assert await owner() == "ok"
    for header in ("DPoP: {}", "dpop:  {}  ", "dpop:\t{}\t"):
        assert await owner(header=header) == "ok", header
    for scheme in ("dpop ", "DPOP ", "DPoP  "):
        assert await owner(scheme=scheme) == "ok", scheme
    for host in (f"{HOST}:443", HOST.upper()):
        assert await owner(host=host) == "ok", host
    for target in (f"{PATH}?a=1", "/v1/appointments/%37", f"http://{HOST}{PATH}"):
        assert await owner(target=target) == "ok", target


async def test_no_second_proof_or_credential_beside_the_valid_one_is_accepted(mesh: Mesh, envoy: Envoy) -> None:
    token = stolen(mesh)
    credential = f"authorization: DPoP {token}"

    def proof() -> str:
        return f"dpop: {prove(token)}"

    assert await reason(envoy, credential, proof(), proof()) == "invalid_proof"
    assert await reason(envoy, credential, proof(), "dpop:") == "invalid_proof"
    assert await reason(envoy, credential, "dpop:", proof()) == "invalid_proof"
    assert await reason(envoy, credential, f"{proof()},") == "invalid_proof"
    assert await reason(envoy, credential, f"{proof()}\xe9") == "invalid_proof"
    assert await reason(envoy, credential, f"authorization: Bearer {token}", proof()) == "malformed_request"
    assert await reason(envoy, f"authorization: DPoP\t{token}", proof()) == "malformed_request"
    assert await reason(envoy, credential, f"dpop_: {prove(token)}") == "missing_proof"


async def test_a_captured_proof_is_of_no_use_for_another_request(mesh: Mesh, envoy: Envoy) -> None:
    token = stolen(mesh)

    async def thief(*more: str, proof: str | None = None, **request: str) -> str:
        captured = f"dpop: {proof or prove(token)}"
        return await reason(envoy, f"authorization: DPoP {token}", captured, *more, **request)

    for host in (f"{HOST}:80", f"{HOST}.", f"a@{HOST}", "other.demo"):
        assert await thief(host=host) == "invalid_proof", host
    assert await thief(target=f"http://other.demo{PATH}") == "invalid_proof"
    assert await thief(method="HEAD") == "invalid_proof"
    assert await thief(target="/v1/appointments/8") == "invalid_proof"
    for target in ("/v1/appointments%2f7", "/v1/x/../appointments/7", "/v1//appointments/7"):
        assert await thief(target=target) == "ambiguous_path", target


async def test_no_forwarding_header_changes_the_url_of_a_request(mesh: Mesh, envoy: Envoy) -> None:
    token = stolen(mesh)
    for url, headers in (
        (f"https://other.demo{PATH}", ("x-forwarded-host: other.demo", "forwarded: host=other.demo;proto=https")),
        (f"http://{HOST}{PATH}", ("x-forwarded-proto: http", "x-forwarded-port: 80")),
        (f"https://{HOST}/other", ("x-envoy-original-path: /other", "x-original-url: /other", "x-rewrite-url: /other")),
    ):
        fields = (f"authorization: DPoP {token}", f"dpop: {prove(token, url=url)}", *headers)
        assert await reason(envoy, *fields) == "invalid_proof", url
    delete = (f"dpop: {prove(token, method='DELETE')}", "x-http-method-override: DELETE", "x-http-method: DELETE")
    assert await reason(envoy, f"authorization: DPoP {token}", *delete) == "invalid_proof"


async def test_a_thief_without_the_key_is_refused(mesh: Mesh, envoy: Envoy) -> None:
    token = stolen(mesh)
    assert await reason(envoy, f"authorization: Bearer {token}") == "missing_proof"
    assert await reason(envoy, f"authorization: Bearer {token}", f"dpop: {prove(token)}") == "missing_proof"
    assert await reason(envoy, f"authorization: DPoP {token}") == "missing_proof"
    assert await reason(envoy, f"authorization: DPoP {token}", "dpop:") == "invalid_proof"
    assert await reason(envoy, f"authorization: DPoP {token}", f"dpop: {prove(token, THIEF)}") == "invalid_proof"
    certificate = mesh.provider.access_token(cnf={"x5t#S256": "A" * 43})
    forged = "x-forwarded-client-cert: Hash=" + "0" * 64
    assert await reason(envoy, f"authorization: Bearer {certificate}", forged) == "missing_proof"
    assert await reason(envoy, f"authorization: DPoP {certificate}", f"dpop: {prove(certificate)}") == "unbound_token"
