"""The contract of an introspection client, which the real one and the tests' fake fulfill."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from aiohttp import web

from authz_service.core.errors import FetchFailed
from authz_service.tokens.introspection.client import RequestRefused
from support.fake_introspection import INACTIVE, FakeClient, active_response, http_client, issuer_with
from support.http_provider import Provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from authz_service.tokens.introspection.client import IntrospectionClient


class Server(Protocol):
    """An introspection server and a client for it."""

    @property
    def client(self) -> IntrospectionClient: ...

    def respond(self, token: str, response: Mapping[str, Any]) -> None:
        """Set the response for a token, and be available; other tokens are inactive."""

    def fail(self, retry_after: int = 0) -> None:
        """Be unavailable from now on."""

    def refuse(self, token: str) -> None:
        """Refuse requests about this token from now on."""


class FakeServer:
    def __init__(self) -> None:
        self.client = FakeClient()

    def respond(self, token: str, response: Mapping[str, Any]) -> None:
        self.client.response_to_all = None
        self.client.responses[token] = response

    def fail(self, retry_after: int = 0) -> None:
        self.client.response_to_all = FetchFailed("unavailable", retry_after=retry_after)

    def refuse(self, token: str) -> None:
        self.client.responses[token] = RequestRefused("unsupported_token_type")


class HttpServer:
    def __init__(self, provider: Provider, folder: Path) -> None:
        (folder / "secret").write_text("s3cret\n")
        issuer = issuer_with(
            {"endpoint": f"{provider.origin}/introspect", "client_secret_file": str(folder / "secret")}
        )
        self.client = http_client(issuer)
        self._responses: dict[str, Mapping[str, Any]] = {}
        self._refused: set[str] = set()
        self._unavailable: web.Response | None = None
        provider.handlers["/introspect"] = self._respond

    async def _respond(self, request: web.Request) -> web.StreamResponse:
        token = str((await request.post())["token"])
        if self._unavailable is not None:
            return web.Response(status=503, headers=self._unavailable.headers)
        if token in self._refused:
            return web.json_response({"error": "unsupported_token_type"}, status=400)
        return web.json_response(self._responses.get(token, INACTIVE))

    def respond(self, token: str, response: Mapping[str, Any]) -> None:
        self._unavailable = None
        self._responses[token] = response

    def fail(self, retry_after: int = 0) -> None:
        self._unavailable = web.Response(headers={"Retry-After": str(retry_after)} if retry_after else {})

    def refuse(self, token: str) -> None:
        self._refused.add(token)


@pytest.fixture(params=["fake", "http"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    async with Provider() as provider:
        made: Server = FakeServer() if request.param == "fake" else HttpServer(provider, tmp_path)
        yield made
        await made.client.close()


async def test_it_returns_the_response_body(server: Server) -> None:
    server.respond("good", active_response())
    assert await server.client.introspect("good") == active_response()
    assert await server.client.introspect("other") == INACTIVE


async def test_it_caches_nothing(server: Server) -> None:
    for response in (active_response(), INACTIVE, active_response(sub="u2")):
        server.respond("good", response)
        assert await server.client.introspect("good") == response


async def test_concurrent_requests_get_their_own_responses(server: Server) -> None:
    tokens = [f"token-{number}" for number in range(40)]
    for token in tokens:
        server.respond(token, active_response(sub=token))
    responses = await asyncio.gather(*map(server.client.introspect, tokens))
    assert [response["sub"] for response in responses] == tokens


async def test_an_unavailable_server_is_a_failure_until_it_recovers(server: Server) -> None:
    server.fail()
    for _ in range(2):
        with pytest.raises(FetchFailed) as failed:
            await server.client.introspect("a-secret-token")
        assert "a-secret-token" not in str(failed.value)
        assert failed.value.retry_after == 0
        assert not isinstance(failed.value, RequestRefused)
    server.respond("good", active_response())
    assert await server.client.introspect("good") == active_response()


async def test_retry_after_is_part_of_the_failure(server: Server) -> None:
    server.fail(retry_after=7)
    with pytest.raises(FetchFailed) as failed:
        await server.client.introspect("x")
    assert failed.value.retry_after == 7


async def test_a_refused_request_is_distinguished_from_a_failure(server: Server) -> None:
    server.respond("good", active_response())
    server.refuse("strange")
    with pytest.raises(RequestRefused):
        await server.client.introspect("strange")
    assert await server.client.introspect("good") == active_response()


async def test_a_canceled_request_affects_no_other(server: Server) -> None:
    server.respond("good", active_response())
    canceled = asyncio.create_task(server.client.introspect("good"))
    await asyncio.sleep(0)
    canceled.cancel()
    assert await server.client.introspect("good") == active_response()


async def test_it_can_be_prepared_and_closed_at_any_time_and_twice(server: Server) -> None:
    await server.client.close()
    await server.client.prepare()
    server.respond("good", active_response())
    assert await server.client.introspect("good") == active_response()
    await server.client.close()
    await server.client.close()
