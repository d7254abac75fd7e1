"""Introspection over HTTP: what is sent, and which responses count. No failure contains the token."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from typing import TYPE_CHECKING

import pytest
import trustme
from aiohttp import web

from authz_service.core.errors import FetchFailed
from authz_service.tokens.introspection.client import ClientRefused, Forbidden, RequestRefused
from authz_service.tokens.introspection.http_client import MAX_RESPONSE
from support.fake_introspection import active_response
from support.http_provider import Provider
from support.introspection_clients import ACTIVE, TOKEN, IntrospectionClients, free_port, hang, record_requests

if TYPE_CHECKING:
    from pathlib import Path

# The request.


async def test_a_request_is_one_post_of_a_form(provider: Provider, clients: IntrospectionClients) -> None:
    requests = record_requests(provider)
    assert await clients.introspect() == active_response()
    ((headers, form),) = requests
    assert form == {"token": TOKEN, "token_type_hint": "access_token"}
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert headers["Accept"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Authorization"] == "Basic bXktYXBpOnMzY3JldA=="
    assert [request.method for request in provider.requests] == ["POST"]
    assert provider.requests[0].query_string == ""


async def test_every_character_of_a_token_is_transmitted(provider: Provider, clients: IntrospectionClients) -> None:
    requests = record_requests(provider)
    token = "abc-._~+/09=="
    await clients.client().introspect(token)
    assert requests[0][1]["token"] == token


async def test_connections_are_reused(provider: Provider, clients: IntrospectionClients) -> None:
    peers: set[object] = set()

    async def introspect(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response(active_response())

    provider.handlers["/introspect"] = introspect
    client = clients.client()
    for _ in range(20):
        await client.introspect(TOKEN)
    assert len(peers) == 1


async def test_no_cookie_is_sent_back(provider: Provider, clients: IntrospectionClients) -> None:
    requests = record_requests(provider, headers={"Set-Cookie": "a=b"})
    client = clients.client()
    for _ in range(2):
        await client.introspect(TOKEN)
    assert not any("Cookie" in headers for headers, _ in requests)


async def test_a_server_on_this_machine_is_called_without_a_proxy(
    provider: Provider, clients: IntrospectionClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    record_requests(provider)
    assert await clients.introspect() == active_response()


async def test_plain_http_off_this_machine_must_be_allowed(provider: Provider, clients: IntrospectionClients) -> None:
    record_requests(provider)
    # An address that reaches this machine, although it is not a loopback address.
    elsewhere = {"endpoint": f"{provider.origin.replace('127.0.0.1', '0.0.0.0')}/introspect"}  # noqa: S104 - none listens
    assert "plain http to another host is not allowed" in str(await clients.failure(elsewhere))
    assert provider.requests == []
    assert await clients.introspect(elsewhere, keys={"allow_http": True}) == active_response()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(provider: Provider, clients: IntrospectionClients, status: int) -> None:
    provider.redirect("/introspect", "/elsewhere", status)
    provider.serve("/elsewhere", ACTIVE, content_type="application/json")
    assert f"status {status}" in str(await clients.failure())
    assert provider.count("/elsewhere") == 0


# The response.


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "APPLICATION/JSON"])
async def test_a_response_is_json(provider: Provider, clients: IntrospectionClients, kind: str) -> None:
    record_requests(provider, headers={"Content-Type": kind}, text=None, body=ACTIVE.encode(), content_type=None)
    assert await clients.introspect() == active_response()


@pytest.mark.parametrize("kind", ["text/html", "text/plain", "application/jwt", "application/jsonx", "application/xml"])
async def test_another_content_type_is_a_failure(provider: Provider, clients: IntrospectionClients, kind: str) -> None:
    record_requests(provider, content_type=kind)
    assert "content type" in str(await clients.failure())


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
        ACTIVE.encode("utf-16"),
        b'{"active": NaN}',
        b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}",
    ],
    ids=ascii,
)
async def test_a_response_that_is_not_a_strict_json_object_is_a_failure(
    provider: Provider, clients: IntrospectionClients, body: bytes
) -> None:
    record_requests(provider, text=None, body=body)
    assert str(await clients.failure()).startswith("the response is not ")


async def test_a_response_is_read_up_to_the_maximum_size(provider: Provider, clients: IntrospectionClients) -> None:
    for excess, fits in ((0, True), (1, False)):
        body = b'{"active": true}' + b" " * (MAX_RESPONSE - 16 + excess)
        record_requests(provider, text=None, body=body)
        if fits:
            assert (await clients.introspect())["active"] is True
        else:
            assert "larger than" in str(await clients.failure())


async def test_a_response_without_end_is_not_read_to_its_end(provider: Provider, clients: IntrospectionClients) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    provider.handlers["/introspect"] = endless
    assert "larger than" in str(await clients.failure({"timeout": "60s"}))


async def test_a_compressed_response_is_decompressed_up_to_the_maximum_size(
    provider: Provider, clients: IntrospectionClients
) -> None:
    compressed = {"text": None, "headers": {"Content-Encoding": "gzip"}}
    record_requests(provider, body=gzip.compress(ACTIVE.encode()), **compressed)
    assert await clients.introspect() == active_response()
    record_requests(provider, body=gzip.compress(ACTIVE.encode() + b" " * MAX_RESPONSE), **compressed)
    assert "larger than" in str(await clients.failure())


@pytest.mark.parametrize("status", [201, 202, 204, 304, 404, 405, 410, 418, 500, 502, 503])
async def test_any_status_but_200_is_a_failure_although_it_has_a_valid_body(
    provider: Provider, clients: IntrospectionClients, status: int
) -> None:
    record_requests(provider, status=status, **({"text": None, "content_type": None} if status in {204, 304} else {}))
    failure = await clients.failure()
    assert str(failure) == f"{provider.origin}/introspect responded with status {status}"
    assert not isinstance(failure, (ClientRefused, Forbidden, RequestRefused))


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
    provider: Provider, clients: IntrospectionClients, status: int, body: str, kind: type[FetchFailed]
) -> None:
    record_requests(provider, status=status, text=body)
    assert type(await clients.failure()) is kind


@pytest.mark.parametrize("status", [429, 503, 500])
@pytest.mark.parametrize(("value", "seconds"), [("7", 7), ("", 0), ("soon", 0), ("99999999999", 999_999_999)])
async def test_retry_after_is_read(
    provider: Provider, clients: IntrospectionClients, status: int, value: str, seconds: float
) -> None:
    record_requests(provider, status=status, headers={"Retry-After": value})
    assert (await clients.failure()).retry_after == seconds


async def test_no_failure_repeats_what_the_server_wrote(provider: Provider, clients: IntrospectionClients) -> None:
    for response in (
        {"status": 500, "text": TOKEN, "reason": TOKEN},
        {"status": 401, "text": TOKEN, "headers": {"WWW-Authenticate": TOKEN}},
        {"status": 400, "text": json.dumps({"error": TOKEN, "error_description": TOKEN})},
        {"text": TOKEN},
        {"content_type": f"text/{TOKEN}"},
        {"status": 302, "headers": {"Location": f"/{TOKEN}"}},
        {"status": 429, "headers": {"Retry-After": TOKEN}},
    ):
        record_requests(provider, **response)
        await clients.failure()  # asserts that its message does not contain the token


@pytest.mark.parametrize(
    "data",
    [
        b"",
        TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 " + TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + TOKEN.encode() + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n" + ACTIVE.encode(),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=ascii,
)
async def test_a_truncated_or_invalid_response_is_a_failure(clients: IntrospectionClients, data: bytes) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert str(await clients.failure({"endpoint": f"http://127.0.0.1:{port}/?key=s3cret"}))


# Time and unavailability.


async def test_a_server_that_hangs_is_a_failure_after_the_timeout(
    provider: Provider, clients: IntrospectionClients
) -> None:
    provider.handlers["/introspect"] = hang
    why = f"no complete response from {provider.origin}/introspect within 0.1 s"
    assert str(await clients.failure({"timeout": "100ms"})) == why


async def test_a_slow_response_is_a_failure_after_the_timeout(
    provider: Provider, clients: IntrospectionClients
) -> None:
    async def respond_slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for byte in ACTIVE.encode():
            await response.write(bytes([byte]))
            await asyncio.sleep(0.01)
        return response

    provider.handlers["/introspect"] = respond_slowly
    why = f"no complete response from {provider.origin}/introspect within 0.1 s"
    assert str(await clients.failure({"timeout": "100ms"})) == why


async def test_a_server_that_hung_can_be_queried_again(provider: Provider, clients: IntrospectionClients) -> None:
    client = clients.client({"timeout": "100ms", "max_concurrent": 1})
    provider.handlers["/introspect"] = hang
    for _ in range(3):
        with pytest.raises(FetchFailed):
            await client.introspect(TOKEN)
    record_requests(provider)
    assert await client.introspect(TOKEN) == active_response()


async def test_a_server_that_is_down_is_a_failure_with_its_cause(clients: IntrospectionClients) -> None:
    failure = await clients.failure({"endpoint": f"http://127.0.0.1:{free_port()}/introspect?key=s3cret"})
    assert str(failure).endswith("/introspect refuses connections")


async def test_a_host_name_that_cannot_be_resolved_is_a_failure_with_its_cause(clients: IntrospectionClients) -> None:
    failure = await clients.failure({"endpoint": "https://name.invalid/introspect?key=s3cret"})
    assert str(failure) == "the host name of https://name.invalid/introspect cannot be resolved"


async def test_without_the_secret_no_request_is_sent(
    provider: Provider, clients: IntrospectionClients, tmp_path: Path
) -> None:
    record_requests(provider)
    failure = await clients.failure({"client_secret_file": str(tmp_path / "gone")})
    assert "secret" in str(failure)
    assert provider.requests == []


# TLS.


def tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize("same_origin", [True, False])
async def test_the_bearer_token_for_the_keys_is_sent_for_metadata_at_their_origin_and_never_with_a_token(
    provider: Provider, clients: IntrospectionClients, tmp_path: Path, *, same_origin: bool
) -> None:
    (tmp_path / "bearer").write_text("pr0jected")
    keys = {"bearer_token_file": str(tmp_path / "bearer")}
    if not same_origin:
        keys["jwks_uri"] = "https://api-server.example/keys"
    openid = "/.well-known/openid-configuration"
    document = {"issuer": provider.origin, "introspection_endpoint": f"{provider.origin}/introspect"}
    provider.serve(openid, json.dumps(document))
    provider.serve("/introspect", ACTIVE, content_type="application/json")
    await clients.introspect({"endpoint": None}, issuer=provider.origin, keys=keys)
    sent = {request.path: request.headers.get("Authorization", "") for request in provider.requests}
    assert sent[openid] == ("Bearer pr0jected" if same_origin else "")
    assert sent["/introspect"].startswith("Basic ")


async def test_a_server_is_trusted_by_the_ca_file_of_its_issuer(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for names, trusted in ((("127.0.0.1",), True), (("other.example",), False)):
        async with Provider(tls(authority, *names)) as provider:
            record_requests(provider)
            clients = IntrospectionClients(provider, tmp_path)
            if trusted:
                assert await clients.introspect(keys={"ca_file": str(tmp_path / "ca.pem")}) == active_response()
                assert str(await clients.failure()).startswith("the certificate of ")
            else:
                failure = await clients.failure(keys={"ca_file": str(tmp_path / "ca.pem")})
                assert str(failure) == f"the certificate of {provider.origin}/introspect is for another IP address"
            await clients.close()
