"""Requests about equal tokens are shared, their number is bounded, and a failing server is paused."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.core.bounded import Bounds
from authz_service.core.claims import Claims
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.introspection.breaker import (
    FAILURES_TO_PROBE,
    INITIAL_BACKOFF,
    MAX_BACKOFF,
    PROBE_INTERVAL,
    BreakerState,
)
from authz_service.tokens.introspection.client import ClientRefused, Forbidden, RequestRefused
from authz_service.tokens.introspection.query import NeedIntrospection
from authz_service.tokens.introspection.response import IntrospectionFailure, IntrospectionResponse, IntrospectionResult
from authz_service.tokens.jwt.cache import digest_of
from support.fake_introspection import (
    Clock,
    FakeClient,
    active_response,
    failure,
    introspector_with,
    issuer_with,
    loop_time,
)
from support.samples import sample_value
from support.trust import claims, good
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.core.errors import FetchFailed
    from authz_service.tokens.introspection.introspector import Introspector


async def introspect(introspector: Introspector, token: str) -> IntrospectionResult:
    return await introspector.introspect(token, digest_of(token))


def cached(introspector: Introspector, token: str) -> IntrospectionResponse | None:
    return introspector.cached(digest_of(token), introspector.clock())


async def settle() -> None:
    """Let every task run as far as it can without time passing."""
    for _ in range(10):
        await asyncio.sleep(0)


def limited(max_concurrent: int, **more: Any) -> Any:
    return issuer_with({"max_concurrent": max_concurrent} | more)


# The cache.


@in_virtual_time
async def test_a_response_is_cached_and_requested_once() -> None:
    client = FakeClient(good=active_response())
    introspector = introspector_with(client)
    assert cached(introspector, "good") is None
    result = await introspect(introspector, "good")
    assert isinstance(result, IntrospectionResponse)
    assert cached(introspector, "good") is result
    refused = await introspect(introspector, "bad")
    assert cached(introspector, "bad") is refused
    assert client.requests == {"good": 1, "bad": 1}


@in_virtual_time
async def test_a_response_expires() -> None:
    clock = Clock()
    introspector = introspector_with(
        FakeClient(good=active_response(), short=active_response(exp=clock.now + 7)), clock=clock
    )
    for token in ("good", "short", "bad"):
        await introspect(introspector, token)
    begun = clock.now
    found = {}
    for seconds in (6, 7, 9, 10, 29, 30):
        clock.now = begun + seconds
        found[seconds] = {token for token in ("good", "short", "bad") if cached(introspector, token) is not None}
    assert found == {
        6: {"good", "short", "bad"},
        7: {"good", "bad"},
        9: {"good", "bad"},
        10: {"good"},
        29: {"good"},
        30: set(),
    }


@in_virtual_time
async def test_a_clock_that_is_set_back_does_not_prolong_a_response() -> None:
    clock = Clock()
    introspector = introspector_with(FakeClient(good=active_response()), clock=clock)
    await introspect(introspector, "good")
    clock.now -= 3600
    assert cached(introspector, "good") is None


@in_virtual_time
async def test_a_flood_of_invented_tokens_evicts_no_accepted_one() -> None:
    clock = Clock()
    introspector = introspector_with(FakeClient(good=active_response()), clock=clock, cache_bounds=Bounds(3, 1 << 20))
    await introspect(introspector, "good")
    for number in range(50):
        await introspect(introspector, f"invented-{number}")
    assert cached(introspector, "good") is not None
    found = [cached(introspector, f"invented-{number}") is not None for number in (46, 47, 48, 49)]
    assert found == [False, True, True, True]


@in_virtual_time
async def test_the_oldest_accepted_token_is_evicted_first() -> None:
    client = FakeClient()
    client.response_to_all = active_response()
    introspector = introspector_with(client, cache_bounds=Bounds(2, 1 << 20))
    for token in "abc":
        await introspect(introspector, token)
    assert [cached(introspector, token) is not None for token in "abc"] == [False, True, True]


@in_virtual_time
async def test_with_a_cache_of_no_entries_each_lookup_is_a_request() -> None:
    client = FakeClient(good=active_response())
    introspector = introspector_with(client, cache_bounds=Bounds(0, 1 << 20))
    for _ in range(2):
        assert isinstance(await introspect(introspector, "good"), IntrospectionResponse)
        assert cached(introspector, "good") is None
    assert client.requests["good"] == 2


@in_virtual_time
async def test_no_token_is_cached() -> None:
    introspector = introspector_with(FakeClient(**{"a-secret-token": active_response()}))
    await introspect(introspector, "a-secret-token")
    assert "a-secret-token" not in repr([vars(each) for each in (introspector, introspector._cache)])


@in_virtual_time
async def test_the_cache_of_an_older_introspector_is_copied_if_the_settings_are_equal() -> None:
    client = FakeClient(good=active_response())
    older = introspector_with(client)
    await introspect(older, "good")
    await introspect(older, "bad")
    same, other = introspector_with(client), introspector_with(client, issuer_with({"cache_ttl": "29s"}))
    for newer in (same, other):
        newer.copy_cache_of(older)
    assert cached(same, "good") is cached(older, "good")
    assert cached(same, "bad") is cached(older, "bad")
    assert cached(other, "good") is None


# One request for equal tokens.


@in_virtual_time
async def test_five_thousand_callers_with_one_token_share_one_request() -> None:
    client = FakeClient(good=active_response())
    client.delay = 0.5
    introspector = introspector_with(client)
    results = await asyncio.gather(*(introspect(introspector, "good") for _ in range(5000)))
    assert client.requests == {"good": 1}
    assert len({id(result) for result in results}) == 1
    assert isinstance(results[0], IntrospectionResponse)


@in_virtual_time
async def test_a_canceled_caller_does_not_cancel_the_request() -> None:
    client = FakeClient(good=active_response())
    client.hold()
    introspector = introspector_with(client)
    patient = asyncio.create_task(introspect(introspector, "good"))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await introspect(introspector, "good")
    request = introspector.request_for(digest_of("good"))
    assert request is not None
    assert len(request._callers) == 1  # those that left are not kept
    client.release()
    assert isinstance(await patient, IntrospectionResponse)
    assert client.requests == {"good": 1}


@in_virtual_time
async def test_a_response_without_callers_is_cached() -> None:
    client = FakeClient(good=active_response())
    client.delay = 0.5
    introspector = introspector_with(client)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await introspect(introspector, "good")
    assert cached(introspector, "good") is None
    await asyncio.sleep(0.4)
    assert cached(introspector, "good") is not None


@in_virtual_time
async def test_a_failure_reaches_all_callers_and_is_not_cached() -> None:
    client = FakeClient(good=failure("a reason"))
    client.delay = 0.1
    introspector = introspector_with(client)
    results = await asyncio.gather(*(introspect(introspector, "good") for _ in range(10)))
    assert {result.cause for result in results if isinstance(result, IntrospectionFailure)} == {
        "introspection at main: a reason"
    }
    assert client.requests == {"good": 1}
    client.responses["good"] = active_response()
    assert isinstance(await introspect(introspector, "good"), IntrospectionResponse)


# Bounds.


@in_virtual_time
async def test_max_concurrent_requests_are_in_flight_as_many_wait_and_the_others_fail() -> None:
    client = FakeClient()
    client.response_to_all = active_response()
    client.hold()
    introspector = introspector_with(client)
    waiting = [asyncio.create_task(introspect(introspector, f"token-{number}")) for number in range(5000)]
    await settle()
    assert client.in_flight == 64
    refused = [task.result() for task in waiting if task.done()]
    assert len(refused) == 5000 - 128
    assert all(isinstance(result, IntrospectionFailure) and result.retry_after == 1 for result in refused)
    client.release()
    results = await asyncio.gather(*waiting)
    assert client.max_in_flight == 64
    assert client.requests.total() == 128
    assert sum(isinstance(result, IntrospectionResponse) for result in results) == 128


@in_virtual_time
async def test_a_request_that_can_be_joined_is_never_one_too_many() -> None:
    client = FakeClient(a=active_response())
    client.hold()
    introspector = introspector_with(client, limited(1))
    first, second = (asyncio.create_task(introspect(introspector, token)) for token in "ab")
    await settle()
    assert isinstance(await introspect(introspector, "c"), IntrospectionFailure)
    again = asyncio.create_task(introspect(introspector, "a"))
    client.release()
    assert isinstance(await again, IntrospectionResponse)
    await asyncio.gather(first, second)


@in_virtual_time
async def test_a_waiting_request_is_not_sent_to_a_server_that_failed_meanwhile() -> None:
    client = FakeClient()
    client.response_to_all = failure(retry_after=1.0)
    client.delay = 1.0
    introspector = introspector_with(client, limited(1))
    first, second = (asyncio.create_task(introspect(introspector, token)) for token in "ab")
    await asyncio.sleep(1.5)
    third = asyncio.create_task(introspect(introspector, "c"))
    results = await asyncio.gather(first, second, third)
    assert all(isinstance(result, IntrospectionFailure) for result in results)
    assert client.requests.keys() >= {"a", "b"}
    assert "c" not in client.requests
    assert client.requests.total() == 3  # with the probe


@in_virtual_time
async def test_a_request_that_ends_before_its_caller_waits_is_not_sent_again() -> None:
    """The need is found in one turn of the loop, and awaited in a later one."""
    client = FakeClient(refused=RequestRefused("status 400"))
    client.hold()
    introspector = introspector_with(client)
    waiting = asyncio.create_task(introspect(introspector, "refused"))
    await settle()
    need = NeedIntrospection("refused", digest_of("refused"), (introspector,))
    client.release()
    assert isinstance(await waiting, IntrospectionFailure)
    await need.ready()
    assert need.results == [waiting.result()]
    assert client.requests == {"refused": 1}


# Failures caused by tokens, and by the server.

FAILURES: dict[str, FetchFailed] = {
    "403 from a firewall": Forbidden("status 403"),
    "500": failure("status 500"),
    "429 with Retry-After of five minutes": failure("status 429", retry_after=300.0),
    "401": ClientRefused("status 401"),
    "400": RequestRefused("status 400"),
    "no response": failure("no complete response within 1 s"),
}


def client_with(good: int, invented_failure: FetchFailed, delay: float) -> FakeClient:
    """A client that fails for tokens which begin with "invented", and has so many good ones."""
    client = FakeClient(**{f"good-{number}": active_response() for number in range(good)})
    client.invented_failure, client.invented_delay = invented_failure, delay
    return client


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("invented_failure", FAILURES)
@in_virtual_time
async def test_invented_tokens_that_make_a_server_fail_block_no_other_token(
    invented_failure: str, seconds: float
) -> None:
    client = client_with(20, FAILURES[invented_failure], seconds)
    introspector = introspector_with(client)
    for number in range(20):
        invented = (f"invented-{number}-{each}" for each in range(FAILURES_TO_PROBE))
        assert all(
            isinstance(result, IntrospectionFailure)
            for result in await asyncio.gather(*(introspect(introspector, t) for t in invented))
        )
        assert isinstance(await introspect(introspector, f"good-{number}"), IntrospectionResponse)
    assert client.requests.total() <= 20 * (FAILURES_TO_PROBE + 1) + 20 * (1 + seconds)  # including the probes


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@in_virtual_time
async def test_when_a_server_fails_for_every_unknown_token_known_ones_wait_for_the_next_attempt(
    seconds: float,
) -> None:
    """The probe fails as well, as if the server were down."""
    client = client_with(20, failure("status 500"), seconds)
    client.fails_all_unknown = True
    introspector = introspector_with(client)
    times_open = 0
    for number in range(20):
        await asyncio.gather(
            *(introspect(introspector, f"invented-{number}-{each}") for each in range(FAILURES_TO_PROBE))
        )
        await asyncio.sleep(seconds)  # of the probe
        times_open += introspector._breaker.state(loop_time()) is BreakerState.OPEN
        assert isinstance(await introspect(introspector, f"good-{number}"), IntrospectionResponse)
        await asyncio.sleep(PROBE_INTERVAL)
    assert times_open == 20


@in_virtual_time
async def test_a_flood_of_tokens_that_hang_does_not_delay_proven_tokens() -> None:
    client = client_with(5, failure("no complete response within 1 s"), 1.0)
    clock = Clock()
    introspector = introspector_with(client, limited(8), clock=clock)
    for number in range(5):
        assert isinstance(await introspect(introspector, f"good-{number}"), IntrospectionResponse)
    clock.now += 31  # their responses have expired
    flood = asyncio.create_task(_flood(introspector, per_second=200, seconds=20))
    await asyncio.sleep(0.5)
    for _ in range(5):
        for number in range(5):
            assert cached(introspector, f"good-{number}") is None
            began = loop_time()
            assert isinstance(await introspect(introspector, f"good-{number}"), IntrospectionResponse)
            assert loop_time() == began
        clock.now += 31
        await asyncio.sleep(3)
    assert client.max_in_flight <= 8
    await flood


async def _flood(introspector: Introspector, *, per_second: int, seconds: int) -> None:
    requests = []
    for number in range(per_second * seconds):
        requests.append(asyncio.create_task(introspect(introspector, f"invented-{number}")))
        await asyncio.sleep(1 / per_second)
    assert not any(isinstance(result, IntrospectionResponse) for result in await asyncio.gather(*requests))


@in_virtual_time
async def test_a_token_that_becomes_inactive_is_no_longer_proven() -> None:
    client = FakeClient(good=active_response())
    clock = Clock()
    introspector = introspector_with(client, clock=clock)
    await introspect(introspector, "good")
    assert introspector._cache.is_proven(digest_of("good"))
    clock.now += 31
    del client.responses["good"]
    await introspect(introspector, "good")
    assert not introspector._cache.is_proven(digest_of("good"))


async def fail(introspector: Introspector, client: FakeClient, times: int = FAILURES_TO_PROBE) -> None:
    """Let every request fail, the probe too, until the breaker is open."""
    client.response_to_all = failure()
    for number in range(times):
        assert isinstance(await introspect(introspector, f"fails-{number}"), IntrospectionFailure)
    await settle()
    client.response_to_all = None


@in_virtual_time
async def test_while_the_breaker_is_open_no_request_is_sent_and_cached_responses_serve() -> None:
    client = FakeClient(good=active_response(), new=active_response())
    introspector = introspector_with(client, limited(64, timeout="100ms"))
    await introspect(introspector, "good")
    await fail(introspector, client)
    before = client.requests.total()
    assert before == 1 + FAILURES_TO_PROBE + 1
    for _ in range(100):
        assert await introspect(introspector, "new") == IntrospectionFailure(
            "introspection at main: the circuit breaker is open", retry_after=1
        )
    assert client.requests.total() == before
    assert cached(introspector, "good") is not None
    await asyncio.sleep(1.1 * INITIAL_BACKOFF)
    assert isinstance(await introspect(introspector, "new"), IntrospectionResponse)


@in_virtual_time
async def test_an_attempt_is_one_request_and_the_probe_however_many_callers_there_are() -> None:
    client = FakeClient()
    introspector = introspector_with(client)
    await fail(introspector, client)
    await asyncio.sleep(1.1 * INITIAL_BACKOFF)
    before = client.requests.total()
    client.hold()
    trying, *others = (asyncio.create_task(introspect(introspector, f"token-{number}")) for number in range(100))
    await settle()
    assert client.requests.total() == before + 2
    assert client.requests["token-0"] == 1
    assert all(isinstance(task.result(), IntrospectionFailure) for task in others)
    client.release()
    assert isinstance(await trying, IntrospectionResponse)
    assert isinstance(await introspect(introspector, "another"), IntrospectionResponse)


async def _introspect_for(seconds: float, introspector: Introspector) -> list[IntrospectionFailure]:
    """Introspect one token after the other, while all requests fail."""
    results: list[IntrospectionFailure] = []
    while loop_time() < seconds:
        result = await introspect(introspector, f"token-{len(results)}")
        assert isinstance(result, IntrospectionFailure)
        results.append(result)
        await asyncio.sleep(0.01)
    assert len(results) > 20 * seconds  # nearly all of them failed at once
    return results


def _requests_of_attempts(seconds: float) -> float:
    """The most requests in so many seconds: two per attempt, while the pauses grow and after."""
    growing = math.ceil(math.log2(MAX_BACKOFF / INITIAL_BACKOFF)) + 1
    return 2 * (growing + seconds / (0.9 * MAX_BACKOFF))


@in_virtual_time
async def test_requests_to_an_unavailable_server_become_rarer_however_many_callers_there_are() -> None:
    client = FakeClient()
    client.response_to_all = failure()
    introspector = introspector_with(client)
    await _introspect_for(60, introspector)
    assert client.requests.total() <= FAILURES_TO_PROBE + 1 + _requests_of_attempts(60)


@in_virtual_time
async def test_retry_after_is_passed_on_up_to_a_maximum_and_requests_become_rarer() -> None:
    client = FakeClient()
    client.response_to_all = failure(retry_after=400.0)
    introspector = introspector_with(client)
    first = await introspect(introspector, "first")
    assert isinstance(first, IntrospectionFailure)
    assert first.retry_after == 300
    waits = {result.retry_after for result in await _introspect_for(30, introspector)}
    assert waits <= {
        300,
        *range(1, math.ceil(1.1 * MAX_BACKOFF) + 1),
    }  # of an attempt, or until the next one
    assert client.requests.total() <= 1 + 1 + _requests_of_attempts(30)
    client.response_to_all = active_response()
    await asyncio.sleep(1.1 * MAX_BACKOFF)
    assert isinstance(await introspect(introspector, "last"), IntrospectionResponse)


@in_virtual_time
async def test_a_refused_request_does_not_count_as_a_failure_of_the_server() -> None:
    client = FakeClient(good=active_response(), strange=RequestRefused("status 400"))
    introspector = introspector_with(client)
    for _ in range(5 * FAILURES_TO_PROBE):
        assert isinstance(await introspect(introspector, "strange"), IntrospectionFailure)
    assert isinstance(await introspect(introspector, "good"), IntrospectionResponse)
    assert client.requests == {"good": 1, "strange": 5 * FAILURES_TO_PROBE}


@in_virtual_time
async def test_each_probe_is_about_another_random_token() -> None:
    client = FakeClient()
    client.response_to_all = failure()
    introspector = introspector_with(client)
    await fail(introspector, client)
    client.response_to_all = failure()
    await asyncio.sleep(1.1 * INITIAL_BACKOFF)
    await introspect(introspector, "try")
    await settle()
    probes = [token for token in client.requests if not token.startswith(("fails", "try"))]
    assert len(probes) == 2
    assert all(len(token) == 43 for token in probes)


@in_virtual_time
async def test_an_unexpected_exception_is_a_failure_of_its_request_only() -> None:
    client = FakeClient(good=active_response(), strange=RuntimeError("a fault"))
    introspector = introspector_with(client)
    result = await introspect(introspector, "strange")
    assert isinstance(result, IntrospectionFailure)
    assert "RuntimeError" in result.cause
    assert isinstance(await introspect(introspector, "good"), IntrospectionResponse)


async def test_a_fault_after_the_response_is_logged_and_fails_the_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    introspector = introspector_with(FakeClient(good=active_response()))
    monkeypatch.setattr(introspector._cache, "put", fail)
    result = await introspect(introspector, "good")
    assert isinstance(result, IntrospectionFailure)
    assert "ZeroDivisionError" in result.cause
    assert not introspector._requests
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


@pytest.mark.parametrize(("wait", "seconds"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (300.0, 300)])
@in_virtual_time
async def test_retry_after_is_in_whole_seconds_and_never_zero(wait: float, seconds: int) -> None:
    result = await introspect(introspector_with(FakeClient(x=failure(retry_after=wait))), "x")
    assert isinstance(result, IntrospectionFailure)
    assert result.retry_after == seconds


# Closing.


@in_virtual_time
async def test_closing_cancels_requests_in_flight_and_waiting() -> None:
    client = FakeClient()
    client.hold()
    introspector = introspector_with(client, limited(2))
    waiting = [asyncio.create_task(introspect(introspector, token)) for token in "abcd"]
    await settle()
    await introspector.close()
    assert all(isinstance(result, IntrospectionFailure) for result in await asyncio.gather(*waiting))
    assert client.in_flight == 0
    assert client.closed


@in_virtual_time
async def test_closing_cancels_a_request_that_has_not_started() -> None:
    client = FakeClient()
    introspector = introspector_with(client)
    waiting = asyncio.create_task(introspect(introspector, "a"))
    await asyncio.sleep(0)
    await introspector.close()
    assert isinstance(await waiting, IntrospectionFailure)


@in_virtual_time
async def test_run_closes_the_client_when_canceled() -> None:
    client = FakeClient()
    running = asyncio.create_task(introspector_with(client).run())
    await settle()
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    assert client.closed


# Metrics and logs.


@in_virtual_time
async def test_each_request_is_counted_by_its_result() -> None:
    metrics = Metrics(transport="grpcio")
    client = FakeClient(
        good=active_response(),
        id_token=active_response(nonce="n"),
        unavailable=failure(),
        odd=active_response() | {"active": "true"},
    )
    client.delay = 0.25
    introspector = introspector_with(client, metrics=metrics)
    for token in ("good", "id_token", "bad", "unavailable", "odd"):
        await introspect(introspector, token)
        cached(introspector, token)

    def value(name: str, **labels: str) -> float | None:
        return sample_value(metrics, name, {"issuer": "main"} | labels)

    results = {
        result: value("authz_introspections_total", result=result) for result in ("active", "inactive", "failure")
    }
    assert results == {"active": 2, "inactive": 2, "failure": 1}
    assert value("authz_introspection_duration_seconds_count") == 5
    assert value("authz_introspection_duration_seconds_sum") == 1.25
    assert value("authz_introspection_cache_entries") == 4
    assert value("authz_introspection_cache_lookups_total", result="hit") == 4
    assert value("authz_introspection_cache_lookups_total", result="miss") == 5


@in_virtual_time
async def test_requests_in_flight_and_the_breaker_state_are_metrics() -> None:
    metrics = Metrics(transport="grpcio")
    client = FakeClient()
    introspector = introspector_with(client, metrics=metrics)

    def states() -> list[float | None]:
        labels = [{"issuer": "main", "state": state} for state in ("closed", "open", "half_open")]
        seen = [sample_value(metrics, "authz_introspection_breaker_state", each) for each in labels]
        return [*seen, sample_value(metrics, "authz_introspection_breaker_open", {"issuer": "main"})]

    assert states() == [1, 0, 0, 0]
    client.hold()
    waiting = asyncio.create_task(introspect(introspector, "a"))
    await settle()
    assert sample_value(metrics, "authz_introspections_in_flight", {"issuer": "main"}) == 1
    client.release()
    await waiting
    assert sample_value(metrics, "authz_introspections_in_flight", {"issuer": "main"}) == 0
    await fail(introspector, client)
    assert states() == [0, 1, 0, 1]
    await asyncio.sleep(1.2)
    assert states() == [0, 0, 1, 1]
    await introspect(introspector, "b")
    assert states() == [1, 0, 0, 0]


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def logged_by(caplog: pytest.LogCaptureFixture, scenario: Callable[[], Any]) -> list[str]:
    with caplog.at_level(logging.INFO, "authz.introspection"):
        in_virtual_time(scenario)()
    return events(caplog)


def test_an_outage_is_logged_a_few_times_and_not_once_per_request(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        client = FakeClient()
        introspector = introspector_with(client)
        await fail(introspector, client)
        for _ in range(1000):
            await introspect(introspector, "x")
        await asyncio.sleep(1.2)
        for number in range(10):
            await introspect(introspector, f"good-{number}")

    assert logged_by(caplog, scenario) == [
        "introspection failed",
        "introspection paused: the circuit breaker is open",
        "introspection resumed: the circuit breaker is closed",
        "introspection recovered",
    ]


def test_a_rejected_client_is_logged_once_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        client = FakeClient()
        client.response_to_all = ClientRefused("status 401: check client_id")
        introspector = introspector_with(client)
        for _ in range(20):
            await introspect(introspector, "a-secret-token")

    assert logged_by(caplog, scenario)[0] == "the introspection server rejects this client"
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "a-secret-token" not in caplog.text


@pytest.mark.parametrize("invented_failure", [Forbidden("status 403"), RequestRefused("status 400")])
def test_a_probe_that_is_refused_is_a_response_and_one_that_is_forbidden_is_a_failure(
    invented_failure: FetchFailed, caplog: pytest.LogCaptureFixture
) -> None:
    """A firewall cannot object to a random token of our own."""

    async def scenario() -> None:
        client = client_with(0, failure("status 500"), 0.0)
        client.response_to_all = invented_failure  # for all but the invented ones
        introspector = introspector_with(client)
        await asyncio.gather(*(introspect(introspector, f"invented-{each}") for each in range(FAILURES_TO_PROBE)))
        await settle()

    expected = {
        Forbidden: [
            "the introspection server rejects this client",
            "introspection paused: the circuit breaker is open",
        ],
        RequestRefused: ["introspection fails for some tokens only; the server responds to a probe"],
    }
    assert logged_by(caplog, scenario) == ["introspection failed", *expected[type(invented_failure)]]


def test_callers_cannot_fill_the_log_with_refused_tokens(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        client = FakeClient(strange=RequestRefused("status 400"))
        introspector = introspector_with(client)
        for number in range(200):
            await introspect(introspector, "strange" if number % 10 == 0 else f"token-{number}")
            await asyncio.sleep(0.01)

    assert logged_by(caplog, scenario) == ["introspection failed", "introspection recovered"]


# Properties.

_TOKENS = st.sampled_from("abcdef")
_STEP = st.one_of(
    st.tuples(st.just("introspect"), _TOKENS),
    st.tuples(st.just("introspect and cancel"), _TOKENS),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.3, 2.0, 40.0])),
    st.tuples(
        st.just("respond"), st.sampled_from([active_response(), {"active": False}, failure(), failure(retry_after=3.0)])
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_STEP, max_size=40), st.integers(1, 3))
def test_requests_are_bounded_and_shared_and_every_caller_gets_a_result(
    steps: list[tuple[str, Any]], max_concurrent: int
) -> None:
    @in_virtual_time
    async def scenario() -> None:
        client = FakeClient()
        client.delay = 0.1
        introspector = introspector_with(client, limited(max_concurrent))
        waiting: list[asyncio.Task[IntrospectionResult]] = []
        for kind, value in steps:
            match kind:
                case "respond":
                    client.response_to_all = value
                case "wait":
                    await asyncio.sleep(value)
                case _:
                    waiting.append(asyncio.create_task(introspect(introspector, value)))
                    await asyncio.sleep(0)
                    if kind == "introspect and cancel":
                        waiting.pop().cancel()
            assert client.in_flight <= max_concurrent
            assert max(introspector._admitted.values()) <= 2 * max_concurrent
            running = len(introspector._requests)  # a request that just ended is removed last
            assert sum(introspector._admitted.values()) <= running
        async with asyncio.timeout(60):
            for result in await asyncio.gather(*waiting):
                assert isinstance(result, (IntrospectionResponse, IntrospectionFailure))
        await asyncio.sleep(1)
        assert client.in_flight == 0
        assert not introspector._requests
        assert introspector._admitted == {True: 0, False: 0}
        assert client.max_in_flight <= max_concurrent

    scenario()


def test_a_response_does_not_replace_claims_of_a_verified_jwt() -> None:
    token = good()
    verified = Claims("main", "u1", "app", frozenset(), frozenset(), "", claims())

    @in_virtual_time
    async def scenario() -> None:
        introspector = introspector_with(FakeClient(**{token: active_response(scope="admin", tenant="acme")}))
        result = await introspector.introspect(token, digest_of(token), verified)
        assert isinstance(result, IntrospectionResponse)
        found = result.token().claims
        assert (found.scope, found.raw["tenant"]) == ("a b", "acme")

    scenario()
