"""The real application and a provider whose introspection endpoint fails in many ways.

For each fault: clients with a JWT or a cached token are not affected, clients with another opaque token get a 503 and
not a 401, the provider gets few calls, and the service recovers soon after the provider. Run with
``--log-cli-level=INFO`` for the table.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import math
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from authz_service.demo.identity_provider import CLIENT_ID
from authz_service.demo.introspection import API_SECRET
from authz_service.tokens.introspection.breaker import FAILURES_TO_PROBE, MAX_BACKOFF
from support.faulty_provider import FaultyProvider
from support.http_provider import Provider, endless_response
from support.introspecting_app import IntrospectingApp, header_of, issuer_yaml, reason_of, running_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from support.faulty_provider import Fault

_logger = logging.getLogger(__name__)
_CONCURRENT = 16


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def slow(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(1.5)
    return web.json_response({"active": True})


async def trickle(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def truncate(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"active": true')
    assert request.transport is not None
    request.transport.close()
    return response


def served(body: Any = b"", **options: Any) -> Fault:
    """A constant response; anything but a string or bytes is sent as JSON."""
    text = body if isinstance(body, (str, bytes)) else json.dumps(body)
    kind = {"content_type": "application/json"} | options

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=text, **kind)

    return answer


_ACTIVE = b'{"active": true}'
FAULTS: dict[str, Fault] = {
    "hangs": hang,
    "slower than the timeout": slow,
    "one space after the other": trickle,
    "resets the connection": reset,
    "breaks off": truncate,
    "500": served(status=500),
    "401, wrong secret": served({"error": "invalid_client"}, status=401),
    "400 invalid_client": served({"error": "invalid_client"}, status=400),
    "400 invalid_request": served({"error": "invalid_request"}, status=400),
    "403": served(status=403),
    "404": served(status=404),
    "204": served(status=204),
    "429, Retry-After: 1": served(status=429, headers={"Retry-After": "1"}),
    "503, Retry-After: 1": served(status=503, headers={"Retry-After": "1"}),
    "redirects to itself": served(status=307, headers={"Location": "/introspect"}),
    "redirects to another origin": served(status=302, headers={"Location": "http://127.0.0.1:9/introspect"}),
    "gzip bomb": served(gzip.compress(b" " * 50_000_000 + _ACTIVE), headers={"Content-Encoding": "gzip"}),
    "103 without end": endless_response(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"),
    "a header without end": endless_response(b"HTTP/1.1 200 OK\r\na: b\r\n"),
    "10 MB": served(b" " * 10_000_000 + _ACTIVE),
    "HTML": served("<html>Login</html>", content_type="text/html"),
    "JSON as HTML": served(_ACTIVE, content_type="text/html"),
    "malformed JSON": served('{"active": true'),
    "no JSON object": served([{"active": True}]),
    "duplicate members": served('{"active": false, "active": true}'),
    "no number": served('{"active": true, "exp": NaN}'),
    "no UTF-8": served(b'{"active": true, "sub": "\xff"}'),
    "a signed answer that is none": served(_ACTIVE, content_type="application/token-introspection+jwt"),
}


@pytest.fixture
async def provider() -> AsyncIterator[FaultyProvider]:
    async with FaultyProvider() as provider:
        yield provider


@pytest.fixture
async def sidecar(tmp_path: Path, provider: FaultyProvider) -> AsyncIterator[IntrospectingApp]:
    async with running_app(tmp_path, provider, max_concurrent=_CONCURRENT) as sidecar:
        yield sidecar


async def known_to(sidecar: IntrospectingApp) -> list[str]:
    """Tokens that need no introspection: two cached ones, and a new JWT."""
    cached = [sidecar.provider.access_token(), sidecar.provider.opaque_token()]
    assert [await sidecar.reason(token) for token in cached] == ["ok", "ok"]
    return [*cached, sidecar.provider.access_token()]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_affects_only_tokens_that_must_be_introspected(
    sidecar: IntrospectingApp, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    known = await known_to(sidecar)
    before = sidecar.provider.introspections
    sidecar.provider.fault = FAULTS[fault]
    seen: set[str] = set()
    unknown: list[str] = []
    senders = [asyncio.create_task(_keep_sending(sidecar, seen, unknown)) for _ in range(4)]
    started = time.monotonic()
    while time.monotonic() - started < 0.7:
        known.append(sidecar.provider.access_token())
        assert {sidecar.reason_without_waiting(token) for token in known} == {"ok"}
        await asyncio.sleep(0.02)
    for task in senders:
        task.cancel()
    calls = sidecar.provider.introspections - before
    _logger.info("%-30s opaque, not cached: %s, %d requests, %d calls in 0.7 s", fault, seen, len(unknown), calls)
    assert seen == {"introspection_unavailable"}
    assert sidecar.provider.max_in_flight <= _CONCURRENT
    sidecar.provider.fault = None
    await sidecar.wait_for("ok")
    assert await sidecar.reason(unknown[0]) == "ok"
    for secret in (*known, *unknown, API_SECRET):
        assert secret not in caplog.text


async def _keep_sending(sidecar: IntrospectingApp, seen: set[str], tokens: list[str]) -> None:
    while True:
        tokens.append(sidecar.provider.opaque_token())
        answer = await sidecar.check(tokens[-1])
        assert answer.denied_response.status.code == 503
        assert int(header_of(answer, "retry-after")) >= 1
        assert not header_of(answer, "www-authenticate")
        seen.add(reason_of(answer))
        await asyncio.sleep(0.01)


async def test_a_server_that_is_down_is_a_fault_like_any_other(tmp_path: Path, provider: FaultyProvider) -> None:
    async with running_app(tmp_path, provider, endpoint="http://127.0.0.1:9/introspect") as sidecar:
        assert sidecar.reason_without_waiting(provider.access_token()) == "ok"
        assert await sidecar.reason(provider.opaque_token()) == "introspection_unavailable"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_sends_no_token_to_another_server(sidecar: IntrospectingApp, status: int) -> None:
    async with FaultyProvider() as elsewhere:
        token = elsewhere.opaque_token(iss=sidecar.provider.issuer)
        target = f"{elsewhere.issuer}/introspect"
        sidecar.provider.fault = served(status=status, headers={"Location": target})
        assert await sidecar.reason(token) == "introspection_unavailable"
        assert elsewhere.introspections == 0


@pytest.mark.parametrize("fault", [hang, served(status=500), served("<html>", content_type="text/html")])
async def test_a_failing_server_gets_ever_fewer_calls_and_the_metrics_show_it(
    sidecar: IntrospectingApp, fault: Fault
) -> None:
    sidecar.provider.fault = fault
    for _ in range(200):
        await asyncio.gather(*(sidecar.reason(sidecar.provider.opaque_token()) for _ in range(10)))
    calls = sidecar.provider.introspections
    assert calls <= 2 * _CONCURRENT  # for two thousand requests: the first concurrent calls, and probes
    assert sidecar.metric("authz_introspections_total", result="failure") == calls
    assert sidecar.metric("authz_introspection_breaker_open") == 1
    assert sidecar.metric("authz_introspections_in_flight") == 0
    sidecar.provider.fault = None
    await sidecar.wait_for("ok")
    assert sidecar.metric("authz_introspection_breaker_open") == 0


async def test_retry_after_pauses_the_calls_and_is_passed_to_the_client(
    sidecar: IntrospectingApp,
) -> None:
    sidecar.provider.fault = served(status=429, headers={"Retry-After": "100"})
    retry_after: set[int] = set()
    for _ in range(200):
        answer = await sidecar.check(sidecar.provider.opaque_token())
        assert reason_of(answer) == "introspection_unavailable"
        retry_after.add(int(header_of(answer, "retry-after")))
    assert retry_after <= {100, *range(1, math.ceil(1.1 * MAX_BACKOFF) + 1)}
    assert 100 in retry_after
    assert sidecar.provider.introspections <= _CONCURRENT
    assert sidecar.metric("authz_introspection_refusals_total", reason="open") > 100
    sidecar.provider.fault = None
    await sidecar.wait_for("ok")


def invented(fault: Fault, provider: FaultyProvider) -> Fault:
    """A fault for tokens that start with ``invented``; the provider responds to all others."""

    async def answer(request: web.Request) -> web.StreamResponse:
        token = str((await request.post())["token"])
        return await (fault(request) if token.startswith("invented") else provider.introspection.serve(request))

    return answer


@pytest.mark.parametrize("fault", FAULTS)
async def test_tokens_that_make_the_server_fail_do_not_block_others(
    tmp_path: Path, provider: FaultyProvider, fault: str
) -> None:
    provider.fault = invented(FAULTS[fault], provider)
    # Long timeouts, so that good tokens are not late on a busy machine.
    async with running_app(tmp_path, provider, timeout="1s", check_deadline="5s") as sidecar:
        for number in range(2):
            names = [f"invented-{number}-{each}" for each in range(2 * FAILURES_TO_PROBE)]
            assert {*await asyncio.gather(*map(sidecar.reason, names))} == {"introspection_unavailable"}
            assert {await sidecar.reason(provider.opaque_token()) for _ in range(3)} == {"ok"}
        assert sidecar.metric("authz_introspection_refusals_total", reason="open") == 0
        assert sidecar.metric("authz_introspection_breaker_open") == 0


async def test_a_flood_of_hanging_tokens_does_not_block_known_sessions(
    tmp_path: Path, provider: FaultyProvider
) -> None:
    async with running_app(tmp_path, provider, max_concurrent=4, cache_ttl="100ms", timeout="500ms") as sidecar:
        session = provider.opaque_token()
        assert await sidecar.reason(session) == "ok"
        provider.fault = invented(hang, provider)
        flood = [asyncio.create_task(sidecar.reason(f"invented-{number}")) for number in range(1000)]
        before, requests = provider.introspections, 0
        while not all(task.done() for task in flood):
            assert await sidecar.reason(session) == "ok"
            requests += 1
            await asyncio.sleep(0.03)
        assert requests > 3
        assert provider.introspections > before
        assert {task.result() for task in flood} <= {"introspection_unavailable", "deadline_exceeded"}
        assert sidecar.metric("authz_introspection_refusals_total", reason="full") > 900


async def test_a_wrong_secret_is_logged_once_and_a_corrected_one_needs_no_restart(
    sidecar: IntrospectingApp, caplog: pytest.LogCaptureFixture
) -> None:
    sidecar.secret.write_text("s3cret-of-yesterday")
    await sidecar.wait_for("introspection_unavailable")
    for _ in range(50):
        assert await sidecar.reason(sidecar.provider.opaque_token()) == "introspection_unavailable"
    records = [record for record in caplog.records if record.message == "the introspection server rejects this client"]
    assert [record.levelname for record in records] == ["ERROR"]
    assert "s3cret-of-yesterday" not in caplog.text
    sidecar.secret.write_text(f"{API_SECRET}\n")
    await sidecar.wait_for("ok")


LIES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "active as a string": (lambda response: response | {"active": "true"}, "inactive"),
    "active as a number": (lambda response: response | {"active": 1}, "inactive"),
    "active as an object": (lambda response: response | {"active": {"active": True}}, "inactive"),
    "active is missing": (lambda response: without(response, "active"), "inactive"),
    "nothing at all": (lambda _told: {}, "inactive"),
    "nothing but active": (lambda _told: {"active": True}, "missing_claim"),
    "another issuer": (lambda response: response | {"iss": "https://other.demo/"}, "unknown_issuer"),
    "issuer is not a string": (lambda response: response | {"iss": 7}, "unknown_issuer"),
    "another audience": (lambda response: response | {"aud": "https://other.demo/"}, "wrong_audience"),
    "no audience": (lambda response: without(response, "aud"), "wrong_audience"),
    "no scope": (lambda response: without(response, "scope"), "insufficient_scope"),
    "another scope": (lambda response: response | {"scope": "write:appointments"}, "insufficient_scope"),
    "scope is a number": (lambda response: response | {"scope": 7}, "invalid_claim"),
    "no exp": (lambda response: without(response, "exp"), "missing_claim"),
    "exp as a string": (lambda response: response | {"exp": "tomorrow"}, "invalid_claim"),
    "exp in the past": (lambda response: response | {"exp": int(time.time()) - 60}, "expired"),
    "nbf in the future": (lambda response: response | {"nbf": int(time.time()) + 600}, "not_yet_valid"),
    "iat in the future": (lambda response: response | {"iat": int(time.time()) + 600}, "not_yet_valid"),
    "a refresh token": (lambda response: response | {"token_type": "refresh_token"}, "wrong_token_type"),
    "a token bound to a key": (lambda response: response | {"token_type": "DPoP"}, "wrong_token_type"),
    "token_type is not a string": (lambda response: response | {"token_type": 7}, "invalid_claim"),
    "a logout token": (lambda response: response | {"events": {}}, "wrong_token_type"),
    "an ID token, by its nonce": (lambda response: response | {"nonce": "n"}, "id_token"),
    "an ID token, by its audience": (lambda response: response | {"aud": CLIENT_ID}, "id_token"),
    "an ID token, by its typ": (lambda response: response | {"typ": "ID"}, "id_token"),
    "a subject that splits a header": (lambda response: response | {"sub": "a\r\nx-admin: 1"}, "invalid_claim"),
}


def without(response: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: value for each, value in response.items() if each != name}


@pytest.mark.parametrize("lie", LIES)
async def test_a_response_is_validated_like_a_token_and_the_result_is_cached(
    sidecar: IntrospectingApp, lie: str
) -> None:
    change, expected = LIES[lie]
    token, other = sidecar.provider.opaque_token(), sidecar.provider.opaque_token()
    sidecar.provider.fault = served(change(sidecar.provider.introspection.describe(token)))
    answer = await sidecar.check(token)
    assert reason_of(answer) == expected
    assert answer.denied_response.status.code == (403 if expected == "insufficient_scope" else 401)
    assert 'error="' in header_of(answer, "www-authenticate")
    assert sidecar.reason_without_waiting(token) == expected
    assert sidecar.provider.introspections == 1
    sidecar.provider.fault = None
    assert await sidecar.reason(other) == "ok"  # a response is not a failure, so the breaker stays closed


@pytest.mark.parametrize(
    "change",
    [
        lambda response: response,
        lambda response: without(response, "iss"),
        lambda response: without(response, "token_type"),
        lambda response: response | {"token_type": "bearer"},
        lambda response: response | {"aud": [response["aud"], "https://other.demo/"]},
        lambda response: response | {"scope": f"{response['scope']} openid"},
    ],
)
async def test_permitted_variations_of_a_response_are_accepted(
    sidecar: IntrospectingApp, change: Callable[..., Any]
) -> None:
    token = sidecar.provider.opaque_token()
    sidecar.provider.fault = served(change(sidecar.provider.introspection.describe(token)))
    assert await sidecar.reason(token) == "ok"
    assert sidecar.reason_without_waiting(token) == "ok"


SIGNED: dict[str, tuple[dict[str, Any], str]] = {
    "good": ({}, "ok"),
    "several audiences": ({"aud": ["demo-api", "other"]}, "ok"),
    "for another client": ({"aud": "other"}, "introspection_unavailable"),
    "without an audience": ({"aud": None}, "introspection_unavailable"),
    "of another issuer": ({"iss": "https://other.demo/"}, "introspection_unavailable"),
    "about nothing": ({"token_introspection": None}, "introspection_unavailable"),
    "about a list": ({"token_introspection": [{"active": True}]}, "introspection_unavailable"),
    "active outside of token_introspection": ({"token_introspection": {}, "active": True}, "inactive"),
}


@pytest.mark.parametrize("kind", SIGNED)
async def test_a_signed_response_counts_if_it_is_from_the_issuer_and_for_this_client(
    sidecar: IntrospectingApp, kind: str
) -> None:
    changes, expected = SIGNED[kind]
    token = sidecar.provider.opaque_token()
    signed = sidecar.provider.signed_introspection_response(sidecar.provider.introspection.describe(token), **changes)
    sidecar.provider.fault = served(signed, content_type="application/token-introspection+jwt")
    assert await sidecar.reason(token) == expected


async def test_a_signed_response_with_another_signature_or_type_does_not_count(sidecar: IntrospectingApp) -> None:
    token = sidecar.provider.opaque_token()
    header, claims, signature = sidecar.provider.signed_introspection_response({"active": False}).split(".")
    claims_of_token = sidecar.provider.signed_introspection_response(
        sidecar.provider.introspection.describe(token)
    ).split(".")[1]
    access_token = sidecar.provider.access_token(aud="demo-api", token_introspection={"active": True})
    forged = sidecar.provider.forged_token(aud="demo-api", token_introspection={"active": True})
    unsigned = sidecar.provider.unsigned_token(aud="demo-api", token_introspection={"active": True})
    for answer in (f"{header}.{claims_of_token}.{signature}", f"{header}.{claims}.", access_token, forged, unsigned):
        sidecar.provider.fault = served(answer, content_type="application/token-introspection+jwt")
        assert await sidecar.reason(token) == "introspection_unavailable"


async def test_a_response_after_the_deadline_serves_the_next_request(tmp_path: Path, provider: FaultyProvider) -> None:
    release = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return await provider.introspection.serve(request)

    provider.fault = late
    async with running_app(tmp_path, provider, timeout="10s") as sidecar:
        token = provider.opaque_token()
        too_late = await asyncio.gather(*(sidecar.check(token, deadline=0.2) for _ in range(20)))
        assert {reason_of(answer) for answer in too_late} == {"deadline_exceeded"}
        assert {header_of(answer, "retry-after") for answer in too_late} == {"1"}
        waiting = asyncio.create_task(sidecar.reason(token))
        release.set()
        assert await waiting == "ok"
        assert sidecar.reason_without_waiting(token) == "ok"
        assert provider.introspections == 1


async def test_a_revoked_token_is_denied_after_the_cache_ttl(tmp_path: Path, provider: FaultyProvider) -> None:
    async with running_app(tmp_path, provider, cache_ttl="1s") as sidecar:
        token = provider.opaque_token()
        assert await sidecar.reason(token) == "ok"
        provider.introspection.revoke(token)
        assert sidecar.reason_without_waiting(token) == "ok"
        await sidecar.wait_for("inactive", token)
        assert provider.introspections == 2


async def test_an_inactive_token_may_become_active(tmp_path: Path, provider: FaultyProvider) -> None:
    async with running_app(tmp_path, provider, negative_cache_ttl="1s") as sidecar:
        token = provider.opaque_token()
        provider.fault = served({"active": False})
        assert await sidecar.reason(token) == "inactive"
        provider.fault = None
        assert sidecar.reason_without_waiting(token) == "inactive"
        await sidecar.wait_for("ok", token)


async def test_no_token_is_cached_beyond_its_expiry(sidecar: IntrospectingApp) -> None:
    token = sidecar.provider.opaque_token(exp=int(time.time()) + 2)
    assert await sidecar.reason(token) == "ok"
    await sidecar.wait_for("inactive", token)


async def test_a_jwt_is_never_sent_to_a_server_in_mode_opaque(sidecar: IntrospectingApp) -> None:
    provider = sidecar.provider
    provider.fault = hang
    jwts = {
        provider.access_token(): "ok",
        provider.access_token(iss="https://other.demo/"): "unknown_issuer",
        provider.id_token(): "id_token",
        provider.forged_token(): "bad_signature",
        provider.unsigned_token(): "unsupported_algorithm",
        provider.access_token()[:-1]: "malformed_token",
    }
    assert {token: sidecar.reason_without_waiting(token) for token in jwts} == jwts
    assert provider.introspections == 0


class TestJwtsToo:
    """``mode: always``."""

    @pytest.fixture
    async def sidecar(self, tmp_path: Path, provider: FaultyProvider) -> AsyncIterator[IntrospectingApp]:
        async with running_app(tmp_path, provider, mode="always", cache_ttl="1s") as sidecar:
            yield sidecar

    async def test_a_revoked_jwt_is_denied_after_the_cache_ttl(self, sidecar: IntrospectingApp) -> None:
        token = sidecar.provider.access_token()
        assert await sidecar.reason(token) == "ok"
        assert sidecar.reason_without_waiting(token) == "ok"
        sidecar.provider.introspection.revoke(token)
        await sidecar.wait_for("inactive", token)
        assert sidecar.provider.introspections == 2

    async def test_an_invalid_jwt_is_not_introspected(self, sidecar: IntrospectingApp) -> None:
        provider = sidecar.provider
        invalid = (provider.expired_token(), provider.id_token(), provider.forged_token(), provider.unsigned_token())
        assert {sidecar.reason_without_waiting(token) for token in invalid} <= {
            *("expired", "id_token", "bad_signature", "unsupported_algorithm")
        }
        assert provider.introspections == 0

    async def test_a_jwt_is_denied_while_introspection_is_unavailable(self, sidecar: IntrospectingApp) -> None:
        sidecar.provider.fault = hang
        assert await sidecar.reason(sidecar.provider.access_token()) == "introspection_unavailable"
        assert await sidecar.reason(sidecar.provider.opaque_token()) == "introspection_unavailable"

    @pytest.mark.parametrize(
        "lie",
        [
            {"active": "true"},
            *({"active": True, name: "another"} for name in ("iss", "sub", "client_id")),
            {"active": True, "exp": 1},
        ],
    )
    async def test_a_response_that_contradicts_the_jwt_does_not_count(
        self, sidecar: IntrospectingApp, lie: dict[str, Any]
    ) -> None:
        sidecar.provider.fault = served(lie)
        assert await sidecar.reason(sidecar.provider.access_token()) == "inactive"

    async def test_the_claims_come_from_the_jwt_whatever_the_response_adds(self, sidecar: IntrospectingApp) -> None:
        sidecar.provider.fault = served({"active": True, "scope": "read:appointments"})
        assert await sidecar.reason(sidecar.provider.access_token(scope="other")) == "insufficient_scope"


_BY_ISSUER = """\
rules:
  - {name: first, match: {paths: [/first]}, require: {issuers: [main]}}
  - {name: second, match: {paths: [/second]}, require: {issuers: [second]}}
  - {name: any}
