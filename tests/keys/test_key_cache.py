"""Keys are refreshed ahead of need and kept through failures, and requests cause few fetches whatever they contain."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
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
from support.key_source import FakeSource, jwk, jwks
from support.samples import sample_value
from support.virtual_time import in_virtual_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

EPOCH = 1_800_000_000.0
MINUTE = 60.0
HOUR = 3600.0


class Scenario:
    """A key cache over a fake source, in virtual time."""

    def __init__(self, *published: str, lifetime: float = 300.0, snapshot: Path | None = None, **keys: Any) -> None:
        self.source = FakeSource(jwks(*published) if published else None, lifetime=lifetime)
        self.clock_error = 0.0
        self._metrics = Metrics(transport="grpcio")
        self.cache = KeyCache(
            self.source,
            Keys.read({"jwks_uri": "https://issuer.example/keys"} | keys),
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
        """With the background task running."""
        task = asyncio.create_task(self.cache.run())
        await run_ready_tasks()
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def find(self, kid: str | None, *, may_fetch: bool = True) -> list[str | None] | NoKey:
        found = self.cache.find(kid, self.now(), may_fetch=may_fetch)
        return found if isinstance(found, NoKey) else [key.kid for key in found]

    async def request(self, kid: str | None) -> list[str | None] | NoKey:
        """Do what a request does: find a key, and if there is none, wait for a fetch and find it again."""
        found = self.find(kid)
        if found is NoKey.FETCH:
            await self.cache.refresh_for_request()
            found = self.find(kid, may_fetch=False)
            assert found is not NoKey.FETCH
        return found

    def publish(self, *kids: str) -> None:
        self.source.published = jwks(*kids)

    def make_unreachable(self) -> None:
        self.source.published = None

    def metric(self, name: str, **labels: str) -> float | None:
        return sample_value(self._metrics, f"authz_jwks_{name}", {"issuer": "main"} | labels)


async def run_ready_tasks() -> None:
    """Let every task run as far as it can without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


def is_whole_second(seconds: object) -> bool:
    return isinstance(seconds, int) and seconds >= 1


# Known keys.


@in_virtual_time
async def test_a_known_key_is_found_by_its_kid_and_all_keys_without_one() -> None:
    scenario = Scenario("a", "b")
    async with scenario.running():
        assert scenario.find("a") == ["a"]
        assert scenario.find(None) == ["a", "b"]


@in_virtual_time
async def test_a_known_key_is_found_at_once_while_a_fetch_hangs() -> None:
    scenario = Scenario("a")
    async with scenario.running():
        scenario.source.pause()
        await asyncio.sleep(HOUR)
        assert scenario.source.fetch_started.is_set()
        assert scenario.find("a") == ["a"]
        assert scenario.find(None) == ["a"]


@in_virtual_time
async def test_keys_are_refreshed_before_their_lifetime_ends() -> None:
    scenario = Scenario("a", lifetime=1000.0)
    async with scenario.running():
        assert scenario.source.fetches == 1
        await asyncio.sleep(599)
        assert scenario.source.fetches == 1
        await asyncio.sleep(302)
        assert scenario.source.fetches == 2


@in_virtual_time
async def test_sidecars_that_start_together_do_not_refresh_at_the_same_time() -> None:
    many = [Scenario("a", lifetime=1000.0) for _ in range(20)]
    async with contextlib.AsyncExitStack() as stack:
        for scenario in many:
            await stack.enter_async_context(scenario.running())
        await asyncio.sleep(800)
        assert 0 < sum(scenario.source.fetches - 1 for scenario in many) < 20


@in_virtual_time
async def test_a_changed_lifetime_takes_effect_at_the_next_fetch() -> None:
    scenario = Scenario("a", lifetime=1000.0)
    async with scenario.running():
        scenario.source.lifetime = 10.0
        await asyncio.sleep(900)
        before = scenario.source.fetches
        await asyncio.sleep(100)
        assert scenario.source.fetches - before >= 10


