"""Events of a real transmitter revoke tokens within seconds, over HTTP and through a whole configuration."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from support.configured_app import ConfigFolder, decide, reload, sample
from support.sidecar_process import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from authz_service.runtime.application import App
    from authz_service.runtime.preflight import Loaded
    from support.transmitter import Transmitter


def configured(folder: Path, transmitter: Transmitter, **changes: Any) -> Loaded:
    own: dict[str, Any] = {"interval": "50ms", "snapshot_file": str(folder.parent / "events.json")}
    events = transmitter.security_events(folder, **own | changes)
    keys = {"timeout": "1s"}
    issuer = {"issuer": transmitter.issuer, "name": "main", "audiences": ["api"], "keys": keys}
    return ConfigFolder(folder).load(issuer | {"security_events": events})


@contextlib.asynccontextmanager
async def serving(tmp_path: Path, transmitter: Transmitter, name: str = "a", **changes: Any) -> AsyncIterator[App]:
    """A sidecar with its own folder, and the file of events beside it."""
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    async with ConfigFolder(folder).serving(configured(folder, transmitter, **changes)) as app:
        yield app


async def reason(app: App, token: str) -> str:
    return (await decide(app, token)).reason


async def test_a_session_that_ends_is_revoked_and_acknowledged_and_survives_a_restart(
    tmp_path: Path, transmitter: Transmitter
) -> None:
    token, other = transmitter.access_token(sid="s1"), transmitter.access_token(sid="s2")
    async with serving(tmp_path, transmitter) as app:
        assert await reason(app, token) == "ok"
        jti = await transmitter.revoke_session("u1", "s1")
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        assert [await reason(app, each) for each in (token, other)] == ["revoked", "ok"]
        assert sample(app.metrics, "authz_security_events_total", issuer="main", type="session-revoked") == 1
    async with serving(tmp_path, transmitter) as app:
        assert [await reason(app, each) for each in (token, other)] == ["revoked", "ok"]


async def test_of_two_sidecars_with_one_file_one_polls_and_the_other_takes_over(
    tmp_path: Path, transmitter: Transmitter
) -> None:
    first_token, second_token = transmitter.access_token(sid="s1"), transmitter.access_token(sid="s2")
    async with contextlib.AsyncExitStack() as stack:
        async with serving(tmp_path, transmitter) as first:
            second = await stack.enter_async_context(serving(tmp_path, transmitter, "b"))
            jti = await transmitter.revoke_session("u1", "s1")
            await transmitter.until(lambda: jti in transmitter.acknowledged)
            assert await reason(first, first_token) == "revoked"
            await wait_until(lambda: second.active.revocations.event_entries == 1)
            assert await reason(second, first_token) == "revoked"
            assert sample(second.metrics, "authz_security_events_total", type="session-revoked") == 0
        jti = await transmitter.revoke_session("u1", "s2")
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        assert await reason(second, second_token) == "revoked"


async def test_a_transmitter_that_was_stopped_and_started_is_polled_again(
    tmp_path: Path, transmitter: Transmitter
) -> None:
    token = transmitter.access_token()
    async with serving(tmp_path, transmitter) as app:
        await transmitter.stop()
        await wait_until(lambda: (sample(app.metrics, "authz_security_events_age_seconds", issuer="main") or 0) > 0.3)
        assert await reason(app, token) == "ok"
        await transmitter.start()
        jti = await transmitter.disable("u1")
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        assert await reason(app, token) == "revoked"


async def test_during_a_flood_requests_are_decided(tmp_path: Path, transmitter: Transmitter) -> None:
    token = transmitter.access_token()
    async with serving(tmp_path, transmitter) as app:
        await transmitter.disable("u1")
        await wait_until(lambda: app.active.revocations.event_entries == 1)
        transmitter.floods = True
        for polls in range(len(transmitter.polls), len(transmitter.polls) + 10):
            await wait_until(partial(lambda count: len(transmitter.polls) > count, polls))
            assert await reason(app, token) == "revoked"
        assert app.active.revocations.event_entries > 2


async def test_a_reload_continues_with_the_events_and_with_one_receiver(
    tmp_path: Path, transmitter: Transmitter
) -> None:
    token, other = transmitter.access_token(sid="s1"), transmitter.access_token(sid="s2")
    async with serving(tmp_path, transmitter) as app:
        jti = await transmitter.revoke_session("u1", "s1")
        await transmitter.until(lambda: jti in transmitter.acknowledged)
        for file in (str(tmp_path / "another.json"), None, str(tmp_path / "events.json")):
            await reload(app, configured(tmp_path / "a", transmitter, keep="2h", snapshot_file=file))
            assert [await reason(app, each) for each in (token, other)] == ["revoked", "ok"]
            jti = await transmitter.disable(f"of {file}")
            await transmitter.until(partial(transmitter.acknowledged.__contains__, jti))
        assert app.active.revocations.event_entries == 4
    async with serving(tmp_path, transmitter, keep="2h") as app:
        assert app.active.revocations.event_entries == 4
