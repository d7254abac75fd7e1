"""The real program behind the real Envoy, over real sockets."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from authz_service.demo.dpop import DpopKey
from authz_service.demo.introspection import API_SECRET
from authz_service.demo.run import KEY_FILE, SampleResult, commands, send
from authz_service.demo.samples import Sample, samples
from support import h2c
from support.mesh import SERVERS, Mesh, running
from support.sidecar_process import SidecarProcess, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from authz_service.demo.envoy import Envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")

_APPOINTMENT = "/v1/appointments/7"


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=SERVERS, ids=str)
async def mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("mesh"), **request.param) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def envoy(mesh: Mesh) -> AsyncIterator[Envoy]:
    async with mesh.envoy() as envoy:
        yield envoy


async def unexpected_results(envoy: Envoy, requests: list[Sample]) -> list[tuple[str, SampleResult]]:
    """The samples with unexpected results."""
    async with aiohttp.ClientSession() as session:
        results = [(sample, await send(session, envoy.port, sample)) for sample in requests]
    return [(sample.title, result) for sample, result in results if not result.is_expected(sample)]


async def raw(envoy: Envoy, *lines: str, path: str = _APPOINTMENT) -> bytes:
    """The response to a request with exactly these header lines."""
    reader, writer = await asyncio.open_connection("127.0.0.1", envoy.port)
    head = (f"GET {path} HTTP/1.1", "host: api.demo", "connection: close", *lines, "", "")
    writer.write("\r\n".join(head).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def more_samples(mesh: Mesh) -> list[Sample]:
    """Samples that the demo does not have."""
    provider = mesh.provider
    good = provider.access_token()

    def denied(title: str, status: int, reason: str, token: str | None = None, **others: object) -> Sample:
        error = {400: "invalid_request", 401: "invalid_token"}[status]
        return Sample(title, _APPOINTMENT, status, reason, token, error=error, **others)  # type: ignore[arg-type]

    return [
        denied("neither a JWT nor opaque", 401, "malformed_token", "what!"),
        denied("a JWT cut short", 401, "malformed_token", good[:-1]),
        denied("an unknown opaque token", 401, "inactive", "guessed"),
        denied("an opaque token without exp", 401, "missing_claim", provider.opaque_token(exp=None)),
        denied("an opaque token of another issuer", 401, "unknown_issuer", provider.opaque_token(iss="https://o.demo/")),
        denied("an opaque ID token", 401, "id_token", provider.opaque_token(nonce="n")),
        denied("an opaque refresh token", 401, "wrong_token_type", provider.opaque_token(token_type="refresh_token")),
        denied("an empty credential", 400, "malformed_request", headers={"Authorization": "Bearer "}),
        denied("an oversized credential", 400, "malformed_request", "x" * 20_000),
        denied("two credentials joined", 400, "malformed_request", headers={"Authorization": "Bearer a,Bearer b"}),
        denied("unknown issuer", 401, "unknown_issuer", provider.access_token(iss="https://other.demo/")),
        denied("no exp", 401, "missing_claim", provider.access_token(exp=None)),
        denied("exp as a string", 401, "invalid_claim", provider.access_token(exp="tomorrow")),
        denied("not yet", 401, "not_yet_valid", provider.access_token(nbf=1 << 40)),
        denied("a logout token", 401, "wrong_token_type", provider.access_token(events={})),
        denied("a subject that splits a header", 401, "invalid_claim", provider.access_token(sub="a\r\nx-admin: 1")),
        Sample("another scheme", _APPOINTMENT, 401, "missing_token", headers={"Authorization": "Basic eDp5"}, error=""),
        Sample("lower case bearer", _APPOINTMENT, 200, "ok", headers={"Authorization": f"bearer {good}"}),
        Sample("bad token with an optional rule", "/v1/greeting", 401, "expired", provider.expired_token(),
               error="invalid_token"),
        Sample("bad token with a public rule", "/public/x", 200, "public", provider.expired_token()),
        Sample("a subject beyond ASCII", _APPOINTMENT, 200, "ok", provider.access_token(sub="Jürgen"),
               upstream={"x-auth-subject": "Jürgen"}),
        Sample("double slash", "//v1/appointments/7", 400, "ambiguous_path", good),
        Sample("encoded slash", "/public%2Fx", 400, "ambiguous_path"),
        Sample("the query is ignored", "/v1/appointments/7?next=//x/../%2e", 200, "ok", good),
    ]  # fmt: skip


async def test_every_sample_gets_its_expected_result(mesh: Mesh, envoy: Envoy) -> None:
    assert await unexpected_results(envoy, samples(mesh.provider) + more_samples(mesh)) == []


async def test_raw_headers_are_supported(mesh: Mesh) -> None:
    async with mesh.envoy(encode_raw_headers=True) as envoy:
        assert await unexpected_results(envoy, samples(mesh.provider) + more_samples(mesh)) == []


async def test_an_envoy_that_fails_open_still_denies(mesh: Mesh) -> None:
    async with mesh.envoy(failure_mode_allow=True) as envoy:
        assert await unexpected_results(envoy, samples(mesh.provider) + more_samples(mesh)) == []


@pytest.mark.parametrize("raw_headers", [{"encode_raw_headers": False}, {"encode_raw_headers": True}])
async def test_two_authorization_headers_are_denied_even_if_one_is_good(
    mesh: Mesh, raw_headers: dict[str, bool]
) -> None:
    good = f"authorization: Bearer {mesh.provider.access_token()}"
    async with mesh.envoy(**raw_headers) as envoy:
        for lines in ((good, good), (good, "authorization: Basic eDp5"), ("authorization: Basic eDp5", good)):
            assert b"denial:malformed_request" in await raw(envoy, *lines)


async def test_every_spoofed_copy_of_an_identity_header_is_removed(mesh: Mesh, envoy: Envoy) -> None:
    token = f"authorization: Bearer {mesh.provider.access_token()}"
    spoofs = [f"{name}: admin" for name in ("x-auth-subject", "X-Auth-Subject", "x_auth_subject", "X-AUTH_SUBJECT")]
    for answer in (await raw(envoy, token, *spoofs), await raw(envoy, *spoofs, path="/public/x")):
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"admin" not in answer


async def test_no_trailer_reaches_an_http2_upstream(mesh: Mesh) -> None:
    trailers = [("x-auth-subject", "admin"), ("checksum", "7")]
    async with h2c.upstream() as upstream:
        async with mesh.envoy(upstream_port=upstream.port, upstream_http2=True) as envoy:
            assert await h2c.post(envoy.port, "/public/news", [("x-auth-subject", "admin")], trailers=trailers) == 200
        (received,) = upstream.received
    assert ("x-auth-subject" in received.headers, received.body, received.trailers) == (False, b"x", {})


async def test_a_grpc_client_gets_the_grpc_status_of_the_denial(mesh: Mesh) -> None:
    async def echo(request: bytes, _context: object) -> bytes:
        return request

    server = grpc.aio.server()
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.Appointments", {"Get": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    rules = """\
  - name: grpc
    match: {paths: [/v1.Appointments/Get]}
    require: {scopes: [read:appointments]}
