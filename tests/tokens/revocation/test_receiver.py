"""A receiver acknowledges what takes effect and is saved, whatever transmitter, keys, disk and other processes do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz_service.config.model import Issuer
from authz_service.core.errors import FetchFailed
from authz_service.keys.cache import KeyCache
from authz_service.telemetry.metrics import Metrics
from authz_service.tokens.revocation import events
from authz_service.tokens.revocation.event_file import EventFile
from authz_service.tokens.revocation.poll_client import MAX_SETS, PollResponse
from authz_service.tokens.revocation.receiver import EventReceiver
from authz_service.tokens.revocation.revocations import Revocation, TokenParts
from support.configured_app import sample
from support.key_source import FakeSource
from support.samples import text_of
from support.signing import Signer
from support.trust import ISSUER, NOW, RS, jwks
from support.virtual_time import VirtualTimeLoop, in_virtual_time
from tokens.revocation.claims import claims_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from authz_service.tokens.revocation.event_token import RefusedSetError

RECEIVER = "https://receiver.example"
NEW_KEY = Signer("RS256", "new")
NO_ANSWER = FetchFailed("no answer")


TO_THREAD = asyncio.to_thread


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time nothing waits for threads."""

    async def inline(work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)

    monkeypatch.setattr(asyncio, "to_thread", inline)


def set_of(jti: str, subject: object = None, *types: str, signer: Signer = RS, **claims: Any) -> str:
    """A SET that revokes the tokens of a user; without ``subject``, of the one that is named as the SET."""
    members = {
        "iss": ISSUER,
        "aud": RECEIVER,
        "iat": NOW,
        "jti": jti,
        "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": subject or jti},
        "events": {each: {} for each in types or [events.SESSION_REVOKED]},
    }
    return signer.sign(members | claims, {"typ": "secevent+jwt"})


class Poll(NamedTuple):
    at: float
    acks: tuple[str, ...]
    errors: dict[str, str]
    wait: bool


class FakeTransmitter:
    """The stream of a transmitter, without the network between. Serves one poll after the other."""

    def __init__(self) -> None:
        self.sets: dict[str, str] = {}
        self.acknowledged: list[str] = []
        self.refused: dict[str, str] = {}
        self.polls: list[Poll] = []
        self.failure: BaseException | None = None
        self.fails_once: list[BaseException] = []
        self.redelivers = False
        self.says_more = True
        self.rejects_acks = False
        self.max_wait = 25.0
        self.hangs_while_waiting = False
        self.closed = False
        self._changed = asyncio.Event()

    def emit(self, *jtis: str, **changes: Any) -> None:
        self.sets |= {jti: set_of(jti, **changes) for jti in jtis}
        self._changed.set()

    async def poll(self, acks: Sequence[str], errors: Mapping[str, RefusedSetError], *, wait: bool) -> PollResponse:
        at = asyncio.get_running_loop().time()
        self.polls.append(Poll(at, tuple(acks), {jti: error.code for jti, error in errors.items()}, wait))
        if self.fails_once:
            raise self.fails_once.pop()
        if self.failure is not None:
            raise self.failure
        if acks and self.rejects_acks:
            raise NO_ANSWER
        self.acknowledged += acks
        self.refused |= self.polls[-1].errors
        if not self.redelivers:
            for jti in (*acks, *errors):
                self.sets.pop(jti, None)
        if wait and not self.sets:
            await self._wait()
        await asyncio.sleep(0.01)
        first = dict(list(self.sets.items())[:MAX_SETS])
        return PollResponse(first, self.redelivers or (self.says_more and len(self.sets) > MAX_SETS))

    async def _wait(self) -> None:
        if self.hangs_while_waiting:
            await asyncio.sleep(30)
            raise NO_ANSWER
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.max_wait):
                await self._changed.wait()

    async def close(self) -> None:
        self.closed = True


