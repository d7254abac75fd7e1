"""The access token of this client: requested once, used until shortly before it expires, and never shown."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from authz_service.config.model import Issuer
from authz_service.core.errors import FetchFailed
from authz_service.providers.access_token import MAX_RESPONSE, ClientCredentialsToken, FileToken
from authz_service.providers.bearer_token import BearerToken
from authz_service.providers.client import ProviderClient
from authz_service.providers.client_authentication import authentication_of
from authz_service.providers.endpoint import Endpoint
from authz_service.single_flight import SharedTaskCancelledError
from support.http_provider import Provider
from support.transmitter import break_off, drip, drop, hang, respond

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

TOKEN, SECRET = "a-t0ken", "s3cret"
CHECK_CLIENT = "check security_events.client_id and its secret or key"
CHECK_GRANT = f"{CHECK_CLIENT}, and that the client may use the client credentials grant"


class Client:
    """A client of a provider whose token endpoint serves ``members``."""

    def __init__(self, provider: Provider, folder: Path) -> None:
        self.now = 1000.0
        self.members: dict[str, Any] = {"access_token": TOKEN, "token_type": "Bearer", "expires_in": 300}
        self.forms: list[dict[str, list[str]]] = []
        self.provider = provider
        provider.handlers["/token"] = self._serve
        self._secret = folder / "secret"
        self._secret.write_text(SECRET)
        self._made: list[tuple[ClientCredentialsToken, ProviderClient]] = []

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.forms.append(parse_qs(await request.text(), strict_parsing=True))
        present = {name: value for name, value in self.members.items() if value is not None}
        return web.json_response(present)

    def token(
        self, endpoint: str | None = "/token", scopes: Sequence[str] = (), seconds: float = 0.2
    ) -> ClientCredentialsToken:
        events = {
            "poll_endpoint": "https://idp.example/",
            "audience": "me",
            "client_id": "my client",
            "client_secret_file": str(self._secret),
        }
        keys = {"timeout": "200ms"}
        issuer = Issuer.read(
            {"issuer": self.provider.origin, "audiences": ["api"], "keys": keys, "security_events": events}
        )
        assert issuer.security_events is not None
        client = ProviderClient(issuer.keys, accept="application/json", max_connections=2)
        url = None if endpoint is None else self.provider.origin + endpoint
        token = ClientCredentialsToken(
            Endpoint("token_endpoint", url, issuer, client, lambda: self.now),
            client,
            authentication_of(issuer.security_events, issuer.issuer, clock=time.time, timer=lambda: self.now),
            scopes=scopes,
            timeout=seconds,
            clock=time.time,
            timer=lambda: self.now,
        )
        self._made.append((token, client))
        return token

    async def failure(self, endpoint: str | None = "/token") -> FetchFailed:
        """The failure of a request. Asserts that its message contains neither the token nor the secret."""
        with pytest.raises(FetchFailed) as failed:
            await self.token(endpoint).authorization()
        assert TOKEN not in str(failed.value)
        assert SECRET not in str(failed.value)
        return failed.value

    async def close(self) -> None:
        for token, client in self._made:
            await token.close()
            await client.close()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with Provider() as provider:
        client = Client(provider, tmp_path)
        yield client
        await client.close()


async def test_the_request_is_that_of_rfc_6749(client: Client) -> None:
    assert await client.token().authorization() == f"Bearer {TOKEN}"
    assert await client.token(scopes=("ssf.read", "ssf.manage")).authorization() == f"Bearer {TOKEN}"
    plain, scoped = client.forms
    assert plain == {"grant_type": ["client_credentials"]}
    assert scoped == {"grant_type": ["client_credentials"], "scope": ["ssf.read ssf.manage"]}
    for request in client.provider.requests:
        assert request.method == "POST"
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert request.headers["Authorization"] == "Basic bXkrY2xpZW50OnMzY3JldA=="


@pytest.mark.parametrize(
    ("expires_in", "used"),
    [
        (300, 290),
        (11, 1),
        (5, 1),
        (0, 1),
        (-1, 1),
        (60.5, 50.5),
        (10**30, 3600),
        (None, 50),
        ("300", 50),
        (True, 50),
        ([], 50),
    ],
)
async def test_a_token_is_used_until_shortly_before_it_expires(client: Client, expires_in: object, used: float) -> None:
    client.members["expires_in"] = expires_in
    token = client.token()
    for after, requests in ((0.0, 1), (used - 0.01, 1), (used + 0.01, 2)):
        client.now = 1000.0 + after
        assert await token.authorization() == f"Bearer {TOKEN}"
        assert len(client.forms) == requests


async def test_the_lifetime_begins_when_the_request_is_sent(client: Client) -> None:
    async def serve_late(_request: web.Request) -> web.Response:
        client.now += 100.0
        return web.json_response(client.members)

    client.provider.handlers["/token"] = serve_late
    token = client.token()
    await token.authorization()
    client.now = 1289.0
    await token.authorization()
    assert client.now == 1289.0
    client.now = 1291.0
    await token.authorization()
    assert client.now == 1391.0


async def test_concurrent_callers_share_one_request_and_one_that_leaves_takes_it_from_no_other(client: Client) -> None:
    token = client.token()
    callers = [asyncio.create_task(token.authorization()) for _ in range(20)]
    await asyncio.sleep(0)
    callers[0].cancel()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert set(results[1:]) == {f"Bearer {TOKEN}"}
    assert len(client.forms) == 1


async def test_a_discarded_token_is_not_used_again(client: Client) -> None:
    token = client.token()
    await token.authorization()
    assert token.discard() is True
    client.members["access_token"] = "another"
    assert await token.authorization() == "Bearer another"
    assert len(client.forms) == 2


async def test_a_failure_is_not_cached(client: Client) -> None:
    token, served = client.token(), client.provider.handlers["/token"]
    client.provider.handlers["/token"] = respond(status=503, Retry_After="7")
    with pytest.raises(FetchFailed) as failed:
        await token.authorization()
    assert failed.value.retry_after == 7
    client.provider.handlers["/token"] = served
    assert await token.authorization() == f"Bearer {TOKEN}"


async def test_the_endpoint_is_discovered(client: Client) -> None:
    failure = await client.failure(None)
    assert str(failure).endswith("check the issuer, or set keys.metadata_url or security_events.token_endpoint")
    document = {"issuer": client.provider.origin, "token_endpoint": f"{client.provider.origin}/token"}
    client.provider.serve("/.well-known/openid-configuration", json.dumps(document))
    token = client.token(None)
    for _ in range(2):
        assert await token.authorization() == f"Bearer {TOKEN}"
    assert client.provider.count("/token") == 1


# Responses.


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "BEARER"])
async def test_the_token_type_is_compared_without_case(client: Client, kind: str) -> None:
    client.members["token_type"] = kind
    assert await client.token().authorization() == f"Bearer {TOKEN}"


@pytest.mark.parametrize("kind", [None, "DPoP", "mac", "N_A", 7, ["Bearer"], "Bearer "])
async def test_a_token_of_another_type_is_not_used(client: Client, kind: object) -> None:
    client.members["token_type"] = kind
    assert "token_type other than Bearer" in str(await client.failure())


@pytest.mark.parametrize("token", [None, "", 7, [TOKEN], f"{TOKEN} x", f"{TOKEN}\r\nx: y", f"{TOKEN}é", "x" * 16_385])
async def test_only_visible_ascii_of_bounded_length_is_a_token(client: Client, token: object) -> None:
    client.members["access_token"] = token
    assert "no access_token of" in str(await client.failure())


async def test_a_token_of_the_maximum_length_is_used(client: Client) -> None:
    client.members["access_token"] = "x" * 16_384
    assert await client.token().authorization() == f"Bearer {'x' * 16_384}"


@pytest.mark.parametrize(
    ("status", "error", "remedy"),
    [
        (401, "invalid_client", CHECK_CLIENT),
        (400, "invalid_client", CHECK_CLIENT),
        (400, "invalid_scope", "check security_events.scopes"),
        (400, "unauthorized_client", CHECK_GRANT),
        (401, "unauthorized_client", CHECK_GRANT),  # Keycloak's response to a wrong secret
        (400, "unsupported_grant_type", CHECK_GRANT),
        (400, "invalid_grant", CHECK_GRANT),
        (400, "invalid_request", "check security_events.token_endpoint"),
    ],
)
async def test_an_error_code_of_rfc_6749_says_what_to_do(client: Client, status: int, error: str, remedy: str) -> None:
    body = json.dumps({"error": error, "error_description": TOKEN, "error_uri": SECRET})
    client.provider.serve("/token", body, status=status)
    message = str(await client.failure())
    assert message == f"{client.provider.origin}/token responded with status {status}, {error}: {remedy}"


@pytest.mark.parametrize(
    "body", [b"", b"not JSON", b"[]", b'{"error":["invalid_scope"]}', b'{"error":"a-t0ken"}', b'{"error":null}']
)
async def test_another_error_is_not_repeated(client: Client, body: bytes) -> None:
    url = f"{client.provider.origin}/token"
    client.provider.serve("/token", body, status=400)
    assert str(await client.failure()) == f"{url} responded with status 400"
    client.provider.serve("/token", body, status=401)
    assert str(await client.failure()) == f"{url} responded with status 401: {CHECK_CLIENT}"


@pytest.mark.parametrize(
    "fault",
    [
        hang,
        drip,
        drop,
        break_off,
        respond(b""),
        respond(b"[]"),
        respond(b'{"access_token":"a-t0ken","token_type":"Bearer"'),
        respond(b'{"access_token":"a-t0ken","access_token":"b","token_type":"Bearer"}'),
        respond(b'{"access_token":"a-t0ken","token_type":"Bearer"}', content_type="text/html"),
        respond(b'{"access_token":"a-t0ken","token_type":"Bearer"}' + b" " * MAX_RESPONSE),
        respond(b"access_token=a-t0ken&token_type=Bearer", content_type="application/x-www-form-urlencoded"),
        *(
            respond(b'{"access_token":"a-t0ken","token_type":"Bearer"}', status=status, Location="/elsewhere")
            for status in (201, 302, 307, 308, 403, 404, 429, 500)
        ),
    ],
)
async def test_a_faulty_token_endpoint_gives_no_token(client: Client, fault: Any) -> None:
    client.provider.serve("/elsewhere", json.dumps(client.members), content_type="application/json")
    client.provider.handlers["/token"] = fault
    assert "/token" in str(await client.failure())
    assert client.provider.count("/elsewhere") == 0


# Files and the end.


async def test_a_token_from_a_file_is_not_replaced_by_discarding_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("one\n")
    token = FileToken(BearerToken(tmp_path / "token", lambda: 0.0))
    assert await token.authorization() == "Bearer one"
    assert token.discard() is False
    await token.close()


async def test_closing_ends_a_request_and_a_closed_token_can_be_used_again(client: Client) -> None:
    requested = asyncio.Event()

    async def hang_after(request: web.Request) -> web.StreamResponse:
        requested.set()
        return await hang(request)

    served, client.provider.handlers["/token"] = client.provider.handlers["/token"], hang_after
    token = client.token(seconds=60.0)
    waiting = asyncio.create_task(token.authorization())
    await requested.wait()
    await token.close()
    with pytest.raises(SharedTaskCancelledError):
        await waiting
    client.provider.handlers["/token"] = served
    assert await token.authorization() == f"Bearer {TOKEN}"
