"""The real application and an HTTP provider that fails in many ways.

For each fault: clients with a known key are not affected, clients with a new key get a 503 and not a 401, the provider
gets few requests, and the service recovers soon after the provider. Run with ``--log-cli-level=INFO`` for the table.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from aiohttp import web

from authz_service._pb.external_auth_pb2 import CheckRequest, CheckResponse
from authz_service.config.load import load
from authz_service.runtime.application import App
from support.http_provider import Provider, endless_response
from support.key_source import jwk, jwks, private_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

_logger = logging.getLogger(__name__)
_PATH = "/jwks"
_CONFIG = """
server: {grpc_address: "unix:authz.sock", admin_address: "127.0.0.1:0"}
issuers:
  - issuer: ORIGIN
    name: main
    audiences: [api]
    keys:
      jwks_uri: ORIGIN/jwks
      timeout: 300ms
      refresh_interval: 1s
      min_refresh_interval: 500ms
      unknown_kid_cooldown: 1s
rules: [{name: all}]
"""


async def hang(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def slow(_request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(1)
    return web.Response(body=jwks("a", "b"))


async def reset(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def truncate(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "100000"})
    await response.prepare(request)
    await response.write(jwks("a", "b"))
    assert request.transport is not None
    request.transport.close()
    return response


def served(body: bytes | str, **options: Any) -> Callable[[Provider], None]:
    return lambda provider: provider.serve(_PATH, body, **options)


def answered(answer: Any) -> Callable[[Provider], None]:
    return lambda provider: provider.handlers.update({_PATH: answer})


_BOMB = gzip.compress(b" " * 50_000_000)
FAULTS: dict[str, Callable[[Provider], None]] = {
    "hangs": answered(hang),
    "slower than the timeout": answered(slow),
    "resets the connection": answered(reset),
    "breaks off": answered(truncate),
    "gone (404)": lambda provider: provider.handlers.clear(),
    "500": served(b"", status=500),
    "429, Retry-After: 2": served(b"", status=429, headers={"Retry-After": "2"}),
    "redirects to another origin": served(b"", status=302, headers={"Location": "http://127.0.0.1:9/jwks"}),
    "gzip bomb": served(_BOMB, headers={"Content-Encoding": "gzip"}),
    "103 without end": answered(endless_response(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")),
    "a header without end": answered(endless_response(b"HTTP/1.1 200 OK\r\na: b\r\n")),
    "10 MB": served(b" " * 10_000_000 + jwks("a", "b")),
    "HTML": served("<html>Login</html>", content_type="text/html"),
    "an empty key set": served('{"keys": []}'),
    "no usable key": served(json.dumps({"keys": [{"kty": "oct", "k": "AAAA", "kid": "b"}]})),
    "duplicate members": served('{"keys": [], ' + jwks("a", "b").decode()[1:]),
}


def token(kid: str, signed_by: str | None = None) -> str:
    now = int(time.time())
    claims = {"iss": _issuer["main"], "aud": "api", "sub": "u", "iat": now, "exp": now + 600}
    return jwt.encode(claims, private_key(signed_by or kid), "ES256", {"kid": kid})


_issuer: dict[str, str] = {}


class Running:
    """The application in this process, called as Envoy calls it."""

    def __init__(self, app: App, provider: Provider) -> None:
        self.app = app
        self.provider = provider

    async def reason(self, bearer: str) -> str:
        request = CheckRequest()
        request.attributes.request.http.path = "/"
        request.attributes.request.http.headers["authorization"] = f"Bearer {bearer}"
        answer = CheckResponse.FromString(await self.app.servicer.check(request.SerializeToString(), None))
        if answer.WhichOneof("http_response") == "ok_response":
            return "ok"
        return str(json.loads(answer.denied_response.body)["type"]).rpartition(":")[2]

    async def wait_for(self, bearer: str, reason: str) -> None:
        async with asyncio.timeout(20):
            while await self.reason(bearer) != reason:  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(0.05)

    @property
    def fetches(self) -> int:
        return len(self.provider.requests)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with Provider() as provider:
        provider.serve(_PATH, jwks("a"))
        _issuer["main"] = provider.origin
        config = tmp_path / "config.yaml"
        config.write_text(_CONFIG.replace("ORIGIN", provider.origin))
        app = App(load(config))
        await app.start()
        try:
            sidecar = Running(app, provider)
            await sidecar.wait_for(token("a"), "ok")
            await asyncio.sleep(1.1)  # the cooldown after the fetch for that request
            yield sidecar
        finally:
            await app.close()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_the_provider_does_not_affect_tokens_of_known_keys(running: Running, fault: str) -> None:
    before = running.fetches
    FAULTS[fault](running.provider)
    seen: dict[str, set[str]] = {"a": set(), "b": set()}
    started = time.monotonic()
    while time.monotonic() - started < 1.5:
        for kid, reasons in seen.items():
            reasons.add(await running.reason(token(kid)))
        await asyncio.sleep(0.02)
    fetches = running.fetches - before
    _logger.info("%-28s known key %s, new key %s, %d fetches in 1.5 s", fault, seen["a"], seen["b"], fetches)
    assert seen["a"] == {"ok"}
    assert seen["b"] <= {"keys_unavailable", "deadline_exceeded"}
    assert 1 <= fetches <= 10
    running.provider.serve(_PATH, jwks("a", "b"))
    await running.wait_for(token("b"), "ok")
    assert await running.reason(token("a")) == "ok"


async def test_a_dead_provider_does_not_delay_tokens_of_other_issuers(tmp_path: Path) -> None:
    async with Provider() as well, Provider() as dead:
        well.serve(_PATH, jwks("a"))
        dead.handlers[_PATH] = hang
        second = (
            f"  - {{issuer: '{dead.origin}', name: dead, audiences: [api], keys: {{jwks_uri: '{dead.origin}/jwks'}}}}\n"
        )
        config = tmp_path / "config.yaml"
        config.write_text(_CONFIG.replace("ORIGIN", well.origin).replace("rules:", second + "rules:"))
        app = App(load(config))
        await app.start()
        try:
            sidecar = Running(app, well)
            _issuer["main"] = dead.origin
            of_the_dead = token("a")
            _issuer["main"] = well.origin
            await sidecar.wait_for(token("a"), "ok")
            waiting = [asyncio.create_task(sidecar.reason(of_the_dead)) for _ in range(20)]
            await asyncio.sleep(0)
            for _ in range(100):
                assert await sidecar.reason(token("a")) == "ok"
            assert not any(request.done() for request in waiting)  # a hundred decisions later these still wait
            assert set(await asyncio.gather(*waiting)) <= {"keys_unavailable", "deadline_exceeded"}
            assert list(app.missing()) == ["keys of issuer dead"]
        finally:
            await app.close()


async def test_the_content_type_of_a_key_set_does_not_matter(running: Running) -> None:
    running.provider.serve(_PATH, jwks("a", "b"), content_type="text/html")
    await running.wait_for(token("b"), "ok")


async def test_two_keys_with_one_kid_are_both_tried(running: Running) -> None:
    both = [jwk("c") | {"kid": "b"}, jwk("b"), jwk("a")]
    running.provider.serve(_PATH, json.dumps({"keys": both}))
    await running.wait_for(token("b"), "ok")
    assert await running.reason(token("b", signed_by="c")) == "ok"
    assert await running.reason(token("b", signed_by="d")) == "bad_signature"


async def test_a_removed_key_stops_verifying_at_the_next_refresh_even_cached_tokens(
    running: Running,
) -> None:
    cached = token("a")
    assert await running.reason(cached) == "ok"
    running.provider.serve(_PATH, jwks("b"))
    await running.wait_for(cached, "unknown_key")
    assert await running.reason(token("b")) == "ok"


async def test_a_rotation_under_load_denies_no_good_token(running: Running) -> None:
    denied: list[str] = []
    ended = asyncio.Event()

    async def traffic() -> None:
        while not ended.is_set():
            reason = await running.reason(token("a"))
            denied.extend([reason] if reason != "ok" else [])
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(traffic())
        running.provider.serve(_PATH, jwks("a", "b"))  # published before it is used, as providers do
        await running.wait_for(token("b"), "ok")
        ended.set()
    assert denied == []


async def test_fifty_thousand_forged_kids_cause_one_fetch_per_cooldown_and_no_delay(running: Running) -> None:
    header, claims, signature = token("a").split(".")
    before, started = running.fetches, time.monotonic()
    forged: set[str] = set()
    for number in range(50_000):
        kid = jwt.utils.base64url_encode(json.dumps({"alg": "ES256", "kid": f"forged-{number}"}).encode()).decode()
        forged.add(await running.reason(f"{kid}.{claims}.{signature}"))
        if number % 1000 == 0:
            assert await running.reason(f"{header}.{claims}.{signature}") == "ok"
            await asyncio.sleep(0)
    seconds = time.monotonic() - started
    fetches = running.fetches - before
    _logger.info("50,000 forged kids in %.1f s: %s, %d fetches", seconds, forged, fetches)
    assert forged == {"unknown_key"}
    # One fetch per second for unknown keys, plus the background refreshes, at most one in 0.6 s.
    assert fetches <= 2 + seconds + seconds / 0.6
