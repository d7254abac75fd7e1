"""The question over HTTP: what is sent and where to, and which answers count. No token stands in any failure's text."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiohttp import web

from authz_service.core.errors import FetchFailed
from authz_service.tokens.introspection.client import ClientRefused, Forbidden, RequestRefused
from authz_service.tokens.introspection.http_client import MAX_RESPONSE
from support.fake_introspection import active_response, http_client, issuer_with
from support.http_provider import Provider
from support.key_source import FakeSource
from support.signing import Signer
from support.trust import ES, ISSUER, OTHER, RS, STRANGER, jwks

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from authz_service.config.model import Issuer
    from authz_service.tokens.introspection.http_client import HttpIntrospectionClient

OPENID = "/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server"
TOKEN = "a-secret-token-of-some-length"
GOOD = json.dumps(active_response())
JWT = "application/token-introspection+jwt"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as made:
        yield made


class Asking:
    """Clients of one provider, closed at the end."""

    def __init__(self, provider: Provider, folder: Path) -> None:
        self.provider = provider
        self._secret = folder / "secret"
        self._secret.write_text("s3cret")
        self._made: list[HttpIntrospectionClient] = []

    def issuer(self, introspection: dict[str, Any] | None = None, **settings: Any) -> Issuer:
        own = {"endpoint": f"{self.provider.origin}/introspect", "client_secret_file": str(self._secret)}
        given = {name: value for name, value in (own | (introspection or {})).items() if value is not None}
        return issuer_with(given, **settings)

    def client(self, introspection: dict[str, Any] | None = None, **settings: Any) -> HttpIntrospectionClient:
        keys = FakeSource(jwks(RS.jwk(), ES.jwk()))
        timer = settings.pop("timer", time.monotonic)
        self._made.append(http_client(self.issuer(introspection, **settings), keys, timer=timer))
        return self._made[-1]

    async def ask(self, introspection: dict[str, Any] | None = None, **settings: Any) -> Mapping[str, Any]:
        return await self.client(introspection, **settings).introspect(TOKEN)

    async def failure(self, introspection: dict[str, Any] | None = None, **settings: Any) -> FetchFailed:
        with pytest.raises(FetchFailed) as failed:
            await self.ask(introspection, **settings)
        assert TOKEN not in str(failed.value)
        assert "s3cret" not in str(failed.value)
        return failed.value

    async def close(self) -> None:
        for client in self._made:
            await client.close()


@pytest.fixture
async def asking(provider: Provider, tmp_path: Path) -> AsyncIterator[Asking]:
    made = Asking(provider, tmp_path)
    yield made
    await made.close()


def recorded(provider: Provider, **answer: Any) -> list[tuple[Mapping[str, str], Mapping[str, Any]]]:
    """Headers and form of each question; each is answered as for a good token, or so."""
    seen: list[tuple[Mapping[str, str], Mapping[str, Any]]] = []

    async def introspect(request: web.Request) -> web.StreamResponse:
        seen.append((dict(request.headers), dict(await request.post())))
        return web.Response(**({"text": GOOD, "content_type": "application/json"} | answer))

    provider.handlers["/introspect"] = introspect
    return seen


# The question.


async def test_a_request_is_one_post_of_a_form(provider: Provider, asking: Asking) -> None:
    seen = recorded(provider)
    assert await asking.ask() == active_response()
    ((headers, form),) = seen
    assert form == {"token": TOKEN, "token_type_hint": "access_token"}
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert headers["Accept"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Authorization"] == "Basic bXktYXBpOnMzY3JldA=="
    assert [request.method for request in provider.requests] == ["POST"]
    assert provider.requests[0].query_string == ""


async def test_every_character_of_a_token_is_transmitted(provider: Provider, asking: Asking) -> None:
    seen = recorded(provider)
    token = "abc-._~+/09=="
    await asking.client().introspect(token)
    assert seen[0][1]["token"] == token


async def test_connections_are_reused(provider: Provider, asking: Asking) -> None:
    peers: set[object] = set()

    async def introspect(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response(active_response())

    provider.handlers["/introspect"] = introspect
    client = asking.client()
    for _ in range(20):
        await client.introspect(TOKEN)
    assert len(peers) == 1


async def test_no_cookie_is_sent_back(provider: Provider, asking: Asking) -> None:
    seen = recorded(provider, headers={"Set-Cookie": "a=b"})
    client = asking.client()
    for _ in range(2):
        await client.introspect(TOKEN)
    assert not any("Cookie" in headers for headers, _ in seen)


async def test_the_proxies_of_the_environment_are_not_used(
    provider: Provider, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    recorded(provider)
    assert await asking.ask() == active_response()


# Where to ask.


def metadata(provider: Provider, **changes: Any) -> str:
    own = {"issuer": provider.origin, "introspection_endpoint": f"{provider.origin}/introspect"}
    return json.dumps({name: value for name, value in (own | changes).items() if value is not None})


@pytest.mark.parametrize("path", [OPENID, OAUTH])
async def test_the_endpoint_is_discovered_once(provider: Provider, asking: Asking, path: str) -> None:
    recorded(provider)
    provider.serve(path, metadata(provider))
    client = asking.client({"endpoint": None}, issuer=provider.origin)
    await asyncio.gather(*(client.introspect(TOKEN) for _ in range(10)))
    assert provider.count(path) == 1
    assert provider.count("/introspect") == 10


async def test_after_preparation_the_first_request_needs_no_discovery(provider: Provider, asking: Asking) -> None:
    recorded(provider)
    provider.serve(OPENID, metadata(provider))
    client = asking.client({"endpoint": None}, issuer=provider.origin)
    await client.prepare()
    provider.requests.clear()
    await client.introspect(TOKEN)
    assert [request.path for request in provider.requests] == ["/introspect"]


async def test_preparing_never_raises(asking: Asking) -> None:
    await asking.client({"endpoint": None}, issuer=asking.provider.origin).prepare()


async def test_a_moved_endpoint_is_discovered_and_the_old_one_is_used_until_then(
    provider: Provider, asking: Asking
) -> None:
    now = 0.0
    recorded(provider)
    provider.serve("/moved", GOOD, content_type="application/json")
    provider.serve(OPENID, metadata(provider))
    client = asking.client({"endpoint": None}, issuer=provider.origin, timer=lambda: now)
    await client.introspect(TOKEN)
    provider.serve(OPENID, metadata(provider, introspection_endpoint=f"{provider.origin}/moved"))
    now = 299.0
    await client.introspect(TOKEN)
    assert provider.count(OPENID) == 1
    now = 300.0
    await client.introspect(TOKEN)
    while provider.count("/moved") == 0:
        await client.introspect(TOKEN)
    assert provider.count(OPENID) == 2


async def test_the_discovered_endpoint_is_used_while_metadata_is_unavailable(
    provider: Provider, asking: Asking
) -> None:
    now = 0.0
    recorded(provider)
    provider.serve(OPENID, metadata(provider))
    client = asking.client({"endpoint": None}, issuer=provider.origin, timer=lambda: now)
    await client.introspect(TOKEN)
    provider.serve(OPENID, b"", status=500)
    for now in (300.0, 301.0, 329.0, 331.0):  # noqa: B007 - the timer's
        await client.introspect(TOKEN)
        await asyncio.sleep(0.02)
    assert provider.count(OPENID) == 3  # not more often than min_refresh_interval


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://evil.example"},
        {"introspection_endpoint": None},
        {"introspection_endpoint": 7},
        {"introspection_endpoint": "/introspect"},
        {"introspection_endpoint": "ftp://idp.example/"},
        {"introspection_endpoint": "http://idp.example/introspect"},
    ],
)
async def test_invalid_metadata_is_a_failure(provider: Provider, asking: Asking, changes: dict[str, Any]) -> None:
    recorded(provider)
    provider.serve(OPENID, metadata(provider, **changes))
    assert str(await asking.failure({"endpoint": None}, issuer=provider.origin))
    assert provider.count("/introspect") == 0


async def test_without_metadata_a_request_fails_with_the_cause(provider: Provider, asking: Asking) -> None:
    assert "there is no metadata at" in str(await asking.failure({"endpoint": None}, issuer=provider.origin))
    away = f"http://127.0.0.1:{free_port()}"
    why = await asking.failure({"endpoint": None}, issuer=away)
    assert str(why) == f"{away}/.well-known/openid-configuration refuses connections"


async def test_waiting_for_metadata_counts_towards_the_timeout(provider: Provider, asking: Asking) -> None:
    provider.handlers[OPENID] = hangs
    why = await asking.failure({"endpoint": None, "timeout": "100ms"}, issuer=provider.origin)
    assert str(why) == "no complete response within 0.1 s"


async def test_discovery_has_its_own_timeout(provider: Provider, asking: Asking) -> None:
    provider.handlers[OPENID] = hangs
    keys = {"timeout": "100ms"}
    why = await asking.failure({"endpoint": None, "timeout": "20s"}, issuer=provider.origin, keys=keys)
    assert str(why) == "no complete metadata within 0.1 s"


async def test_plain_http_off_this_machine_must_be_allowed(provider: Provider, asking: Asking) -> None:
    recorded(provider)
    # An address that reaches this machine and does not say so.
    away = {"endpoint": f"{provider.origin.replace('127.0.0.1', '0.0.0.0')}/introspect"}  # noqa: S104 - none listens
    assert "plain http to another host is not allowed" in str(await asking.failure(away))
    assert provider.requests == []
    assert await asking.ask(away, keys={"allow_http": True}) == active_response()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(provider: Provider, asking: Asking, status: int) -> None:
    provider.redirect("/introspect", "/elsewhere", status)
    provider.serve("/elsewhere", GOOD, content_type="application/json")
    assert f"status {status}" in str(await asking.failure())
    assert provider.count("/elsewhere") == 0


# The answer.


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
async def test_a_response_is_json(provider: Provider, asking: Asking, kind: str) -> None:
    recorded(provider, headers={"Content-Type": kind}, text=None, body=GOOD.encode(), content_type=None)
    assert await asking.ask() == active_response()


@pytest.mark.parametrize("kind", ["text/html", "text/plain", "application/jwt", "application/jsonx", "application/xml"])
async def test_another_content_type_is_a_failure(provider: Provider, asking: Asking, kind: str) -> None:
    recorded(provider, content_type=kind)
    assert "content type" in str(await asking.failure())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"[]",
        b'"active"',
        b"true",
        b"null",
        b'{"active": true, "active": false}',
        b'{"active": true',
        GOOD.encode("utf-16"),
        b'{"active": NaN}',
        b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}",
    ],
    ids=ascii,
)
async def test_a_response_that_is_not_a_strict_json_object_is_a_failure(
    provider: Provider, asking: Asking, body: bytes
) -> None:
    recorded(provider, text=None, body=body)
    assert str(await asking.failure()).startswith("the response is not ")


async def test_a_response_is_read_up_to_the_maximum_size(provider: Provider, asking: Asking) -> None:
    for spare, fits in ((0, True), (1, False)):
        body = b'{"active": true}' + b" " * (MAX_RESPONSE - 16 + spare)
        recorded(provider, text=None, body=body)
        if fits:
            assert (await asking.ask())["active"] is True
        else:
            assert "larger than" in str(await asking.failure())


async def test_a_response_without_end_is_not_read_to_its_end(provider: Provider, asking: Asking) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    provider.handlers["/introspect"] = endless
    assert "larger than" in str(await asking.failure({"timeout": "60s"}))


async def test_a_compressed_response_is_decompressed_up_to_the_maximum_size(provider: Provider, asking: Asking) -> None:
    packed = {"text": None, "headers": {"Content-Encoding": "gzip"}}
    recorded(provider, body=gzip.compress(GOOD.encode()), **packed)
    assert await asking.ask() == active_response()
    recorded(provider, body=gzip.compress(GOOD.encode() + b" " * MAX_RESPONSE), **packed)
    assert "larger than" in str(await asking.failure())


@pytest.mark.parametrize("status", [201, 202, 204, 304, 404, 405, 410, 418, 500, 502, 503])
async def test_any_status_but_200_is_a_failure_although_it_has_a_valid_body(
    provider: Provider, asking: Asking, status: int
) -> None:
    recorded(provider, status=status, **({"text": None, "content_type": None} if status in {204, 304} else {}))
    why = await asking.failure()
    assert str(why) == f"{provider.origin}/introspect responded with status {status}"
    assert not isinstance(why, (ClientRefused, Forbidden, RequestRefused))


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (401, "", ClientRefused),
        (401, '{"error": "invalid_client"}', ClientRefused),
        (403, "", Forbidden),
        (400, '{"error": "invalid_client"}', ClientRefused),
        (400, '{"error": "unauthorized_client"}', ClientRefused),
        (400, '{"error": "invalid_request"}', RequestRefused),
        (400, '{"error": "unsupported_token_type"}', RequestRefused),
        (400, '{"error": ["invalid_client"]}', RequestRefused),
        (400, "not JSON", RequestRefused),
        (413, "", RequestRefused),
        (422, "", RequestRefused),
    ],
)
async def test_a_refused_client_and_a_refused_request_are_distinguished(
    provider: Provider, asking: Asking, status: int, body: str, kind: type[FetchFailed]
) -> None:
    recorded(provider, status=status, text=body)
    assert type(await asking.failure()) is kind


@pytest.mark.parametrize("status", [429, 503, 500])
@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("", 0), ("soon", 0), ("99999999999", 999_999_999)])
async def test_retry_after_is_read(provider: Provider, asking: Asking, status: int, value: str, seconds: float) -> None:
    recorded(provider, status=status, headers={"Retry-After": value})
    assert (await asking.failure()).retry_after == seconds


async def test_no_failure_repeats_what_the_server_wrote(provider: Provider, asking: Asking) -> None:
    for answer in (
        {"status": 500, "text": TOKEN, "reason": TOKEN},
        {"status": 401, "text": TOKEN, "headers": {"WWW-Authenticate": TOKEN}},
        {"status": 400, "text": json.dumps({"error": TOKEN, "error_description": TOKEN})},
        {"text": TOKEN},
        {"content_type": f"text/{TOKEN}"},
        {"status": 302, "headers": {"Location": f"/{TOKEN}"}},
        {"status": 429, "headers": {"Retry-After": TOKEN}},
    ):
        recorded(provider, **answer)
        await asking.failure()  # looks for the token by itself


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 " + TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n" + GOOD.encode(),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=ascii,
)
async def test_a_truncated_or_invalid_response_is_a_failure(asking: Asking, octets: bytes) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(octets)
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert str(await asking.failure({"endpoint": f"http://127.0.0.1:{port}/?key=s3cret"}))


# Time and trouble.


async def hangs(_request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_server_that_hangs_is_a_failure_after_the_timeout(provider: Provider, asking: Asking) -> None:
    provider.handlers["/introspect"] = hangs
    assert str(await asking.failure({"timeout": "100ms"})) == "no complete response within 0.1 s"


async def test_a_slow_response_is_a_failure_after_the_timeout(provider: Provider, asking: Asking) -> None:
    async def dribbles(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for octet in GOOD.encode():
            await response.write(bytes([octet]))
            await asyncio.sleep(0.01)
        return response

    provider.handlers["/introspect"] = dribbles
    assert str(await asking.failure({"timeout": "100ms"})) == "no complete response within 0.1 s"


async def test_a_server_that_hung_can_be_queried_again(provider: Provider, asking: Asking) -> None:
    client = asking.client({"timeout": "100ms", "max_concurrent": 1})
    provider.handlers["/introspect"] = hangs
    for _ in range(3):
        with pytest.raises(FetchFailed):
            await client.introspect(TOKEN)
    recorded(provider)
    assert await client.introspect(TOKEN) == active_response()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


async def test_a_server_that_is_down_is_a_failure_with_its_cause(asking: Asking) -> None:
    why = await asking.failure({"endpoint": f"http://127.0.0.1:{free_port()}/introspect?key=s3cret"})
    assert str(why).endswith("/introspect refuses connections")


async def test_a_host_name_that_cannot_be_resolved_is_a_failure_with_its_cause(asking: Asking) -> None:
    why = await asking.failure({"endpoint": "https://name.invalid/introspect?key=s3cret"})
    assert str(why) == "the host name of https://name.invalid/introspect cannot be resolved"


async def test_without_the_secret_no_request_is_sent(provider: Provider, asking: Asking, tmp_path: Path) -> None:
    recorded(provider)
    why = await asking.failure({"client_secret_file": str(tmp_path / "gone")})
    assert "secret" in str(why)
    assert provider.requests == []


# TLS.


def tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_a_server_is_trusted_by_the_ca_file_of_its_issuer(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for names, trusted in ((("127.0.0.1",), True), (("other.example",), False)):
        async with Provider(tls(authority, *names)) as provider:
            recorded(provider)
            asking = Asking(provider, tmp_path)
            if trusted:
                assert await asking.ask(keys={"ca_file": str(tmp_path / "ca.pem")}) == active_response()
                assert str(await asking.failure()).startswith("the certificate of ")
            else:
                why = await asking.failure(keys={"ca_file": str(tmp_path / "ca.pem")})
                assert str(why) == f"the certificate of {provider.origin}/introspect is for another IP address"
            await asking.close()


# Signed answers (RFC 9701).


def signed(signer: Signer = RS, header: dict[str, Any] | None = None, **changes: Any) -> bytes:
    own = {"iss": ISSUER, "aud": "my-api", "iat": int(time.time()), "token_introspection": active_response()}
    claims = {name: value for name, value in (own | changes).items() if value is not None}
    return signer.sign(claims, {"typ": "token-introspection+jwt"} | (header or {})).encode()


@pytest.mark.parametrize(
    "body",
    [
        signed(),
        signed(ES),
        signed(header={"typ": "Token-Introspection+JWT"}),
        signed(header={"typ": JWT}),
        signed(aud=["other", "my-api"]),
        signed(header={"kid": None}),
    ],
    ids=["RS256", "ES256", "case of the type", "full type", "several audiences", "no kid"],
)
async def test_a_signed_response_is_verified(provider: Provider, asking: Asking, body: bytes) -> None:
    recorded(provider, text=None, body=body, content_type=JWT)
    assert await asking.ask() == active_response()


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not a JWT"),
        (b"\xff", "not a JWT"),
        (GOOD.encode(), "not a JWT"),
        (signed(header={"typ": "JWT"}), "not of type"),
        (signed(header={"typ": "at+jwt"}), "not of type"),
        (signed(header={"typ": None}), "not of type"),
        (signed(header={"typ": 7}), "not of type"),
        (signed(header={"alg": "none"}), "another algorithm"),
        (signed(header={"alg": "HS256"}), "another algorithm"),
        (signed(Signer("RS512", "rs")), "another algorithm"),
        (signed(STRANGER), "no such key"),
        (signed(STRANGER, {"kid": "rs"}), "does not verify"),
        (signed(header={"alg": "ES256"}), "does not verify"),
        (signed()[:-4] + b"AAAA", "does not verify"),
        (signed(iss=OTHER), "another issuer"),
        (signed(iss=None), "another issuer"),
        (signed(aud="other"), "another client"),
        (signed(aud=None), "another client"),
        (signed(aud=[]), "another client"),
        (signed(aud=7), "another client"),
        (signed(token_introspection=None), "no object token_introspection"),
        (signed(token_introspection=[]), "no object token_introspection"),
        (signed(token_introspection=GOOD), "no object token_introspection"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_signed_response_must_be_from_the_issuer_for_this_client_and_of_its_type(
    provider: Provider, asking: Asking, body: bytes, why: str
) -> None:
    recorded(provider, text=None, body=body, content_type=JWT)
    assert why in str(await asking.failure())


async def test_claims_beside_token_introspection_do_not_count(provider: Provider, asking: Asking) -> None:
    recorded(provider, text=None, body=signed(token_introspection={"active": False}, active=True), content_type=JWT)
    assert await asking.ask() == {"active": False}


async def test_without_keys_a_signed_response_is_a_failure(provider: Provider, asking: Asking) -> None:
    recorded(provider, text=None, body=signed(), content_type=JWT)
    assert "cannot be verified" in str(await asking.failure(keys={"discovery": False}))


async def test_an_unknown_key_is_fetched_for_a_signed_response(provider: Provider, asking: Asking) -> None:
    recorded(provider, text=None, body=signed(), content_type=JWT)
    keys = FakeSource(jwks(ES.jwk()))
    client = http_client(asking.issuer(), keys)
    with pytest.raises(FetchFailed, match="no such key"):
        await client.introspect(TOKEN)
    assert keys.fetches == 1
    await client.close()
