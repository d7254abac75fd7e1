"""The client authenticates with its certificate (RFC 8705), at the endpoint for such clients."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from aiohttp import web

from authz_service.core.errors import FetchFailed
from support.fake_introspection import active_response
from support.http_provider import Provider
from support.introspection_clients import IntrospectionClients

if TYPE_CHECKING:
    from pathlib import Path

AUTHORITY = trustme.CA()
UNUSABLE: tuple[Any, ...] = (None, [], {}, {"introspection_endpoint": None}, {"introspection_endpoint": ""})


def mutual_tls() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def keys(folder: Path) -> dict[str, Any]:
    """The ``keys`` of an issuer with a client certificate."""
    certificate = AUTHORITY.issue_cert("api.example")
    certificate.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    certificate.private_key_pem.write_to_path(folder / "tls.key")
    AUTHORITY.cert_pem.write_to_path(folder / "ca.pem")
    files = {"ca_file": "ca.pem", "client_certificate_file": "tls.crt", "client_key_file": "tls.key"}
    return {name: str(folder / file) for name, file in files.items()}


async def test_the_certificate_authenticates_and_the_form_names_the_client(tmp_path: Path) -> None:
    async with Provider(mutual_tls()) as provider:
        seen: list[tuple[str, dict[str, Any], bool]] = []

        async def introspect(request: web.Request) -> web.Response:
            ((_, name),) = request.get_extra_info("peercert")["subjectAltName"]
            seen.append((name, dict(await request.post()), "Authorization" in request.headers))
            return web.json_response(active_response())

        provider.handlers["/introspect"] = introspect
        clients = IntrospectionClients(provider, tmp_path)
        settings = {"auth_method": "tls_client_auth", "client_secret_file": None}
        assert (await clients.introspect(settings, keys=keys(tmp_path)))["active"] is True
        await clients.close()
    ((name, form, has_header),) = seen
    assert (name, form["client_id"], has_header) == ("api.example", "my-api", False)
    assert form.keys() == {"token", "token_type_hint", "client_id"}


async def test_the_alias_for_clients_with_a_certificate_is_discovered(tmp_path: Path) -> None:
    async with Provider(mutual_tls()) as provider:
        alias = f"{provider.origin}/mtls/introspect"
        metadata: dict[str, Any] = {
            "issuer": provider.origin,
            "introspection_endpoint": f"{provider.origin}/introspect",
            "mtls_endpoint_aliases": {"introspection_endpoint": alias},
        }
        provider.serve("/.well-known/openid-configuration", json.dumps(metadata))
        for path in ("/introspect", "/mtls/introspect"):
            provider.serve(path, json.dumps(active_response()), content_type="application/json")
        clients = IntrospectionClients(provider, tmp_path)
        settings = {"auth_method": "tls_client_auth", "client_secret_file": None, "endpoint": None}
        at_issuer = {"issuer": provider.origin, "keys": keys(tmp_path)}
        await clients.introspect(settings, **at_issuer)
        assert (provider.count("/introspect"), provider.count("/mtls/introspect")) == (0, 1)
        for aliases in UNUSABLE:
            metadata["mtls_endpoint_aliases"] = aliases
            provider.serve("/.well-known/openid-configuration", json.dumps(metadata))
            await clients.introspect(settings, **at_issuer)
        assert (provider.count("/introspect"), provider.count("/mtls/introspect")) == (5, 1)
        metadata["mtls_endpoint_aliases"] = {"introspection_endpoint": alias}
        provider.serve("/.well-known/openid-configuration", json.dumps(metadata))
        await clients.introspect(
            {"endpoint": None}, **at_issuer
        )  # a certificate that is not the client's authentication
        assert (provider.count("/introspect"), provider.count("/mtls/introspect")) == (6, 1)
        await clients.close()


@pytest.mark.parametrize("issuer", [{}, {"issuer": "https://other.example"}], ids=["no issuer", "another issuer"])
async def test_an_alias_in_metadata_without_the_configured_issuer_is_not_used(
    tmp_path: Path, issuer: dict[str, str]
) -> None:
    async with Provider(mutual_tls()) as provider:
        aliases = {"mtls_endpoint_aliases": {"introspection_endpoint": f"{provider.origin}/introspect"}}
        provider.serve("/.well-known/openid-configuration", json.dumps(issuer | aliases))
        provider.serve("/introspect", json.dumps(active_response()), content_type="application/json")
        clients = IntrospectionClients(provider, tmp_path)
        settings = {"auth_method": "tls_client_auth", "client_secret_file": None, "endpoint": None}
        with pytest.raises(FetchFailed, match="issuer mismatch"):
            await clients.introspect(settings, issuer=provider.origin, keys=keys(tmp_path))
        assert provider.count("/introspect") == 0
        await clients.close()
