"""The development identity provider tells the API what tokens stand for, and nobody else."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
import pytest
from aiohttp import web

from authz_service.demo.identity_provider import AUDIENCE, CLIENT_ID, CLIENT_SECRET, IdentityProvider
from authz_service.demo.introspection import API_ID, API_SECRET

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_API = {"Authorization": aiohttp.encode_basic_auth(API_ID, API_SECRET)}
_INACTIVE = (200, {"active": False})


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


async def told(provider: IdentityProvider, token: str, **request: Any) -> tuple[int, dict[str, Any]]:
    """What the endpoint that the metadata name says of a token."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{provider.issuer}/.well-known/openid-configuration") as answer:
            endpoint = (await answer.json())["introspection_endpoint"]
        form = {"token": token} | request.pop("form", {})
        async with session.post(endpoint, data=form, **({"headers": _API} | request)) as answer:
            return answer.status, await answer.json()


async def test_an_opaque_token_tells_nothing_and_stands_for_what_an_access_token_says(
    provider: IdentityProvider,
) -> None:
    token = provider.opaque_token(scope="a b")
    status, answer = await told(provider, token)
    assert "." not in token
    assert status == 200
    of_the_token = {"iss": provider.issuer, "sub": "alice", "aud": AUDIENCE, "client_id": CLIENT_ID, "scope": "a b"}
    own = {"active": True, "token_type": "Bearer"}
    assert answer | {"iat": 0, "exp": 0, "jti": ""} == own | of_the_token | {"iat": 0, "exp": 0, "jti": ""}


async def test_an_access_token_that_tells_what_it_stands_for_can_be_asked_about_as_well(
    provider: IdentityProvider,
) -> None:
    for algorithm in ("RS256", "ES256"):
        assert (await told(provider, provider.access_token(algorithm=algorithm)))[1]["sub"] == "alice"


async def test_what_is_no_access_token_of_its_own_is_not_active(provider: IdentityProvider) -> None:
    others = ("guessed", provider.id_token(), provider.forged_token(), provider.unsigned_token(), "a.b.c", "")
    assert [await told(provider, token) for token in others] == [_INACTIVE] * len(others)


@pytest.mark.parametrize("kind", ["opaque_token", "access_token"])
async def test_a_token_whose_time_has_passed_is_not_active(provider: IdentityProvider, kind: str) -> None:
    assert await told(provider, getattr(provider, kind)(exp=int(time.time()) - 1)) == _INACTIVE


@pytest.mark.parametrize("kind", ["opaque_token", "access_token"])
async def test_a_revoked_token_is_not_active_and_others_stay_so(provider: IdentityProvider, kind: str) -> None:
    token, other = getattr(provider, kind)(), getattr(provider, kind)()
    revocation = f"{provider.issuer}/revoke"
    async with aiohttp.ClientSession() as session, session.post(revocation, data={"token": token}) as answer:
        assert answer.status == 200
    assert await told(provider, token) == _INACTIVE
    assert (await told(provider, other))[1]["active"] is True


@pytest.mark.parametrize(
    "shown",
    [
        {"headers": {}, "form": {"client_id": API_ID, "client_secret": API_SECRET}},
        {"headers": {"Authorization": aiohttp.encode_basic_auth("demo%2Dapi", "demo%2dapi-secret")}},
    ],
)
async def test_the_api_may_show_its_secret_in_the_form_and_url_encoded(
    provider: IdentityProvider, shown: dict[str, Any]
) -> None:
    assert (await told(provider, provider.opaque_token(), **shown))[1]["active"] is True


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Basic", "Basic !", "Basic /w==", "Bearer x"),
        aiohttp.encode_basic_auth(CLIENT_ID, CLIENT_SECRET),  # a client, but not one that may ask
        aiohttp.encode_basic_auth(API_ID, "guess"),
        aiohttp.encode_basic_auth("", ""),
    ],
)
async def test_nobody_else_is_told_anything(provider: IdentityProvider, authorization: str) -> None:
    shown = {"headers": {"Authorization": authorization}}
    assert await told(provider, provider.opaque_token(), **shown) == (401, {"error": "invalid_client"})


async def test_a_signed_answer_is_its_own_and_for_the_api_alone(provider: IdentityProvider) -> None:
    signed = provider.signed_answer({"active": False})
    assert jwt.get_unverified_header(signed)["typ"] == "token-introspection+jwt"
    key = jwt.PyJWKSet.from_dict(provider.jwks())["RS256"].key
    verified = jwt.decode(signed, key, ["RS256"], audience=API_ID, issuer=provider.issuer)
    assert verified["token_introspection"] == {"active": False}


async def test_a_fault_answers_in_place_of_the_truth_until_it_is_taken_away(provider: IdentityProvider) -> None:
    async def fault(_request: web.Request) -> web.Response:
        return web.json_response({"error": "boiling"}, status=418)

    provider.introspection.fault = fault
    assert await told(provider, provider.opaque_token()) == (418, {"error": "boiling"})
    provider.introspection.fault = None
    assert (await told(provider, provider.opaque_token()))[1]["active"] is True
    assert provider.introspection.calls == 2


async def test_it_knows_how_many_asked_at_once(provider: IdentityProvider) -> None:
    here = asyncio.Barrier(3)

    async def together(request: web.Request) -> web.Response:
        await here.wait()
        return await provider.introspection.answer(request)

    provider.introspection.fault = together
    await asyncio.gather(*(told(provider, provider.opaque_token()) for _ in range(3)))
    assert (provider.introspection.most_in_flight, provider.introspection.in_flight) == (3, 0)