class Scenario:
    """Receivers of one stream."""

    def __init__(self, folder: Path | None = None, **security_events: Any) -> None:
        self.transmitter = FakeTransmitter()
        self.source = FakeSource(jwks(RS.jwk()), lifetime=1e6)
        self.file = None if folder is None else folder / "events.json"
        own = {"poll_endpoint": f"{ISSUER}poll", "audience": RECEIVER, "bearer_token_file": "token", "interval": "5s"}
        self.issuer = Issuer.read(
            {"issuer": ISSUER, "name": "main", "audiences": ["api"], "security_events": own | security_events}
        )
        self.metrics = Metrics(transport="grpcio")
        self.keys = KeyCache(
            self.source,
            self.issuer.keys,
            issuer="main",
            metrics=self.metrics.issuer("main"),
            logger=logging.getLogger("authz.keys"),
            clock=self.clock,
        )

    @staticmethod
    def clock() -> float:
        return NOW + asyncio.get_running_loop().time()

    def receiver(self, previous: EventReceiver | None = None, metrics: Metrics | None = None) -> EventReceiver:
        assert self.issuer.security_events is not None
        return EventReceiver(
            self.issuer,
            self.issuer.security_events,
            self.keys,
            self.transmitter,
            None if self.file is None else EventFile(self.file, ISSUER),
            previous=previous,
            metrics=(metrics or self.metrics).security_events("main"),
            logger=logging.getLogger("authz.events"),
            clock=self.clock,
            timer=asyncio.get_running_loop().time,
        )

    @contextlib.asynccontextmanager
    async def running(self, receiver: EventReceiver | None = None) -> AsyncIterator[EventReceiver]:
        receiver = receiver or self.receiver()
        task = asyncio.create_task(receiver.run())
        try:
            yield receiver
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    def sample(self, name: str, **labels: str) -> float | None:
        return sample(self.metrics, f"authz_{name}", **labels)

    def counted(self) -> dict[str, float]:
        """The events that were counted, by type."""
        text = text_of(self.metrics)
        lines = [line for line in text.splitlines() if line.startswith("authz_security_events_total")]
        counts = {line.partition('type="')[2].partition('"')[0]: float(line.rpartition(" ")[2]) for line in lines}
        return {kind: count for kind, count in counts.items() if count}

    def saved(self) -> set[str]:
        """The subjects in the file."""
        assert self.file is not None
        if not self.file.exists():
            return set()
        subjects = set()
        for line in self.file.read_text().splitlines()[1:]:
            with contextlib.suppress(ValueError):  # the writer crashed
                subjects.add(json.loads(line)["subject"])
        return subjects


def revokes(receiver: EventReceiver, subject: str) -> bool:
    return receiver.store.find(claims_of(subject, NOW)) is not None


class Logs:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def __call__(self, level: str = "") -> list[str]:
        """The events that were logged, at this level or any."""
        return [each.getMessage() for each in self._caplog.records if level in {"", each.levelname}]

    def fields(self, event: str) -> list[dict[str, Any]]:
        return [vars(each)["fields"] for each in self._caplog.records if each.getMessage() == event]


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Logs:
    monkeypatch.setattr(logging.getLogger("authz"), "propagate", True)
    caplog.set_level(logging.INFO, "authz.events")
    return Logs(caplog)


# Polling.


@in_virtual_time
async def test_an_event_is_acknowledged_once_it_takes_effect_and_is_saved(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path)
    scenario.transmitter.emit("u1", "u2")
    async with scenario.running() as receiver:
        await asyncio.sleep(1)
        assert revokes(receiver, "u1")
        assert scenario.saved() == {"u1", "u2"}
        assert scenario.transmitter.acknowledged == []
        await asyncio.sleep(5)
        assert scenario.transmitter.acknowledged == ["u1", "u2"]
        assert not revokes(receiver, "u3")
    assert scenario.transmitter.closed
    assert scenario.counted() == {"session-revoked": 2}


@in_virtual_time
async def test_the_first_poll_returns_at_once_and_later_ones_wait_for_events() -> None:
    scenario = Scenario()
    async with scenario.running() as receiver:
        await asyncio.sleep(10)
        scenario.transmitter.emit("u1")
        await asyncio.sleep(0.1)
        assert revokes(receiver, "u1")
        await asyncio.sleep(60)
    assert [each.wait for each in scenario.transmitter.polls] == [
        False,
        *[True] * (len(scenario.transmitter.polls) - 1),
    ]
    assert [round(each.at) for each in scenario.transmitter.polls] == [0, 5, 15, 45]


@in_virtual_time
async def test_many_events_are_received_in_quick_succession_and_one_is_verified_per_turn_of_the_loop() -> None:
    scenario = Scenario()
    scenario.transmitter.emit(*map(str, range(4 * MAX_SETS - 1)))
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    async with scenario.running() as receiver:
        await asyncio.sleep(1)
        assert len(receiver.store) == 4 * MAX_SETS - 1
    assert [round(each.at, 1) for each in scenario.transmitter.polls] == [0, 0.1, 0.2, 0.3]
    assert loop.turns >= 4 * MAX_SETS


