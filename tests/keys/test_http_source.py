"""Keys over HTTP: discovery, limits of size, time and origin, conditional requests, TLS and lifetimes."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import zlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiohttp import web

from authz_service.config.model import Keys
from authz_service.core.errors import FetchFailed
from authz_service.keys.http_source import HttpSource, lifetime_of
from authz_service.providers.discovery import metadata_urls
from support.http_provider import Provider
from support.key_source import jwks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

OPENID = "/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as provider:
        yield provider


async def fetched(issuer: str, **keys: Any) -> list[str | None]:
    """The kids that a new source fetches."""
    source = HttpSource(issuer, Keys.read(keys))
    try:
        key_set = (await source.fetch(have_keys=False)).key_set
    finally:
        await source.close()
    assert key_set is not None
    return [key.kid for key in key_set.keys]


async def failure(issuer: str, **keys: Any) -> str:
    """Why the fetch of a new source fails."""
    with pytest.raises(FetchFailed) as failed:
        await fetched(issuer, **keys)
    return str(failed.value)


def metadata(issuer: str, jwks_uri: str) -> str:
    return json.dumps({"issuer": issuer, "jwks_uri": jwks_uri})


# Discovery.


@pytest.mark.parametrize("path", ["", "/", "/tenant", "/tenant/"])
@pytest.mark.parametrize("document", ["openid", "oauth"])
async def test_discovery_uses_either_metadata_document(provider: Provider, path: str, document: str) -> None:
    issuer = provider.origin + path
    where = metadata_urls(issuer)[0 if document == "openid" else 1].removeprefix(provider.origin)
    provider.serve(where, metadata(issuer, f"{provider.origin}/keys?v=1"))
    provider.serve("/keys", jwks("a"))
    assert await fetched(issuer) == ["a"]


async def test_the_openid_configuration_comes_first_and_suffices(provider: Provider) -> None:
    provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/openid"))
    provider.serve(OAUTH, metadata(provider.origin, f"{provider.origin}/oauth"))
    provider.serve("/openid", jwks("openid"))
    provider.serve("/oauth", jwks("oauth"))
    assert await fetched(provider.origin) == ["openid"]
    assert provider.count(OAUTH) == 0


async def test_a_configured_jwks_uri_needs_no_discovery(provider: Provider) -> None:
    provider.serve("/keys", jwks("a"))
    assert await fetched("https://elsewhere.example", jwks_uri=f"{provider.origin}/keys") == ["a"]
    assert [request.path for request in provider.requests] == ["/keys"]


async def test_each_fetch_repeats_discovery_since_the_jwks_uri_may_change(provider: Provider) -> None:
    source = HttpSource(provider.origin, Keys())
    provider.serve("/old", jwks("old"), headers={"ETag": '"1"'})
    provider.serve("/new", jwks("new"), headers={"ETag": '"1"'})
    provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/old"))
    await source.fetch(have_keys=False)
    provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/new"))
    key_set = (await source.fetch(have_keys=True)).key_set
    await source.close()
    assert key_set is not None
    assert key_set.candidates("new")
    assert "If-None-Match" not in provider.requests[-1].headers


@pytest.mark.parametrize(
    "issuer", ["https://evil.example", "{origin}/", "{origin}/tenant", "{origin}#", "", None, 7, ["{origin}"]]
)
@pytest.mark.parametrize("document", [OPENID, OAUTH])
async def test_metadata_of_another_issuer_is_refused(provider: Provider, issuer: Any, document: str) -> None:
    if isinstance(issuer, str):
        issuer = issuer.format(origin=provider.origin)
    provider.serve(document, json.dumps({"issuer": issuer, "jwks_uri": f"{provider.origin}/keys"}))
    provider.serve("/keys", jwks("a"))
    assert "issuer mismatch" in await failure(provider.origin)
    assert provider.count("/keys") == 0


async def test_a_mismatch_shows_both_issuers_and_the_difference(provider: Provider) -> None:
    provider.serve(OPENID, metadata(f"{provider.origin}/", f"{provider.origin}/keys"))
    assert await failure(provider.origin) == (
        f"issuer mismatch: the metadata at {provider.origin}{OPENID} says '{provider.origin}/' but the configuration "
        f"says '{provider.origin}' (trailing slash); set the issuer to {provider.origin}/"
    )


@pytest.mark.parametrize(
    ("published", "difference"),
    [
        ("{origin}//", "trailing slash"),
        ("https://{authority}", "https instead of http"),
        ("HTTP://{authority}", "upper and lower case"),
        ("http://idp.internal", "host"),
        ("{origin}/realms/a", "path"),
        ("evil", "host"),
        ("\n" * 1000, "host"),
    ],
)
async def test_a_mismatch_says_in_what_the_issuers_differ(provider: Provider, published: str, difference: str) -> None:
    published = published.format(origin=provider.origin, authority=provider.origin.removeprefix("http://"))
    provider.serve(OPENID, metadata(published, f"{provider.origin}/keys"))
    why = await failure(provider.origin)
    assert f"but the configuration says '{provider.origin}' ({difference}); set the issuer to " in why
    assert len(why) < 1000
    assert why.isprintable()


async def test_valid_oauth_metadata_does_not_make_up_for_wrong_openid_metadata(provider: Provider) -> None:
    provider.serve(OPENID, metadata("https://evil.example", f"{provider.origin}/keys"))
    provider.serve(OAUTH, metadata(provider.origin, f"{provider.origin}/keys"))
    provider.serve("/keys", jwks("a"))
    assert "issuer mismatch" in await failure(provider.origin)


@pytest.mark.parametrize(
    "jwks_uri", [None, 7, "", "/keys", "file:///etc/passwd", "ftp://a/", "https://[", "https:///k"]
)
async def test_metadata_without_a_usable_jwks_uri_fails(provider: Provider, jwks_uri: Any) -> None:
    provider.serve(OPENID, json.dumps({"issuer": provider.origin, "jwks_uri": jwks_uri}))
    assert await failure(provider.origin)


@pytest.mark.parametrize(
    "body", [b"", b"<html></html>", b"[]", b'"x"', b'{"issuer": 1, "issuer": 2}', b"{}".decode().encode("utf-16")]
)
async def test_metadata_that_is_not_a_json_object_fails(provider: Provider, body: bytes) -> None:
    provider.serve(OPENID, body)
    assert "metadata" in await failure(provider.origin)


async def test_without_metadata_the_failure_names_both_places_and_the_remedy(provider: Provider) -> None:
    assert await failure(provider.origin) == (
        f"no metadata: {provider.origin}{OPENID} responded with status 404; {provider.origin}{OAUTH} responded with "
        "status 404; check the issuer, or set keys.metadata_url or keys.jwks_uri"
    )
    assert [request.path for request in provider.requests] == [OPENID, OAUTH]


HTML = b"<html>log in</html>"


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        *((status, HTML, {}) for status in (400, 401, 402, 403, 404, 405, 406, 410, 418, 451)),
        *((status, b"", {}) for status in (201, 204, 300, 304)),
        (302, b"", {"Location": "https://login.example/"}),
        (302, b"", {"Location": "http://["}),
        (302, b"", {"Location": "mailto:a@b"}),
        (302, b"", {}),
        (307, b"", {"Location": "/login"}),
        (301, b"", {"Location": OPENID}),
        (200, HTML, {}),
        (200, HTML + b" " * 600_000, {}),
        (200, b"\x0b\x02", {"Content-Encoding": "br"}),
        (200, HTML, {"Content-Encoding": "gzip"}),
        (200, b"", {}),
        (200, b"[]", {}),
        (200, b'{"a": 1, "a": 2}', {}),
        (200, b'{"error": "not_found"}', {}),
        (200, b'{"issuer": "ISSUER"}', {}),
        (200, b'{"issuer": "ISSUER", "jwks_uri": null}', {}),
        (200, b'{"issuer": "ISSUER", "jwks_uri": ""}', {}),
    ],
)
async def test_what_is_no_metadata_leads_to_the_next_url(
    provider: Provider, status: int, body: bytes, headers: dict[str, str]
) -> None:
    provider.serve(OPENID, body.replace(b"ISSUER", provider.origin.encode()), status=status, headers=headers)
    provider.serve("/login", HTML)
    provider.serve(OAUTH, metadata(provider.origin, f"{provider.origin}/keys"))
    provider.serve("/keys", jwks("a"))
    assert await fetched(provider.origin) == ["a"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_a_failing_provider_is_not_mistaken_for_one_without_metadata(provider: Provider, status: int) -> None:
    provider.serve(OPENID, b"", status=status)
    provider.serve(OAUTH, metadata(provider.origin, f"{provider.origin}/keys"))
    assert await failure(provider.origin) == f"{provider.origin}{OPENID} responded with status {status}"
    assert provider.count(OAUTH) == 0


async def test_a_failure_at_a_later_url_names_the_earlier_ones_too(provider: Provider) -> None:
    provider.serve(OPENID, HTML, status=403)
    provider.serve(OAUTH, b"", status=503, headers={"Retry-After": "7"})
    with pytest.raises(FetchFailed) as failed:
        await fetched(provider.origin)
    assert str(failed.value) == (
        f"{provider.origin}{OPENID} responded with status 403; {provider.origin}{OAUTH} responded with status 503"
    )
    assert failed.value.retry_after == 7


async def test_metadata_of_a_path_is_found_in_all_three_places(provider: Provider) -> None:
    issuer = f"{provider.origin}/tenant"
    provider.serve("/keys", jwks("a"))
    provider.serve(f"{OPENID}/tenant", metadata(issuer, f"{provider.origin}/keys"))
    assert await fetched(issuer) == ["a"]
    assert [request.path for request in provider.requests] == [
        *(f"/tenant{OPENID}", f"{OAUTH}/tenant", f"{OPENID}/tenant", "/keys")
    ]


# Redirects and origins.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_origin_is_followed(provider: Provider, status: int) -> None:
    provider.redirect("/keys", "/elsewhere/keys", status)
    provider.serve("/elsewhere/keys", jwks("a"))
    assert await fetched("https://issuer.example", jwks_uri=f"{provider.origin}/keys") == ["a"]


async def test_a_redirect_may_be_an_absolute_url(provider: Provider) -> None:
    provider.redirect("/keys", f"{provider.origin}/elsewhere")
    provider.serve("/elsewhere", jwks("a"))
    assert await fetched("https://issuer.example", jwks_uri=f"{provider.origin}/keys") == ["a"]


async def test_a_redirect_of_the_metadata_is_followed(provider: Provider) -> None:
    provider.redirect(OPENID, "/metadata")
    provider.serve("/metadata", metadata(provider.origin, f"{provider.origin}/keys"))
    provider.serve("/keys", jwks("a"))
    assert await fetched(provider.origin) == ["a"]


async def test_a_redirect_to_another_origin_is_not_followed(provider: Provider) -> None:
    async with Provider() as other:
        other.serve("/keys", jwks("a"))
        provider.redirect("/keys", f"{other.origin}/keys")
        why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys")
        assert "redirects to another origin" in why
        assert other.requests == []


@pytest.mark.parametrize(
    "target",
    ["//evil.example/keys", "https://{authority}/keys", "http://u:p@evil.example/", "http://[/", "http://a:b/"],
)
async def test_no_form_of_a_redirect_to_another_origin_is_followed(provider: Provider, target: str) -> None:
    provider.redirect("/keys", target.format(authority=provider.origin.removeprefix("http://")))
    assert await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys")
    assert len(provider.requests) == 1


@pytest.mark.parametrize("target", ["/keys", "", "?again"])
async def test_a_redirect_loop_ends(provider: Provider, target: str) -> None:
    provider.redirect("/keys", target)
    why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys?secret=s3cret")
    assert why == f"more than 3 redirects from {provider.origin}/keys"
    assert provider.count("/keys") == 4


async def test_three_redirects_are_followed_but_not_a_fourth(provider: Provider) -> None:
    for place in range(4):
        provider.redirect(f"/{place}", f"/{place + 1}")
    provider.serve("/4", jwks("a"))
    assert await fetched("https://issuer.example", jwks_uri=f"{provider.origin}/1") == ["a"]
    assert "more than 3 redirects" in await failure("https://issuer.example", jwks_uri=f"{provider.origin}/0")


async def test_plain_http_to_another_host_is_refused_unless_allowed(provider: Provider) -> None:
    provider.serve("/keys", jwks("a"))
    # Reaches this machine, but is not a loopback address.
    uri = f"{provider.origin.replace('127.0.0.1', '0.0.0.0')}/keys"  # noqa: S104 - nothing listens on it
    why = await failure("https://issuer.example", jwks_uri=uri)
    assert why == f"plain http to another host is not allowed: {uri}; use https, or set keys.allow_http: true"
    assert provider.requests == []
    assert await fetched("https://issuer.example", jwks_uri=uri, allow_http=True) == ["a"]


async def test_metadata_cannot_lead_to_plain_http_on_another_host(provider: Provider) -> None:
    provider.serve(OPENID, metadata(provider.origin, "http://keys.example/keys"))
    why = await failure(provider.origin)
    assert why.startswith("plain http to another host is not allowed: http://keys.example/keys;")


# Size, time and failures.


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_response_is_read_up_to_the_maximum_size(provider: Provider, *, chunked: bool) -> None:
    document = jwks("a")

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(document)
        await response.prepare(request)
        for byte in document:
            await response.write(bytes([byte]))
        return response

    provider.handlers["/keys"] = handle
    uri = f"{provider.origin}/keys"
    assert await fetched("https://issuer.example", jwks_uri=uri, max_bytes=f"{len(document)}B") == ["a"]
    why = await failure("https://issuer.example", jwks_uri=uri, max_bytes=f"{len(document) - 1}B")
    assert why == f"the response from {uri} is larger than max_bytes ({len(document) - 1})"


@pytest.mark.parametrize("path", ["/keys", OPENID])
async def test_an_endless_response_is_not_read_beyond_the_maximum_size(provider: Provider, path: str) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/keys"))
    provider.handlers[path] = handle
    assert "larger than max_bytes" in await failure(provider.origin, timeout="60s")


@pytest.mark.parametrize("when", ["before the headers", "after the headers", "during the body"])
async def test_a_fetch_from_a_provider_that_hangs_fails_after_the_timeout(provider: Provider, when: str) -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if when != "before the headers":
            await response.prepare(request)
        if when == "during the body":
            await response.write(b'{"keys": [')
        await asyncio.Event().wait()
        return response

    provider.handlers["/keys"] = handle
    why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys?secret=s3cret", timeout="100ms")
    assert why == f"no complete response from {provider.origin}/keys within 0.1 s"


async def test_the_timeout_includes_discovery(provider: Provider) -> None:
    async def handle(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    provider.handlers[OPENID] = handle
    openid, oauth = f"{provider.origin}{OPENID}", f"{provider.origin}{OAUTH}"
    assert await failure(provider.origin, timeout="100ms") == f"no complete response from {openid} within 0.1 s"
    provider.handlers[OAUTH] = provider.handlers.pop(OPENID)
    assert await failure(provider.origin, timeout="100ms") == (
        f"{openid} responded with status 404; no complete response from {oauth} within 0.1 s"
    )


async def test_a_fetch_from_a_server_that_never_responds_fails_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/keys"
        why = await failure("https://issuer.example", jwks_uri=uri, timeout="100ms")
    assert why == f"no complete response from {uri} within 0.1 s"


async def test_a_tls_handshake_that_hangs_fails_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"https://127.0.0.1:{silent.getsockname()[1]}/keys"
        why = await failure("https://issuer.example", jwks_uri=uri, timeout="100ms")
    assert why == f"no complete response from {uri} within 0.1 s"


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 410, 418, 429, 500, 502, 503])
async def test_any_status_but_200_fails_even_with_keys_in_its_body(provider: Provider, status: int) -> None:
    provider.serve("/keys", b"" if status in {204, 304} else jwks("a"), status=status)
    why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys?secret=s3cret")
    assert why == f"{provider.origin}/keys responded with status {status}"


def raw_deflate(content: bytes) -> bytes:
    """Without zlib's header and checksum, as some servers send it."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
        ("", bytes),
        ("identity", bytes),
        ("Identity", bytes),
        ("gzip, identity", gzip.compress),
        ("utf-8", bytes),
    ],
)
async def test_a_compressed_response_is_accepted_although_it_was_not_requested(
    provider: Provider, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    provider.serve("/keys", compress(jwks("a")), headers={"Content-Encoding": encoding})
    assert await fetched("https://issuer.example", jwks_uri=f"{provider.origin}/keys") == ["a"]


async def test_documents_may_begin_with_a_byte_order_mark(provider: Provider) -> None:
    mark = "\ufeff"
    provider.serve(OPENID, mark + metadata(provider.origin, f"{provider.origin}/keys"))
    provider.serve("/keys", mark.encode() + jwks("a"))
    assert await fetched(provider.origin) == ["a"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "x-unheard-of", "gzip, gzip", "deflate"])
