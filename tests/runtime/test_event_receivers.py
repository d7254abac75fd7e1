"""A reload replaces the receivers of security events: what they received still counts, and two never poll at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.core.errors import ConfigError
from authz_service.tokens.revocation.event_file import EventFile
from support.configured_app import ConfigFolder, decide, issuer, reload, sample
from support.sidecar_process import wait_until
from support.transmitter import POLL, Transmitter, respond

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from aiohttp import web

    from authz_service.runtime.application import App
    from authz_service.tokens.revocation.receiver import EventReceiver
    from authz_service.tokens.revocation.revocations import Revocation

QUICK = {"check_deadline": "10ms"}
AGE, EVENTS = "authz_security_events_age_seconds", "authz_security_events_total"


@pytest.fixture
async def transmitter() -> AsyncIterator[CountingTransmitter]:
    async with CountingTransmitter() as serving:
        yield serving


class CountingTransmitter(Transmitter):
    """Knows how many polls were in progress at once."""

    def __init__(self) -> None:
        super().__init__()
        self.polling = self.most_polling = 0
        self._poll = self.handlers[POLL]
        self.handlers[POLL] = self._counted

    async def _counted(self, request: web.Request) -> web.StreamResponse:
        self.polling += 1
        self.most_polling = max(self.most_polling, self.polling)
        try:
            return await self._poll(request)
        finally:
            self.polling -= 1

    async def polled(self) -> None:
        """Wait until there was a poll."""
        await self.until(lambda: bool(self.polls))

    def configured(self, config: ConfigFolder, events: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        """This issuer, with these changes of its security events and of other settings."""
        received = self.security_events(config.folder, **({"interval": "20ms"} | (events or {})))
        return issuer(issuer=self.issuer, keys={"discovery": True}, security_events=received, **settings)


def task_of(app: App, receiver: EventReceiver) -> asyncio.Task[None]:
    """The task of a receiver."""
    (task,) = [task for part, task in app._pool._tasks.items() if part.worker is receiver]
    return task


def receiver_of(app: App) -> EventReceiver:
    (receiver,) = [each.events for each in app.active.issuers if each.events is not None]
    return receiver


async def is_revoked(app: App, transmitter: Transmitter, sid: str) -> bool:
    return (await decide(app, token(transmitter, sid))).reason == "revoked"


def token(transmitter: Transmitter, sid: str) -> str:
    """A token from before all events."""
    return transmitter.access_token(sid=sid, iat=int(time.time()) - 100)


async def test_an_unchanged_issuer_keeps_its_receiver(config: ConfigFolder, transmitter: CountingTransmitter) -> None:
    same = transmitter.configured(config)
    async with config.serving(config.load(same)) as app:
        await transmitter.polled()
        receiver = receiver_of(app)
        task = task_of(app, receiver)
        for parts in ({"rules": [{"name": "new"}]}, {"token_cache": {"max_entries": 5}}):
            await reload(app, config.load(issuer("other"), same, **parts))
            assert receiver_of(app) is receiver
            assert task_of(app, receiver) is task
        jti = await transmitter.revoke_session("u1", "s1")
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        assert await is_revoked(app, transmitter, "s1")
        assert transmitter.most_polling == 1


@pytest.mark.parametrize("snapshot", [{}, {"snapshot_file": "events.json"}], ids=["in memory", "saved"])
async def test_a_changed_issuer_has_a_new_receiver_with_the_events_of_the_previous_one(
    config: ConfigFolder, transmitter: CountingTransmitter, snapshot: dict[str, str]
) -> None:
    async with config.serving(config.load(transmitter.configured(config, snapshot))) as app:
        first = await transmitter.revoke_session("u1", "s1")
        await transmitter.until(lambda: first in transmitter.acknowledged)
        for number, changes in enumerate([{"leeway": "1s"}, {"leeway": "2s"}, {"name": "renamed"}]):
            receiver = receiver_of(app)
            await reload(app, config.load(transmitter.configured(config, snapshot, **changes)))
            assert receiver_of(app) is not receiver
            assert await is_revoked(app, transmitter, "s1")
            jti = await transmitter.revoke_session("u1", f"later-{number}")
            await transmitter.until(lambda jti=jti: jti in transmitter.acknowledged)  # type: ignore[misc]
            assert await is_revoked(app, transmitter, f"later-{number}")
        assert transmitter.most_polling == 1
        assert not await is_revoked(app, transmitter, "other")


async def test_a_reload_does_not_hide_how_long_no_events_arrived(
    config: ConfigFolder, transmitter: CountingTransmitter
) -> None:
    transmitter.fault = respond(status=503)
    async with config.serving(config.load(transmitter.configured(config))) as app:
        await transmitter.polled()
        age = sample(app.metrics, AGE, issuer="main")
        assert age is not None
        await reload(app, config.load(transmitter.configured(config, leeway="1s")))
        assert (sample(app.metrics, AGE, issuer="main") or 0) >= age


async def test_smaller_limits_apply_to_the_events_that_were_received_before(
    config: ConfigFolder, transmitter: CountingTransmitter
) -> None:
    async with config.serving(config.load(transmitter.configured(config))) as app:
        for number in range(3):
            await transmitter.revoke_session("u1", f"s{number}")
        await transmitter.until(lambda: len(transmitter.acknowledged) == 3)  # else they are delivered again
        assert sample(app.metrics, "authz_revocations", source="events") == 3
        await reload(app, config.load(transmitter.configured(config, {"max_entries": 1})))
        await wait_until(lambda: sample(app.metrics, "authz_revocations", source="events") == 1)
        assert sample(app.metrics, "authz_revocations_evicted_total", issuer="main") == 2


async def test_events_are_received_once_a_reload_configures_them(
    config: ConfigFolder, transmitter: CountingTransmitter
) -> None:
    without = transmitter.configured(config)
    del without["security_events"]
    jti = await transmitter.revoke_session("u1", "s1")
    async with config.serving(config.load(without)) as app:
        assert not await is_revoked(app, transmitter, "s1")
        assert sample(app.metrics, AGE, issuer="main") is None
        await reload(app, config.load(transmitter.configured(config)))
        assert sample(app.metrics, AGE, issuer="main") is not None
        assert sample(app.metrics, EVENTS, issuer="main", type="account-disabled") == 0
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        assert await is_revoked(app, transmitter, "s1")


@pytest.mark.parametrize("issuer_remains", [True, False])
async def test_a_receiver_that_is_removed_ends_and_only_its_counters_remain(
    config: ConfigFolder,
    transmitter: CountingTransmitter,
    issuer_remains: bool,  # noqa: FBT001
) -> None:
    configured = transmitter.configured(config)
    async with config.serving(config.load(configured, issuer("other"), server=QUICK)) as app:
        jti = await transmitter.revoke_session("u1", "s1")
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        task = task_of(app, receiver_of(app))
        without = {key: value for key, value in configured.items() if key != "security_events"}
        await reload(app, config.load(*([without] if issuer_remains else []), issuer("other"), server=QUICK))
        await asyncio.wait([task])
        await wait_until(lambda: sample(app.metrics, AGE, issuer="main") is None)
        assert sample(app.metrics, "authz_revocations", source="events") == 0
        assert sample(app.metrics, EVENTS, issuer="main", type="session-revoked") == 1
        assert (await decide(app, token(transmitter, "s1"))).reason == ("ok" if issuer_remains else "unknown_issuer")
        assert transmitter.polling == 0


async def test_a_rejected_configuration_starts_no_receiver_and_the_active_one_goes_on(
    config: ConfigFolder, transmitter: CountingTransmitter
) -> None:
    nonce_key = config.folder / "nonce-key"
    nonce_key.write_text("k" * 32)
    dpop = {"nonce": "required", "nonce_key_file": "nonce-key"}
    async with CountingTransmitter() as other, config.serving(config.load(transmitter.configured(config))) as app:
        receiver, tasks = receiver_of(app), dict(app._pool._tasks)
        changed = config.load(
            transmitter.configured(config, leeway="1s"), other.configured(config, name="b"), dpop=dpop
        )
        nonce_key.write_text("short")
        with pytest.raises(ConfigError):
            await app.apply_config(changed)
        assert receiver_of(app) is receiver
        assert app._pool._tasks == tasks
        assert sample(app.metrics, AGE, issuer="b") is None
        jti = await transmitter.revoke_session("u1", "s1")
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        assert (other.polls, transmitter.most_polling) == ([], 1)


async def test_a_receiver_starts_when_its_predecessor_has_ended_however_long_that_takes_and_whatever_comes_between(
    config: ConfigFolder, transmitter: CountingTransmitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving, release = threading.Event(), threading.Event()
    save = EventFile.save

    def save_slowly(file: EventFile, new: Sequence[Revocation], *arguments: Any, **options: Any) -> None:
        if new:
            saving.set()
            release.wait()
        save(file, new, *arguments, **options)

    monkeypatch.setattr(EventFile, "save", save_slowly)
    snapshot = {"snapshot_file": "events.json"}
    async with config.serving(config.load(transmitter.configured(config, snapshot), server=QUICK)) as app:
        try:
            jti = await transmitter.revoke_session("u1", "s1")
            await wait_until(saving.is_set)
            first = task_of(app, receiver_of(app))
            await reload(app, config.load(transmitter.configured(config, snapshot, leeway="1s"), server=QUICK))
            second = task_of(app, receiver_of(app))
            await reload(app, config.load(transmitter.configured(config, snapshot, leeway="2s"), server=QUICK))
            await asyncio.wait([second])
            polls = len(transmitter.polls)
            await asyncio.sleep(0.2)  # ten times the interval, and longer than the deadline of the first configuration
            assert not first.done()
            assert not receiver_of(app).restored.is_set()  # which it does first
            assert len(transmitter.polls) == polls
            assert await is_revoked(app, transmitter, "s1")
        finally:
            release.set()
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        assert first.cancelled()
        assert await is_revoked(app, transmitter, "s1")


async def test_a_replaced_receiver_leaves_the_memory(config: ConfigFolder, transmitter: CountingTransmitter) -> None:
    async with config.serving(config.load(transmitter.configured(config), server=QUICK)) as app:
        await wait_until(lambda: app._ready)  # and what exists is frozen
        receivers = []
        for number in range(5):
            receivers.append(weakref.ref(receiver_of(app)))
            await transmitter.polled()
            transmitter.polls.clear()
            await reload(app, config.load(transmitter.configured(config, leeway=f"{number}s"), server=QUICK))
        await transmitter.polled()
        await wait_until(lambda: in_memory(receivers[1:-1]) == 0)  # without the one that was frozen


def in_memory(receivers: Sequence[weakref.ref[EventReceiver]]) -> int:
    gc.collect()
    return sum(each() is not None for each in receivers)


async def test_no_receiver_is_left_when_the_service_has_ended(
    config: ConfigFolder, transmitter: CountingTransmitter
) -> None:
    async with config.serving(config.load(transmitter.configured(config, {"snapshot_file": "events.json"}))) as app:
        await transmitter.polled()
        await reload(app, config.load(transmitter.configured(config, {"snapshot_file": "events.json"}, leeway="1s")))
    await wait_until(lambda: transmitter.polling == 0)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("security events of")]