"""
    folder = mesh.folder / "grpc"
    folder.mkdir()
    try:
        async with running(folder, rules) as other, other.envoy(upstream_port=port, upstream_http2=True) as envoy:
            expected = {
                None: grpc.StatusCode.UNAUTHENTICATED,
                other.provider.id_token(): grpc.StatusCode.UNAUTHENTICATED,
                other.provider.access_token(scope="else"): grpc.StatusCode.PERMISSION_DENIED,
                other.provider.access_token(): grpc.StatusCode.OK,
            }
            assert [await _grpc_status(envoy, token) for token in expected] == list(expected.values())
    finally:
        await server.stop(None)


async def _grpc_status(envoy: Envoy, token: str | None) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{envoy.port}") as channel:
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        get: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/v1.Appointments/Get")
        return await get(b"", metadata=metadata, timeout=30).code()


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_a_restart_under_traffic_allows_no_bad_request_and_recovers(
    tmp_path: Path, server: dict[str, Any]
) -> None:
    async with running(tmp_path, **server) as mesh, mesh.envoy() as envoy:
        good = Sample("good", _APPOINTMENT, 200, "ok", mesh.provider.access_token())
        bad = Sample("bad", _APPOINTMENT, 401, "id_token", mesh.provider.id_token(), error="invalid_token")
        ended = asyncio.Event()
        seen: dict[str, Counter[int]] = {"good": Counter(), "bad": Counter()}

        async def traffic(sample: Sample) -> None:
            url = f"http://127.0.0.1:{envoy.port}{sample.path}"
            async with aiohttp.ClientSession() as session:
                while not ended.is_set():
                    seen[sample.title][await _status(session, url, sample.token)] += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(traffic(good))
            group.create_task(traffic(bad))
            await wait_until(lambda: seen["good"][200] > 0 and seen["bad"].total() > 0)
            assert await mesh.sidecar.stop() == 0
            missed = seen["good"].total() - seen["good"][200]
            await wait_until(lambda: seen["good"].total() - seen["good"][200] > missed)
            async with SidecarProcess(mesh.config, tmp_path / "second.log"):
                recovered = seen["good"][200]
                await wait_until(lambda: seen["good"][200] > recovered)  # Envoy reconnects with a backoff
                assert await unexpected_results(envoy, [good, bad]) == []
                ended.set()
        assert 200 not in seen["bad"]


@pytest.mark.parametrize("server", SERVERS, ids=str)
async def test_a_drain_loses_no_request(tmp_path: Path, server: dict[str, Any]) -> None:
    async with running(tmp_path, **server) as mesh:
        text = mesh.config.read_text().replace("server:\n", "server:\n  shutdown_delay: 3s\n")
        mesh.config.write_text(text.replace("authz.sock", "second.sock"))
        async with (
            SidecarProcess(mesh.config, tmp_path / "second.log") as sidecar,
            mesh.envoy(sidecar=f"unix:{tmp_path}/second.sock") as envoy,
        ):
            good = Sample("good", _APPOINTMENT, 200, "ok", mesh.provider.access_token())
            assert await unexpected_results(envoy, [good]) == []
            assert sidecar.process is not None
            sidecar.process.send_signal(signal.SIGTERM)
            async with aiohttp.ClientSession() as session:
                while (await _status(session, f"{sidecar.admin_url}/readyz")) != 503:
                    pass
                for _ in range(20):  # during shutdown_delay: not ready, but still serving
                    assert (await send(session, envoy.port, good)).is_expected(good)
            assert await sidecar.stop() == 0


async def _status(session: aiohttp.ClientSession, url: str, token: str | None = None) -> int:
    async with session.get(url, headers={"Authorization": f"Bearer {token}"} if token else {}) as answer:
        return answer.status


async def test_the_commands_that_the_demo_prints_show_what_their_comments_say(mesh: Mesh, envoy: Envoy) -> None:
    (mesh.folder / KEY_FILE).write_bytes(DpopKey().pem())
    printed = commands(mesh.provider.issuer, envoy.port, mesh.sidecar.admin_url, mesh.folder)
    script = printed.partition("everything):")[2]
    done = await asyncio.to_thread(subprocess.run, ["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert re.findall(r"x-authz-reason: (\w+)", done.stdout) == [
        *("ok", "insufficient_scope", "id_token", "wrong_audience", "ok"),
        *("missing_proof", "ok", "replayed_proof"),
        *("missing_token", "resource_metadata", "public"),
    ]
    assert "answer    deny with 401, id_token" in done.stdout  # explain
    assert '{"ready": true, "missing": []}' in done.stdout


async def test_an_outage_of_the_provider_is_503_and_not_an_invalid_token(tmp_path: Path) -> None:
    async with running(tmp_path) as mesh:
        text = mesh.config.read_text().replace("authz.sock", "second.sock")
        text = text.replace(f"issuer: {mesh.provider.issuer}", "issuer: http://127.0.0.1:9")  # no server listens there
        mesh.config.write_text(text)
        async with (
            SidecarProcess(mesh.config, tmp_path / "second.log", wait_until_ready=False),
            mesh.envoy(sidecar=f"unix:{tmp_path}/second.sock", failure_mode_allow=True) as envoy,
        ):
            token = mesh.provider.access_token(iss="http://127.0.0.1:9")
            answer = await raw(envoy, f"authorization: Bearer {token}")
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after: " in answer
            assert b"denial:keys_unavailable" in answer
            assert b"www-authenticate" not in answer


async def test_neither_log_nor_metrics_contain_a_token_or_a_query(mesh: Mesh, envoy: Envoy) -> None:
    good, forged = mesh.provider.access_token(), mesh.provider.forged_token()
    opaque, malformed = mesh.provider.opaque_token(aud="https://other.demo/"), "a-malformed-token-4711!"
    for token in (good, forged, opaque, malformed):
        await raw(envoy, f"authorization: Bearer {token}", path=f"{_APPOINTMENT}?access_token=query-4712")
    log = mesh.folder / "sidecar.log"
    await wait_until(lambda: "malformed_token" in log.read_text())  # the log is written in the background
    output = log.read_text() + await mesh.metrics()
    for secret in (*good.split("."), *forged.split("."), opaque, malformed, API_SECRET, "query-4712"):
        assert secret not in output
