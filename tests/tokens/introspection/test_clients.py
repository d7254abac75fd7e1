"""The contract of a client of an introspection server, which the real one keeps and the fake of the tests too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from aiohttp import web

from authz_service.core.errors import FetchFailed
from authz_service.tokens.introspection.client import RequestRefused
from support.http_provider import Provider
from tokens.introspection.servers import INACTIVE, FakeClient, http_client, issuer_with, said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from authz_service.tokens.introspection.client import IntrospectionClient


class Server(Protocol):
    """The other side of a client."""

    @property
    def client(self) -> IntrospectionClient: ...

    def says(self, token: str, answer: Mapping[str, Any]) -> None:
        """From now on this is said of a token; of others it is said that they are not active."""

    def vanishes(self, retry_after: int = 0) -> None:
        """From now on nothing is to be had."""

    def refuses(self, token: str) -> None:
        """From now on questions about this token are not answered."""


class FakeServer:
    def __init__(self) -> None:
        self.client = FakeClient()

    def says(self, token: str, answer: Mapping[str, Any]) -> None:
        self.client.every = None
        self.client.tokens[token] = answer

    def vanishes(self, retry_after: int = 0) -> None:
        self.client.every = FetchFailed("it cannot be reached", retry_after=retry_after)

    def refuses(self, token: str) -> None:
        self.client.tokens[token] = RequestRefused("not such tokens")


class HttpServer:
    def __init__(self, provider: Provider, folder: Path) -> None:
        (folder / "secret").write_text("s3cret\n")
        issuer = issuer_with(
            {"endpoint": f"{provider.origin}/introspect", "client_secret_file": str(folder / "secret")}
        )
        self.client = http_client(issuer)
        self._tokens: dict[str, Mapping[str, Any]] = {}
        self._refused: set[str] = set()
        self._away: web.Response | None = None
        provider.handlers["/introspect"] = self._answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        token = str((await request.post())["token"])
        if self._away is not None:
            return web.Response(status=503, headers=self._away.headers)
        if token in self._refused:
            return web.json_response({"error": "unsupported_token_type"}, status=400)
        return web.json_response(self._tokens.get(token, INACTIVE))

    def says(self, token: str, answer: Mapping[str, Any]) -> None:
        self._away = None
        self._tokens[token] = answer

    def vanishes(self, retry_after: int = 0) -> None:
        self._away = web.Response(headers={"Retry-After": str(retry_after)} if retry_after else {})

    def refuses(self, token: str) -> None:
        self._refused.add(token)


@pytest.fixture(params=["fake", "http"])
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    async with Provider() as provider:
        made: Server = FakeServer() if request.param == "fake" else HttpServer(provider, tmp_path)
        yield made
        await made.client.close()


async def test_it_returns_the_response_body(server: Server) -> None:
    server.says("good", said())
    assert await server.client.introspect("good") == said()
    assert await server.client.introspect("other") == INACTIVE


async def test_it_caches_nothing(server: Server) -> None:
    for answer in (said(), INACTIVE, said(sub="u2")):
        server.says("good", answer)
        assert await server.client.introspect("good") == answer


async def test_concurrent_requests_get_their_own_responses(server: Server) -> None:
    tokens = [f"token-{number}" for number in range(40)]
    for token in tokens:
        server.says(token, said(sub=token))
    answers = await asyncio.gather(*map(server.client.introspect, tokens))
    assert [answer["sub"] for answer in answers] == tokens


async def test_an_unavailable_server_is_a_failure_until_it_recovers(server: Server) -> None:
    server.vanishes()
    for _ in range(2):
        with pytest.raises(FetchFailed) as failed:
            await server.client.introspect("a-secret-token")
        assert "a-secret-token" not in str(failed.value)
        assert failed.value.retry_after == 0
        assert not isinstance(failed.value, RequestRefused)
    server.says("good", said())
    assert await server.client.introspect("good") == said()


async def test_retry_after_is_part_of_the_failure(server: Server) -> None:
    server.vanishes(retry_after=7)
    with pytest.raises(FetchFailed) as failed:
        await server.client.introspect("x")
    assert failed.value.retry_after == 7


async def test_a_refused_request_is_distinguished_from_a_failure(server: Server) -> None:
    server.says("good", said())
    server.refuses("strange")
    with pytest.raises(RequestRefused):
        await server.client.introspect("strange")
    assert await server.client.introspect("good") == said()


async def test_a_canceled_request_affects_no_other(server: Server) -> None:
    server.says("good", said())
    impatient = asyncio.create_task(server.client.introspect("good"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await server.client.introspect("good") == said()


async def test_it_can_be_prepared_and_closed_at_any_time_and_twice(server: Server) -> None:
    await server.client.close()
    await server.client.prepare()
    server.says("good", said())
    assert await server.client.introspect("good") == said()
    await server.client.close()
    await server.client.close()