@in_virtual_time
async def test_added_and_removed_keys_take_effect_at_the_next_fetch() -> None:
    scenario = Scenario("old")
    async with scenario.running():
        scenario.publish("old", "new")
        await asyncio.sleep(6 * MINUTE)
        assert scenario.find("new") == ["new"]
        scenario.publish("new")
        await asyncio.sleep(6 * MINUTE)
        assert await scenario.request("old") is NoKey.ABSENT
        key_set = scenario.cache.current(scenario.now())
        assert key_set is not None
        assert [key.kid for key in key_set.keys] == ["new"]


@in_virtual_time
async def test_a_published_set_without_a_usable_key_removes_no_key() -> None:
    scenario = Scenario("a")
    async with scenario.running():
        for broken in (b"", b'{"keys": []}', b"<html></html>"):
            scenario.source.published = broken
            await asyncio.sleep(10 * MINUTE)
            assert scenario.find("a") == ["a"]


# Before the first keys.


@in_virtual_time
async def test_before_the_first_keys_a_bounded_number_of_requests_waits_for_one_fetch() -> None:
    scenario = Scenario("a")
    scenario.source.pause()
    async with scenario.running():
        requests = [asyncio.create_task(scenario.request("a")) for _ in range(1000)]
        await run_ready_tasks()
        assert [request.result() for request in requests if request.done()] == [NoKey.UNAVAILABLE] * 968
        scenario.source.resume()
        assert (await asyncio.gather(*requests)).count(["a"]) == 32
        assert scenario.source.fetches == 1


@in_virtual_time
async def test_a_request_before_the_background_task_starts_the_first_fetch() -> None:
    scenario = Scenario("a")
    assert await scenario.request("a") == ["a"]
    assert scenario.source.fetches == 1


@in_virtual_time
async def test_first_keys_is_set_by_the_first_keys_and_stays_set() -> None:
    scenario = Scenario(outage_tolerance="1h")
    async with scenario.running():
        await asyncio.sleep(10)
        assert not scenario.cache.first_keys.is_set()
        scenario.publish("a")
        await asyncio.wait_for(scenario.cache.first_keys.wait(), 6)
        scenario.make_unreachable()
        await asyncio.sleep(2 * HOUR)
        assert scenario.cache.current(scenario.now()) is None
        assert scenario.cache.first_keys.is_set()


@in_virtual_time
async def test_without_keys_fetches_are_retried_within_seconds_however_long_the_outage() -> None:
    scenario = Scenario(min_refresh_interval="5m")
    async with scenario.running():
        await asyncio.sleep(10 * HOUR)
        before = scenario.source.fetches
        await asyncio.sleep(100)
        assert 18 <= scenario.source.fetches - before <= 23


@in_virtual_time
async def test_before_the_first_keys_requests_cause_one_fetch_per_cooldown_and_are_unavailable() -> None:
    scenario = Scenario(unknown_kid_cooldown="30s")
    assert [await scenario.request(f"kid {number}") for number in range(1000)] == [NoKey.UNAVAILABLE] * 1000
    assert scenario.source.fetches == 1
    await asyncio.sleep(31)
    scenario.publish("a")
    assert await scenario.request("a") == ["a"]
    assert scenario.source.fetches == 2


# Outage.


@in_virtual_time
async def test_the_last_good_keys_are_used_for_outage_tolerance_beyond_their_lifetime_and_no_longer() -> None:
    scenario = Scenario("a", lifetime=300.0, outage_tolerance="2h")
    async with scenario.running():
        scenario.make_unreachable()
        await asyncio.sleep(2 * HOUR + 299)
        assert scenario.find("a") == ["a"]
        assert scenario.cache.current(scenario.now()) is not None
        await asyncio.sleep(2)
        assert scenario.cache.current(scenario.now()) is None
        assert await scenario.request("a") is NoKey.UNAVAILABLE
        assert await scenario.request(None) is NoKey.UNAVAILABLE
        assert is_whole_second(scenario.cache.retry_after(scenario.now()))
        scenario.publish("a")
        await asyncio.sleep(34)  # one delay that began while there were keys, then short ones
        assert scenario.find("a") == ["a"]


