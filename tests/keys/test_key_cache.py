"""Keys are fetched ahead of need, kept through failures, and no traffic makes the provider be asked more often."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz_service.config.model import Keys
from authz_service.keys.cache import KeyCache, KeyState, NoKey
from authz_service.keys.snapshot import SnapshotFile
from authz_service.telemetry.metrics import Metrics
from support.key_source import FakeSource, jwks
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

EPOCH = 1_800_000_000.0
MINUTE = 60.0
HOUR = 3600.0


class Kept:
    """A key cache over a fake source, its clock that of the virtual loop."""

    def __init__(self, *published: str, lifetime: float = 300.0, snapshot: Path | None = None, **keys: Any) -> None:
        self.source = FakeSource(jwks(*published) if published else None, lifetime=lifetime)
        self.clock_error = 0.0
        self._metrics = Metrics(transport="grpcio")
        self.cache = KeyCache(
            self.source,
            Keys.model_validate({"jwks_uri": "https://issuer.example/keys"} | keys),
            issuer="main",
            metrics=self._metrics.issuer("main"),
            logger=logging.getLogger("keys-under-test"),
            clock=self.now,
            snapshots=None
            if snapshot is None
            else SnapshotFile(snapshot, issuer="https://issuer", max_bytes=100_000, max_keys=10),
        )

    def now(self) -> float:
        return EPOCH + asyncio.get_running_loop().time() + self.clock_error

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """With the background task at work."""
        task = asyncio.create_task(self.cache.run())
        await settled()
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def find(self, kid: str | None, *, may_fetch: bool = True) -> list[str | None] | NoKey:
        found = self.cache.find(kid, self.now(), may_fetch=may_fetch)
        return found if isinstance(found, NoKey) else [key.kid for key in found]

    async def ask(self, kid: str | None) -> list[str | None] | NoKey:
        """What a request does: look, wait for a fetch if told to, look again."""
        found = self.find(kid)
        if found is NoKey.FETCH:
            await self.cache.refresh_for_request()
            found = self.find(kid, may_fetch=False)
            assert found is not NoKey.FETCH
        return found

    def publish(self, *kids: str) -> None:
        self.source.published = jwks(*kids)

    def go_down(self) -> None:
        self.source.published = None

    def metric(self, name: str, **labels: str) -> float | None:
        return self._metrics.registry.get_sample_value(f"authz_jwks_{name}", {"issuer": "main"} | labels)


async def settled() -> None:
    """Every task has run as far as it can without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


def is_whole_second(seconds: object) -> bool:
    return isinstance(seconds, int) and seconds >= 1


# Known keys.


@in_virtual_time
async def test_a_known_key_is_found_by_its_kid_and_without_a_kid_all_are() -> None:
    kept = Kept("a", "b")
    async with kept.running():
        assert kept.find("a") == ["a"]
        assert kept.find(None) == ["a", "b"]


@in_virtual_time
async def test_a_known_key_is_found_at_once_while_a_fetch_hangs() -> None:
    kept = Kept("a")
    async with kept.running():
        kept.source.pause()
        await asyncio.sleep(HOUR)
        assert kept.source.fetch_started.is_set()
        assert kept.find("a") == ["a"]
        assert kept.find(None) == ["a"]


@in_virtual_time
async def test_keys_are_fetched_again_ahead_of_the_end_of_their_lifetime() -> None:
    kept = Kept("a", lifetime=1000.0)
    async with kept.running():
        assert kept.source.fetches == 1
        await asyncio.sleep(599)
        assert kept.source.fetches == 1
        await asyncio.sleep(302)
        assert kept.source.fetches == 2


@in_virtual_time
async def test_sidecars_that_start_together_do_not_all_ask_at_the_same_moment() -> None:
    many = [Kept("a", lifetime=1000.0) for _ in range(20)]
    async with contextlib.AsyncExitStack() as stack:
        for kept in many:
            await stack.enter_async_context(kept.running())
        await asyncio.sleep(800)
        assert 0 < sum(kept.source.fetches - 1 for kept in many) < 20


@in_virtual_time
async def test_a_lifetime_that_the_provider_changes_is_followed() -> None:
    kept = Kept("a", lifetime=1000.0)
    async with kept.running():
        kept.source.lifetime = 10.0
        await asyncio.sleep(900)
        before = kept.source.fetches
        await asyncio.sleep(100)
        assert kept.source.fetches - before >= 10


