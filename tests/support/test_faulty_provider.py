"""The faulty provider serves what a test sets, and counts exactly."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import jwt
import pytest
from aiohttp import web

from authz_service.demo.introspection import API_ID, API_SECRET
from support.faulty_provider import FaultyProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def provider() -> AsyncIterator[FaultyProvider]:
    async with FaultyProvider() as provider:
        yield provider


async def introspect(provider: FaultyProvider) -> tuple[int, object]:
    authorization = {"Authorization": aiohttp.encode_basic_auth(API_ID, API_SECRET)}
    form = {"token": provider.opaque_token()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{provider.issuer}/introspect", data=form, headers=authorization) as response,
    ):
        return response.status, (await response.json()).get("active")


async def test_a_signed_response_is_signed_by_the_provider_for_the_api(provider: FaultyProvider) -> None:
    signed = provider.signed_introspection_response({"active": False})
    assert jwt.get_unverified_header(signed)["typ"] == "token-introspection+jwt"
    key = jwt.PyJWKSet.from_dict(provider.jwks())["RS256"].key
    verified = jwt.decode(signed, key, ["RS256"], audience=API_ID, issuer=provider.issuer)
    assert verified["token_introspection"] == {"active": False}


async def test_a_fault_replaces_the_response_until_it_is_removed(provider: FaultyProvider) -> None:
    async def fault(_request: web.Request) -> web.Response:
        return web.json_response({"error": "boiling"}, status=418)

    provider.fault = fault
    assert await introspect(provider) == (418, None)
    provider.fault = None
    assert await introspect(provider) == (200, True)
    assert provider.introspections == 2


async def test_concurrent_requests_are_counted(provider: FaultyProvider) -> None:
    barrier = asyncio.Barrier(3)

    async def together(request: web.Request) -> web.StreamResponse:
        await barrier.wait()
        return await provider.introspection.serve(request)

    provider.fault = together
    await asyncio.gather(*(introspect(provider) for _ in range(3)))
    assert (provider.max_in_flight, provider.in_flight) == (3, 0)