@in_virtual_time
async def test_a_fetch_that_is_not_modified_renews_the_keys() -> None:
    scenario = Scenario("a", lifetime=300.0, outage_tolerance="0s")
    async with scenario.running():
        for _ in range(100):
            await asyncio.sleep(MINUTE)
            assert scenario.find("a") == ["a"]
        assert scenario.metric("fetches_total", result="success") == 1
        assert scenario.metric("fetches_total", result="not_modified") == scenario.source.fetches - 1


@in_virtual_time
async def test_in_an_outage_the_delay_doubles_up_to_min_refresh_interval() -> None:
    scenario = Scenario("a", lifetime=100.0, min_refresh_interval="30s")
    async with scenario.running():
        scenario.make_unreachable()
        await scenario.source.wait_for_fetches(2)
        delays = []
        for fetches in range(3, 15):
            before = scenario.now()
            await scenario.source.wait_for_fetches(fetches)
            delays.append(scenario.now() - before)
    for delay, expected in zip(delays, [1, 2, 4, 8, 16] + [30] * 7, strict=True):
        assert delay == pytest.approx(expected, rel=0.101)


@in_virtual_time
async def test_after_an_outage_the_delays_start_over_and_an_unknown_kid_is_absent_again() -> None:
    scenario = Scenario("a", lifetime=100.0, unknown_kid_cooldown="1s")
    async with scenario.running():
        for outage in range(3):
            scenario.make_unreachable()
            await asyncio.sleep(HOUR)
            assert await scenario.request(f"kid {outage}") is NoKey.UNAVAILABLE
            scenario.publish("a")
            await asyncio.sleep(2 * MINUTE)
            assert await scenario.request(f"kid {outage}") is NoKey.ABSENT
            scenario.make_unreachable()
            before = scenario.source.fetches
            await scenario.source.wait_for_fetches(before + 1)
            failed_at = scenario.now()
            await scenario.source.wait_for_fetches(before + 2)
            assert scenario.now() - failed_at == pytest.approx(1, rel=0.101)


@in_virtual_time
async def test_recovery_after_the_outage_tolerance_is_as_quick_as_at_the_start() -> None:
    scenario = Scenario("a", outage_tolerance="1h", min_refresh_interval="5m")
    async with scenario.running():
        scenario.make_unreachable()
        await asyncio.sleep(10 * HOUR)
        scenario.publish("b")
        await asyncio.sleep(6)
        assert scenario.find("b") == ["b"]


@in_virtual_time
async def test_an_unexpected_error_in_a_source_is_a_failed_fetch_and_does_not_end_refreshing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scenario = Scenario("a")
    async with scenario.running():
        scenario.source.error = ZeroDivisionError("eyJhbGciOiJub25lIn0.secret")
        scenario.publish("a", "b")
        await asyncio.sleep(HOUR)
        assert scenario.find("a") == ["a"]
        scenario.source.error = None
        await asyncio.sleep(MINUTE)
        assert scenario.find("b") == ["b"]
    causes = {
        record.fields["cause"] for record in caplog.records if hasattr(record, "fields") and "cause" in record.fields
    }
    assert causes == {"unexpected ZeroDivisionError"}


# Unknown kids.


@in_virtual_time
async def test_an_unknown_kid_causes_a_fetch_and_is_found_if_it_has_been_published() -> None:
    scenario = Scenario("a")
    async with scenario.running():
        await asyncio.sleep(MINUTE)
        scenario.publish("a", "new")
        assert await scenario.request("new") == ["new"]
        assert scenario.source.fetches == 2


@in_virtual_time
async def test_an_absent_kid_causes_fetches_ever_more_seldom() -> None:
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="1s", refresh_interval="5m")
    async with scenario.running():
        assert await scenario.request("x") is NoKey.ABSENT
        assert scenario.source.fetches == 2
        fetches_at = []
        for second in range(600):
            await asyncio.sleep(1)
            before = scenario.source.fetches
            assert await scenario.request("x") is NoKey.ABSENT
            fetches_at += [second + 1] * (scenario.source.fetches - before)
        # Absent for one cooldown at first, then for twice as long each time, and at most for refresh_interval.
        assert fetches_at == [1, 3, 7, 15, 31, 63, 127, 255, 511]