async def test_a_response_in_another_encoding_is_refused(provider: Provider, encoding: str) -> None:
    provider.serve("/keys", gzip.compress(jwks("a")), headers={"Content-Encoding": encoding})
    why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys")
    assert "not requested" in why or "as its content encoding says" in why
    assert provider.requests[0].headers["Accept-Encoding"] == "identity"


async def test_a_compressed_response_is_decompressed_up_to_the_maximum_size(provider: Provider) -> None:
    document = jwks("a") + b" " * 200_000
    uri = f"{provider.origin}/keys"
    provider.serve("/keys", gzip.compress(document), headers={"Content-Encoding": "gzip"})
    assert await fetched("https://issuer.example", jwks_uri=uri, max_bytes=f"{len(document)}B") == ["a"]
    why = await failure("https://issuer.example", jwks_uri=uri, max_bytes=f"{len(document) - 1}B")
    assert why == f"the response from {uri} is larger than max_bytes ({len(document) - 1})"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + jwks("a"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 9999 ?\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
        b"HTTP/1.1 302 Found\r\nLocation: \x00\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=lambda data: ascii(data[:60]),
)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_broken_response_fails_with_a_reason_that_holds_no_query(data: bytes, *, reset: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        if reset:
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        why = await failure("https://issuer.example", jwks_uri=f"http://127.0.0.1:{port}/keys?secret=s3cret")
    assert why
    assert "s3cret" not in why


async def test_a_provider_that_is_down_fails_with_a_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    why = await failure("https://issuer.example", jwks_uri=f"http://127.0.0.1:{port}/keys?secret=s3cret")
    assert why == f"http://127.0.0.1:{port}/keys refuses connections"
    assert "s3cret" not in why


@pytest.mark.parametrize("uri", ["https://name.invalid/keys?secret=s3cret", "https://a..example/?secret=s3cret"])
async def test_a_name_that_cannot_be_resolved_fails_with_a_reason(uri: str) -> None:
    why = await failure("https://issuer.example", jwks_uri=uri)
    assert why == f"the host name of {uri.partition('?')[0]} cannot be resolved"


async def test_a_source_works_again_after_a_failure(provider: Provider) -> None:
    source = HttpSource("https://issuer.example", Keys.read({"jwks_uri": f"{provider.origin}/keys"}))

    async def reset(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    provider.handlers["/keys"] = reset
    with pytest.raises(FetchFailed):
        await source.fetch(have_keys=False)
    provider.serve("/keys", jwks("a"))
    assert (await source.fetch(have_keys=False)).key_set is not None
    await source.close()


async def test_cookies_and_the_proxy_of_the_environment_are_ignored(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    uri = f"{provider.origin.replace('127.0.0.1', 'localhost')}/keys"  # cookies are not stored for IP addresses
    source = HttpSource("https://issuer.example", Keys.read({"jwks_uri": uri}))
    provider.serve("/keys", jwks("a"), headers={"Set-Cookie": "a=b"})
    await source.fetch(have_keys=False)
    await source.fetch(have_keys=False)
    await source.close()
    assert "Cookie" not in provider.requests[1].headers


# Retry-After.


@pytest.mark.parametrize("status", [429, 503])
async def test_a_failure_holds_the_providers_retry_after(provider: Provider, status: int) -> None:
    provider.serve("/keys", b"", status=status, headers={"Retry-After": "120"})
    source = HttpSource("https://issuer.example", Keys.read({"jwks_uri": f"{provider.origin}/keys"}))
    with pytest.raises(FetchFailed) as failed:
        await source.fetch(have_keys=True)
    await source.close()
    assert failed.value.retry_after == 120


# Conditional requests.


@pytest.mark.parametrize(
    ("header", "value", "condition"),
    [
        ("ETag", '"v1"', "If-None-Match"),
        ("ETag", 'W/"v1"', "If-None-Match"),
        ("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT", "If-Modified-Since"),
    ],
)
async def test_the_second_fetch_is_a_conditional_request(
    provider: Provider, header: str, value: str, condition: str
) -> None:
    async def handle(request: web.Request) -> web.Response:
        if request.headers.get(condition) == value:
            return web.Response(status=304, headers={"Cache-Control": "max-age=600"})
        return web.Response(body=jwks("a"), headers={header: value})

    provider.handlers["/keys"] = handle
    source = HttpSource("https://issuer.example", Keys.read({"jwks_uri": f"{provider.origin}/keys"}))
    first = await source.fetch(have_keys=True)
    second = await source.fetch(have_keys=True)
    without_keys = await source.fetch(have_keys=False)
    await source.close()
    assert first.key_set is not None
    assert second.key_set is None
    assert second.lifetime == 600
    assert without_keys.key_set is not None


async def test_a_validator_that_the_provider_no_longer_sends_is_not_sent_again(provider: Provider) -> None:
    provider.serve("/keys", jwks("a"), headers={"ETag": '"1"'})
    source = HttpSource("https://issuer.example", Keys.read({"jwks_uri": f"{provider.origin}/keys"}))
    await source.fetch(have_keys=False)
    provider.serve("/keys", jwks("b"))
    await source.fetch(have_keys=True)
    await source.fetch(have_keys=True)
    await source.close()
    sent = [request.headers.get("If-None-Match") for request in provider.requests]
    assert sent == [None, '"1"', None]


async def test_status_304_to_an_unconditional_request_is_a_failure(provider: Provider) -> None:
    provider.serve("/keys", b"", status=304)
    assert "status 304" in await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys")


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def context_of(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


async def test_a_private_authority_is_trusted_with_ca_file(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with Provider(context_of(authority.issue_cert("127.0.0.1"))) as provider:
        provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/keys"))
        provider.serve("/keys", jwks("a"))
        assert await fetched(provider.origin, ca_file=str(tmp_path / "ca.pem")) == ["a"]


async def test_a_private_authority_is_refused_without_ca_file(authority: trustme.CA) -> None:
    async with Provider(context_of(authority.issue_cert("127.0.0.1"))) as provider:
        why = await failure(provider.origin)
        assert why.startswith(
            f"the certificate of {provider.origin}{OPENID} is signed by an authority that is not trusted"
        )
        assert provider.requests == []


async def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with Provider(context_of(authority.issue_cert("other.example"))) as provider:
        why = await failure(provider.origin, ca_file=str(tmp_path / "ca.pem"))
        assert why == f"the certificate of {provider.origin}{OPENID} is for another IP address"


async def test_an_expired_certificate_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    past = datetime.now(UTC) - timedelta(days=1)
    expired = authority.issue_cert("127.0.0.1", not_before=past - timedelta(days=1), not_after=past)
    async with Provider(context_of(expired)) as provider:
        why = await failure(provider.origin, ca_file=str(tmp_path / "ca.pem"))
        assert why == f"the certificate of {provider.origin}{OPENID} has expired"
        assert provider.requests == []


async def test_an_https_url_of_a_provider_without_tls_is_refused(provider: Provider) -> None:
    assert (await failure(provider.origin.replace("http:", "https:"))).startswith("TLS with ")


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAA\n"])
async def test_an_unreadable_ca_file_fails_the_fetch_and_a_later_one_may_succeed(
    authority: trustme.CA, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    async with Provider(context_of(authority.issue_cert("127.0.0.1"))) as provider:
        provider.serve("/keys", jwks("a"))
        settings = {"jwks_uri": f"{provider.origin}/keys", "ca_file": str(file)}
        source = HttpSource("https://issuer.example", Keys.read(settings))
        with pytest.raises(FetchFailed, match=r"keys\.ca_file (cannot be read|holds no certificate)"):
            await source.fetch(have_keys=False)
        authority.cert_pem.write_to_path(file)
        assert (await source.fetch(have_keys=False)).key_set is not None
        await source.close()


# Lifetimes.

SETTINGS = Keys.read(
    {"refresh_interval": "5m", "min_refresh_interval": "30s", "max_refresh_interval": "1h", "jwks_uri": "https://a/"}
)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 300),
        ({"Cache-Control": ""}, 300),
        ({"Cache-Control": "public"}, 300),
        ({"Cache-Control": "max-age=600"}, 600),
        ({"Cache-Control": "MAX-AGE=600"}, 600),
        ({"Cache-Control": 'max-age="600"'}, 600),
        ({"Cache-Control": "public, max-age=600, must-revalidate, no-transform"}, 600),
        ({"Cache-Control": "public,max-age=600"}, 600),
        ({"Cache-Control": "s-maxage=600"}, 300),
        ({"Cache-Control": "x-max-age=600"}, 300),
        ({"Cache-Control": "stale-if-error=600, max-age=900"}, 900),
        ({"Cache-Control": "max-age=0"}, 300),
        ({"Cache-Control": "max-age=000"}, 300),
        ({"Cache-Control": 'max-age="0"'}, 300),
        ({"Cache-Control": "public, max-age=0, s-maxage=600"}, 300),
        ({"Cache-Control": "no-cache, no-store, max-age=0, must-revalidate"}, 300),
        ({"Cache-Control": "max-age=0", "Age": "100"}, 300),
        ({"Cache-Control": "max-age=1"}, 30),
        ({"Cache-Control": "max-age=29"}, 30),
        ({"Cache-Control": "max-age=31"}, 31),
        ({"Cache-Control": "max-age=3599"}, 3599),
        ({"Cache-Control": "max-age=86400"}, 3600),
        ({"Cache-Control": "max-age=99999999999999999999999999999999"}, 3600),
        ({"Cache-Control": "max-age=-1"}, 300),
        ({"Cache-Control": "max-age=abc"}, 300),
        ({"Cache-Control": "max-age="}, 300),
        ({"Cache-Control": "max-age"}, 300),
        ({"Cache-Control": "max-age=\u0661\u0662\u0663"}, 300),
        ({"Cache-Control": "no-store"}, 300),
        ({"Cache-Control": "NO-STORE, max-age=60"}, 300),
        ({"Cache-Control": "no-stored, max-age=60"}, 60),
        ({"Cache-Control": "no-cache, max-age=600"}, 600),
        ({"Cache-Control": "no-cache"}, 300),
        ({"Cache-Control": "no-cached, max-age=600"}, 600),
        ({"Cache-Control": "max-age=600", "Age": "100"}, 500),
        ({"Cache-Control": "max-age=600", "Age": "600"}, 30),
        ({"Cache-Control": "max-age=600", "Age": "99999"}, 30),
        ({"Cache-Control": "max-age=600", "Age": "-100"}, 600),
        ({"Cache-Control": "max-age=600", "Age": "1e9"}, 600),
        ({"Cache-Control": "max-age=600", "Age": "\u00b2"}, 600),
        ({"Cache-Control": "max-age=600", "Age": "nan"}, 600),
        ({"Cache-Control": "max-age=600", "Age": "9" * 5000}, 30),
        ({"Age": "100"}, 300),
    ],
)
def test_cache_control_sets_the_lifetime_within_the_bounds(headers: dict[str, str], seconds: float) -> None:
    assert lifetime_of(headers.get("Cache-Control", ""), headers.get("Age", ""), SETTINGS) == seconds


async def test_cache_control_may_come_in_several_header_lines(provider: Provider) -> None:
    async def handle(_request: web.Request) -> web.Response:
        response = web.Response(body=jwks("a"))
        response.headers.add("Cache-Control", "public")
        response.headers.add("Cache-Control", "max-age=600")
        return response

    provider.handlers["/keys"] = handle
    source = HttpSource("https://issuer.example", Keys.read({"jwks_uri": f"{provider.origin}/keys"}))
    lifetime = (await source.fetch(have_keys=False)).lifetime
    await source.close()
    assert lifetime == 600
