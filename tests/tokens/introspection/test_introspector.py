"""Each token is asked about once, a bounded number of calls is in flight, and a server that fails is left alone."""

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
from support.virtual_time import in_virtual_time
from tokens.introspection.servers import Clock, FakeClient, failure, introspector, issuer_with, loop_time, said

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz_service.core.errors import FetchFailed
    from authz_service.tokens.introspection.introspector import Introspector


async def ask(asked: Introspector, token: str) -> IntrospectionResult:
    return await asked.introspect(token, digest_of(token))


def look(asked: Introspector, token: str) -> IntrospectionResponse | None:
    return asked.cached(digest_of(token), asked.clock())


async def settle() -> None:
    """Let every task go on as far as it can without waiting for time to pass."""
    for _ in range(10):
        await asyncio.sleep(0)


def small(most: int, **more: Any) -> Any:
    return issuer_with({"max_concurrent": most} | more)


# Remembering.


@in_virtual_time
async def test_a_response_is_cached_and_requested_once() -> None:
    client = FakeClient(good=said())
    asked = introspector(client)
    assert look(asked, "good") is None
    answer = await ask(asked, "good")
    assert isinstance(answer, IntrospectionResponse)
    assert look(asked, "good") is answer
    refused = await ask(asked, "bad")
    assert look(asked, "bad") is refused
    assert client.asked == {"good": 1, "bad": 1}