@in_virtual_time
async def test_a_kid_that_is_requested_just_before_it_is_published_is_found_after_a_cooldown() -> None:
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with scenario.running():
        assert await scenario.request("new") is NoKey.ABSENT
        scenario.publish("a", "new")
        await asyncio.sleep(29)
        assert await scenario.request("new") is NoKey.ABSENT
        await asyncio.sleep(1)
        assert await scenario.request("new") == ["new"]


@in_virtual_time
async def test_an_absent_kid_stays_absent_when_another_one_causes_a_fetch() -> None:
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="1s", refresh_interval="5m")
    async with scenario.running():
        for _ in range(50):
            for kid in ("x", "y", "z"):
                scenario.source.ignore_validators()  # every fetch brings the whole key set
                assert await scenario.request(kid) is NoKey.ABSENT
                await asyncio.sleep(1.5)
        assert scenario.source.fetches <= 1 + 3 * 9  # each of them ever more seldom


@in_virtual_time
async def test_an_absent_kid_is_found_as_soon_as_a_fetch_brings_it() -> None:
    scenario = Scenario("a", lifetime=60.0, refresh_interval="1h", max_refresh_interval="1h")
    async with scenario.running():
        assert await scenario.request("late") is NoKey.ABSENT
        scenario.publish("a", "late")
        await asyncio.sleep(MINUTE)
        assert scenario.find("late") == ["late"]


@in_virtual_time
async def test_unknown_kids_cause_one_fetch_per_cooldown() -> None:
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with scenario.running():
        for second in range(300):
            await scenario.request(f"kid {second}")
            await asyncio.sleep(1)
        assert scenario.source.fetches == 1 + 10


@in_virtual_time
async def test_ten_thousand_unknown_kids_cause_one_fetch_and_known_keys_are_found_throughout() -> None:
    scenario = Scenario("a")
    async with scenario.running():
        for number in range(10_000):
            assert await scenario.request(f"forged {number}") is NoKey.ABSENT
            assert scenario.find("a") == ["a"]
        assert scenario.source.fetches == 2
        assert scenario.metric("unknown_kid_total") == 10_000


@in_virtual_time
async def test_concurrent_unknown_kids_cause_one_fetch_while_the_provider_hangs() -> None:
    scenario = Scenario("a")
    async with scenario.running():
        scenario.source.pause()
        requests = [asyncio.create_task(scenario.request(f"forged {number}")) for number in range(10_000)]
        await run_ready_tasks()
        assert scenario.find("a") == ["a"]
        scenario.source.resume()
        found = await asyncio.gather(*requests)
        assert (found.count(NoKey.ABSENT), found.count(NoKey.UNAVAILABLE)) == (32, 9_968)
        assert scenario.source.fetches == 2
        assert len(scenario.cache._absent) == 32


@in_virtual_time
async def test_unknown_kids_do_not_prevent_a_new_key_from_being_found() -> None:
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with scenario.running():
        for number in range(2000):
            await scenario.request(f"forged {number}")
        scenario.publish("a", "new")
        assert await scenario.request("new") is NoKey.ABSENT  # within the cooldown
        await asyncio.sleep(31)
        assert await scenario.request("forged again") is NoKey.ABSENT
        assert scenario.find("new") == ["new"]


@in_virtual_time
async def test_a_kid_without_a_fetch_during_the_cooldown_does_not_count_as_absent() -> None:
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with scenario.running():
        await scenario.request("x")
        assert await scenario.request("new") is NoKey.ABSENT
        scenario.publish("a", "new")
        await asyncio.sleep(31)
        assert await scenario.request("new") == ["new"]


