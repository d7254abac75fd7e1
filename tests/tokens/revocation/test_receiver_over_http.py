"""Events of a real transmitter revoke tokens within seconds, over HTTP and through a whole configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.configured_app import ConfigFolder, decide, sample
from support.transmitter import Transmitter

if TYPE_CHECKING:
    from pathlib import Path


def configured(folder: ConfigFolder, transmitter: Transmitter, **changes: Any) -> Any:
    events = transmitter.security_events(folder.folder, interval="50ms", **changes)
    issuer = {"issuer": transmitter.issuer, "name": "main", "audiences": ["api"], "security_events": events}
    return folder.load(issuer)


async def test_a_session_that_ends_is_revoked_and_acknowledged_and_survives_a_restart(tmp_path: Path) -> None:
    folder = ConfigFolder(tmp_path)
    async with Transmitter() as transmitter:
        settings = configured(folder, transmitter, snapshot_file="events.json")
        async with folder.serving(settings) as app:
            token, other = transmitter.access_token(sid="s1"), transmitter.access_token(sid="s2")
            assert (await decide(app, token)).reason == "ok"
            jti = await transmitter.revoke_session("u1", "s1")
            await transmitter.until(lambda: jti in transmitter.acknowledged)
            assert (await decide(app, token)).reason == "revoked"
            assert (await decide(app, other)).reason == "ok"
            assert sample(app.metrics, "authz_security_events_total", issuer="main", type="session-revoked") == 1
        async with folder.serving(settings) as app:
            assert (await decide(app, token)).reason == "revoked"
