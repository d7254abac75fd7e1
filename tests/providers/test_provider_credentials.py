"""Tokens, certificates and headers for a provider reach the provider and no other server."""

from __future__ import annotations

import json
import os
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from authz_service.config.model import Keys
from authz_service.core.errors import FetchFailed
from authz_service.keys.http_source import HttpSource
from authz_service.providers import trust_anchors
from authz_service.providers.bearer_token import BearerToken
from authz_service.providers.client import USER_AGENT
from authz_service.providers.client_certificate import ClientCertificate
from support.http_provider import Provider
from support.key_source import jwks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

AUTHORITY = trustme.CA()
OPENID = "/.well-known/openid-configuration"
TOKEN = "pr0jected.t0ken"  # no message may hold it


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        yield provider


@pytest.fixture
async def other() -> AsyncIterator[Provider]:
    async with Provider() as provider:
        provider.serve("/keys", jwks("a"))
        yield provider


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    return path


async def fetch(issuer: str, **keys: Any) -> None:
    source = HttpSource(issuer, Keys.read(keys))
    try:
        await source.fetch(have_keys=False)
    finally:
        await source.close()


async def failure(issuer: str, **keys: Any) -> str:
    with pytest.raises(FetchFailed) as failed:
        await fetch(issuer, **keys)
    return str(failed.value)


def sent(provider: Provider, name: str = "Authorization") -> list[str | None]:
    return [request.headers.get(name) for request in provider.requests]


def metadata(issuer: str, origin: str) -> str:
    return json.dumps({"issuer": issuer, "jwks_uri": f"{origin}/keys"})


# The bearer token.


async def test_the_token_is_sent_to_the_configured_jwks_uri(provider: Provider, token_file: Path) -> None:
    await fetch("https://idp.example", jwks_uri=f"{provider.origin}/keys", bearer_token_file=str(token_file))
    assert sent(provider) == [f"Bearer {TOKEN}"]


async def test_the_token_is_sent_for_metadata_and_for_keys_at_the_same_origin(
    provider: Provider, token_file: Path
) -> None:
    provider.serve(OPENID, metadata(provider.origin, provider.origin))
    await fetch(provider.origin, bearer_token_file=str(token_file))
    assert sent(provider) == [f"Bearer {TOKEN}"] * 2


async def test_the_token_is_not_sent_to_an_origin_that_metadata_names(
    provider: Provider, other: Provider, token_file: Path
) -> None:
    provider.serve(OPENID, metadata(provider.origin, other.origin))
    await fetch(provider.origin, bearer_token_file=str(token_file))
    assert sent(provider) == [f"Bearer {TOKEN}"]
    assert sent(other) == [None]


async def test_with_a_metadata_url_the_token_is_for_its_origin_and_not_for_the_issuers(
    provider: Provider, other: Provider, token_file: Path
) -> None:
    other.serve("/internal", metadata(provider.origin, provider.origin))
    await fetch(provider.origin, metadata_url=f"{other.origin}/internal", bearer_token_file=str(token_file))
    assert sent(other) == [f"Bearer {TOKEN}"]
    assert sent(provider) == [None]


@pytest.mark.parametrize("target", ["/keys", "{origin}/keys"])
async def test_the_token_is_not_sent_along_a_redirect(provider: Provider, token_file: Path, target: str) -> None:
    provider.redirect("/old", target.format(origin=provider.origin))
    await fetch("https://idp.example", jwks_uri=f"{provider.origin}/old", bearer_token_file=str(token_file))
    assert sent(provider) == [f"Bearer {TOKEN}", None]


async def test_a_refusal_where_the_token_was_not_sent_says_so(
    provider: Provider, other: Provider, token_file: Path
) -> None:
    provider.serve(OPENID, metadata(provider.origin, other.origin))
    other.serve("/keys", b"", status=401)
    why = await failure(provider.origin, bearer_token_file=str(token_file))
    assert why == (
        f"{other.origin}/keys responded with status 401: keys.bearer_token_file is sent to {provider.origin} only, and "
        "not along a redirect; set keys.jwks_uri"
    )


async def test_a_refusal_of_the_token_does_not_quote_it(provider: Provider, token_file: Path) -> None:
    provider.serve("/keys", b"", status=401)
    why = await failure("https://i", jwks_uri=f"{provider.origin}/keys", bearer_token_file=str(token_file))
    assert why == f"{provider.origin}/keys responded with status 401"


async def test_the_token_is_not_sent_over_plain_http_to_another_host(provider: Provider, token_file: Path) -> None:
    uri = f"{provider.origin.replace('127.0.0.1', '0.0.0.0')}/keys"  # noqa: S104 - nothing listens on it
    assert "plain http" in await failure("https://i", jwks_uri=uri, bearer_token_file=str(token_file))
    assert provider.requests == []


def test_a_token_is_read_again_and_the_last_usable_one_counts(token_file: Path) -> None:
    now = 0.0
    token = BearerToken(token_file, lambda: now)
    assert token.authorization() == f"Bearer {TOKEN}"
    token_file.write_text("second\r\n")
    now = 1.0
    assert token.authorization() == "Bearer second"
    token_file.unlink()
    now = 2.0
    assert token.authorization() == "Bearer second"


@pytest.mark.parametrize("content", ["", "\n", "two words", "a\nb", "a\r\nX-Evil: 1", "é", "a\0"])
def test_a_file_that_holds_no_token_fails_without_being_quoted(token_file: Path, content: str) -> None:
    token_file.write_text(content)
    with pytest.raises(FetchFailed, match=r"^the file with the bearer token (is empty|holds more than a token)"):
        BearerToken(token_file, lambda: 0.0).authorization()


# Headers and the user agent.