@in_virtual_time
async def test_during_the_cooldown_a_request_waits_for_a_fetch_in_flight() -> None:
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with scenario.running():
        await scenario.request("x")
        scenario.publish("a", "new")
        scenario.source.pause()
        in_flight = asyncio.create_task(scenario.cache.refresh())
        await scenario.source.fetch_started.wait()
        request = asyncio.create_task(scenario.request("new"))
        await run_ready_tasks()
        scenario.source.resume()
        assert await request == ["new"]
        await in_flight
        assert scenario.source.fetches == 3


@in_virtual_time
async def test_waiting_for_a_fetch_in_flight_starts_no_cooldown() -> None:
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    scenario.source.pause()
    async with scenario.running():
        request = asyncio.create_task(scenario.request("x"))
        await run_ready_tasks()
        scenario.source.resume()
        assert await request is NoKey.ABSENT
        scenario.publish("a", "new")
        assert await scenario.request("new") == ["new"]
        assert scenario.source.fetches == 2


@in_virtual_time
async def test_a_fetch_that_ends_before_a_request_waits_for_it_is_not_repeated() -> None:
    """``find`` runs where the request is read; the request waits in a task that begins later."""
    scenario = Scenario("a", lifetime=HOUR, unknown_kid_cooldown="30s")
    async with scenario.running():
        scenario.source.pause()
        request = asyncio.create_task(scenario.request("new"))
        await run_ready_tasks()
        scenario.publish("a", "new")
        assert [scenario.find(kid) for kid in ("new", "forged")] == [NoKey.FETCH] * 2
        scenario.source.resume()
        assert await request == ["new"]
        await scenario.cache.refresh_for_request()
        assert scenario.source.fetches == 2
        assert [scenario.find(kid, may_fetch=False) for kid in ("new", "forged")] == [["new"], NoKey.ABSENT]


@in_virtual_time
async def test_concurrent_requests_do_not_exceed_the_number_that_may_wait() -> None:
    scenario = Scenario("a", lifetime=HOUR)
    async with scenario.running():
        scenario.source.pause()
        assert {scenario.find(f"k{number}") for number in range(100)} == {NoKey.FETCH}
        waiting = [asyncio.create_task(scenario.cache.refresh_for_request()) for _ in range(100)]
        await run_ready_tasks()
        assert sum(not each.done() for each in waiting) == 32
        assert scenario.find("k99", may_fetch=False) is NoKey.UNAVAILABLE  # the fetch is still in flight
        scenario.publish("a", "k99")
        scenario.source.resume()
        await asyncio.gather(*waiting)
        assert scenario.find("k99") == ["k99"]
        assert scenario.source.fetches == 2


@in_virtual_time
async def test_a_kid_that_is_too_long_is_absent_without_a_fetch() -> None:
    scenario = Scenario("a")
    async with scenario.running():
        assert scenario.find("x" * 257) is NoKey.ABSENT
        assert scenario.find("x" * 256) is NoKey.FETCH
        assert scenario.source.fetches == 1


@in_virtual_time
async def test_while_the_provider_is_unreachable_an_unknown_kid_is_unavailable_not_absent() -> None:
    scenario = Scenario("a")
    async with scenario.running():
        assert await scenario.request("absent") is NoKey.ABSENT
        scenario.make_unreachable()
        await asyncio.sleep(10 * MINUTE)
        assert await scenario.request("new") is NoKey.UNAVAILABLE
        assert await scenario.request("new") is NoKey.UNAVAILABLE
        assert is_whole_second(scenario.cache.retry_after(scenario.now()))
        assert await scenario.request("a") == ["a"]
        scenario.publish("a", "new")
        await asyncio.sleep(MINUTE)
        assert await scenario.request("new") == ["new"]


@in_virtual_time
async def test_an_unknown_kid_is_counted_once_per_request() -> None:
    scenario = Scenario("a")
    async with scenario.running():
        await scenario.request("x")
        await scenario.request("y")
        await scenario.request("a")
        await scenario.request(None)
        assert scenario.metric("unknown_kid_total") == 2


# Cancellation and closing.


