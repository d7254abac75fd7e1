"""HTTP clients of an introspection endpoint that a test controls."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from authz_service.core.errors import FetchFailed
from support.fake_introspection import active_response, http_client, issuer_with
from support.key_source import FakeSource
from support.trust import ES, RS, jwks

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from authz_service.config.model import Issuer
    from authz_service.tokens.introspection.http_client import HttpIntrospectionClient
    from support.http_provider import Provider

TOKEN = "a-secret-token-of-some-length"
ACTIVE = json.dumps(active_response())


class IntrospectionClients:
    """Makes clients of one provider, and closes them at the end."""

    def __init__(self, provider: Provider, folder: Path) -> None:
        self.provider = provider
        self._secret = folder / "secret"
        self._secret.write_text("s3cret")
        self._made: list[HttpIntrospectionClient] = []

    def issuer(self, introspection: dict[str, Any] | None = None, **settings: Any) -> Issuer:
        """An issuer that uses the provider's endpoint; None removes a setting of ``introspection``."""
        own = {"endpoint": f"{self.provider.origin}/introspect", "client_secret_file": str(self._secret)}
        given = {name: value for name, value in (own | (introspection or {})).items() if value is not None}
        return issuer_with(given, **settings)

    def client(self, introspection: dict[str, Any] | None = None, **settings: Any) -> HttpIntrospectionClient:
        keys = FakeSource(jwks(RS.jwk(), ES.jwk()))
        timer = settings.pop("timer", time.monotonic)
        self._made.append(http_client(self.issuer(introspection, **settings), keys, timer=timer))
        return self._made[-1]

    async def introspect(self, introspection: dict[str, Any] | None = None, **settings: Any) -> Mapping[str, Any]:
        return await self.client(introspection, **settings).introspect(TOKEN)

    async def failure(self, introspection: dict[str, Any] | None = None, **settings: Any) -> FetchFailed:
        """The failure of a request. Asserts that its message contains neither the token nor the secret."""
        with pytest.raises(FetchFailed) as failed:
            await self.introspect(introspection, **settings)
        assert TOKEN not in str(failed.value)
        assert "s3cret" not in str(failed.value)
        return failed.value

    async def close(self) -> None:
        for client in self._made:
            await client.close()


def record_requests(provider: Provider, **response: Any) -> list[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """Serve an active response, with changes, and record headers and form of each request."""
    requests: list[tuple[Mapping[str, str], Mapping[str, Any]]] = []

    async def introspect(request: web.Request) -> web.StreamResponse:
        requests.append((dict(request.headers), dict(await request.post())))
        return web.Response(**({"text": ACTIVE, "content_type": "application/json"} | response))

    provider.handlers["/introspect"] = introspect
    return requests


async def hang(_request: web.Request) -> web.StreamResponse:
    """A handler that never responds."""
    await asyncio.Event().wait()
    raise AssertionError


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