@in_virtual_time
async def test_an_unreachable_transmitter_is_polled_less_and_less_often_up_to_once_a_minute() -> None:
    scenario = Scenario()
    scenario.transmitter.failure = NO_ANSWER
    async with scenario.running():
        await asyncio.sleep(600)
        gaps = [after.at - before.at for before, after in itertools.pairwise(scenario.transmitter.polls)]
        for gap, expected in zip(gaps, [5, 10, 20, 40, *[60] * (len(gaps) - 4)], strict=True):
            assert 0.9 * expected <= gap <= 1.1 * expected
        assert not any(each.wait for each in scenario.transmitter.polls)
        scenario.transmitter.failure = None
        polls = len(scenario.transmitter.polls)
        await asyncio.sleep(100)
        assert [each.wait for each in scenario.transmitter.polls[polls:]][:3] == [False, True, True]


@pytest.mark.parametrize(("requested", "waited"), [(100.0, 100.0), (1e9, 300.0)])
@in_virtual_time
async def test_retry_after_is_honored_up_to_five_minutes(requested: float, waited: float) -> None:
    scenario = Scenario()
    scenario.transmitter.failure = FetchFailed("too many requests", retry_after=requested)
    async with scenario.running():
        await asyncio.sleep(waited + 1)
    assert [round(each.at) for each in scenario.transmitter.polls] == [0, waited]


@in_virtual_time
async def test_acknowledgments_that_were_not_delivered_are_sent_again_before_anything_else_is_received() -> None:
    scenario = Scenario()
    scenario.transmitter.emit("u1")
    scenario.transmitter.sets["bad"] = set_of("bad", aud="another")
    async with scenario.running():
        await asyncio.sleep(1)
        scenario.transmitter.failure = NO_ANSWER
        await asyncio.sleep(120)
        scenario.transmitter.failure = None
        await asyncio.sleep(120)
    undelivered = [each[1:3] for each in scenario.transmitter.polls[1:] if each.acks]
    assert undelivered == [(("u1",), {"bad": "invalid_audience"})] * 4
    assert scenario.transmitter.acknowledged == ["u1"]
    assert scenario.transmitter.refused == {"bad": "invalid_audience"}
    assert scenario.counted() == {"session-revoked": 1, "rejected": 1}


@in_virtual_time
async def test_a_transmitter_that_rejects_every_acknowledgment_stops_nothing() -> None:
    scenario = Scenario()
    scenario.transmitter.rejects_acks = True
    async with scenario.running() as receiver:
        for each in ("u1", "u2", "u3"):
            scenario.transmitter.emit(each)
            await asyncio.sleep(120)
            assert revokes(receiver, each)
        age = scenario.sample("security_events_age_seconds")
        assert age is not None
        assert age < 120
    assert scenario.counted() == {"session-revoked": 3}


@in_virtual_time
async def test_a_transmitter_that_waits_for_longer_than_a_poll_is_reachable(logs: Logs) -> None:
    scenario = Scenario()
    scenario.transmitter.hangs_while_waiting = True
    async with scenario.running() as receiver:
        for _ in range(100):
            await asyncio.sleep(7)
            age = scenario.sample("security_events_age_seconds")
            assert age is not None
            assert age < 42
        scenario.transmitter.emit("u1")
        await asyncio.sleep(42)
        assert revokes(receiver, "u1")
    assert logs("WARNING") == []
    assert sum(each.wait for each in scenario.transmitter.polls) == 2  # it is tried again every ten minutes


@in_virtual_time
async def test_a_full_response_that_does_not_say_so_is_followed_by_another() -> None:
    scenario = Scenario()
    scenario.transmitter.says_more = False
    scenario.transmitter.emit(*map(str, range(2 * MAX_SETS)))
    async with scenario.running() as receiver:
        await asyncio.sleep(1)
        assert len(receiver.store) == 2 * MAX_SETS


@in_virtual_time
async def test_what_is_delivered_again_and_again_is_verified_and_counted_once_and_causes_no_busy_loop() -> None:
    scenario = Scenario()
    scenario.transmitter.redelivers = True
    scenario.transmitter.emit(*map(str, range(10)))
    scenario.transmitter.sets["bad"] = "x"
    async with scenario.running() as receiver:
        await asyncio.sleep(1000)
        assert len(receiver.store) == 10
    assert len(scenario.transmitter.polls) <= 1 + 1000 / 5
    assert len(scenario.transmitter.polls[-1].acks) == 10
    assert scenario.transmitter.polls[-1].errors == {"bad": "invalid_request"}
    assert scenario.counted() == {"session-revoked": 10, "rejected": 1}