@in_virtual_time
async def test_a_key_that_the_provider_adds_or_removes_comes_and_goes_with_the_next_fetch() -> None:
    kept = Kept("old")
    async with kept.running():
        kept.publish("old", "new")
        await asyncio.sleep(6 * MINUTE)
        assert kept.find("new") == ["new"]
        kept.publish("new")
        await asyncio.sleep(6 * MINUTE)
        assert await kept.ask("old") is NoKey.ABSENT
        key_set = kept.cache.current(kept.now())
        assert key_set is not None
        assert [key.kid for key in key_set.keys] == ["new"]


@in_virtual_time
async def test_a_published_set_without_a_usable_key_takes_nothing_away() -> None:
    kept = Kept("a")
    async with kept.running():
        for broken in (b"", b'{"keys": []}', b"<html></html>"):
            kept.source.published = broken
            await asyncio.sleep(10 * MINUTE)
            assert kept.find("a") == ["a"]


# Before the first keys.


@in_virtual_time
async def test_before_the_first_keys_requests_wait_for_one_fetch_and_too_many_are_answered_at_once() -> None:
    kept = Kept("a")
    kept.source.pause()
    async with kept.running():
        requests = [asyncio.create_task(kept.ask("a")) for _ in range(1000)]
        await settled()
        assert [request.result() for request in requests if request.done()] == [NoKey.UNAVAILABLE] * 968
        kept.source.resume()
        assert (await asyncio.gather(*requests)).count(["a"]) == 32
        assert kept.source.fetches == 1


@in_virtual_time
async def test_a_request_before_the_background_task_starts_the_first_fetch_itself() -> None:
    kept = Kept("a")
    assert await kept.ask("a") == ["a"]
    assert kept.source.fetches == 1


@in_virtual_time
async def test_there_are_first_keys_once_there_were_any_and_for_good() -> None:
    kept = Kept(outage_tolerance="1h")
    async with kept.running():
        await asyncio.sleep(10)
        assert not kept.cache.first_keys.is_set()
        kept.publish("a")
        await asyncio.wait_for(kept.cache.first_keys.wait(), 6)
        kept.go_down()
        await asyncio.sleep(2 * HOUR)
        assert kept.cache.current(kept.now()) is None
        assert kept.cache.first_keys.is_set()


@in_virtual_time
async def test_a_provider_that_is_down_at_the_start_is_asked_again_within_seconds_however_long_it_lasts() -> None:
    kept = Kept(min_refresh_interval="5m")
    async with kept.running():
        await asyncio.sleep(10 * HOUR)
        before = kept.source.fetches
        await asyncio.sleep(100)
        assert 18 <= kept.source.fetches - before <= 23


@in_virtual_time
async def test_while_there_never_were_keys_requests_cause_one_fetch_a_cool_down_and_hear_unavailable() -> None:
    kept = Kept(unknown_kid_cooldown="30s")
    assert [await kept.ask(f"kid {number}") for number in range(1000)] == [NoKey.UNAVAILABLE] * 1000
    assert kept.source.fetches == 1
    await asyncio.sleep(31)
    kept.publish("a")
    assert await kept.ask("a") == ["a"]
    assert kept.source.fetches == 2


# Outage.


@in_virtual_time
async def test_the_last_good_keys_serve_for_the_outage_tolerance_beyond_their_lifetime_and_no_longer() -> None:
    kept = Kept("a", lifetime=300.0, outage_tolerance="2h")
    async with kept.running():
        kept.go_down()
        await asyncio.sleep(2 * HOUR + 299)
        assert kept.find("a") == ["a"]
        assert kept.cache.current(kept.now()) is not None
        await asyncio.sleep(2)
        assert kept.cache.current(kept.now()) is None
        assert await kept.ask("a") is NoKey.UNAVAILABLE
        assert await kept.ask(None) is NoKey.UNAVAILABLE
        assert is_whole_second(kept.cache.retry_after(kept.now()))
        kept.publish("a")
        await asyncio.sleep(34)  # a delay that began while there were keys, then short ones
        assert kept.find("a") == ["a"]


@in_virtual_time
async def test_news_of_no_change_is_as_good_as_keys() -> None:
    kept = Kept("a", lifetime=300.0, outage_tolerance="0s")
    async with kept.running():
        for _ in range(100):
            await asyncio.sleep(MINUTE)
            assert kept.find("a") == ["a"]
        assert kept.metric("fetches_total", result="success") == 1
        assert kept.metric("fetches_total", result="not_modified") == kept.source.fetches - 1


