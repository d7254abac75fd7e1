"""The development identity provider introspects tokens for the API only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

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


async def introspect(provider: IdentityProvider, token: str, **request: Any) -> tuple[int, dict[str, Any]]:
    """The response of the introspection endpoint in the metadata."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{provider.issuer}/.well-known/openid-configuration") as response:
            endpoint = (await response.json())["introspection_endpoint"]
        form = {"token": token} | request.pop("form", {})
        async with session.post(endpoint, data=form, **({"headers": _API} | request)) as response:
            return response.status, await response.json()


async def test_an_opaque_token_has_the_claims_of_an_access_token(provider: IdentityProvider) -> None:
    token = provider.opaque_token(scope="a b")
    status, response = await introspect(provider, token)
    assert "." not in token
    assert status == 200
    token_claims = {"iss": provider.issuer, "sub": "alice", "aud": AUDIENCE, "client_id": CLIENT_ID, "scope": "a b"}
    own = {"active": True, "token_type": "Bearer"}
    assert response | {"iat": 0, "exp": 0, "jti": ""} == own | token_claims | {"iat": 0, "exp": 0, "jti": ""}


async def test_a_jwt_access_token_can_be_introspected(provider: IdentityProvider) -> None:
    for algorithm in ("RS256", "ES256"):
        assert (await introspect(provider, provider.access_token(algorithm=algorithm)))[1]["sub"] == "alice"


async def test_a_string_that_is_not_its_access_token_is_inactive(provider: IdentityProvider) -> None:
    others = ("guessed", provider.id_token(), provider.forged_token(), provider.unsigned_token(), "a.b.c", "")
    assert [await introspect(provider, token) for token in others] == [_INACTIVE] * len(others)


@pytest.mark.parametrize("kind", ["opaque_token", "access_token"])
async def test_an_expired_token_is_inactive(provider: IdentityProvider, kind: str) -> None:
    assert await introspect(provider, getattr(provider, kind)(exp=int(time.time()) - 1)) == _INACTIVE


@pytest.mark.parametrize("kind", ["opaque_token", "access_token"])
async def test_a_revoked_token_is_inactive_and_others_stay_active(provider: IdentityProvider, kind: str) -> None:
    token, other = getattr(provider, kind)(), getattr(provider, kind)()
    revocation = f"{provider.issuer}/revoke"
    async with aiohttp.ClientSession() as session, session.post(revocation, data={"token": token}) as response:
        assert response.status == 200
    assert await introspect(provider, token) == _INACTIVE
    assert (await introspect(provider, other))[1]["active"] is True


@pytest.mark.parametrize(
    "credentials",
    [
        {"headers": {}, "form": {"client_id": API_ID, "client_secret": API_SECRET}},
        {"headers": {"Authorization": aiohttp.encode_basic_auth("demo%2Dapi", "demo%2dapi-secret")}},
    ],
)
async def test_the_api_may_send_its_secret_in_the_form_or_url_encoded(
    provider: IdentityProvider, credentials: dict[str, Any]
) -> None:
    assert (await introspect(provider, provider.opaque_token(), **credentials))[1]["active"] is True


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Basic", "Basic !", "Basic /w==", "Bearer x"),
        aiohttp.encode_basic_auth(CLIENT_ID, CLIENT_SECRET),  # a client that may not introspect
        aiohttp.encode_basic_auth(API_ID, "guess"),
        aiohttp.encode_basic_auth("", ""),
    ],
)
async def test_any_other_caller_is_denied(provider: IdentityProvider, authorization: str) -> None:
    credentials = {"headers": {"Authorization": authorization}}
    assert await introspect(provider, provider.opaque_token(), **credentials) == (401, {"error": "invalid_client"})