@in_virtual_time
async def test_a_fault_of_our_own_is_logged_and_ends_nothing(logs: Logs) -> None:
    scenario = Scenario()
    scenario.transmitter.fails_once = [ValueError("a bug")]
    scenario.transmitter.emit("u1")
    async with scenario.running() as receiver:
        await asyncio.sleep(10)
        assert revokes(receiver, "u1")
    assert logs("ERROR") == ["receiving security events failed unexpectedly"]


@in_virtual_time
async def test_a_fault_in_reading_the_file_does_not_hold_up_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: EventFile) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(EventFile, "read", fail)
    async with Scenario(tmp_path).running() as receiver:
        await receiver.restored.wait()


@in_virtual_time
async def test_an_outage_and_its_end_are_logged_once_each(logs: Logs) -> None:
    scenario = Scenario()
    async with scenario.running():
        await asyncio.sleep(1)
        scenario.transmitter.failure = NO_ANSWER
        await asyncio.sleep(1000)
        scenario.transmitter.failure = None
        await asyncio.sleep(200)
        scenario.transmitter.failure = FetchFailed("another cause")
        await asyncio.sleep(200)
    assert logs() == [
        "polling security events failed",
        "security events are polled again",
        "polling security events failed",
    ]
    assert [each["cause"] for each in logs.fields("polling security events failed")] == ["no answer", "another cause"]


@in_virtual_time
async def test_the_age_is_that_of_the_last_poll_that_succeeded() -> None:
    scenario = Scenario()
    scenario.transmitter.max_wait = 2
    async with scenario.running():
        await asyncio.sleep(100)
        assert scenario.sample("security_events_age_seconds", issuer="main") < 8  # type: ignore[operator]
        scenario.transmitter.failure = NO_ANSWER
        await asyncio.sleep(1000)
        assert 1000 <= scenario.sample("security_events_age_seconds") < 1010  # type: ignore[operator]


# What SETs contain.


@in_virtual_time
async def test_types_without_effect_are_acknowledged_and_counted() -> None:
    scenario = Scenario()
    kinds = ["urn:x", events.VERIFICATION, events.STREAM_UPDATED, events.ACCOUNT_PURGED]
    scenario.transmitter.sets = {"a": set_of("a", None, *kinds), "b": set_of("b", None, "urn:y")}
    async with scenario.running() as receiver:
        await asyncio.sleep(10)
        assert scenario.transmitter.acknowledged == ["a", "b"]
        assert len(receiver.store) == 1
    assert scenario.counted() == {"other": 2, "verification": 1, "stream-updated": 1, "account-purged": 1}


@pytest.mark.parametrize(("status", "warns"), [("paused", True), ("disabled", True), ("enabled", False)])
@in_virtual_time
async def test_a_stream_that_stops_is_warned_about(logs: Logs, status: str, *, warns: bool) -> None:
    scenario = Scenario()
    scenario.transmitter.sets["a"] = set_of("a", events={events.STREAM_UPDATED: {"status": status, "reason": "s3cret"}})
    async with scenario.running():
        await asyncio.sleep(10)
    assert [each.partition(":")[0] for each in logs("WARNING")] == warns * [
        "the transmitter stopped the stream of security events"
    ]


@in_virtual_time
async def test_what_is_applied_and_refused_is_logged_without_anything_of_a_set(
    caplog: pytest.LogCaptureFixture, logs: Logs
) -> None:
    scenario = Scenario()
    scenario.transmitter.emit("s3cret-1", "s3cret-2")
    scenario.transmitter.sets |= {f"s3cret-{n}": set_of(f"s3cret-{n}", aud="s3cret") for n in range(3, 30)}
    scenario.transmitter.sets["s3cret-x"] = "s3cret.s3cret.s3cret"
    async with scenario.running():
        await asyncio.sleep(30)
    assert logs.fields("security events applied") == [
        {"issuer": "main", "events": ["2 session-revoked"], "revocations": 2}
    ]
    refused = {each["cause"]: each["count"] for each in logs.fields("security event tokens rejected")}
    assert refused == {"aud is not that of this receiver": 27, "malformed_token": 1}
    assert "s3cret" not in caplog.text
    assert "s3cret" not in str([vars(each).get("fields") for each in caplog.records])
    assert scenario.counted() == {"session-revoked": 2, "rejected": 28}


