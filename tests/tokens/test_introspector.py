"""Each token is asked about once, a bounded number of calls is in flight, and a server that fails is left alone."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keys.virtual_time import in_virtual_time

from authz_service.core.bounded import Bounds
from authz_service.core.claims import Claims
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.breaker import FAILURES_TO_OPEN
from authz_service.tokens.cache import digest_of
from authz_service.tokens.introspection import Answer, Unavailable
from authz_service.tokens.introspector import ClientRefused, Introspector, QuestionRefused
from tokens.servers import Clock, FakeClient, failure, introspector, issuer_with, said

if TYPE_CHECKING:
    from collections.abc import Callable


async def ask(asked: Introspector, token: str) -> Answer | Unavailable:
    return await asked.ask(token, digest_of(token))


def look(asked: Introspector, token: str) -> Answer | None:
    return asked.look(digest_of(token), asked.clock())


async def settle() -> None:
    """Let every task go on as far as it can without waiting for time to pass."""
    for _ in range(10):
        await asyncio.sleep(0)


def small(most: int, **more: Any) -> Any:
    return issuer_with({"max_concurrent": most} | more)


# Remembering.


@in_virtual_time
async def test_what_a_server_said_is_remembered_and_asked_for_once() -> None:
    client = FakeClient(good=said())
    asked = introspector(client)
    assert look(asked, "good") is None
    answer = await ask(asked, "good")
    assert isinstance(answer, Answer)
    assert look(asked, "good") is answer
    refused = await ask(asked, "bad")
    assert look(asked, "bad") is refused
    assert client.asked == {"good": 1, "bad": 1}


@in_virtual_time
async def test_an_answer_is_forgotten_when_its_time_has_passed() -> None:
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
async def test_an_answer_is_not_believed_for_longer_because_the_clock_was_set_back() -> None:
    clock = Clock()
    asked = introspector(FakeClient(good=said()), clock=clock)
    await ask(asked, "good")
    clock.now -= 3600
    assert look(asked, "good") is None


@in_virtual_time
async def test_a_flood_of_rubbish_displaces_no_active_token_and_takes_no_more_room_than_it_may() -> None:
    clock = Clock()
    asked = introspector(FakeClient(good=said()), clock=clock, remembered=Bounds(3, 1 << 20))
    await ask(asked, "good")
    for number in range(50):
        await ask(asked, f"rubbish-{number}")
    assert look(asked, "good") is not None
    assert [look(asked, f"rubbish-{number}") is not None for number in (46, 47, 48, 49)] == [False, True, True, True]


@in_virtual_time
async def test_of_the_active_tokens_the_oldest_makes_way() -> None:
    client = FakeClient()
    client.every = said()
    asked = introspector(client, remembered=Bounds(2, 1 << 20))
    for token in "abc":
        await ask(asked, token)
    assert [look(asked, token) is not None for token in "abc"] == [False, True, True]


@in_virtual_time
async def test_a_cache_of_no_entries_remembers_nothing_and_answers_all_the_same() -> None:
    client = FakeClient(good=said())
    asked = introspector(client, remembered=Bounds(0, 1 << 20))
    for _ in range(2):
        assert isinstance(await ask(asked, "good"), Answer)
        assert look(asked, "good") is None
    assert client.asked["good"] == 2


@in_virtual_time
async def test_what_is_remembered_is_no_token() -> None:
    asked = introspector(FakeClient(**{"a-secret-token": said()}))
    await ask(asked, "a-secret-token")
    assert "a-secret-token" not in repr([vars(each) for each in (asked, asked._cache)])


@in_virtual_time
async def test_what_an_older_one_remembers_is_taken_over_where_it_judged_by_the_same_settings() -> None:
    client = FakeClient(good=said())
    older = introspector(client)
    await ask(older, "good")
    await ask(older, "bad")
    same, other = introspector(client), introspector(client, issuer_with({"cache_ttl": "29s"}))
    for newer in (same, other):
        newer.remember(older)
    assert look(same, "good") is look(older, "good")
    assert look(same, "bad") is look(older, "bad")
    assert look(other, "good") is None


# One call for equal tokens.


@in_virtual_time
async def test_five_thousand_with_one_token_are_one_call() -> None:
    client = FakeClient(good=said())
    client.seconds = 0.5
    asked = introspector(client)
    answers = await asyncio.gather(*(ask(asked, "good") for _ in range(5000)))
    assert client.asked == {"good": 1}
    assert len({id(answer) for answer in answers}) == 1
    assert isinstance(answers[0], Answer)


@in_virtual_time
async def test_who_stops_waiting_takes_the_call_from_nobody() -> None:
    client = FakeClient(good=said())
    client.hold()
    asked = introspector(client)
    patient = asyncio.create_task(ask(asked, "good"))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ask(asked, "good")
    (call,) = asked._calls.values()
    assert len(call._waiting) == 1  # who left is forgotten
    client.release()
    assert isinstance(await patient, Answer)
    assert client.asked == {"good": 1}


@in_virtual_time
async def test_an_answer_that_nobody_waits_for_any_more_is_there_for_the_next() -> None:
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
async def test_a_failure_is_that_of_all_who_waited_and_is_not_remembered() -> None:
    client = FakeClient(good=failure("a reason"))
    client.seconds = 0.1
    asked = introspector(client)
    answers = await asyncio.gather(*(ask(asked, "good") for _ in range(10)))
    assert {answer.cause for answer in answers if isinstance(answer, Unavailable)} == {
        "introspection at main: a reason"
    }
    assert client.asked == {"good": 1}
    client.tokens["good"] = said()
    assert isinstance(await ask(asked, "good"), Answer)


# A bounded number.


@in_virtual_time
async def test_of_five_thousand_tokens_no_more_than_configured_are_in_flight_and_as_many_wait() -> None:
    client = FakeClient()
    client.every = said()
    client.hold()
    asked = introspector(client)
    waiting = [asyncio.create_task(ask(asked, f"token-{number}")) for number in range(5000)]
    await settle()
    assert client.in_flight == 64
    refused = [task.result() for task in waiting if task.done()]
    assert len(refused) == 5000 - 128
    assert all(isinstance(answer, Unavailable) and answer.retry_after == 1 for answer in refused)
    client.release()
    answers = await asyncio.gather(*waiting)
    assert client.most_in_flight == 64
    assert client.asked.total() == 128
    assert sum(isinstance(answer, Answer) for answer in answers) == 128


@in_virtual_time
async def test_a_token_that_is_asked_about_already_is_never_one_too_many() -> None:
    client = FakeClient(a=said())
    client.hold()
    asked = introspector(client, small(1))
    first, second = (asyncio.create_task(ask(asked, token)) for token in "ab")
    await settle()
    assert isinstance(await ask(asked, "c"), Unavailable)
    again = asyncio.create_task(ask(asked, "a"))
    client.release()
    assert isinstance(await again, Answer)
    await asyncio.gather(first, second)


@in_virtual_time
async def test_calls_that_wait_for_their_turn_are_not_made_to_a_server_that_fails_meanwhile() -> None:
    client = FakeClient()
    client.every = failure()
    client.seconds = 1.0
    asked = introspector(client, small(FAILURES_TO_OPEN))
    answers = await asyncio.gather(*(ask(asked, f"token-{number}") for number in range(2 * FAILURES_TO_OPEN)))
    assert client.asked.total() == FAILURES_TO_OPEN
    assert all(isinstance(answer, Unavailable) for answer in answers)


# The breaker.


async def fail(asked: Introspector, client: FakeClient, times: int = FAILURES_TO_OPEN) -> None:
    client.every = failure()
    for number in range(times):
        assert isinstance(await ask(asked, f"fails-{number}"), Unavailable)
    client.every = None


@in_virtual_time
async def test_a_server_that_failed_in_a_row_is_left_alone_and_what_is_remembered_serves() -> None:
    client = FakeClient(good=said(), new=said())
    asked = introspector(client)
    await ask(asked, "good")
    await fail(asked, client)
    before = client.asked.total()
    for _ in range(100):
        assert isinstance(await ask(asked, "new"), Unavailable)
    assert client.asked.total() == before
    assert look(asked, "good") is not None
    await asyncio.sleep(1.2)
    assert isinstance(await ask(asked, "new"), Answer)


@in_virtual_time
async def test_it_is_tried_with_one_call_however_many_want_to_ask() -> None:
    client = FakeClient()
    asked = introspector(client)
    await fail(asked, client)
    await asyncio.sleep(1.2)
    before = client.asked.total()
    client.hold()
    probe, *others = (asyncio.create_task(ask(asked, f"token-{number}")) for number in range(100))
    await settle()
    assert client.asked.total() == before + 1
    assert all(isinstance(task.result(), Unavailable) for task in others)
    client.release()
    assert isinstance(await probe, Answer)
    assert isinstance(await ask(asked, "another"), Answer)


@in_virtual_time
async def test_a_server_that_asks_to_be_left_alone_is_not_asked_until_then() -> None:
    client = FakeClient()
    client.every = failure(retry_after=20.0)
    asked = introspector(client)
    first = await ask(asked, "first")
    assert isinstance(first, Unavailable)
    assert first.retry_after == 20
    client.every = said()
    await asyncio.sleep(19.9)
    assert isinstance(await ask(asked, "second"), Unavailable)
    assert client.asked.total() == 1
    await asyncio.sleep(0.2)
    assert isinstance(await ask(asked, "third"), Answer)


@in_virtual_time
async def test_a_question_that_is_refused_opens_no_breaker_since_whoever_asks_could_open_it() -> None:
    client = FakeClient(good=said(), strange=QuestionRefused("status 400"))
    asked = introspector(client)
    for _ in range(5 * FAILURES_TO_OPEN):
        assert isinstance(await ask(asked, "strange"), Unavailable)
    assert isinstance(await ask(asked, "good"), Answer)


@in_virtual_time
async def test_a_fault_of_ours_is_an_answer_to_nobody_and_ends_nothing() -> None:
    client = FakeClient(good=said(), strange=RuntimeError("a fault"))
    asked = introspector(client)
    answer = await ask(asked, "strange")
    assert isinstance(answer, Unavailable)
    assert "RuntimeError" in answer.cause
    assert isinstance(await ask(asked, "good"), Answer)


async def test_nobody_waits_for_a_call_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise ZeroDivisionError

    asked = introspector(FakeClient(good=said()))
    monkeypatch.setattr(asked._cache, "put", die)
    waiting = asyncio.create_task(ask(asked, "good"))
    await asyncio.sleep(0)
    (call,) = asked._calls.values()
    assert isinstance(await waiting, Unavailable)
    assert not asked._calls
    assert isinstance(call.task.exception(), ZeroDivisionError)


# The end.


@in_virtual_time
async def test_closing_ends_what_is_in_flight_and_what_waits() -> None:
    client = FakeClient()
    client.hold()
    asked = introspector(client, small(2))
    waiting = [asyncio.create_task(ask(asked, token)) for token in "abcd"]
    await settle()
    await asked.close()
    assert all(isinstance(answer, Unavailable) for answer in await asyncio.gather(*waiting))
    assert client.in_flight == 0
    assert client.closed


@in_virtual_time
async def test_closing_ends_a_call_that_was_not_even_begun() -> None:
    client = FakeClient()
    asked = introspector(client)
    waiting = asyncio.create_task(ask(asked, "a"))
    await asyncio.sleep(0)
    await asked.close()
    assert isinstance(await waiting, Unavailable)


@in_virtual_time
async def test_it_runs_until_it_is_cancelled_and_closes_then() -> None:
    client = FakeClient()
    running = asyncio.create_task(introspector(client).run())
    await settle()
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    assert client.closed


# What is told.


@in_virtual_time
async def test_every_call_is_counted_by_its_end() -> None:
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
async def test_calls_in_flight_and_the_breakers_state_can_be_seen() -> None:
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


def test_an_outage_is_told_a_few_times_and_not_once_a_request(caplog: pytest.LogCaptureFixture) -> None:
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
        "introspection is left alone for a while",
        "introspection is asked again",
        "introspection works again",
    ]


def test_a_client_that_is_refused_is_told_clearly_and_once(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        client = FakeClient()
        client.every = ClientRefused("status 401: look at client_id")
        asked = introspector(client)
        for _ in range(20):
            await ask(asked, "a-secret-token")

    assert telling(caplog, story)[0] == "the introspection server refuses this client"
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert "a-secret-token" not in caplog.text


def test_callers_can_not_fill_the_log_by_strange_tokens(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        client = FakeClient(strange=QuestionRefused("status 400"))
        asked = introspector(client)
        for number in range(200):
            await ask(asked, "strange" if number % 10 == 0 else f"token-{number}")
            await asyncio.sleep(0.01)

    assert telling(caplog, story) == ["introspection failed", "introspection works again"]


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
def test_whatever_happens_calls_are_bounded_shared_and_all_are_answered(
    steps: list[tuple[str, Any]], most: int
) -> None:
    @in_virtual_time
    async def story() -> None:
        client = FakeClient()
        client.seconds = 0.1
        asked = introspector(client, small(most))
        waiting: list[asyncio.Task[Answer | Unavailable]] = []
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
            assert len(asked._calls) <= 2 * most
        async with asyncio.timeout(60):
            for answer in await asyncio.gather(*waiting):
                assert isinstance(answer, (Answer, Unavailable))
        await asyncio.sleep(1)
        assert client.in_flight == 0
        assert not asked._calls
        assert client.most_in_flight <= most

    story()


def test_a_jwts_claims_are_those_of_the_one_that_asks() -> None:
    claims = Claims("main", "u1", "app", frozenset(), frozenset(), "", {})

    @in_virtual_time
    async def story() -> None:
        asked = introspector(FakeClient(jwt=said()))
        answer = await asked.ask("jwt", digest_of("jwt"), claims)
        assert isinstance(answer, Answer)
        assert answer.claims() is claims

    story()