@in_virtual_time
async def test_a_response_expires() -> None:
    clock = Clock()
    asked = introspector(FakeClient(good=said(), short=said(exp=clock.now + 7)), clock=clock)
    for token in ("good", "short", "bad"):
        await ask(asked, token)
    begun = clock.now
    held = {}
    for seconds in (6, 7, 9, 10, 29, 30):
        clock.now = begun + seconds
        held[seconds] = {token for token in ("good", "short", "bad") if look(asked, token) is not None}
    assert held == {
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
    asked = introspector(FakeClient(good=said()), clock=clock)
    await ask(asked, "good")
    clock.now -= 3600
    assert look(asked, "good") is None


@in_virtual_time
async def test_a_flood_of_invented_tokens_evicts_no_accepted_one() -> None:
    clock = Clock()
    asked = introspector(FakeClient(good=said()), clock=clock, cache_bounds=Bounds(3, 1 << 20))
    await ask(asked, "good")
    for number in range(50):
        await ask(asked, f"rubbish-{number}")
    assert look(asked, "good") is not None
    assert [look(asked, f"rubbish-{number}") is not None for number in (46, 47, 48, 49)] == [False, True, True, True]


@in_virtual_time
async def test_the_oldest_accepted_token_is_evicted_first() -> None:
    client = FakeClient()
    client.every = said()
    asked = introspector(client, cache_bounds=Bounds(2, 1 << 20))
    for token in "abc":
        await ask(asked, token)
    assert [look(asked, token) is not None for token in "abc"] == [False, True, True]


@in_virtual_time
async def test_with_a_cache_of_no_entries_each_lookup_is_a_request() -> None:
    client = FakeClient(good=said())
    asked = introspector(client, cache_bounds=Bounds(0, 1 << 20))
    for _ in range(2):
        assert isinstance(await ask(asked, "good"), IntrospectionResponse)
        assert look(asked, "good") is None
    assert client.asked["good"] == 2


@in_virtual_time
async def test_no_token_is_cached() -> None:
    asked = introspector(FakeClient(**{"a-secret-token": said()}))
    await ask(asked, "a-secret-token")
    assert "a-secret-token" not in repr([vars(each) for each in (asked, asked._cache)])


@in_virtual_time
async def test_the_cache_of_an_older_introspector_is_copied_if_the_settings_are_equal() -> None:
    client = FakeClient(good=said())
    older = introspector(client)
    await ask(older, "good")
    await ask(older, "bad")
    same, other = introspector(client), introspector(client, issuer_with({"cache_ttl": "29s"}))
    for newer in (same, other):
        newer.copy_cache_of(older)
    assert look(same, "good") is look(older, "good")
    assert look(same, "bad") is look(older, "bad")
    assert look(other, "good") is None


# One call for equal tokens.


@in_virtual_time
async def test_five_thousand_callers_with_one_token_share_one_request() -> None:
    client = FakeClient(good=said())
    client.seconds = 0.5
    asked = introspector(client)
    answers = await asyncio.gather(*(ask(asked, "good") for _ in range(5000)))
    assert client.asked == {"good": 1}
    assert len({id(answer) for answer in answers}) == 1
    assert isinstance(answers[0], IntrospectionResponse)


@in_virtual_time
async def test_a_canceled_caller_does_not_cancel_the_request() -> None:
    client = FakeClient(good=said())
    client.hold()
    asked = introspector(client)
    patient = asyncio.create_task(ask(asked, "good"))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(asked, "good")
    request = asked.request_for(digest_of("good"))
    assert request is not None
    assert len(request._callers) == 1  # those that left are not kept
    client.release()
    assert isinstance(await patient, IntrospectionResponse)
    assert client.asked == {"good": 1}


@in_virtual_time
async def test_a_response_without_callers_is_cached() -> None:
    client = FakeClient(good=said())
    client.seconds = 0.5
    asked = introspector(client)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ask(asked, "good")
    assert look(asked, "good") is None
    await asyncio.sleep(0.4)
    assert look(asked, "good") is not None


@in_virtual_time
async def test_a_failure_reaches_all_callers_and_is_not_cached() -> None:
    client = FakeClient(good=failure("a reason"))
    client.seconds = 0.1
    asked = introspector(client)
    answers = await asyncio.gather(*(ask(asked, "good") for _ in range(10)))
    assert {answer.cause for answer in answers if isinstance(answer, IntrospectionFailure)} == {
        "introspection at main: a reason"
    }
    assert client.asked == {"good": 1}
    client.tokens["good"] = said()
    assert isinstance(await ask(asked, "good"), IntrospectionResponse)


# A bounded number.


@in_virtual_time
async def test_max_concurrent_requests_are_in_flight_as_many_wait_and_the_others_fail() -> None:
    client = FakeClient()
    client.every = said()
    client.hold()
    asked = introspector(client)
    waiting = [asyncio.create_task(ask(asked, f"token-{number}")) for number in range(5000)]
    await settle()
    assert client.in_flight == 64
    refused = [task.result() for task in waiting if task.done()]
    assert len(refused) == 5000 - 128
    assert all(isinstance(answer, IntrospectionFailure) and answer.retry_after == 1 for answer in refused)
    client.release()
    answers = await asyncio.gather(*waiting)
    assert client.most_in_flight == 64
    assert client.asked.total() == 128
    assert sum(isinstance(answer, IntrospectionResponse) for answer in answers) == 128


@in_virtual_time
async def test_a_request_that_can_be_joined_is_never_one_too_many() -> None:
    client = FakeClient(a=said())
    client.hold()
    asked = introspector(client, small(1))
    first, second = (asyncio.create_task(ask(asked, token)) for token in "ab")
    await settle()
    assert isinstance(await ask(asked, "c"), IntrospectionFailure)
    again = asyncio.create_task(ask(asked, "a"))
    client.release()
    assert isinstance(await again, IntrospectionResponse)
    await asyncio.gather(first, second)


@in_virtual_time
async def test_a_waiting_request_is_not_sent_to_a_server_that_failed_meanwhile() -> None:
    client = FakeClient()
    client.every = failure(retry_after=1.0)
    client.seconds = 1.0
    asked = introspector(client, small(1))
    first, second = (asyncio.create_task(ask(asked, token)) for token in "ab")
    await asyncio.sleep(1.5)
    third = asyncio.create_task(ask(asked, "c"))
    answers = await asyncio.gather(first, second, third)
    assert all(isinstance(answer, IntrospectionFailure) for answer in answers)
    assert client.asked.keys() >= {"a", "b"}
    assert "c" not in client.asked
    assert client.asked.total() == 3  # with the probe


@in_virtual_time
async def test_a_request_that_ends_before_its_caller_waits_is_not_sent_again() -> None:
    """A request is read in one turn of the loop, and waits in a later one."""
    client = FakeClient(refused=RequestRefused("status 400"))
    client.hold()
    asked = introspector(client)
    waiting = asyncio.create_task(ask(asked, "refused"))
    await settle()
    need = NeedIntrospection("refused", digest_of("refused"), (asked,))
    client.release()
    assert isinstance(await waiting, IntrospectionFailure)
    await need.ready()
    assert need.results == [waiting.result()]
    assert client.asked == {"refused": 1}


# Tokens that make a server fail, and a server that fails.

TROUBLES: dict[str, FetchFailed] = {
    "a firewall answers 403": Forbidden("status 403"),
    "it answers 500": failure("status 500"),
    "it asks for a pause of five minutes": failure("status 429", retry_after=300.0),
    "it answers 401": ClientRefused("status 401"),
    "it answers 400": RequestRefused("status 400"),
    "it does not answer": failure("no complete response within 1 s"),
}


def fake(good: int, trouble: FetchFailed, seconds: float) -> FakeClient:
    """A server that knows these tokens, and fails for those that begin with "invented"."""
    client = FakeClient(**{f"good-{number}": said() for number in range(good)})
    client.trouble, client.seconds_of_trouble = trouble, seconds
    return client


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@pytest.mark.parametrize("trouble", TROUBLES)
@in_virtual_time
async def test_invented_tokens_that_make_a_server_fail_block_no_other_token(trouble: str, seconds: float) -> None:
    client = fake(20, TROUBLES[trouble], seconds)
    asked = introspector(client)
    for number in range(20):
        invented = (f"invented-{number}-{each}" for each in range(FAILURES_TO_PROBE))
        assert all(
            isinstance(answer, IntrospectionFailure)
            for answer in await asyncio.gather(*(ask(asked, t) for t in invented))
        )
        assert isinstance(await ask(asked, f"good-{number}"), IntrospectionResponse)
    assert client.asked.total() <= 20 * (FAILURES_TO_PROBE + 1) + 20 * (1 + seconds)  # so few of them are probes


@pytest.mark.parametrize("seconds", [0.0, 1.0])
@in_virtual_time
async def test_when_a_server_fails_for_every_unknown_token_known_ones_wait_for_the_next_attempt(
    seconds: float,
) -> None:
    """The probe fails as well, as if the server were down."""
    client = fake(20, failure("status 500"), seconds)
    client.knows_no_other = True
    asked = introspector(client)
    opened = 0
    for number in range(20):
        await asyncio.gather(*(ask(asked, f"invented-{number}-{each}") for each in range(FAILURES_TO_PROBE)))
        await asyncio.sleep(seconds)  # the probe's
        opened += asked._breaker.state(loop_time()) is BreakerState.OPEN
        assert isinstance(await ask(asked, f"good-{number}"), IntrospectionResponse)
        await asyncio.sleep(PROBE_INTERVAL)
    assert opened == 20


@in_virtual_time
async def test_a_flood_of_tokens_that_hang_does_not_delay_proven_tokens() -> None:
    client = fake(5, failure("no complete response within 1 s"), 1.0)
    clock = Clock()
    asked = introspector(client, small(8), clock=clock)
    for number in range(5):
        assert isinstance(await ask(asked, f"good-{number}"), IntrospectionResponse)
    clock.now += 31  # they are to be asked about again
    flood = asyncio.create_task(_flood(asked, per_second=200, seconds=20))
    await asyncio.sleep(0.5)
    for _ in range(5):
        for number in range(5):
            assert look(asked, f"good-{number}") is None
            began = loop_time()
            assert isinstance(await ask(asked, f"good-{number}"), IntrospectionResponse)
            assert loop_time() == began
        clock.now += 31
        await asyncio.sleep(3)
    assert client.most_in_flight <= 8
    await flood


async def _flood(asked: Introspector, *, per_second: int, seconds: int) -> None:
    out = []
    for number in range(per_second * seconds):
        out.append(asyncio.create_task(ask(asked, f"invented-{number}")))
        await asyncio.sleep(1 / per_second)
    assert not any(isinstance(answer, IntrospectionResponse) for answer in await asyncio.gather(*out))


@in_virtual_time
async def test_a_token_that_becomes_inactive_is_no_longer_proven() -> None:
    client = FakeClient(good=said())
    clock = Clock()
    asked = introspector(client, clock=clock)
    await ask(asked, "good")
    assert asked._cache.is_proven(digest_of("good"))
    clock.now += 31
    del client.tokens["good"]
    await ask(asked, "good")
    assert not asked._cache.is_proven(digest_of("good"))


async def fail(asked: Introspector, client: FakeClient, times: int = FAILURES_TO_PROBE) -> None:
    """Let every call fail, the probe too, until the breaker is open."""
    client.every = failure()
    for number in range(times):
        assert isinstance(await ask(asked, f"fails-{number}"), IntrospectionFailure)
    await settle()
    client.every = None


@in_virtual_time
async def test_while_the_breaker_is_open_no_request_is_sent_and_cached_responses_serve() -> None:
    client = FakeClient(good=said(), new=said())
    asked = introspector(client, small(64, timeout="100ms"))
    await ask(asked, "good")
    await fail(asked, client)
    before = client.asked.total()
    assert before == 1 + FAILURES_TO_PROBE + 1
    for _ in range(100):
        assert await ask(asked, "new") == IntrospectionFailure(
            "introspection at main: the circuit breaker is open", retry_after=1
        )
    assert client.asked.total() == before
    assert look(asked, "good") is not None
    await asyncio.sleep(1.1 * INITIAL_BACKOFF)
    assert isinstance(await ask(asked, "new"), IntrospectionResponse)


@in_virtual_time
async def test_an_attempt_is_one_request_and_the_probe_however_many_callers_there_are() -> None:
    client = FakeClient()
    asked = introspector(client)
    await fail(asked, client)
    await asyncio.sleep(1.1 * INITIAL_BACKOFF)
    before = client.asked.total()
    client.hold()
    trying, *others = (asyncio.create_task(ask(asked, f"token-{number}")) for number in range(100))
    await settle()
    assert client.asked.total() == before + 2
    assert client.asked["token-0"] == 1
    assert all(isinstance(task.result(), IntrospectionFailure) for task in others)
    client.release()
    assert isinstance(await trying, IntrospectionResponse)
    assert isinstance(await ask(asked, "another"), IntrospectionResponse)


async def _ask_for(seconds: float, asked: Introspector) -> list[IntrospectionFailure]:
    """Ask about another token again and again, in vain."""
    answers: list[IntrospectionFailure] = []
    while loop_time() < seconds:
        answer = await ask(asked, f"token-{len(answers)}")
        assert isinstance(answer, IntrospectionFailure)
        answers.append(answer)
        await asyncio.sleep(0.01)
    assert len(answers) > 20 * seconds  # most of them heard at once
    return answers


def _in_tries(seconds: float) -> float:
    """Calls: a probe and another one in each, while the pauses grow and afterwards."""
    growing = math.ceil(math.log2(MAX_BACKOFF / INITIAL_BACKOFF)) + 1
    return 2 * (growing + seconds / (0.9 * MAX_BACKOFF))


@in_virtual_time
async def test_requests_to_an_unavailable_server_become_rarer_however_many_callers_there_are() -> None:
    client = FakeClient()
    client.every = failure()
    asked = introspector(client)
    await _ask_for(60, asked)
    assert client.asked.total() <= FAILURES_TO_PROBE + 1 + _in_tries(60)


@in_virtual_time
async def test_retry_after_is_passed_on_to_the_caller_up_to_a_maximum() -> None:
    client = FakeClient()
    client.every = failure(retry_after=400.0)
    asked = introspector(client)
    first = await ask(asked, "first")
    assert isinstance(first, IntrospectionFailure)
    assert first.retry_after == 300
    heard = {answer.retry_after for answer in await _ask_for(30, asked)}
    assert heard <= {
        300,
        *range(1, math.ceil(1.1 * MAX_BACKOFF) + 1),
    }  # who was part of a try, and who is to wait for one
    assert client.asked.total() <= 1 + 1 + _in_tries(30)
    client.every = said()
    await asyncio.sleep(1.1 * MAX_BACKOFF)
    assert isinstance(await ask(asked, "last"), IntrospectionResponse)


@in_virtual_time
async def test_a_refused_request_does_not_count_as_a_failure_of_the_server() -> None:
    client = FakeClient(good=said(), strange=RequestRefused("status 400"))
    asked = introspector(client)
    for _ in range(5 * FAILURES_TO_PROBE):
        assert isinstance(await ask(asked, "strange"), IntrospectionFailure)
    assert isinstance(await ask(asked, "good"), IntrospectionResponse)
    assert client.asked == {"good": 1, "strange": 5 * FAILURES_TO_PROBE}


@in_virtual_time
async def test_each_probe_is_about_another_random_token() -> None:
    client = FakeClient()
    client.every = failure()
    asked = introspector(client)
    await fail(asked, client)
    client.every = failure()
    await asyncio.sleep(1.1 * INITIAL_BACKOFF)
    await ask(asked, "try")
    await settle()
    probes = [token for token in client.asked if not token.startswith(("fails", "try"))]
    assert len(probes) == 2
    assert all(len(token) == 43 for token in probes)


@in_virtual_time
async def test_an_unexpected_exception_is_a_failure_of_its_request_only() -> None:
    client = FakeClient(good=said(), strange=RuntimeError("a fault"))
    asked = introspector(client)
    answer = await ask(asked, "strange")
    assert isinstance(answer, IntrospectionFailure)
    assert "RuntimeError" in answer.cause
    assert isinstance(await ask(asked, "good"), IntrospectionResponse)


async def test_a_fault_after_the_response_is_logged_and_fails_the_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    asked = introspector(FakeClient(good=said()))
    monkeypatch.setattr(asked._cache, "put", fail)
    result = await ask(asked, "good")
    assert isinstance(result, IntrospectionFailure)
    assert "ZeroDivisionError" in result.cause
    assert not asked._requests
    assert any(record.exc_info and record.exc_info[0] is ZeroDivisionError for record in caplog.records)


@pytest.mark.parametrize(("wait", "seconds"), [(0.0, 1), (0.2, 1), (1.0, 1), (1.01, 2), (300.0, 300)])
@in_virtual_time
async def test_retry_after_is_in_whole_seconds_and_never_zero(wait: float, seconds: int) -> None:
    result = await ask(introspector(FakeClient(x=failure(retry_after=wait))), "x")
    assert isinstance(result, IntrospectionFailure)
    assert result.retry_after == seconds


# The end.


@in_virtual_time
async def test_closing_cancels_requests_in_flight_and_waiting() -> None:
    client = FakeClient()
    client.hold()
    asked = introspector(client, small(2))
    waiting = [asyncio.create_task(ask(asked, token)) for token in "abcd"]
    await settle()
    await asked.close()
    assert all(isinstance(answer, IntrospectionFailure) for answer in await asyncio.gather(*waiting))
    assert client.in_flight == 0
    assert client.closed


@in_virtual_time
async def test_closing_cancels_a_request_that_has_not_started() -> None:
    client = FakeClient()
    asked = introspector(client)
    waiting = asyncio.create_task(ask(asked, "a"))
    await asyncio.sleep(0)
    await asked.close()
    assert isinstance(await waiting, IntrospectionFailure)


@in_virtual_time
async def test_run_closes_the_client_when_canceled() -> None:
    client = FakeClient()
    running = asyncio.create_task(introspector(client).run())
    await settle()
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    assert client.closed


# What is told.


@in_virtual_time
async def test_each_request_is_counted_by_its_result() -> None:
    metrics = Metrics(transport="grpcio")
    client = FakeClient(good=said(), id_token=said(nonce="n"), away=failure(), odd=said() | {"active": "true"})
    client.seconds = 0.25
    asked = introspector(client, metrics=metrics)
    for token in ("good", "id_token", "bad", "away", "odd"):
        await ask(asked, token)
        look(asked, token)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"issuer": "main"} | labels)

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
    asked = introspector(client, metrics=metrics)

    def states() -> list[float | None]:
        labels = [{"issuer": "main", "state": state} for state in ("closed", "open", "half_open")]
        seen = [metrics.registry.get_sample_value("authz_introspection_breaker_state", each) for each in labels]
        return [*seen, metrics.registry.get_sample_value("authz_introspection_breaker_open", {"issuer": "main"})]

    assert states() == [1, 0, 0, 0]
    client.hold()
    waiting = asyncio.create_task(ask(asked, "a"))
    await settle()
    assert metrics.registry.get_sample_value("authz_introspections_in_flight", {"issuer": "main"}) == 1
    client.release()
    await waiting
    assert metrics.registry.get_sample_value("authz_introspections_in_flight", {"issuer": "main"}) == 0
    await fail(asked, client)
    assert states() == [0, 1, 0, 1]
    await asyncio.sleep(1.2)
    assert states() == [0, 0, 1, 1]
    await ask(asked, "b")
    assert states() == [1, 0, 0, 0]


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