@in_virtual_time
async def test_in_an_outage_the_delay_doubles_up_to_the_shortest_refresh_interval() -> None:
    kept = Kept("a", lifetime=100.0, min_refresh_interval="30s")
    async with kept.running():
        kept.go_down()
        await kept.source.wait_for_fetches(2)
        moments = []
        for fetches in range(3, 15):
            before = kept.now()
            await kept.source.wait_for_fetches(fetches)
            moments.append(kept.now() - before)
    for delay, expected in zip(moments, [1, 2, 4, 8, 16] + [30] * 7, strict=True):
        assert delay == pytest.approx(expected, rel=0.101)


@in_virtual_time
async def test_after_an_outage_the_delays_start_anew_and_an_unknown_kid_is_a_bad_one_again() -> None:
    kept = Kept("a", lifetime=100.0, unknown_kid_cooldown="1s")
    async with kept.running():
        for outage in range(3):
            kept.go_down()
            await asyncio.sleep(HOUR)
            assert await kept.ask(f"kid {outage}") is NoKey.UNAVAILABLE
            kept.publish("a")
            await asyncio.sleep(2 * MINUTE)
            assert await kept.ask(f"kid {outage}") is NoKey.ABSENT
            kept.go_down()
            before = kept.source.fetches
            await kept.source.wait_for_fetches(before + 1)
            failed = kept.now()
            await kept.source.wait_for_fetches(before + 2)
            assert kept.now() - failed == pytest.approx(1, rel=0.101)


@in_virtual_time
async def test_without_keys_again_after_a_long_outage_recovery_is_as_quick_as_at_the_start() -> None:
    kept = Kept("a", outage_tolerance="1h", min_refresh_interval="5m")
    async with kept.running():
        kept.go_down()
        await asyncio.sleep(10 * HOUR)
        kept.publish("b")
        await asyncio.sleep(6)
        assert kept.find("b") == ["b"]


@in_virtual_time
async def test_an_unexpected_fault_in_a_source_is_a_failure_and_does_not_end_refreshing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept("a")
    async with kept.running():
        kept.source.error = ZeroDivisionError("eyJhbGciOiJub25lIn0.secret")
        kept.publish("a", "b")
        await asyncio.sleep(HOUR)
        assert kept.find("a") == ["a"]
        kept.source.error = None
        await asyncio.sleep(MINUTE)
        assert kept.find("b") == ["b"]
    causes = {
        record.fields["cause"] for record in caplog.records if hasattr(record, "fields") and "cause" in record.fields
    }
    assert causes == {"unexpected ZeroDivisionError"}


# Unknown kids.


@in_virtual_time
async def test_an_unknown_kid_causes_a_fetch_and_is_found_when_it_was_published_meanwhile() -> None:
    kept = Kept("a")
    async with kept.running():
        await asyncio.sleep(MINUTE)
        kept.publish("a", "new")
        assert await kept.ask("new") == ["new"]
        assert kept.source.fetches == 2


@in_virtual_time
async def test_a_kid_that_proved_absent_causes_no_further_fetch_while_it_is_remembered() -> None:
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="1s", refresh_interval="5m")
    async with kept.running():
        assert await kept.ask("x") is NoKey.ABSENT
        assert kept.source.fetches == 2
        asked = []
        for second in range(600):
            await asyncio.sleep(1)
            before = kept.source.fetches
            assert await kept.ask("x") is NoKey.ABSENT
            asked += [second + 1] * (kept.source.fetches - before)
        # Believed absent for one cool-down, then for twice as long each time, at the longest for refresh_interval.
        assert asked == [1, 3, 7, 15, 31, 63, 127, 255, 511]


@in_virtual_time
async def test_a_key_that_was_asked_for_just_before_it_was_published_is_found_after_a_cooldown() -> None:
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with kept.running():
        assert await kept.ask("new") is NoKey.ABSENT
        kept.publish("a", "new")
        await asyncio.sleep(29)
        assert await kept.ask("new") is NoKey.ABSENT
        await asyncio.sleep(1)
        assert await kept.ask("new") == ["new"]


