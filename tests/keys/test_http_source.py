"""Keys over HTTP: found by discovery, bounded in size, time and place, and asked for again only when they changed."""

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
    async with Provider() as made:
        yield made


async def fetched(issuer: str, **keys: Any) -> list[str | None]:
    """The kids of one fetch by a source of its own."""
    source = HttpSource(issuer, Keys.model_validate(keys))
    try:
        key_set = (await source.fetch(have_keys=False)).key_set
    finally:
        await source.close()
    assert key_set is not None
    return [key.kid for key in key_set.keys]


async def failure(issuer: str, **keys: Any) -> str:
    """Why a fetch by a source of its own fails."""
    with pytest.raises(FetchFailed) as failed:
        await fetched(issuer, **keys)
    return str(failed.value)


def metadata(issuer: str, jwks_uri: str) -> str:
    return json.dumps({"issuer": issuer, "jwks_uri": jwks_uri})


# Discovery.


@pytest.mark.parametrize("path", ["", "/", "/tenant", "/tenant/"])
@pytest.mark.parametrize("document", ["openid", "oauth"])
async def test_discovery_finds_the_keys_in_either_document(provider: Provider, path: str, document: str) -> None:
    issuer = provider.origin + path
    where = metadata_urls(issuer)[0 if document == "openid" else 1].removeprefix(provider.origin)
    provider.serve(where, metadata(issuer, f"{provider.origin}/keys?v=1"))
    provider.serve("/keys", jwks("a"))
    assert await fetched(issuer) == ["a"]


async def test_the_openid_configuration_comes_first_and_is_enough(provider: Provider) -> None:
    provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/openid"))
    provider.serve(OAUTH, metadata(provider.origin, f"{provider.origin}/oauth"))
    provider.serve("/openid", jwks("openid"))
    provider.serve("/oauth", jwks("oauth"))
    assert await fetched(provider.origin) == ["openid"]
    assert provider.count(OAUTH) == 0


async def test_a_configured_address_needs_no_discovery(provider: Provider) -> None:
    provider.serve("/keys", jwks("a"))
    assert await fetched("https://elsewhere.example", jwks_uri=f"{provider.origin}/keys") == ["a"]
    assert [request.path for request in provider.requests] == ["/keys"]


async def test_discovery_is_made_anew_each_time_since_the_address_may_change(provider: Provider) -> None:
    source = HttpSource(provider.origin, Keys())
    provider.serve("/old", jwks("old"), headers={"ETag": '"1"'})
    provider.serve("/new", jwks("new"), headers={"ETag": '"1"'})
    provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/old"))
    await source.fetch(have_keys=False)
    provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/new"))
    key_set = (await source.fetch(have_keys=True)).key_set
    await source.close()
    assert key_set is not None
    assert key_set.named("new")
    assert "If-None-Match" not in provider.requests[-1].headers


@pytest.mark.parametrize(
    "said", ["https://evil.example", "{origin}/", "{origin}/tenant", "{origin}#", "", None, 7, ["{origin}"]]
)
@pytest.mark.parametrize("document", [OPENID, OAUTH])
async def test_metadata_of_another_issuer_do_not_count(provider: Provider, said: Any, document: str) -> None:
    if isinstance(said, str):
        said = said.format(origin=provider.origin)
    provider.serve(document, json.dumps({"issuer": said, "jwks_uri": f"{provider.origin}/keys"}))
    provider.serve("/keys", jwks("a"))
    assert "not the configured one" in await failure(provider.origin)
    assert provider.count("/keys") == 0


async def test_wrong_openid_metadata_are_not_made_good_by_the_other_document(provider: Provider) -> None:
    provider.serve(OPENID, metadata("https://evil.example", f"{provider.origin}/keys"))
    provider.serve(OAUTH, metadata(provider.origin, f"{provider.origin}/keys"))
    provider.serve("/keys", jwks("a"))
    assert "not the configured one" in await failure(provider.origin)


@pytest.mark.parametrize(
    "jwks_uri", [None, 7, "", "/keys", "file:///etc/passwd", "ftp://a/", "https://[", "https:///k"]
)
async def test_metadata_without_a_usable_jwks_uri_fail(provider: Provider, jwks_uri: Any) -> None:
    provider.serve(OPENID, json.dumps({"issuer": provider.origin, "jwks_uri": jwks_uri}))
    assert await failure(provider.origin)


