"""Certificate-bound tokens of a real identity provider, the real sidecar, and an Envoy that terminates mutual TLS.

oidc-provider binds each token to the certificate with which the client authenticates (RFC 8705 sections 2.2 and 3), and
oauth4webapi uses the same certificate at the API.
"""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from support.oidc_provider import API, READ, OidcProvider
from support.protected_api import (
    HOST,
    INTROSPECTING,
    RESOURCES,
    SETUPS,
    ProtectedApi,
    configuration,
    protected_api,
)
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.oauth_client import OAuthClient

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True)
class Pki:
    """An authority, the certificates of the servers, and those of two clients."""

    authority: trustme.CA
    own: trustme.LeafCert
    other: trustme.LeafCert
    authority_file: Path
    server_file: Path

    def tls(self, certificate: trustme.LeafCert | None) -> dict[str, str]:
        """The client's TLS options in Node.js."""
        trusted = {"ca": self.authority.cert_pem.bytes().decode()}
        if certificate is None:
            return trusted
        chain, key = certificate.cert_chain_pems[0].bytes().decode(), certificate.private_key_pem.bytes().decode()
        return trusted | {"cert": chain, "key": key}

    def registered(self) -> dict[str, Any]:
        """The registration of a client that has its own certificate."""
        certificate = x509.load_pem_x509_certificate(self.own.cert_chain_pems[0].bytes())
        key = Signer("ES256", "own", load_pem_private_key(self.own.private_key_pem.bytes(), None))
        x5c = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
        return {
            "client_id": "holder",
            "token_endpoint_auth_method": "self_signed_tls_client_auth",
            "tls_client_certificate_bound_access_tokens": True,
            "grant_types": ["client_credentials"],
            "jwks": {"keys": [key.jwk(x5c=[x5c])]},
        }


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder, authority = tmp_path_factory.mktemp("pki"), trustme.CA()
    pki = Pki(
        authority,
        own=authority.issue_cert("own.example"),
        other=authority.issue_cert("other.example"),
        authority_file=folder / "ca.pem",
        server_file=folder / "server.pem",
    )
    authority.cert_pem.write_to_path(str(pki.authority_file))
    authority.issue_cert(HOST, "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pki.server_file))
    return pki


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider(release: str, pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OidcProvider]:
    log = tmp_path_factory.mktemp("provider") / "provider.log"
    async with OidcProvider(release, log, [INTROSPECTING, pki.registered()], tls=pki.server_file) as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=SETUPS)
async def api(
    request: pytest.FixtureRequest,
    pki: Pki,
    provider: OidcProvider,
    client: OAuthClient,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ProtectedApi]:
    folder = tmp_path_factory.mktemp("api")
    setup = {"certificate": pki.server_file, "client_ca": pki.authority_file} | SETUPS[request.param]
    configured = configuration(folder, provider, "mtls", mtls={"certificate": "peer"})
    async with protected_api(folder, provider, client, configured, **setup) as api:
        yield api


@pytest.fixture(params=RESOURCES)
def resource(request: pytest.FixtureRequest) -> str:
    return RESOURCES[request.param]


async def issued(api: ProtectedApi, pki: Pki, resource: str = API) -> str:
    """A token that is bound to the client's own certificate."""
    holder = {"client_id": "holder", "use_mtls_endpoint_aliases": True}
    response = await api.client.token(
        api.mesh.provider.issuer, client=holder, tls=pki.tls(pki.own), resource=resource, scope=READ
    )
    return str(response["access_token"])


@pytest.mark.parametrize("path", ["/appointments", "/bound"])
async def test_the_owner_of_the_certificate_is_allowed(api: ProtectedApi, pki: Pki, resource: str, path: str) -> None:
    allowed = await api.call(await issued(api, pki, resource), path=path, tls=pki.tls(pki.own))
    assert (allowed.status, allowed.reason) == (200, "ok")
    assert allowed.upstream["x-auth-client"] == "holder"


async def test_a_stolen_token_is_worth_nothing_without_a_certificate(
    api: ProtectedApi, pki: Pki, resource: str
) -> None:
    token = await issued(api, pki, resource)
    assert (await api.call(token, tls=pki.tls(pki.own))).reason == "ok"
    stolen = await api.call(token, tls=pki.tls(None))
    assert (stolen.status, stolen.reason, stolen.errors()) == (401, "missing_proof", {"bearer": "invalid_token"})
    assert (await api.last_decision())["reason"] == "missing_proof"


async def test_a_stolen_token_is_worth_nothing_with_another_certificate(
    api: ProtectedApi, pki: Pki, resource: str
) -> None:
    token = await issued(api, pki, resource)
    assert (await api.call(token, tls=pki.tls(pki.own))).reason == "ok"
    stolen = await api.call(token, tls=pki.tls(pki.other))
    assert (stolen.status, stolen.reason, stolen.errors()) == (401, "invalid_proof", {"bearer": "invalid_token"})
    logged = await api.last_decision()
    assert (logged["reason"], bool(logged["cause"])) == ("invalid_proof", True)
    assert (await api.call(token, tls=pki.tls(pki.own))).reason == "ok"


async def test_a_certificate_does_not_replace_a_binding(api: ProtectedApi, pki: Pki, resource: str) -> None:
    response = await api.client.token(api.mesh.provider.issuer, resource=resource, scope=READ)
    token = str(response["access_token"])
    assert (await api.call(token, tls=pki.tls(pki.own))).reason == "ok"
    refused = await api.call(token, path="/bound", tls=pki.tls(pki.own))
    assert (refused.status, refused.reason) == (401, "unbound_token")


async def test_a_proof_of_a_key_does_not_replace_the_certificate(api: ProtectedApi, pki: Pki) -> None:
    refused = await api.call(await issued(api, pki), "any", tls=pki.tls(pki.own))
    assert (refused.status, refused.reason) == (401, "unbound_token")


async def test_a_key_bound_token_is_accepted_through_tls_with_its_proof_and_any_certificate_or_none(
    api: ProtectedApi, pki: Pki, resource: str
) -> None:
    response = await api.client.token(api.mesh.provider.issuer, key="dpop", resource=resource, scope=READ)
    for certificate in (None, pki.own, pki.other):
        allowed = await api.call(response["access_token"], "dpop", tls=pki.tls(certificate))
        assert (allowed.status, allowed.reason) == (200, "ok")
    refused = await api.call(response["access_token"], "dpop", path="/bound", tls=pki.tls(pki.own))
    assert (refused.status, refused.reason) == (401, "unbound_token")


async def test_a_header_of_the_client_is_not_its_certificate(api: ProtectedApi, pki: Pki) -> None:
    token = await issued(api, pki)
    forged = pki.own.cert_chain_pems[0].bytes().decode().replace("\n", "%0A")
    context = ssl.create_default_context(cafile=str(pki.authority_file))
    header = {"x-forwarded-client-cert": f'Cert="{forged}"'}
    refused = await api.send(token, scheme="Bearer", tls=context, headers=header)
    assert (refused.status, refused.reason) == (401, "missing_proof")
