"""A real Keycloak that transmits security events, the real sidecar and the real Envoy.

The access tokens in these tests are valid for five minutes. ``ann`` and ``bob`` are users of keycloak/realm.json.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from support.keycloak import RECEIVER, RECEIVER_SECRET, Realm
from support.keycloak_mesh import REPORTS, Mesh, running
from support.keycloak_server import OwnKeycloak, Server, keycloak
from support.sidecar_process import wait_until, workers
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

_PROMISE = "that Keycloak's security events revoke access tokens, and survive restarts of either side"
_AUDIENCE = "https://shop.example.com/"
_HANG_TIMEOUT = 60.0  # seconds; only a test that hangs takes this long
_POLL_INTERVAL = 0.05
_OK, _REVOKED = (200, "ok"), (401, "revoked")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with keycloak(_PROMISE) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def realm(server: Server) -> AsyncIterator[Realm]:
    async with Realm(server) as realm:
        yield realm


@pytest_asyncio.fixture(loop_scope="module")
async def own_server(tmp_path: Path) -> AsyncIterator[OwnKeycloak]:
    """A Keycloak that the test stops and starts."""
    own = OwnKeycloak(tmp_path, _PROMISE)
    await asyncio.to_thread(own.start)
    try:
        yield own
    finally:
        await asyncio.to_thread(own.stop)


@asynccontextmanager
async def receiving(folder: Path, realm: Realm, *, key: Signer | None = None, **changes: Any) -> AsyncIterator[Mesh]:
    """A mesh whose sidecar receives the realm's events. It authenticates by ``key``, if there is one, or a secret."""
    jwk = None if key is None else key.jwk(alg=key.algorithm)
    events = {
        "poll_endpoint": await realm.transmit_events(_AUDIENCE, jwk),
        "audience": _AUDIENCE,
        "client_id": RECEIVER,
        "scopes": ["ssf.read"],
        "interval": "200ms",  # Keycloak does not wait for events
        "snapshot_file": "events.json",
    }
    if key is None:
        (folder / "receiver-secret").write_text(RECEIVER_SECRET)
        events["client_secret_file"] = "receiver-secret"
    else:
        pem = key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "receiver-key").write_bytes(pem)
        events["private_key_file"] = "receiver-key"
    keys = {"jwks_uri": f"{realm.protocol}/certs", "snapshot_file": "keys.json", "unknown_kid_cooldown": "100ms"}
    async with running(folder, realm, keys=keys, security_events=events, **changes) as mesh:
        yield mesh


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_HANG_TIMEOUT):
        while not await condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(_POLL_INTERVAL)


async def counted(mesh: Mesh, kind: str) -> None:
    """Wait until an event of this type is counted, which is after it takes effect and is saved."""

    async def received() -> bool:
        return await mesh.count("authz_security_events_total", type=kind) == 1

    await until(received)


async def later_login(realm: Realm, user: str) -> str:
    """The token of a login in a later second, since iat has no fraction."""
    await asyncio.sleep(1 - time.time() % 1)
    return await realm.access_token("web", user)