@pytest.mark.parametrize(
    "body", [b"", b"<html></html>", b"[]", b'"x"', b'{"issuer": 1, "issuer": 2}', b"{}".decode().encode("utf-16")]
)
async def test_metadata_that_are_no_json_object_fail(provider: Provider, body: bytes) -> None:
    provider.serve(OPENID, body)
    assert "metadata" in await failure(provider.origin)


async def test_without_metadata_the_last_place_looked_at_is_told(provider: Provider) -> None:
    assert await failure(provider.origin) == f"{provider.origin}{OAUTH} answered with status 404"
    assert [request.path for request in provider.requests] == [OPENID, OAUTH]


async def test_a_provider_in_trouble_is_not_taken_for_one_without_metadata(provider: Provider) -> None:
    provider.serve(OPENID, b"", status=503)
    provider.serve(OAUTH, metadata(provider.origin, f"{provider.origin}/keys"))
    assert await failure(provider.origin) == f"{provider.origin}{OPENID} answered with status 503"


# Redirects and places.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_within_the_origin_is_followed(provider: Provider, status: int) -> None:
    provider.redirect("/keys", "/elsewhere/keys", status)
    provider.serve("/elsewhere/keys", jwks("a"))
    assert await fetched("https://issuer.example", jwks_uri=f"{provider.origin}/keys") == ["a"]


async def test_a_redirect_may_name_the_origin_in_full(provider: Provider) -> None:
    provider.redirect("/keys", f"{provider.origin}/elsewhere")
    provider.serve("/elsewhere", jwks("a"))
    assert await fetched("https://issuer.example", jwks_uri=f"{provider.origin}/keys") == ["a"]


async def test_metadata_may_be_redirected_too(provider: Provider) -> None:
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
async def test_no_way_of_writing_another_origin_is_followed(provider: Provider, target: str) -> None:
    provider.redirect("/keys", target.format(authority=provider.origin.removeprefix("http://")))
    assert await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys")
    assert len(provider.requests) == 1


@pytest.mark.parametrize("target", ["/keys", "", "?again"])
async def test_a_loop_of_redirects_ends(provider: Provider, target: str) -> None:
    provider.redirect("/keys", target)
    why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys?secret=s3cret")
    assert why == f"more than 3 redirects from {provider.origin}/keys"
    assert provider.count("/keys") == 4


async def test_three_redirects_are_followed_and_no_fourth(provider: Provider) -> None:
    for place in range(4):
        provider.redirect(f"/{place}", f"/{place + 1}")
    provider.serve("/4", jwks("a"))
    assert await fetched("https://issuer.example", jwks_uri=f"{provider.origin}/1") == ["a"]
    assert "more than 3 redirects" in await failure("https://issuer.example", jwks_uri=f"{provider.origin}/0")


async def test_plain_http_does_not_leave_the_machine_unless_allowed(provider: Provider) -> None:
    provider.serve("/keys", jwks("a"))
    # An address that reaches this machine and does not say so.
    uri = f"{provider.origin.replace('127.0.0.1', '0.0.0.0')}/keys"  # noqa: S104 - nothing listens on it
    why = await failure("https://issuer.example", jwks_uri=uri)
    assert why == f"plain http off this machine is not allowed: {uri}"
    assert provider.requests == []
    assert await fetched("https://issuer.example", jwks_uri=uri, allow_http=True) == ["a"]


async def test_metadata_cannot_lead_to_plain_http_off_the_machine(provider: Provider) -> None:
    provider.serve(OPENID, metadata(provider.origin, "http://keys.example/keys"))
    assert await failure(provider.origin) == "plain http off this machine is not allowed: http://keys.example/keys"


# Size, time and trouble.


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_is_read_up_to_the_size_allowed(provider: Provider, *, chunked: bool) -> None:
    document = jwks("a")

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if chunked:
            response.enable_chunked_encoding()
        else:
            response.content_length = len(document)
        await response.prepare(request)
        for octet in document:
            await response.write(bytes([octet]))
        return response

    provider.handlers["/keys"] = answer
    uri = f"{provider.origin}/keys"
    assert await fetched("https://issuer.example", jwks_uri=uri, max_bytes=f"{len(document)}B") == ["a"]
    why = await failure("https://issuer.example", jwks_uri=uri, max_bytes=f"{len(document) - 1}B")
    assert why == f"the answer of {uri} is larger than max_bytes ({len(document) - 1})"


