"""A transmitter that floods, hangs or lies refuses no token and holds up nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.tokens.revocation.event_token import MAX_BYTES
from authz_service.tokens.revocation.events import SESSION_REVOKED
from support.configured_app import ConfigFolder, decide, issuer, sample, token
from support.sidecar_process import wait_until
from support.signing import Signer
from support.transmitter import FAULTS, POLL, TOKEN, Transmitter, hang, respond

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from authz_service.runtime.application import App

STRANGER = Signer("RS256", "rs", Signer("RS256", "stranger").key)  # with the transmitter's kid


@pytest.fixture
def folder(tmp_path: Path) -> ConfigFolder:
    return ConfigFolder(tmp_path)


class Service:
    """The service with the transmitter's issuer and another one."""

    def __init__(self, app: App, transmitter: Transmitter) -> None:
        self.app = app
        self.transmitter = transmitter

    async def require_effect(self) -> None:
        """An event revokes a session, and no other."""
        own, other = (self.transmitter.access_token(sid=sid) for sid in ("ended", "open"))
        jti = await self.transmitter.revoke_session("u1", "ended")
        await self.transmitter.until(lambda: jti in self.transmitter.acknowledged)
        assert (await decide(self.app, own)).reason == "revoked"
        assert (await decide(self.app, other)).reason == "ok"

    async def require_no_refusal(self) -> None:
        """Tokens of both issuers are accepted."""
        for each in (self.transmitter.access_token(sid="ended"), token()):
            assert (await decide(self.app, each)).reason == "ok"


@pytest.fixture
async def service(
    transmitter: Transmitter, folder: ConfigFolder, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Service]:
    monkeypatch.setattr("authz_service.tokens.revocation.poll_client.WAIT_TIMEOUT", 0.5)
    transmitter.waits = False
    events = transmitter.security_events(folder.folder, interval="20ms", max_entries=120)
    own = {"issuer": transmitter.issuer, "name": "own", "audiences": ["api"], "keys": {"timeout": "500ms"}}
    async with folder.serving(folder.load(own | {"security_events": events}, issuer())) as app:
        yield Service(app, transmitter)


def polled(transmitter: Transmitter, count: int) -> Callable[[], bool]:
    """Whether so many further polls have come."""
    target = len(transmitter.polls) + count
    return lambda: len(transmitter.polls) >= target


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_faulty_response_refuses_no_token_and_its_events_take_effect_once_it_recovers(
    service: Service, transmitter: Transmitter, fault: str
) -> None:
    transmitter.fault = FAULTS[fault]
    await transmitter.until(polled(transmitter, 2))  # one may have begun before
    token = transmitter.access_token(sid="s1")
    jti = await transmitter.revoke_session("u1", "s1")
    await transmitter.until(polled(transmitter, 1))
    assert (await decide(service.app, token)).reason == "ok"
    await service.require_no_refusal()
    transmitter.fault = None
    await transmitter.until(lambda: jti in transmitter.acknowledged)
    assert (await decide(service.app, token)).reason == "revoked"


@pytest.mark.parametrize("fault", [hang, respond(b"{}"), respond(status=401), respond(status=503)])
async def test_a_faulty_token_endpoint_refuses_no_token_and_later_events_take_effect(
    service: Service, transmitter: Transmitter, fault: Any
) -> None:
    transmitter.token_fault = fault
    transmitter.grants.clear()
    requests = transmitter.count(TOKEN)
    await wait_until(lambda: transmitter.count(TOKEN) >= requests + 2)
    await service.require_no_refusal()
    transmitter.token_fault = None
    await service.require_effect()


async def test_a_flood_is_bounded_in_memory_and_refuses_nobody_else(service: Service, transmitter: Transmitter) -> None:
    receiver = service.app.active.issuers[0].events
    assert receiver is not None
    transmitter.floods = True
    await wait_until(lambda: len(receiver.store) == 120)
    await transmitter.until(polled(transmitter, 3))
    assert len(receiver.store) == 120
    await service.require_no_refusal()
    transmitter.floods = False
    transmitter.clock = lambda: time.time() + 5.0  # later than the last event of the flood
    await service.require_effect()


async def test_a_forged_event_revokes_nothing_and_is_refused(service: Service, transmitter: Transmitter) -> None:
    subject = transmitter.user("u1")
    forged: dict[str, dict[str, Any]] = {
        "authentication_failed": {"signer": STRANGER},
        "invalid_key": {"signer": Signer("RS256", "unknown")},
        "invalid_issuer": {"iss": "https://main.example"},
        "invalid_audience": {"aud": "https://another.example"},
        "invalid_request": {"typ": "at+jwt"},
    }
    codes = {await transmitter.emit(SESSION_REVOKED, subject, **changes): code for code, changes in forged.items()}
    for place, value in enumerate([7, None, ["text"], "", "a.b.c", "x" * (MAX_BYTES + 1), transmitter.access_token()]):
        codes[await transmitter.deliver(value, f"not-a-set-{place}")] = "invalid_request"
    await transmitter.until(lambda: transmitter.refused.keys() == codes.keys())
    assert {jti: refusal.err for jti, refusal in transmitter.refused.items()} == codes
    assert sample(service.app.metrics, "authz_security_events_total", issuer="own", type="rejected") == len(codes)
    await service.require_no_refusal()
    await service.require_effect()


async def test_a_set_under_another_jti_is_acknowledged_by_it_and_one_that_comes_again_changes_nothing(
    service: Service, transmitter: Transmitter
) -> None:
    text = transmitter.set_of(SESSION_REVOKED, transmitter.user("u2"))
    jtis = ["another", "\u00e9\n\u0000", "x" * 10_000]
    for jti in jtis:
        await transmitter.deliver(text, jti)
        await transmitter.until(lambda: not transmitter.sets)
    assert transmitter.acknowledged == jtis
    assert sample(service.app.metrics, "authz_security_events_total", issuer="own", type="session-revoked") == 1
    await service.require_no_refusal()


async def test_polling_goes_on_with_a_new_token_when_the_old_one_becomes_invalid(
    service: Service, transmitter: Transmitter
) -> None:
    await service.require_effect()
    transmitter.grants.clear()
    await service.require_effect()
    assert transmitter.count(TOKEN) == 2
    assert transmitter.count(POLL) >= 3