@in_virtual_time
async def test_a_kid_that_proved_absent_stays_so_when_another_one_causes_a_fetch() -> None:
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="1s", refresh_interval="5m")
    async with kept.running():
        for _ in range(50):
            for kid in ("x", "y", "z"):
                kept.source.ignore_validators()  # a provider without validators: every fetch brings the whole key set
                assert await kept.ask(kid) is NoKey.ABSENT
                await asyncio.sleep(1.5)
        assert kept.source.fetches <= 1 + 3 * 9  # each of them seldom and more seldom


@in_virtual_time
async def test_a_kid_that_proved_absent_is_found_as_soon_as_a_fetch_brings_it() -> None:
    kept = Kept("a", lifetime=60.0, refresh_interval="1h", max_refresh_interval="1h")
    async with kept.running():
        assert await kept.ask("late") is NoKey.ABSENT
        kept.publish("a", "late")
        await asyncio.sleep(MINUTE)
        assert kept.find("late") == ["late"]


@in_virtual_time
async def test_unknown_kids_cause_one_fetch_a_cool_down() -> None:
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with kept.running():
        for second in range(300):
            await kept.ask(f"kid {second}")
            await asyncio.sleep(1)
        assert kept.source.fetches == 1 + 10


@in_virtual_time
async def test_a_flood_of_ten_thousand_unknown_kids_is_one_fetch_and_good_keys_are_found_throughout() -> None:
    kept = Kept("a")
    async with kept.running():
        for number in range(10_000):
            assert await kept.ask(f"forged {number}") is NoKey.ABSENT
            assert kept.find("a") == ["a"]
        assert kept.source.fetches == 2
        assert kept.metric("unknown_kid_total") == 10_000


@in_virtual_time
async def test_a_flood_at_one_moment_while_the_provider_hangs_is_one_fetch_too() -> None:
    kept = Kept("a")
    async with kept.running():
        kept.source.pause()
        requests = [asyncio.create_task(kept.ask(f"forged {number}")) for number in range(10_000)]
        await settled()
        assert kept.find("a") == ["a"]
        kept.source.resume()
        found = await asyncio.gather(*requests)
        assert (found.count(NoKey.ABSENT), found.count(NoKey.UNAVAILABLE)) == (32, 9_968)
        assert kept.source.fetches == 2
        assert len(kept.cache._absent) == 32


@in_virtual_time
async def test_a_flood_does_not_keep_a_new_key_from_being_found() -> None:
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with kept.running():
        for number in range(2000):
            await kept.ask(f"forged {number}")
        kept.publish("a", "new")
        assert await kept.ask("new") is NoKey.ABSENT  # within the cool-down
        await asyncio.sleep(31)
        assert await kept.ask("forged again") is NoKey.ABSENT
        assert kept.find("new") == ["new"]


@in_virtual_time
async def test_a_refusal_within_the_cool_down_proves_nothing_about_a_kid() -> None:
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with kept.running():
        await kept.ask("x")
        assert await kept.ask("new") is NoKey.ABSENT
        kept.publish("a", "new")
        await asyncio.sleep(31)
        assert await kept.ask("new") == ["new"]


@in_virtual_time
async def test_within_the_cool_down_a_fetch_that_is_under_way_anyway_is_waited_for() -> None:
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with kept.running():
        await kept.ask("x")
        kept.publish("a", "new")
        kept.source.pause()
        under_way = asyncio.create_task(kept.cache.refresh())
        await kept.source.fetch_started.wait()
        asking = asyncio.create_task(kept.ask("new"))
        await settled()
        kept.source.resume()
        assert await asking == ["new"]
        await under_way
        assert kept.source.fetches == 3


@in_virtual_time
async def test_waiting_for_a_fetch_that_was_under_way_anyway_starts_no_cool_down() -> None:
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    kept.source.pause()
    async with kept.running():
        asking = asyncio.create_task(kept.ask("x"))
        await settled()
        kept.source.resume()
        assert await asking is NoKey.ABSENT
        kept.publish("a", "new")
        assert await kept.ask("new") == ["new"]
        assert kept.source.fetches == 2


