"""Crowds of opaque tokens, with the real application and a provider that counts concurrent calls.

Run with ``--log-cli-level=INFO`` for the figures.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from support.faulty_provider import FaultyProvider
from support.introspecting_app import IntrospectingApp, running_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


_logger = logging.getLogger(__name__)
_CROWD, _CONCURRENT = 5_000, 64


@pytest.fixture
async def provider() -> AsyncIterator[FaultyProvider]:
    async with FaultyProvider() as provider:
        yield provider


@pytest.fixture
async def sidecar(tmp_path: Path, provider: FaultyProvider) -> AsyncIterator[IntrospectingApp]:
    # Longer than any machine needs for a crowd: the tests check counts, not durations.
    async with running_app(
        tmp_path, provider, max_concurrent=_CONCURRENT, timeout="60s", check_deadline="60s"
    ) as sidecar:
        yield sidecar


async def test_five_thousand_requests_with_one_token_at_once_are_one_call(sidecar: IntrospectingApp) -> None:
    token = sidecar.provider.opaque_token()
    started = time.perf_counter()
    reasons = Counter(await asyncio.gather(*(sidecar.reason(token, deadline=60) for _ in range(_CROWD))))
    seconds, calls = time.perf_counter() - started, sidecar.provider.introspections
    _logger.info("%d requests with one token: %s, %d call, %.2f s", _CROWD, dict(reasons), calls, seconds)
    assert reasons == {"ok": _CROWD}
    assert calls == 1


async def test_five_thousand_distinct_tokens_never_exceed_max_concurrent_calls(
    sidecar: IntrospectingApp,
) -> None:
    async def once_all_are_there(request: web.Request) -> web.StreamResponse:
        if provider.in_flight == _CONCURRENT:
            full.set()
        await full.wait()
        await asyncio.sleep(0.05)
        return await provider.introspection.serve(request)

    full = asyncio.Event()
    provider = sidecar.provider
    provider.fault = once_all_are_there
    tokens = [sidecar.provider.opaque_token() for _ in range(_CROWD)]
    jwt = sidecar.provider.access_token()
    started = time.perf_counter()
    crowd = [asyncio.create_task(sidecar.reason(token)) for token in tokens]
    await asyncio.sleep(0)
    assert sidecar.reason_without_waiting(jwt) == "ok"
    reasons = Counter(await asyncio.gather(*crowd))
    _logger.info(
        "%d distinct tokens: %s, %d calls, at most %d at once, %.2f s",
        *(_CROWD, dict(reasons), provider.introspections, provider.max_in_flight, time.perf_counter() - started),
    )
    assert reasons.keys() == {"ok", "introspection_unavailable"}
    assert reasons["ok"] == provider.introspections == 2 * _CONCURRENT  # the calls in flight, and those in the queue
    assert provider.max_in_flight == _CONCURRENT
    assert sidecar.metric("authz_introspections_in_flight") == 0
    assert sidecar.metric("authz_introspection_breaker_open") == 0  # our own limit is not a failure of the server
    assert {await sidecar.reason(token) for token in tokens[-_CONCURRENT:]} == {"ok"}


async def test_no_token_fails_while_calls_and_queue_suffice(
    sidecar: IntrospectingApp,
) -> None:
    tokens = iter([sidecar.provider.opaque_token() for _ in range(_CROWD)])
    reasons: Counter[str] = Counter()

    async def client() -> None:
        for token in tokens:
            reasons[await sidecar.reason(token)] += 1

    started, threads = time.perf_counter(), threading.active_count()
    await asyncio.gather(*(client() for _ in range(2 * _CONCURRENT)))
    seconds = time.perf_counter() - started
    _logger.info("%d distinct tokens in turn: %s, %.0f calls/s", _CROWD, dict(reasons), _CROWD / seconds)
    assert reasons == {"ok": _CROWD}
    assert sidecar.provider.max_in_flight <= _CONCURRENT
    assert threading.active_count() == threads


async def test_a_cancelled_request_does_not_cancel_a_shared_call_and_calls_stay_bounded(
    sidecar: IntrospectingApp,
) -> None:
    release = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return await sidecar.provider.introspection.serve(request)

    sidecar.provider.fault = late
    shared = sidecar.provider.opaque_token()
    others = [sidecar.provider.opaque_token() for _ in range(_CROWD)]
    impatient = await asyncio.gather(
        *(sidecar.reason(shared, deadline=0.2) for _ in range(_CROWD)),
        *(sidecar.reason(token, deadline=0.2) for token in others),
    )
    assert set(impatient) == {"deadline_exceeded", "introspection_unavailable"}
    assert sidecar.metric("authz_introspections_in_flight") == _CONCURRENT
    while sidecar.provider.in_flight < _CONCURRENT:  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(0.01)
    patient = asyncio.create_task(sidecar.reason(shared))
    release.set()
    assert await patient == "ok"
    assert sidecar.provider.max_in_flight == _CONCURRENT


async def test_while_the_server_hangs_unknown_tokens_delay_no_jwt_and_no_cached_token(
    sidecar: IntrospectingApp,
) -> None:
    provider = sidecar.provider
    opaque = provider.opaque_token()
    assert await sidecar.reason(opaque) == "ok"
    given_up = asyncio.Event()

    async def hang(_request: web.Request) -> web.StreamResponse:
        await given_up.wait()
        return web.Response(status=500)

    provider.fault = hang
    crowd = [asyncio.create_task(sidecar.reason(provider.opaque_token())) for _ in range(_CROWD)]
    await asyncio.sleep(0.1)
    known = [opaque, *(provider.access_token() for _ in range(200))]
    for _ in range(5):
        assert {sidecar.reason_without_waiting(token) for token in known} == {"ok"}
        await asyncio.sleep(0)
    assert sum(not request.done() for request in crowd) == 2 * _CONCURRENT  # the others got 503 at once
    given_up.set()
    assert set(await asyncio.gather(*crowd)) == {"introspection_unavailable"}