"""
_KEYS_ALONE = "  - {name: keys-alone, match: {paths: [/keys]}, require: {issuers: [keys]}}\n"


async def test_the_rules_issuers_are_called_in_order_until_one_responds_active(
    tmp_path: Path, provider: FaultyProvider
) -> None:
    async with FaultyProvider() as second, FaultyProvider() as keys_alone:
        without_introspection = f"  - {{issuer: '{keys_alone.issuer}', name: keys, audiences: [x]}}\n"
        others = (issuer_yaml(second, name="second"), without_introspection)
        rules = _BY_ISSUER.replace("  - {name: any", f"{_KEYS_ALONE}  - {{name: any")
        async with running_app(tmp_path, provider, *others, rules=rules) as sidecar:
            token = second.opaque_token()
            assert await sidecar.reason(token, path="/first") == "inactive"
            assert await sidecar.reason(token, path="/keys") == "malformed_token"
            assert (provider.introspections, second.introspections) == (1, 0)
            assert await sidecar.reason(token, path="/second") == "ok"
            assert (
                sidecar.reason_without_waiting(token, path="/any") == "ok"
            )  # the first responded inactive, the second active: both are cached
            assert sidecar.reason_without_waiting(token, path="/first") == "inactive"
            assert (provider.introspections, second.introspections) == (1, 1)
            unknown = "unknown-token"
            assert await sidecar.reason(unknown) == "inactive"
            assert (provider.introspections, second.introspections) == (2, 2)


async def test_an_unreachable_server_does_not_delay_rules_for_another_issuer(
    tmp_path: Path, provider: FaultyProvider
) -> None:
    provider.fault = hang
    async with (
        FaultyProvider() as second,
        running_app(tmp_path, provider, issuer_yaml(second, name="second"), rules=_BY_ISSUER) as sidecar,
    ):
        waiting = [asyncio.create_task(sidecar.reason(provider.opaque_token(), path="/first")) for _ in range(20)]
        await asyncio.sleep(0)
        token = second.opaque_token()
        assert await sidecar.reason(token, path="/second") == "ok"
        assert not any(request.done() for request in waiting)
        assert sidecar.reason_without_waiting(token, path="/second") == "ok"
        assert set(await asyncio.gather(*waiting)) == {"introspection_unavailable"}
        # The unreachable server might have issued the token: 503, unless another one responds active.
        assert await sidecar.reason("unknown-token") == "introspection_unavailable"
        assert await sidecar.reason(second.opaque_token()) == "ok"


async def test_an_issuer_with_introspection_only_needs_no_keys(tmp_path: Path, provider: FaultyProvider) -> None:
    endpoint = f"{provider.issuer}/introspect"
    async with running_app(tmp_path, provider, keys="discovery: false", endpoint=endpoint) as sidecar:
        assert await sidecar.reason(provider.opaque_token()) == "ok"
        assert sidecar.reason_without_waiting(provider.access_token()) in {"unknown_key", "unsupported_algorithm"}
        assert sidecar.app.missing() == []


_METADATA = "/.well-known/openid-configuration"


@pytest.mark.parametrize("at_first", [None, {}, {"introspection_endpoint": 7}, {"issuer": "https://other.demo/"}])
async def test_an_endpoint_missing_from_the_metadata_is_found_later(
    tmp_path: Path, provider: FaultyProvider, at_first: dict[str, Any] | None
) -> None:
    async with Provider() as publisher:
        named = {"issuer": publisher.origin, "jwks_uri": f"{provider.issuer}/jwks.json"}
        if at_first is not None:
            publisher.serve(_METADATA, json.dumps(named | at_first))
        async with running_app(tmp_path, provider, issuer=publisher.origin, wait=False) as sidecar:
            token, other = (provider.opaque_token(iss=publisher.origin) for _ in range(2))
            assert await sidecar.reason(token) == "introspection_unavailable"
            publisher.serve(_METADATA, json.dumps(named | {"introspection_endpoint": f"{provider.issuer}/introspect"}))
            await sidecar.wait_for("ok", token)
            publisher.handlers.clear()  # the endpoint that was found stays in use
            assert await sidecar.reason(other) == "ok"