@in_virtual_time
async def test_a_fetch_that_ended_before_a_request_came_to_wait_for_it_is_followed_by_no_other() -> None:
    """A request is answered where it was read, and waits in a task that begins later."""
    kept = Kept("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with kept.running():
        kept.source.pause()
        asking = asyncio.create_task(kept.ask("new"))
        await settled()
        kept.publish("a", "new")
        assert [kept.find(kid) for kid in ("new", "forged")] == [NoKey.FETCH] * 2
        kept.source.resume()
        assert await asking == ["new"]
        await kept.cache.refresh_for_request()
        assert kept.source.fetches == 2
        assert [kept.find(kid, may_fetch=False) for kid in ("new", "forged")] == [["new"], NoKey.ABSENT]


@in_virtual_time
async def test_of_requests_that_come_together_no_more_wait_than_of_those_that_come_one_by_one() -> None:
    kept = Kept("a", lifetime=HOUR)
    async with kept.running():
        kept.source.pause()
        assert {kept.find(f"k{number}") for number in range(100)} == {NoKey.FETCH}
        waiting = [asyncio.create_task(kept.cache.refresh_for_request()) for _ in range(100)]
        await settled()
        assert sum(not each.done() for each in waiting) == 32
        assert kept.find("k99", may_fetch=False) is NoKey.UNAVAILABLE  # nobody can tell yet
        kept.publish("a", "k99")
        kept.source.resume()
        await asyncio.gather(*waiting)
        assert kept.find("k99") == ["k99"]
        assert kept.source.fetches == 2


@in_virtual_time
async def test_a_kid_too_long_to_be_one_is_absent_without_a_fetch() -> None:
    kept = Kept("a")
    async with kept.running():
        assert kept.find("x" * 257) is NoKey.ABSENT
        assert kept.find("x" * 256) is NoKey.FETCH
        assert kept.source.fetches == 1


@in_virtual_time
async def test_while_the_provider_is_down_an_unknown_kid_is_nobodys_bad_token() -> None:
    kept = Kept("a")
    async with kept.running():
        assert await kept.ask("absent") is NoKey.ABSENT
        kept.go_down()
        await asyncio.sleep(10 * MINUTE)
        assert await kept.ask("new") is NoKey.UNAVAILABLE
        assert await kept.ask("new") is NoKey.UNAVAILABLE
        assert is_whole_second(kept.cache.retry_after(kept.now()))
        assert await kept.ask("a") == ["a"]
        kept.publish("a", "new")
        await asyncio.sleep(MINUTE)
        assert await kept.ask("new") == ["new"]


@in_virtual_time
async def test_an_unknown_kid_is_counted_once_a_request() -> None:
    kept = Kept("a")
    async with kept.running():
        await kept.ask("x")
        await kept.ask("y")
        await kept.ask("a")
        await kept.ask(None)
        assert kept.metric("unknown_kid_total") == 2


# Waiting, and being left.


@in_virtual_time
async def test_a_request_that_stops_waiting_does_not_take_the_fetch_from_the_others() -> None:
    kept = Kept("a")
    kept.source.pause()
    impatient, patient = (asyncio.create_task(kept.ask("a")) for _ in range(2))
    await settled()
    impatient.cancel()
    await asyncio.wait([impatient])
    assert impatient.cancelled()
    kept.source.resume()
    assert await patient == ["a"]
    assert kept.source.fetches == 1


@in_virtual_time
async def test_a_request_that_waits_when_the_cache_is_closed_is_answered_and_not_cancelled() -> None:
    kept = Kept("a")
    kept.source.pause()
    async with kept.running():
        request = asyncio.create_task(kept.ask("a"))
        await settled()
    assert await request is NoKey.UNAVAILABLE
    assert is_whole_second(kept.cache.retry_after(kept.now()))


@pytest.mark.parametrize("when", ["before it ran", "in a fetch", "between fetches", "in a pause after a failure"])
@in_virtual_time
async def test_cancelling_the_background_task_ends_its_fetch_and_closes_the_source(when: str) -> None:
    kept = Kept() if when == "in a pause after a failure" else Kept("a")
    if when == "in a fetch":
        kept.source.pause()
    task = asyncio.create_task(kept.cache.run())
    if when != "before it ran":
        await settled()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert kept.source.closed == (when != "before it ran")


@in_virtual_time
async def test_after_a_request_has_to_wait_it_is_told_when_to_come_back_in_whole_seconds() -> None:
    kept = Kept(refresh_interval="100ms", min_refresh_interval="10ms")
    assert is_whole_second(kept.cache.retry_after(kept.now()))
    await kept.ask("a")
    assert kept.cache.retry_after(kept.now()) == 1
    slow = Kept("a", lifetime=HOUR, refresh_interval="5m")
    await slow.ask("a")
    assert slow.cache.retry_after(slow.now()) == 300
    assert slow.cache.retry_after(slow.now() + 10 * HOUR) == 1
    assert slow.cache.retry_after(-math.inf) == 300


# Telling.


@in_virtual_time
async def test_metrics_tell_of_each_fetch_and_of_what_there_is() -> None:
    kept = Kept("a", "b", lifetime=300.0)
    async with kept.running():
        started = kept.now()
        assert kept.metric("keys") == 2
        assert kept.metric("last_success_timestamp_seconds") == started
        kept.publish("a")
        await asyncio.sleep(5 * MINUTE)
        assert kept.metric("keys") == 1
        assert kept.metric("fetches_total", result="success") == 2
        kept.go_down()
        await asyncio.sleep(5 * MINUTE)
        failures = kept.metric("fetches_total", result="failure")
        assert failures is not None
        assert failures > 0
        assert kept.metric("fetch_duration_seconds_count") == kept.source.fetches
        assert kept.metric("keys") == 1


@in_virtual_time
async def test_the_log_tells_of_new_keys_once_and_of_trouble_and_of_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept = Kept("a")
    async with kept.running():
        kept.source.ignore_validators()  # the same keys again, in full
        await asyncio.sleep(6 * MINUTE)
        assert [record.message for record in caplog.records] == ["new keys", KeyState.FRESH.value]
        caplog.clear()
        kept.go_down()
        await asyncio.sleep(6 * MINUTE)
        kept.publish("a")
        await asyncio.sleep(MINUTE)
        told = [record.message for record in caplog.records if record.message != "fetching keys failed"]
        assert told == [KeyState.STALE.value, KeyState.FRESH.value]


@in_virtual_time
async def test_log_and_metrics_tell_that_stale_keys_serve_since_when_and_until_when(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept = Kept("a", lifetime=300.0, outage_tolerance="1h")
    assert (kept.metric("stale"), kept.metric("age_seconds")) == (1, math.inf)
    assert kept.metric("usable_until_timestamp_seconds") == 0
    async with kept.running():
        fetched = kept.now()
        assert (kept.metric("stale"), kept.metric("age_seconds")) == (0, 0)
        kept.go_down()
        await asyncio.sleep(299)
        assert kept.metric("stale") == 0
        await asyncio.sleep(2)
        assert (kept.metric("stale"), kept.metric("age_seconds")) == (1, 301)
        assert kept.metric("usable_until_timestamp_seconds") == fetched + 300 + HOUR
        await asyncio.sleep(MINUTE)
        (stale,) = (record for record in caplog.records if record.message == KeyState.STALE.value)
        assert stale.__dict__["fields"] == {
            "issuer": "main",
            "state": "stale",
            "fetched": "2027-01-15T08:00:00+00:00",
            "stale_since": "2027-01-15T08:05:00+00:00",
            "usable_until": "2027-01-15T09:05:00+00:00",
        }
        assert kept.find("a") == ["a"]
        await asyncio.sleep(HOUR)
        assert [record.message for record in caplog.records].count(KeyState.NONE.value) == 1
        assert kept.find("a", may_fetch=False) is NoKey.UNAVAILABLE
        assert kept.metric("stale") == 1


@in_virtual_time
async def test_a_provider_that_asks_to_be_left_alone_is_not_even_asked_for_an_unknown_kid() -> None:
    kept = Kept("a", lifetime=300.0, unknown_kid_cooldown="1s")
    async with kept.running():
        kept.go_down()
        kept.source.retry_after = 600.0
        assert await kept.ask("x") is NoKey.UNAVAILABLE
        fetches = kept.source.fetches
        for _ in range(100):
            await asyncio.sleep(5)
            assert await kept.ask("x") is NoKey.UNAVAILABLE
        assert kept.source.fetches == fetches


@in_virtual_time
async def test_without_keys_a_provider_that_asks_to_be_left_alone_is_asked_all_the_same() -> None:
    kept = Kept(min_refresh_interval="30s")
    kept.source.retry_after = HOUR
    async with kept.running():
        assert await kept.ask("a") is NoKey.UNAVAILABLE
        fetches = kept.source.fetches
        await asyncio.sleep(25)
        assert kept.source.fetches == fetches
        kept.publish("a")
        await asyncio.sleep(10)
        assert kept.find("a") == ["a"]


@in_virtual_time
async def test_many_issuers_do_not_refresh_all_at_once() -> None:
    issuers = [Kept("a", lifetime=300.0) for _ in range(100)]
    async with contextlib.AsyncExitStack() as stack:
        for kept in issuers:
            await stack.enter_async_context(kept.running())
        most = 0
        for _ in range(1000):
            before = sum(kept.source.fetches for kept in issuers)
            await asyncio.sleep(1)
            most = max(most, sum(kept.source.fetches for kept in issuers) - before)
        assert most < 15  # of a hundred, in any one second


# On disk. Threads write and read here, so time is the real one, and only the clock on the wall is set.


async def test_a_restart_in_an_outage_goes_on_with_the_keys_of_the_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    before = Kept("a", snapshot=path)
    async with before.running():
        await written(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == ["keys.json"]
    after = Kept(snapshot=path, outage_tolerance="1h")
    async with after.running():
        await asyncio.wait_for(after.cache.first_keys.wait(), 30)
        assert after.find("a") == ["a"]
        after.clock_error = 10 * MINUTE
        assert after.metric("stale") == 1
        assert after.find("a") == ["a"]
        after.clock_error = 2 * HOUR
        assert after.find("a", may_fetch=False) is NoKey.UNAVAILABLE


@pytest.mark.parametrize("error", [26 * HOUR, -HOUR])
async def test_a_snapshot_whose_time_has_passed_or_has_not_come_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: float
) -> None:
    path = tmp_path / "keys.json"
    before = Kept("a", snapshot=path)
    async with before.running():
        await written(path)
    after = Kept(snapshot=path, outage_tolerance="24h")
    after.clock_error = error
    async with after.running():
        await after.source.wait_for_fetches(1)
        assert not after.cache.first_keys.is_set()
        assert "snapshot refused" in [record.message for record in caplog.records]


async def test_a_snapshot_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept("a", snapshot=tmp_path / "gone" / "keys.json")
    async with kept.running():
        await until(lambda: "snapshot not written" in [record.message for record in caplog.records])
        assert kept.find("a") == ["a"]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def written(path: Path) -> None:
    """Wait until the thread that writes has written."""
    await until(path.exists)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what a thread of the code under test does sets no event
            await asyncio.sleep(0.01)


# The clock on the wall.


@pytest.mark.parametrize("hours", [-10_000, -1, 1, 1000])
@in_virtual_time
async def test_keys_are_kept_fresh_and_found_when_the_clock_is_set(hours: int) -> None:
    kept = Kept("a", outage_tolerance="24h")
    async with kept.running():
        kept.clock_error = hours * HOUR
        assert await kept.ask("a") == ["a"]
        kept.publish("b")
        await asyncio.sleep(6 * MINUTE)
        assert kept.find("b") == ["b"]


# All together.

_EVENTS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.1, 400)),
    st.tuples(st.just("publish"), st.sets(st.sampled_from("abc"), min_size=1)),
    st.tuples(st.just("go down"), st.none()),
    st.tuples(st.just("break"), st.none()),
    st.tuples(st.just("ask"), st.sampled_from(["a", "b", "c", "x", "y", None])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_EVENTS, min_size=10, max_size=60))
def test_whatever_happens_good_keys_are_found_without_waiting_and_the_provider_is_asked_seldom(
    events: list[tuple[str, Any]],
) -> None:
    live_through(events)


@in_virtual_time
async def live_through(events: list[tuple[str, Any]]) -> None:
    kept = Kept("a", lifetime=100.0, outage_tolerance="10m", unknown_kid_cooldown="30s")
    asked_by_requests: list[float] = []
    async with kept.running():
        for event, value in events:
            match event:
                case "pass":
                    await asyncio.sleep(value)
                case "publish":
                    kept.publish(*sorted(value))
                case "go down":
                    kept.go_down()
                case "break":
                    kept.source.published = b"<html></html>"
                case "ask":
                    have = kept.cache.current(kept.now())
                    good = have is not None and (value is None or any(key.kid == value for key in have.keys))
                    before = kept.source.fetches
                    found = await kept.ask(value)
                    if good:
                        assert isinstance(found, list)
                        assert kept.source.fetches == before
                    if kept.source.fetches > before:
                        asked_by_requests.append(kept.now())
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked_by_requests)]
    assert all(gap >= 30 for gap in gaps)