@in_virtual_time
async def test_a_cancelled_request_does_not_cancel_the_fetch() -> None:
    scenario = Scenario("a")
    scenario.source.pause()
    cancelled, waiting = (asyncio.create_task(scenario.request("a")) for _ in range(2))
    await run_ready_tasks()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
    scenario.source.resume()
    assert await waiting == ["a"]
    assert scenario.source.fetches == 1


@in_virtual_time
async def test_a_waiting_request_gets_unavailable_when_the_background_task_ends() -> None:
    scenario = Scenario("a")
    scenario.source.pause()
    async with scenario.running():
        request = asyncio.create_task(scenario.request("a"))
        await run_ready_tasks()
    assert await request is NoKey.UNAVAILABLE
    assert is_whole_second(scenario.cache.retry_after(scenario.now()))


@pytest.mark.parametrize("when", ["before it ran", "in a fetch", "between fetches", "in a backoff"])
@in_virtual_time
async def test_cancelling_the_background_task_ends_its_fetch_and_closes_the_source(when: str) -> None:
    scenario = Scenario() if when == "in a backoff" else Scenario("a")
    if when == "in a fetch":
        scenario.source.pause()
    task = asyncio.create_task(scenario.cache.run())
    if when != "before it ran":
        await run_ready_tasks()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert scenario.source.closed == (when != "before it ran")


@in_virtual_time
async def test_retry_after_is_the_time_of_the_next_fetch_in_whole_seconds() -> None:
    scenario = Scenario(refresh_interval="100ms", min_refresh_interval="10ms")
    assert is_whole_second(scenario.cache.retry_after(scenario.now()))
    await scenario.request("a")
    assert scenario.cache.retry_after(scenario.now()) == 1
    slow = Scenario("a", lifetime=HOUR, refresh_interval="5m")
    await slow.request("a")
    assert slow.cache.retry_after(slow.now()) == 300
    assert slow.cache.retry_after(slow.now() + 10 * HOUR) == 1
    assert slow.cache.retry_after(-math.inf) == 300


# Metrics and log.


@in_virtual_time
async def test_metrics_count_fetches_and_keys() -> None:
    scenario = Scenario("a", "b", lifetime=300.0)
    async with scenario.running():
        started = scenario.now()
        assert scenario.metric("keys") == 2
        assert scenario.metric("last_success_timestamp_seconds") == started
        scenario.publish("a")
        await asyncio.sleep(5 * MINUTE)
        assert scenario.metric("keys") == 1
        assert scenario.metric("fetches_total", result="success") == 2
        scenario.make_unreachable()
        await asyncio.sleep(5 * MINUTE)
        failures = scenario.metric("fetches_total", result="failure")
        assert failures is not None
        assert failures > 0
        assert scenario.metric("fetch_duration_seconds_count") == scenario.source.fetches
        assert scenario.metric("keys") == 1


@in_virtual_time
async def test_each_unusable_key_is_logged_once_and_again_only_when_it_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    scenario = Scenario("a")

    for_encryption = jwk("e") | {"use": "enc"}
    broken = jwk("x" * 1000) | {"y": "AA"}
    logged = []
    for entries in (
        (for_encryption, broken), (broken, for_encryption), (for_encryption | {"use": "wrap"},), (), (for_encryption,)
    ):  # fmt: skip
        caplog.clear()
        scenario.source.published = json.dumps({"keys": [jwk("a"), *entries]}).encode()
        await scenario.cache.refresh()
        logged.append([vars(record)["fields"] for record in caplog.records if record.message == "unusable key"])
    first, reordered, changed, absent, again = logged
    assert [each["cause"][:10] for each in first] == ["key 'e': i", "key 'xxxxx"]
    assert first[0] == {"issuer": "main", "cause": "key 'e': its use is 'enc', not 'sig'"}
    assert len(first[1]["cause"]) < 200
    assert first[1]["cause"].endswith(": x and y are not a point on P-256")
    assert not reordered
    assert [each["cause"] for each in changed] == ["key 'e': its use is 'wrap', not 'sig'"]
    assert not absent
    assert again == first[:1]