@in_virtual_time
async def test_a_full_store_evicts_and_counts_it() -> None:
    scenario = Scenario(max_entries=3)
    scenario.transmitter.emit(*map(str, range(10)))
    async with scenario.running() as receiver:
        await asyncio.sleep(10)
        assert len(receiver.store) == 3
    assert scenario.sample("revocations_evicted_total") == 7
    assert len(scenario.transmitter.acknowledged) == 10


@in_virtual_time
async def test_lower_limits_take_effect_although_no_event_comes() -> None:
    scenario = Scenario(max_entries=3)
    previous = scenario.receiver()
    previous.store.set_limits(3600, 1000)
    for number in range(1000):
        previous.store.add(Revocation(TokenParts(subject=f"u{number}"), NOW + number, "session-revoked"), NOW)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    before = loop.turns
    async with scenario.running(scenario.receiver(previous)) as receiver:
        await asyncio.sleep(1)
        assert {each.parts.subject for each in receiver.store} == {"u997", "u998", "u999"}
        assert loop.turns - before > 1000 / 50
    assert scenario.sample("revocations_evicted_total") == 997


@in_virtual_time
async def test_events_count_for_keep_and_leeway_and_expire_although_none_is_added(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path, keep="5m")
    scenario.transmitter.emit("u1")
    follower = scenario.receiver(metrics=Metrics(transport="grpcio"))
    async with scenario.running() as receiver, scenario.running(follower):
        await asyncio.sleep(300 + 20)  # the leeway is 30 seconds
        assert len(receiver.store) == len(follower.store) == 1
        await asyncio.sleep(50)
        assert len(receiver.store) == len(follower.store) == 0


@in_virtual_time
async def test_a_clock_that_is_set_forward_for_a_while_expires_nothing() -> None:
    scenario = Scenario(keep="5m")
    ahead = 0.0
    scenario.clock = lambda: Scenario.clock() + ahead  # type: ignore[method-assign]
    scenario.transmitter.emit("u1", "u2")
    async with scenario.running() as receiver:
        await asyncio.sleep(60)
    async with scenario.running(scenario.receiver(receiver)) as receiver:
        ahead = 7200.0  # local time in place of UTC
        await asyncio.sleep(60)
    async with scenario.running(scenario.receiver(receiver)) as receiver:
        await asyncio.sleep(60)
        ahead = 0.0
        assert revokes(receiver, "u1")
        await asyncio.sleep(180)
        assert len(receiver.store) == 0


# Keys.


@in_virtual_time
async def test_a_set_with_a_new_key_is_verified_although_requests_have_used_up_the_fetch_for_unknown_keys() -> None:
    scenario = Scenario()
    async with scenario.running() as receiver:
        await asyncio.sleep(1)
        for kid in ("new", "x"):
            scenario.keys.find(kid, scenario.clock(), may_fetch=True)
            await scenario.keys.refresh_for_request()
            scenario.keys.find(kid, scenario.clock(), may_fetch=False)
        scenario.source.published = jwks(RS.jwk(), NEW_KEY.jwk())
        scenario.transmitter.emit("u1", signer=NEW_KEY)
        await asyncio.sleep(6)
        assert revokes(receiver, "u1")


@in_virtual_time
async def test_a_set_waits_while_the_keys_are_unavailable_and_others_do_not_wait_for_it(logs: Logs) -> None:
    scenario = Scenario()
    await scenario.keys.refresh()
    scenario.source.published = None
    scenario.transmitter.emit("u1", signer=NEW_KEY)
    scenario.transmitter.emit("u2")
    async with scenario.running() as receiver:
        await asyncio.sleep(300)
        assert scenario.transmitter.acknowledged == ["u2"]
        assert scenario.transmitter.refused == {}
        assert list(scenario.transmitter.sets) == ["u1"]
        assert scenario.sample("security_events_age_seconds") > 299  # type: ignore[operator]
        assert scenario.source.fetches <= 2 + 300 / 30
        scenario.source.published = jwks(RS.jwk(), NEW_KEY.jwk())
        await asyncio.sleep(60)
        assert revokes(receiver, "u1")
        assert scenario.transmitter.acknowledged == ["u2", "u1"]
        assert scenario.sample("security_events_age_seconds") < 60  # type: ignore[operator]
    assert [each for each in logs() if "wait" in each] == [
        "security events wait for keys, or for the time of their iat",
        "security events no longer wait",
    ]