async def test_configured_headers_are_sent_everywhere_and_along_redirects(provider: Provider, other: Provider) -> None:
    provider.redirect(OPENID, "/metadata")
    provider.serve("/metadata", metadata(provider.origin, other.origin))
    await fetch(provider.origin, headers={"X-Tenant": "a, b"})
    assert sent(provider, "X-Tenant") == ["a, b"] * 2
    assert sent(other, "X-Tenant") == ["a, b"]
    assert sent(provider, "User-Agent") == [USER_AGENT] * 2


async def test_a_configured_user_agent_replaces_our_own(provider: Provider) -> None:
    await fetch("https://i", jwks_uri=f"{provider.origin}/keys", headers={"user-agent": "allowed/1"})
    assert [request.headers.getall("User-Agent") for request in provider.requests] == [["allowed/1"]]


# Metadata at another address.


async def test_metadata_come_from_the_configured_url_only_and_must_name_the_issuer(provider: Provider) -> None:
    url = f"{provider.origin}/internal"
    provider.serve("/internal", metadata("https://idp.example", provider.origin))
    await fetch("https://idp.example", metadata_url=url)
    assert "issuer mismatch" in await failure("https://idp.example/", metadata_url=url)
    provider.serve("/internal", b"", status=404)
    assert await failure("https://idp.example", metadata_url=url) == (
        f"no metadata: {url} responded with status 404; check keys.metadata_url, or set keys.jwks_uri"
    )


# The client certificate.


def mutual_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Files:
    """A certificate and its key in files."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "tls.crt"
        self.key = folder / "tls.key"
        AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
        self.settings = {
            "ca_file": str(folder / "ca.pem"),
            "client_certificate_file": str(self.certificate),
            "client_key_file": str(self.key),
        }

    def issue(self, name: str) -> trustme.LeafCert:
        certificate = AUTHORITY.issue_cert(name)
        certificate.cert_chain_pems[0].write_to_path(self.certificate)
        certificate.private_key_pem.write_to_path(self.key)
        return certificate


@pytest.fixture
def certificates(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_the_certificate_is_presented_and_a_renewed_one_too(certificates: Files) -> None:
    async with Provider(mutual_tls()) as provider:
        names: list[str] = []

        async def handle(request: Any) -> Any:
            names.extend(name for _, name in request.get_extra_info("peercert")["subjectAltName"])
            return await keys(request)

        provider.serve("/keys", jwks("a"))
        keys, provider.handlers["/keys"] = provider.handlers["/keys"], handle
        uri = f"{provider.origin}/keys"
        certificates.issue("one.example")
        await fetch("https://i", jwks_uri=uri, **certificates.settings)
        source = HttpSource("https://i", Keys.read({"jwks_uri": uri} | certificates.settings))
        await source.fetch(have_keys=False)
        await source.close()
        certificates.issue("two.example")
        pairs = source._client._connector._trust_anchors._certificate
        assert pairs is not None
        pairs._read_at -= 10.0
        await source.fetch(have_keys=False)
        await source.close()
    assert names == ["one.example", "one.example", "two.example"]


async def test_without_the_certificate_the_provider_refuses_the_connection(certificates: Files) -> None:
    async with Provider(mutual_tls()) as provider:
        uri = f"{provider.origin}/keys"
        why = await failure("https://i", jwks_uri=uri, ca_file=certificates.settings["ca_file"])
    assert uri in why


def test_a_half_replaced_pair_is_not_used(certificates: Files) -> None:
    now = 0.0
    first = certificates.issue("one.example")
    source = ClientCertificate(certificates.certificate, certificates.key, lambda: now)
    before = source.current()
    second = AUTHORITY.issue_cert("two.example")
    second.private_key_pem.write_to_path(certificates.key)
    now = 1.0
    assert source.current() is before
    second.cert_chain_pems[0].write_to_path(certificates.certificate)
    now = 2.0
    assert source.current().key == second.private_key_pem.bytes() != first.private_key_pem.bytes()


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        (None, b"", "client_key_file holds no private key"),
        (
            None,
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            "client_key_file holds no private key",
        ),
        (b"", None, "client_certificate_file holds no certificates in PEM"),
        (b"\x30\x82", None, "client_certificate_file holds no certificates in PEM"),
        (
            None,
            AUTHORITY.issue_cert("other.example").private_key_pem.bytes(),
            "does not belong to the first certificate",
        ),
    ],
)
def test_an_unusable_pair_is_refused_with_the_file_to_correct(
    certificates: Files, certificate: bytes | None, key: bytes | None, why: str
) -> None:
    certificates.issue("one.example")
    if certificate is not None:
        certificates.certificate.write_bytes(certificate)
    if key is not None:
        certificates.key.write_bytes(key)
    with pytest.raises(FetchFailed, match=why):
        ClientCertificate(certificates.certificate, certificates.key, lambda: 0.0).current()


def test_an_encrypted_key_is_refused_without_waiting_for_a_password(certificates: Files) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - for this one key

    issued = certificates.issue("one.example")
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"password")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    certificates.key.write_bytes(key.private_bytes(encoding, form, encryption))
    with pytest.raises(FetchFailed, match="without a password"):
        ClientCertificate(certificates.certificate, certificates.key, lambda: 0.0).current()


def test_a_fifo_in_place_of_a_file_does_not_block(certificates: Files, tmp_path: Path) -> None:
    certificates.issue("one.example")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert trust_anchors.problem_of(fifo) == "keys.ca_file cannot be read: not a regular file"
    with pytest.raises(FetchFailed, match="not a regular file"):
        BearerToken(fifo, lambda: 0.0).authorization()
    for certificate, key in ((fifo, certificates.key), (certificates.certificate, fifo)):
        with pytest.raises(FetchFailed, match="not a regular file"):
            ClientCertificate(certificate, key, lambda: 0.0).current()