@in_virtual_time
async def test_new_keys_and_the_begin_and_end_of_an_outage_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scenario = Scenario("a")
    async with scenario.running():
        scenario.source.ignore_validators()  # the same keys again, in full
        await asyncio.sleep(6 * MINUTE)
        assert [record.message for record in caplog.records] == ["new keys", KeyState.FRESH.value]
        caplog.clear()
        scenario.make_unreachable()
        await asyncio.sleep(6 * MINUTE)
        scenario.publish("a")
        await asyncio.sleep(MINUTE)
        events = [record.message for record in caplog.records if record.message != "fetching keys failed"]
        assert events == [KeyState.STALE.value, KeyState.FRESH.value]


@in_virtual_time
async def test_log_and_metrics_show_since_when_keys_are_stale_and_until_when_they_are_usable(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scenario = Scenario("a", lifetime=300.0, outage_tolerance="1h")
    assert (scenario.metric("stale"), scenario.metric("age_seconds")) == (1, math.inf)
    assert scenario.metric("usable_until_timestamp_seconds") == 0
    async with scenario.running():
        fetched = scenario.now()
        assert (scenario.metric("stale"), scenario.metric("age_seconds")) == (0, 0)
        scenario.make_unreachable()
        await asyncio.sleep(299)
        assert scenario.metric("stale") == 0
        await asyncio.sleep(2)
        assert (scenario.metric("stale"), scenario.metric("age_seconds")) == (1, 301)
        assert scenario.metric("usable_until_timestamp_seconds") == fetched + 300 + HOUR
        await asyncio.sleep(MINUTE)
        (stale,) = (record for record in caplog.records if record.message == KeyState.STALE.value)
        assert stale.__dict__["fields"] == {
            "issuer": "main",
            "state": "stale",
            "fetched": "2027-01-15T08:00:00+00:00",
            "stale_since": "2027-01-15T08:05:00+00:00",
            "usable_until": "2027-01-15T09:05:00+00:00",
        }
        assert scenario.find("a") == ["a"]
        await asyncio.sleep(HOUR)
        assert [record.message for record in caplog.records].count(KeyState.NONE.value) == 1
        assert scenario.find("a", may_fetch=False) is NoKey.UNAVAILABLE
        assert scenario.metric("stale") == 1


@in_virtual_time
async def test_no_unknown_kid_causes_a_fetch_before_the_providers_retry_after() -> None:
    scenario = Scenario("a", lifetime=300.0, unknown_kid_cooldown="1s")
    async with scenario.running():
        scenario.make_unreachable()
        scenario.source.retry_after = 600.0
        assert await scenario.request("x") is NoKey.UNAVAILABLE
        fetches = scenario.source.fetches
        for _ in range(100):
            await asyncio.sleep(5)
            assert await scenario.request("x") is NoKey.UNAVAILABLE
        assert scenario.source.fetches == fetches


@in_virtual_time
async def test_without_keys_a_long_retry_after_is_shortened() -> None:
    scenario = Scenario(min_refresh_interval="30s")
    scenario.source.retry_after = HOUR
    async with scenario.running():
        assert await scenario.request("a") is NoKey.UNAVAILABLE
        fetches = scenario.source.fetches
        await asyncio.sleep(25)
        assert scenario.source.fetches == fetches
        scenario.publish("a")
        await asyncio.sleep(10)
        assert scenario.find("a") == ["a"]


@in_virtual_time
async def test_many_issuers_do_not_refresh_at_the_same_time() -> None:
    issuers = [Scenario("a", lifetime=300.0) for _ in range(100)]
    async with contextlib.AsyncExitStack() as stack:
        for scenario in issuers:
            await stack.enter_async_context(scenario.running())
        most = 0
        for _ in range(1000):
            before = sum(scenario.source.fetches for scenario in issuers)
            await asyncio.sleep(1)
            most = max(most, sum(scenario.source.fetches for scenario in issuers) - before)
        assert most < 15  # of a hundred, in any one second


# Snapshots. Threads do the file I/O, so these tests run in real time and set the clock only.


async def test_a_restart_in_an_outage_uses_the_keys_of_the_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    before = Scenario("a", snapshot=path)
    async with before.running():
        await written(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert names_in(tmp_path) == ["keys.json"]
    after = Scenario(snapshot=path, outage_tolerance="1h")
    async with after.running():
        await asyncio.wait_for(after.cache.first_keys.wait(), 30)
        assert after.find("a") == ["a"]
        after.clock_error = 10 * MINUTE
        assert after.metric("stale") == 1
        assert after.find("a") == ["a"]
        after.clock_error = 2 * HOUR
        assert after.find("a", may_fetch=False) is NoKey.UNAVAILABLE


@pytest.mark.parametrize("error", [26 * HOUR, -HOUR])
async def test_a_snapshot_that_is_too_old_or_from_the_future_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: float
) -> None:
    path = tmp_path / "keys.json"
    before = Scenario("a", snapshot=path)
    async with before.running():
        await written(path)
    after = Scenario(snapshot=path, outage_tolerance="24h")
    after.clock_error = error
    async with after.running():
        await after.source.wait_for_fetches(1)
        assert not after.cache.first_keys.is_set()
        assert "snapshot rejected" in [record.message for record in caplog.records]


async def test_a_snapshot_that_cannot_be_written_affects_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = Scenario("a", snapshot=tmp_path / "gone" / "keys.json")
    async with scenario.running():
        await until(lambda: "snapshot not written" in [record.message for record in caplog.records])
        assert scenario.find("a") == ["a"]


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def written(path: Path) -> None:
    """Wait until a thread has written the file."""
    await until(path.exists)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the thread sets no event
            await asyncio.sleep(0.01)


# Clock changes.


@pytest.mark.parametrize("hours", [-10_000, -1, 1, 1000])
@in_virtual_time
async def test_keys_are_refreshed_and_found_when_the_clock_is_set(hours: int) -> None:
    scenario = Scenario("a", outage_tolerance="24h")
    async with scenario.running():
        scenario.clock_error = hours * HOUR
        assert await scenario.request("a") == ["a"]
        scenario.publish("b")
        await asyncio.sleep(6 * MINUTE)
        assert scenario.find("b") == ["b"]


# Any sequence of events.

_EVENTS = st.one_of(
    st.tuples(st.just("time passes"), st.floats(0.1, 400)),
    st.tuples(st.just("publish"), st.sets(st.sampled_from("abc"), min_size=1)),
    st.tuples(st.just("unreachable"), st.none()),
    st.tuples(st.just("publish rubbish"), st.none()),
    st.tuples(st.just("request"), st.sampled_from(["a", "b", "c", "x", "y", None])),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_EVENTS, min_size=10, max_size=60))