@in_virtual_time
async def test_a_clock_that_is_slow_loses_no_event() -> None:
    scenario = Scenario()
    scenario.transmitter.emit("u1", iat=scenario.clock() + 200)
    async with scenario.running() as receiver:
        await asyncio.sleep(100)
        assert scenario.transmitter.acknowledged == []
        assert scenario.transmitter.refused == {}
        assert not revokes(receiver, "u1")
        await asyncio.sleep(100)
        assert scenario.transmitter.acknowledged == ["u1"]
        assert revokes(receiver, "u1")


@in_virtual_time
async def test_nothing_is_refused_before_the_first_keys() -> None:
    scenario = Scenario()
    scenario.source.published = None
    scenario.transmitter.emit("u1")
    async with scenario.running() as receiver:
        await asyncio.sleep(100)
        assert scenario.transmitter.sets.keys() == {"u1"}
        scenario.source.published = jwks(RS.jwk())
        await asyncio.sleep(60)
        assert revokes(receiver, "u1")


@in_virtual_time
async def test_a_key_that_the_issuer_does_not_publish_is_refused_after_one_fetch_for_all_sets() -> None:
    scenario = Scenario()
    await scenario.keys.refresh()
    scenario.transmitter.emit(*map(str, range(20)), signer=NEW_KEY)
    async with scenario.running() as receiver:
        await asyncio.sleep(10)
        assert len(receiver.store) == 0
    assert set(scenario.transmitter.refused.values()) == {"invalid_key"}
    assert len(scenario.transmitter.refused) == 20
    assert scenario.source.fetches == 2


# The file.


@in_virtual_time
async def test_what_cannot_be_saved_takes_effect_and_is_not_acknowledged_until_it_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logs: Logs
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    scenario = Scenario(tmp_path)
    scenario.transmitter.emit("u1")
    scenario.transmitter.sets["bad"] = "x"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        async with scenario.running() as receiver:
            await asyncio.sleep(100)
            assert revokes(receiver, "u1")
            assert scenario.transmitter.acknowledged == []
            assert scenario.transmitter.refused == {"bad": "invalid_request"}
            assert scenario.counted() == {"rejected": 1}
            assert scenario.sample("security_events_age_seconds") >= 100  # type: ignore[operator]
            assert len(scenario.transmitter.polls) < 7
            patched.undo()
            await asyncio.sleep(150)
            assert scenario.transmitter.acknowledged == ["u1"]
    assert scenario.saved() == {"u1"}
    assert scenario.counted() == {"session-revoked": 1, "rejected": 1}
    (trouble,) = logs.fields(
        "the snapshot of security events cannot be written; events take effect, but are not acknowledged"
    )
    assert trouble["cause"] == f"{scenario.file} has an error (No space left on device): free space on its volume"
    assert "the snapshot of security events is written again" in logs()


@pytest.mark.parametrize("content", ["", '{"version":1,"issuer":"https://other.example/","id":"1"}\n', "x\n"])
@in_virtual_time
async def test_a_file_that_must_not_be_read_is_left_alone_and_events_take_effect_all_the_same(
    tmp_path: Path, logs: Logs, content: str
) -> None:
    scenario = Scenario(tmp_path)
    assert scenario.file is not None
    scenario.file.write_text(content)
    if not content:
        scenario.file.chmod(0o666)
    scenario.transmitter.emit("u1")
    async with scenario.running() as receiver:
        await asyncio.sleep(100)
        assert revokes(receiver, "u1")
        assert scenario.transmitter.acknowledged == []
        assert scenario.file.read_text() == content
        (warning,) = logs("WARNING")
        (trouble,) = logs.fields(warning)
        assert trouble["cause"].startswith(f"{scenario.file} ")
        assert trouble["cause"].endswith((": set mode 0600", ": set another snapshot_file, or remove it"))
        scenario.file.unlink()
        await asyncio.sleep(100)
        assert scenario.transmitter.acknowledged == ["u1"]
    assert scenario.saved() == {"u1"}