def telling(caplog: pytest.LogCaptureFixture, story: Callable[[], Any]) -> list[str]:
    with caplog.at_level(logging.INFO, "authz.introspection"):
        in_virtual_time(story)()
    return events(caplog)


def test_an_outage_is_logged_a_few_times_and_not_once_per_request(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        client = FakeClient()
        asked = introspector(client)
        await fail(asked, client)
        for _ in range(1000):
            await ask(asked, "x")
        await asyncio.sleep(1.2)
        for number in range(10):
            await ask(asked, f"good-{number}")

    assert telling(caplog, story) == [
        "introspection failed",
        "introspection paused: the circuit breaker is open",
        "introspection resumed: the circuit breaker is closed",
        "introspection recovered",
    ]


def test_a_rejected_client_is_logged_once_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        client = FakeClient()
        client.every = ClientRefused("status 401: look at client_id")
        asked = introspector(client)
        for _ in range(20):
            await ask(asked, "a-secret-token")

    assert telling(caplog, story)[0] == "the introspection server rejects this client"
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "a-secret-token" not in caplog.text


@pytest.mark.parametrize("trouble", [Forbidden("status 403"), RequestRefused("status 400")])
def test_a_probe_that_is_refused_is_a_response_and_one_that_is_forbidden_is_a_failure(
    trouble: FetchFailed, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a token that nobody sent no firewall has anything to dislike."""

    async def story() -> None:
        client = fake(0, failure("status 500"), 0.0)
        client.every = trouble  # of all but the invented ones
        asked = introspector(client)
        await asyncio.gather(*(ask(asked, f"invented-{each}") for each in range(FAILURES_TO_PROBE)))
        await settle()

    told = {
        Forbidden: [
            "the introspection server rejects this client",
            "introspection paused: the circuit breaker is open",
        ],
        RequestRefused: ["introspection fails for some tokens only; the server responds to a probe"],
    }
    assert telling(caplog, story) == ["introspection failed", *told[type(trouble)]]


def test_callers_cannot_fill_the_log_with_refused_tokens(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        client = FakeClient(strange=RequestRefused("status 400"))
        asked = introspector(client)
        for number in range(200):
            await ask(asked, "strange" if number % 10 == 0 else f"token-{number}")
            await asyncio.sleep(0.01)

    assert telling(caplog, story) == ["introspection failed", "introspection recovered"]


# Whatever happens.

_TOKENS = st.sampled_from("abcdef")
_STEP = st.one_of(
    st.tuples(st.just("ask"), _TOKENS),
    st.tuples(st.just("ask and leave"), _TOKENS),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.05, 0.3, 2.0, 40.0])),
    st.tuples(st.just("says"), st.sampled_from([said(), {"active": False}, failure(), failure(retry_after=3.0)])),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(_STEP, max_size=40), st.integers(1, 3))
def test_requests_are_bounded_and_shared_and_every_caller_gets_a_result(
    steps: list[tuple[str, Any]], most: int
) -> None:
    @in_virtual_time
    async def story() -> None:
        client = FakeClient()
        client.seconds = 0.1
        asked = introspector(client, small(most))
        waiting: list[asyncio.Task[IntrospectionResult]] = []
        for kind, value in steps:
            match kind:
                case "says":
                    client.every = value
                case "wait":
                    await asyncio.sleep(value)
                case _:
                    waiting.append(asyncio.create_task(ask(asked, value)))
                    await asyncio.sleep(0)
                    if kind == "ask and leave":
                        waiting.pop().cancel()
            assert client.in_flight <= most
            assert max(asked._admitted.values()) <= 2 * most
            assert sum(asked._admitted.values()) <= len(asked._requests)  # one that just ended is removed last
        async with asyncio.timeout(60):
            for answer in await asyncio.gather(*waiting):
                assert isinstance(answer, (IntrospectionResponse, IntrospectionFailure))
        await asyncio.sleep(1)
        assert client.in_flight == 0
        assert not asked._requests
        assert asked._admitted == {True: 0, False: 0}
        assert client.most_in_flight <= most

    story()


def test_the_claims_of_a_verified_jwt_are_its_own() -> None:
    claims = Claims("main", "u1", "app", frozenset(), frozenset(), "", {})

    @in_virtual_time
    async def story() -> None:
        asked = introspector(FakeClient(jwt=said()))
        answer = await asked.introspect("jwt", digest_of("jwt"), claims)
        assert isinstance(answer, IntrospectionResponse)
        assert answer.token().claims is claims

    story()