def test_whatever_happens_known_keys_are_found_without_waiting_and_requests_cause_few_fetches(
    events: list[tuple[str, Any]],
) -> None:
    run_events(events)


@in_virtual_time
async def run_events(events: list[tuple[str, Any]]) -> None:
    scenario = Scenario("a", lifetime=100.0, outage_tolerance="10m", unknown_kid_cooldown="30s")
    fetches_by_requests: list[float] = []
    async with scenario.running():
        for event, value in events:
            match event:
                case "time passes":
                    await asyncio.sleep(value)
                case "publish":
                    scenario.publish(*sorted(value))
                case "unreachable":
                    scenario.make_unreachable()
                case "publish rubbish":
                    scenario.source.published = b"<html></html>"
                case "request":
                    key_set = scenario.cache.current(scenario.now())
                    known = key_set is not None and (value is None or any(key.kid == value for key in key_set.keys))
                    before = scenario.source.fetches
                    found = await scenario.request(value)
                    if known:
                        assert isinstance(found, list)
                        assert scenario.source.fetches == before
                    if scenario.source.fetches > before:
                        fetches_by_requests.append(scenario.now())
    gaps = [later - earlier for earlier, later in itertools.pairwise(fetches_by_requests)]
    assert all(gap >= 30 for gap in gaps)