@in_virtual_time
async def test_without_a_folder_for_the_file_events_take_effect_and_are_not_acknowledged(
    tmp_path: Path, logs: Logs
) -> None:
    scenario = Scenario(tmp_path / "absent")
    scenario.transmitter.emit("u1")
    async with scenario.running() as receiver:
        await asyncio.sleep(100)
        assert revokes(receiver, "u1")
        assert scenario.transmitter.acknowledged == []
        (tmp_path / "absent").mkdir()
        await asyncio.sleep(100)
        assert scenario.transmitter.acknowledged == ["u1"]
    assert scenario.saved() == {"u1"}
    assert logs("WARNING") == [
        "the snapshot of security events cannot be locked; events take effect, but are not acknowledged"
    ]
    (trouble,) = logs.fields(logs("WARNING")[0])
    assert trouble["cause"].endswith("events.json.lock has an error (No such file or directory): its folder must exist")


@in_virtual_time
async def test_of_several_processes_one_polls_and_the_others_follow_and_take_over(tmp_path: Path, logs: Logs) -> None:
    scenario = Scenario(tmp_path)
    others = [Metrics(transport="grpcio") for _ in range(2)]
    followers = [scenario.receiver(metrics=each) for each in others]
    async with contextlib.AsyncExitStack() as stack:
        async with scenario.running() as first:
            await asyncio.sleep(0.01)
            for each in followers:
                await stack.enter_async_context(scenario.running(each))
            scenario.transmitter.emit("u1")
            await asyncio.sleep(6)
            assert [revokes(each, "u1") for each in (first, *followers)] == [True] * 3
            await asyncio.sleep(60)
            polls = len(scenario.transmitter.polls)
            for own in others:
                assert sample(own, "authz_security_events_age_seconds", issuer="main") < 31  # type: ignore[operator]
        scenario.transmitter.emit("u2")
        await asyncio.sleep(1.1)
        assert [revokes(each, "u2") for each in (first, *followers)] == [False, True, True]
        assert len(scenario.transmitter.polls) == polls + 1
        assert not scenario.transmitter.polls[-1].wait
    assert logs().count("polling security events") == 2
    assert logs().count("following the process that polls security events") == 2
    counts = [
        sample(each, "authz_security_events_total", type="session-revoked") for each in (scenario.metrics, *others)
    ]
    assert sorted(counts) == [0, 1, 1]  # type: ignore[type-var] # each event once for all processes


@in_virtual_time
async def test_a_follower_reports_how_long_ago_the_events_were_polled(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path)
    own = Metrics(transport="grpcio")
    async with scenario.running():
        await asyncio.sleep(1)
        scenario.transmitter.failure = NO_ANSWER
        async with scenario.running(scenario.receiver(metrics=own)):
            await asyncio.sleep(500)
            assert 495 < sample(own, "authz_security_events_age_seconds") < 505  # type: ignore[operator]


@in_virtual_time
async def test_the_age_of_a_follower_grows_too_while_events_wait_for_keys(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path)
    own = Metrics(transport="grpcio")
    await scenario.keys.refresh()
    async with scenario.running():
        await asyncio.sleep(1)
        scenario.source.published = None
        scenario.transmitter.emit("u1", signer=NEW_KEY)
        scenario.transmitter.emit("u2")
        async with scenario.running(scenario.receiver(metrics=own)) as follower:
            await asyncio.sleep(300)
            assert revokes(follower, "u2")
            assert sample(own, "authz_security_events_age_seconds", issuer="main") > 290  # type: ignore[operator]


@in_virtual_time
async def test_a_file_that_vanishes_while_the_transmitter_is_unreachable_is_written_again(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path)
    scenario.transmitter.emit("u1")
    async with scenario.running():
        await asyncio.sleep(10)
        scenario.transmitter.failure = NO_ANSWER
        scenario.file.unlink()  # type: ignore[union-attr]
        await asyncio.sleep(150)
        assert scenario.saved() == {"u1"}
        assert scenario.sample("security_events_age_seconds") > 149  # type: ignore[operator]


@in_virtual_time
async def test_after_a_restart_the_events_and_their_age_are_those_of_the_file(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path)
    scenario.transmitter.emit("u1")
    async with scenario.running():
        await asyncio.sleep(1)
    await asyncio.sleep(1000)
    scenario.transmitter.failure = NO_ANSWER
    async with scenario.running() as again:
        assert not again.restored.is_set()
        await again.restored.wait()
        assert revokes(again, "u1")
        assert 995 < scenario.sample("security_events_age_seconds") < 1005  # type: ignore[operator]