@pytest.mark.parametrize("path", ["/keys", OPENID])
async def test_an_answer_without_end_is_not_read_to_its_end(provider: Provider, path: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/keys"))
    provider.handlers[path] = answer
    assert "larger than max_bytes" in await failure(provider.origin, timeout="60s")


@pytest.mark.parametrize("when", ["before the headers", "after the headers", "within the body"])
async def test_a_provider_that_hangs_is_left_after_the_timeout(provider: Provider, when: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if when != "before the headers":
            await response.prepare(request)
        if when == "within the body":
            await response.write(b'{"keys": [')
        await asyncio.Event().wait()
        return response

    provider.handlers["/keys"] = answer
    why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys", timeout="100ms")
    assert why == "no complete answer within 0.1 s"


async def test_the_timeout_is_for_discovery_and_keys_together(provider: Provider) -> None:
    async def answer(_request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    provider.handlers[OPENID] = answer
    assert await failure(provider.origin, timeout="100ms") == "no complete answer within 0.1 s"


async def test_a_server_that_accepts_and_never_speaks_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}/keys"
        why = await failure("https://issuer.example", jwks_uri=uri, timeout="100ms")
    assert why == "no complete answer within 0.1 s"


async def test_a_handshake_that_never_ends_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"https://127.0.0.1:{silent.getsockname()[1]}/keys"
        why = await failure("https://issuer.example", jwks_uri=uri, timeout="100ms")
    assert why == "no complete answer within 0.1 s"


@pytest.mark.parametrize("status", [201, 204, 206, 304, 400, 401, 403, 404, 410, 418, 429, 500, 502, 503])
async def test_any_status_but_200_fails_although_keys_come_with_it(provider: Provider, status: int) -> None:
    provider.serve("/keys", b"" if status in {204, 304} else jwks("a"), status=status)
    why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys?secret=s3cret")
    assert why == f"{provider.origin}/keys answered with status {status}"


def deflated(content: bytes) -> bytes:
    """The content without zlib's envelope, as some servers send it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [
        ("gzip", gzip.compress),
        ("X-GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", deflated),
        ("", bytes),
        ("identity", bytes),
        ("Identity", bytes),
    ],
)
async def test_an_answer_is_unpacked_although_nobody_asked_for_it_packed(
    provider: Provider, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    provider.serve("/keys", pack(jwks("a")), headers={"Content-Encoding": encoding})
    assert await fetched("https://issuer.example", jwks_uri=f"{provider.origin}/keys") == ["a"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "x-unheard-of", "gzip, identity", "gzip, gzip", "deflate"])
async def test_an_answer_in_another_encoding_is_refused_unread(provider: Provider, encoding: str) -> None:
    provider.serve("/keys", gzip.compress(jwks("a")), headers={"Content-Encoding": encoding})
    why = await failure("https://issuer.example", jwks_uri=f"{provider.origin}/keys")
    assert "content encoding" in why
    assert provider.requests[0].headers["Accept-Encoding"] == "identity"


async def test_a_packed_answer_is_unpacked_up_to_the_size_allowed(provider: Provider) -> None:
    document = jwks("a") + b" " * 200_000
    uri = f"{provider.origin}/keys"
    provider.serve("/keys", gzip.compress(document), headers={"Content-Encoding": "gzip"})
    assert await fetched("https://issuer.example", jwks_uri=uri, max_bytes=f"{len(document)}B") == ["a"]
    why = await failure("https://issuer.example", jwks_uri=uri, max_bytes=f"{len(document) - 1}B")
    assert why == f"the answer of {uri} is larger than max_bytes ({len(document) - 1})"


@pytest.mark.parametrize(
    "octets",
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
    ids=lambda octets: ascii(octets[:60]),
)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_broken_answer_fails_with_a_reason_that_shows_no_query(octets: bytes, *, reset: bool) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(octets)
        if reset:
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
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


async def test_after_trouble_the_same_source_fetches_again(provider: Provider) -> None:
    source = HttpSource("https://issuer.example", Keys.model_validate({"jwks_uri": f"{provider.origin}/keys"}))

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


async def test_no_cookie_is_kept_and_no_proxy_of_the_environment_used(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    uri = f"{provider.origin.replace('127.0.0.1', 'localhost')}/keys"  # a name, since cookies of numbers are not kept
    source = HttpSource("https://issuer.example", Keys.model_validate({"jwks_uri": uri}))
    provider.serve("/keys", jwks("a"), headers={"Set-Cookie": "a=b"})
    await source.fetch(have_keys=False)
    await source.fetch(have_keys=False)
    await source.close()
    assert "Cookie" not in provider.requests[1].headers


# Being asked to wait.


@pytest.mark.parametrize("status", [429, 503])
async def test_a_provider_that_asks_to_be_left_alone_is_heard(provider: Provider, status: int) -> None:
    provider.serve("/keys", b"", status=status, headers={"Retry-After": "120"})
    source = HttpSource("https://issuer.example", Keys.model_validate({"jwks_uri": f"{provider.origin}/keys"}))
    with pytest.raises(FetchFailed) as failed:
        await source.fetch(have_keys=True)
    await source.close()
    assert failed.value.retry_after == 120


# Asking only for a change.


@pytest.mark.parametrize(
    ("header", "value", "condition"),
    [
        ("ETag", '"v1"', "If-None-Match"),
        ("ETag", 'W/"v1"', "If-None-Match"),
        ("Last-Modified", "Wed, 21 Oct 2026 07:28:00 GMT", "If-Modified-Since"),
    ],
)
async def test_a_second_fetch_asks_for_a_change_only(
    provider: Provider, header: str, value: str, condition: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get(condition) == value:
            return web.Response(status=304, headers={"Cache-Control": "max-age=600"})
        return web.Response(body=jwks("a"), headers={header: value})

    provider.handlers["/keys"] = answer
    source = HttpSource("https://issuer.example", Keys.model_validate({"jwks_uri": f"{provider.origin}/keys"}))
    first = await source.fetch(have_keys=True)
    second = await source.fetch(have_keys=True)
    without_keys = await source.fetch(have_keys=False)
    await source.close()
    assert first.key_set is not None
    assert second.key_set is None
    assert second.lifetime == 600
    assert without_keys.key_set is not None


async def test_a_validator_that_is_gone_is_not_sent_again(provider: Provider) -> None:
    provider.serve("/keys", jwks("a"), headers={"ETag": '"1"'})
    source = HttpSource("https://issuer.example", Keys.model_validate({"jwks_uri": f"{provider.origin}/keys"}))
    await source.fetch(have_keys=False)
    provider.serve("/keys", jwks("b"))
    await source.fetch(have_keys=True)
    await source.fetch(have_keys=True)
    await source.close()
    sent = [request.headers.get("If-None-Match") for request in provider.requests]
    assert sent == [None, '"1"', None]


async def test_not_modified_without_having_been_asked_is_a_failure(provider: Provider) -> None:
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


async def test_an_extra_trust_anchor_makes_a_private_authority_trusted(authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with Provider(context_of(authority.issue_cert("127.0.0.1"))) as provider:
        provider.serve(OPENID, metadata(provider.origin, f"{provider.origin}/keys"))
        provider.serve("/keys", jwks("a"))
        assert await fetched(provider.origin, ca_file=str(tmp_path / "ca.pem")) == ["a"]


async def test_without_its_trust_anchor_a_private_authority_is_refused(authority: trustme.CA) -> None:
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


async def test_a_provider_without_tls_on_an_https_address_is_refused(provider: Provider) -> None:
    assert (await failure(provider.origin.replace("http:", "https:"))).startswith("TLS with ")


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAA\n"])
async def test_a_trust_anchor_that_cannot_be_read_fails_the_fetch_and_the_next_may_succeed(
    authority: trustme.CA, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    async with Provider(context_of(authority.issue_cert("127.0.0.1"))) as provider:
        provider.serve("/keys", jwks("a"))
        settings = {"jwks_uri": f"{provider.origin}/keys", "ca_file": str(file)}
        source = HttpSource("https://issuer.example", Keys.model_validate(settings))
        with pytest.raises(FetchFailed, match=r"keys\.ca_file (cannot be read|holds no certificate)"):
            await source.fetch(have_keys=False)
        authority.cert_pem.write_to_path(file)
        assert (await source.fetch(have_keys=False)).key_set is not None
        await source.close()


# How long an answer lives.

SETTINGS = Keys.model_validate(
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
        ({"Cache-Control": "max-age=0"}, 30),
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
        ({"Cache-Control": "no-store"}, 30),
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
    async def answer(_request: web.Request) -> web.Response:
        response = web.Response(body=jwks("a"))
        response.headers.add("Cache-Control", "public")
        response.headers.add("Cache-Control", "max-age=600")
        return response

    provider.handlers["/keys"] = answer
    source = HttpSource("https://issuer.example", Keys.model_validate({"jwks_uri": f"{provider.origin}/keys"}))
    lifetime = (await source.fetch(have_keys=False)).lifetime
    await source.close()
    assert lifetime == 600
