"""The transmitter of the tests conforms to RFC 8936, and refuses requests that do not."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
import pytest

from authz_service.tokens.revocation.events import SESSION_REVOKED
from support.signing import Signer
from support.transmitter import (
    CLIENT_ID,
    CLIENT_KEY,
    CLIENT_SECRET,
    POLL,
    RECEIVER,
    TOKEN,
    Refusal,
    Transmitter,
    hang,
    respond,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def transmitter() -> AsyncIterator[Transmitter]:
    async with Transmitter() as transmitter:
        yield transmitter


async def poll(transmitter: Transmitter, token: str | None = None, **members: Any) -> tuple[int, Any]:
    """Status and content of the response to a poll."""
    headers = {"Authorization": f"Bearer {token or transmitter.grant()}"}
    if "setErrs" in members:
        headers["Content-Language"] = "en"
    async with (
        aiohttp.ClientSession() as session,
        session.post(transmitter.origin + POLL, json=members, headers=headers) as response,
    ):
        return response.status, await response.json()


async def sets(transmitter: Transmitter, **members: Any) -> list[str]:
    """The jtis of the SETs in the response to a poll."""
    status, body = await poll(transmitter, **members)
    assert status == 200
    assert body["moreAvailable"] == (len(body["sets"]) < len(transmitter.sets))
    return list(body["sets"])


async def test_a_set_is_signed_by_a_published_key_and_verifies_with_another_implementation(
    transmitter: Transmitter,
) -> None:
    jti = await transmitter.revoke_session("alice", "s1")
    _, body = await poll(transmitter)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{transmitter.origin}/.well-known/openid-configuration") as metadata,
        session.get((await metadata.json())["jwks_uri"]) as keys,
    ):
        key = jwt.PyJWKSet.from_dict(await keys.json())["rs"].key
    assert jwt.get_unverified_header(body["sets"][jti])["typ"] == "secevent+jwt"
    claims = jwt.decode(body["sets"][jti], key, ["RS256"], audience=RECEIVER, issuer=transmitter.issuer)
    assert claims["jti"] == jti
    assert claims["events"].keys() == {SESSION_REVOKED}
    assert claims["sub_id"]["user"]["sub"] == "alice"


async def test_what_is_not_acknowledged_is_delivered_again_the_oldest_first(transmitter: Transmitter) -> None:
    jtis = [await transmitter.disable(f"u{number}") for number in range(4)]
    assert await sets(transmitter, maxEvents=2) == jtis[:2]
    assert await sets(transmitter, maxEvents=2) == jtis[:2]
    assert await sets(transmitter, maxEvents=2, ack=jtis[:1]) == jtis[1:3]
    assert await sets(transmitter, ack=["unknown"]) == jtis[1:]
    assert await sets(transmitter, maxEvents=0) == []
    assert transmitter.acknowledged == jtis[:1]


async def test_a_refused_set_is_not_delivered_again(transmitter: Transmitter) -> None:
    first, second = await transmitter.purge("u1"), await transmitter.verification("state")
    assert await sets(transmitter, setErrs={first: {"err": "invalid_key", "description": "why"}}) == [second]
    assert transmitter.refused == {first: Refusal("invalid_key", "why")}


async def test_a_poll_waits_for_a_set_unless_it_asks_for_an_immediate_response(transmitter: Transmitter) -> None:
    assert await sets(transmitter, returnImmediately=True) == []
    waiting = asyncio.create_task(sets(transmitter))
    await transmitter.until(lambda: len(transmitter.polls) == 2)
    jti = await transmitter.disable("u1")
    assert await waiting == [jti]
    await transmitter.until(lambda: True)


async def test_a_poll_does_not_wait_forever_or_at_all_as_keycloak(transmitter: Transmitter) -> None:
    transmitter.max_wait = 0.01
    assert await sets(transmitter) == []
    transmitter.max_wait, transmitter.waits = 3600.0, False
    assert await sets(transmitter) == []


async def test_a_poll_needs_an_access_token_that_is_valid_and_has_the_scope(transmitter: Transmitter) -> None:
    for token in ("unknown", transmitter.grant(ttl=-1), transmitter.grant(scope="ssf.manage")):
        assert (await poll(transmitter, token, returnImmediately=True))[0] == 401
    assert (await poll(transmitter, transmitter.grant(scope="ssf.read"), returnImmediately=True))[0] == 200


@pytest.mark.parametrize(
    "members",
    [
        {"maxEvents": "50"},
        {"maxEvents": -1},
        {"maxEvents": True},
        {"returnImmediately": 1},
        {"ack": "jti"},
        {"ack": [1]},
        {"setErrs": []},
        {"setErrs": {"jti": "invalid_key"}},
        {"setErrs": {"jti": {}}},
        {"more": 1},
    ],
)
async def test_a_request_that_does_not_conform_is_refused(transmitter: Transmitter, members: dict[str, Any]) -> None:
    assert (await poll(transmitter, **members))[0] == 400
    assert transmitter.polls == []


async def test_descriptions_of_errors_need_a_language(transmitter: Transmitter) -> None:
    headers = {"Authorization": f"Bearer {transmitter.grant()}"}
    body = {"setErrs": {"jti": {"err": "invalid_key"}}}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(transmitter.origin + POLL, json=body) as response,
    ):
        assert response.status == 400


async def token_response(transmitter: Transmitter, **changes: str | None) -> tuple[int, Any]:
    form = {"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET} | changes
    data = {name: value for name, value in form.items() if value is not None}
    async with (
        aiohttp.ClientSession() as session,
        session.post(transmitter.origin + TOKEN, data=data) as response,
    ):
        return response.status, await response.json()


async def test_a_token_is_granted_to_the_client_for_its_scopes_only(transmitter: Transmitter) -> None:
    status, body = await token_response(transmitter, scope="ssf.read")
    assert (status, body["token_type"], body["expires_in"]) == (200, "Bearer", 300)
    assert (await poll(transmitter, body["access_token"], returnImmediately=True))[0] == 200
    assert (await token_response(transmitter, scope="admin"))[0] == 400
    assert (await token_response(transmitter, client_secret="wrong"))[0] == 401
    assert (await token_response(transmitter, client_secret=None))[0] == 401
    assert (await token_response(transmitter, grant_type="password"))[0] == 400


async def test_an_assertion_must_be_signed_by_the_client_for_this_issuer(transmitter: Transmitter) -> None:
    now = int(time.time())
    claims = {"iss": CLIENT_ID, "sub": CLIENT_ID, "jti": "1", "iat": now, "exp": now + 60}
    own, other = Signer("ES256", key=CLIENT_KEY), Signer("ES256", "other")
    for signer, aud, status in (
        (own, transmitter.issuer, 200),
        (own, transmitter.issuer + TOKEN, 401),
        (other, transmitter.issuer, 401),
    ):
        form = {
            "client_assertion": signer.sign(claims | {"aud": aud}),
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        }
        assert (await token_response(transmitter, client_secret=None, **form))[0] == status


async def test_a_fault_replaces_the_response_and_the_request_is_recorded(transmitter: Transmitter) -> None:
    transmitter.fault = respond(b'{"a":1}', 503, Retry_After="7")
    assert await poll(transmitter, maxEvents=1) == (503, {"a": 1})
    assert transmitter.polls == [{"maxEvents": 1}]
    transmitter.token_fault = hang
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await token_response(transmitter)


async def test_a_flood_ignores_everything_that_was_requested(transmitter: Transmitter) -> None:
    transmitter.floods = True
    _, body = await poll(transmitter, maxEvents=1)
    assert len(body["sets"]) > 500
    assert body["moreAvailable"] is True
    _, again = await poll(transmitter, maxEvents=1, ack=list(body["sets"]))
    assert not body["sets"].keys() & again["sets"].keys()


async def test_it_can_be_stopped_and_started_at_the_same_address(transmitter: Transmitter) -> None:
    origin, jti = transmitter.origin, await transmitter.disable("u1")
    for _ in range(2):
        await transmitter.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await poll(transmitter)
        await transmitter.start()
        assert transmitter.origin == origin
        assert await sets(transmitter) == [jti]