@in_virtual_time
async def test_a_receiver_of_a_new_configuration_saves_the_events_of_the_old_one_to_its_own_file(
    tmp_path: Path,
) -> None:
    scenario = Scenario(tmp_path)
    scenario.transmitter.emit("u1")
    async with scenario.running() as first:
        await asyncio.sleep(1)
    scenario.file = tmp_path / "another.json"
    scenario.transmitter.failure = NO_ANSWER
    async with scenario.running(scenario.receiver(first)) as second:
        await asyncio.sleep(1)
        assert second.store is first.store
        assert scenario.saved() == {"u1"}
        await asyncio.sleep(100)
        assert scenario.sample("security_events_age_seconds") > 100  # type: ignore[operator]


@in_virtual_time
async def test_an_empty_store_is_continued_too() -> None:
    scenario = Scenario()
    first = scenario.receiver()
    assert scenario.receiver(first).store is first.store


async def test_a_cancellation_waits_for_the_end_of_a_write_and_then_releases_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario(tmp_path)
    scenario.transmitter.emit("u1")
    writing, may_end = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(descriptor: int) -> None:
        writing.set()
        may_end.wait()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    monkeypatch.setattr(asyncio, "to_thread", TO_THREAD)
    task = asyncio.create_task(scenario.receiver().run())
    await asyncio.to_thread(writing.wait)
    for _ in range(3):
        task.cancel()
        assert await asyncio.wait([task], timeout=0.02) == (set(), {task})
    another = EventFile(scenario.file, ISSUER)  # type: ignore[arg-type]
    assert not another.lock()
    may_end.set()
    await asyncio.wait([task])
    assert task.cancelled()
    assert scenario.saved() == {"u1"}
    assert another.lock()
    another.unlock()


class Fleet:
    """Processes that share a file, and what may happen to them."""

    def __init__(self, folder: Path) -> None:
        self.scenario = Scenario(folder)
        self.disk_fails = False
        self.emitted: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def fsync(self, _descriptor: int) -> None:
        if self.disk_fails:
            raise OSError(errno.EIO, "the disk fails")

    def emit(self, count: int) -> None:
        new = [f"u{len(self.emitted) + number}" for number in range(count)]
        self.emitted += new
        self.scenario.transmitter.emit(*new)

    def start(self) -> None:
        receiver = self.scenario.receiver(metrics=Metrics(transport="grpcio"))
        self._tasks.append(asyncio.create_task(receiver.run()))

    async def stop(self, count: int) -> None:
        """Stop the oldest processes, wherever they are between two steps."""
        ending, self._tasks = self._tasks[:count], self._tasks[count:]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def crash(self) -> None:
        """The oldest process ends within a write."""
        await self.stop(1)
        with contextlib.suppress(FileNotFoundError), self.scenario.file.open("r+b") as file:  # type: ignore[union-attr]
            file.seek(0, os.SEEK_END)
            file.write(b'{"subject":"u')

    def switch(self, what: str) -> None:
        if what == "disk":
            self.disk_fails = not self.disk_fails
        else:
            self.scenario.transmitter.failure = None if self.scenario.transmitter.failure else NO_ANSWER


_STEPS: dict[str, Callable[[Fleet], Any]] = {
    "one event": lambda fleet: fleet.emit(1),
    "many events": lambda fleet: fleet.emit(MAX_SETS + 5),
    "transmitter": lambda fleet: fleet.switch("transmitter"),
    "disk": lambda fleet: fleet.switch("disk"),
    "start": Fleet.start,
    "stop": lambda fleet: fleet.stop(1),
    "stop all": lambda fleet: fleet.stop(99),
    "crash": Fleet.crash,
    "wait": lambda _fleet: None,
}


@given(st.lists(st.tuples(st.sampled_from(sorted(_STEPS)), st.floats(0, 15)), max_size=25))
def test_no_event_that_was_acknowledged_is_lost_whatever_fails_and_whenever_processes_restart(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, float]]
) -> None:
    fleet = Fleet(tmp_path_factory.mktemp("events"))

    @in_virtual_time
    async def run() -> None:
        fleet.start()
        for step, pause in steps:
            happens = _STEPS[step](fleet)
            if happens is not None:
                await happens
            await asyncio.sleep(pause)
            assert set(fleet.scenario.transmitter.acknowledged) <= fleet.scenario.saved()
        await fleet.stop(99)
        fleet.disk_fails, fleet.scenario.transmitter.failure = False, None
        async with fleet.scenario.running() as last:
            await asyncio.sleep(400)
            assert all(revokes(last, each) for each in fleet.emitted)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", fleet.fsync)
        run()