def claims(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


async def test_all_tokens_of_a_user_whom_the_administrator_signs_out_are_refused_and_no_others(
    realm: Realm, tmp_path: Path
) -> None:
    async with receiving(tmp_path, realm) as mesh:
        tokens = [await realm.access_token(client, "ann") for client in ("web", "without-mapper")]
        others = [await realm.access_token("web", "bob"), await realm.service_token()]
        assert [await mesh.result(token) for token in tokens] == [_OK] * 2
        await realm.sign_out("ann")
        for token in tokens:
            outcome = await mesh.until(token, "revoked")
            assert outcome.status == 401
            assert 'error="invalid_token"' in outcome.challenge
        assert await mesh.result(others[0], REPORTS) == _OK
        assert await mesh.result(others[1]) == _OK
        assert await mesh.result(await later_login(realm, "ann")) == _OK
        assert await mesh.result(tokens[0]) == _REVOKED
        await counted(mesh, "session-revoked")
        assert await mesh.sidecar.metric("authz_revocations", source="events") == [1]
        await wait_until(lambda: bool(mesh.sidecar.records("security events applied")))
        (record,) = mesh.sidecar.records("security events applied")
        assert (record["events"], record["revocations"]) == (["1 session-revoked"], 1)


async def test_a_logout_of_the_user_ends_one_session_also_of_a_lightweight_token(realm: Realm, tmp_path: Path) -> None:
    async with receiving(tmp_path, realm) as mesh:
        for client in ("web", "lightweight"):
            tokens, other = await realm.tokens(client, "ann"), await realm.access_token(client, "ann")
            token = tokens["access_token"]
            assert ("sub" in claims(token)) == (client == "web")
            assert [await mesh.result(each) for each in (token, other)] == [_OK] * 2
            await realm.log_out(client, tokens["refresh_token"])
            await mesh.until(token, "revoked")
            assert await mesh.result(other) == _OK
            assert await mesh.result(await realm.access_token(client, "ann")) == _OK  # also in the same second


async def test_a_disabled_account_is_refused_once_it_is_signed_out_since_keycloak_sends_no_event_before(
    realm: Realm, tmp_path: Path
) -> None:
    async with receiving(tmp_path, realm) as mesh:
        token, tokens_of_bob = await realm.access_token("web", "ann"), await realm.tokens("web", "bob")
        assert await mesh.result(token) == _OK
        await realm.disable("ann")
        await realm.log_out("web", tokens_of_bob["refresh_token"])
        await mesh.until(tokens_of_bob["access_token"], "revoked")  # by an event after that of ann, if there were one
        assert await mesh.result(token) == _OK
        await realm.sign_out("ann")
        await mesh.until(token, "revoked")


async def test_an_event_that_the_administrator_emits_revokes_and_one_without_a_known_user_is_refused(
    realm: Realm, tmp_path: Path
) -> None:
    async with receiving(tmp_path, realm) as mesh:
        token = await realm.access_token("web", "ann")
        await realm.emit_session_revoked({"format": "email", "email": "bob@example.com"})
        await realm.emit_session_revoked({"format": "iss_sub", "iss": realm.issuer, "sub": claims(token)["sub"]})
        await mesh.until(token, "revoked")
        assert await mesh.result(await realm.access_token("web", "bob"), REPORTS) == _OK
        await counted(mesh, "rejected")

        async def reported() -> bool:
            return await realm.undelivered_events() == {"DEAD_LETTER": 1}  # by setErrs; the other is acknowledged

        await until(reported)


async def test_verification_and_status_of_the_stream_are_counted_and_a_paused_stream_delivers_later(
    realm: Realm, tmp_path: Path
) -> None:
    async with receiving(tmp_path, realm) as mesh:
        token = await realm.access_token("web", "ann")
        await realm.verify_stream()
        await counted(mesh, "verification")  # Keycloak holds back what was not delivered before the pause
        await realm.set_stream_status("paused")
        await counted(mesh, "stream-updated")
        await realm.sign_out("ann")
        assert await mesh.result(token) == _OK
        await realm.set_stream_status("enabled")
        await mesh.until(token, "revoked")
        assert await mesh.count("authz_security_events_total", type="rejected") == 0


async def test_events_are_received_after_the_receivers_own_token_became_invalid(realm: Realm, tmp_path: Path) -> None:
    async with receiving(tmp_path, realm) as mesh:
        before, polled = await realm.access_token("web", "ann"), await realm.access_token("web", "bob")
        await realm.sign_out("bob")
        await mesh.until(polled, "revoked")  # so there is a token for polling
        await realm.sign_out_everyone()
        token = await later_login(realm, "ann")
        assert await mesh.result(before) == _OK  # Keycloak sends no event of this
        await realm.sign_out("ann")
        await mesh.until(token, "revoked")


async def test_events_are_received_after_a_new_key_signs_them(realm: Realm, tmp_path: Path) -> None:
    async with receiving(tmp_path, realm) as mesh:
        token = await realm.access_token("web", "ann")
        assert await mesh.result(token) == _OK
        await realm.add_key()
        await realm.sign_out("ann")
        await mesh.until(token, "revoked")
        assert await mesh.count("authz_security_events_total", type="rejected") == 0


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_the_receiver_authenticates_by_its_private_key(realm: Realm, tmp_path: Path, algorithm: str) -> None:
    async with receiving(tmp_path, realm, key=Signer(algorithm, "receiver")) as mesh:
        token = await realm.access_token("web", "ann")
        await realm.sign_out("ann")
        await mesh.until(token, "revoked")


async def test_each_of_two_workers_refuses_the_token(realm: Realm, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "server": {"workers": 2},
        "envoy": {"checks_per_connection": 1},
        "top": {"logging": {"decisions": "denied"}},
    }
    async with receiving(tmp_path, realm, **changes) as mesh:
        token = await realm.access_token("web", "ann")
        await realm.sign_out("ann")

        async def refused_by_each() -> bool:
            await mesh.send(token)
            denials = [each for each in mesh.sidecar.log() if each.get("reason") == "revoked"]
            return len({each["worker"] for each in denials}) == 2

        await until(refused_by_each)
        await counted(mesh, "session-revoked")


async def test_another_worker_polls_once_the_one_that_did_was_killed(realm: Realm, tmp_path: Path) -> None:
    async with receiving(tmp_path, realm, server={"workers": 2}) as mesh:
        pids = workers(mesh.sidecar.process.pid)
        assert len(pids) == 2
        for pid in pids:  # one of them polls
            os.kill(pid, signal.SIGKILL)
            token = await later_login(realm, "ann")
            await realm.sign_out("ann")
            await mesh.until(token, "revoked")


async def test_events_of_the_time_when_the_sidecar_did_not_run_are_received_at_its_start(
    realm: Realm, tmp_path: Path
) -> None:
    async with receiving(tmp_path, realm) as mesh:
        token = await realm.access_token("web", "ann")
        assert await mesh.result(token) == _OK
        await mesh.sidecar.stop()
        await realm.sign_out("ann")
        async with mesh.restarted() as restarted:
            await restarted.until(token, "revoked")


async def test_while_keycloak_is_down_nobody_else_is_refused_and_the_revoked_token_remains_so_over_a_restart(
    own_server: OwnKeycloak, tmp_path: Path
) -> None:
    async with Realm(own_server.server) as realm, receiving(tmp_path, realm) as mesh:
        revoked, good = await realm.access_token("web", "ann"), await realm.service_token()
        assert [await mesh.result(token) for token in (revoked, good)] == [_OK] * 2
        await realm.sign_out("ann")
        await mesh.until(revoked, "revoked")
        await asyncio.to_thread(own_server.stop)
        async with mesh.restarted() as restarted:
            await restarted.until(revoked, "revoked")
            assert await restarted.result(good) == _OK
            at_first = await age(restarted)

            async def older() -> bool:
                return await age(restarted) > at_first + 1

            await until(older)
            grown = await age(restarted)
            assert await restarted.result(revoked) == _REVOKED
            assert await restarted.result(good) == _OK
            await asyncio.to_thread(own_server.start)
            tokens = await realm.tokens("web", "ann")
            await realm.log_out("web", tokens["refresh_token"])
            await restarted.until(tokens["access_token"], "revoked")

            async def younger() -> bool:
                return await age(restarted) < grown

            await until(younger)
            assert await restarted.result(good) == _OK


async def age(mesh: Mesh) -> float:
    return await mesh.count("authz_security_events_age_seconds")


async def test_neither_secrets_nor_tokens_of_the_receiver_are_logged(realm: Realm, tmp_path: Path) -> None:
    async with receiving(tmp_path, realm, top={"logging": {"level": "debug"}}) as mesh:
        token = await realm.access_token("web", "ann")
        await realm.sign_out("ann")
        await mesh.until(token, "revoked")
    log = mesh.log.read_text()
    assert RECEIVER_SECRET not in log
    assert "eyJ" not in log  # the start of a token
