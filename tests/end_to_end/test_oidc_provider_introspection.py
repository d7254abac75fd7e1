"""Opaque tokens of a real, certified identity provider (oidc-provider), the real sidecar and the real Envoy.

No token and no response here is self-made. The sidecar introspects with each method of client authentication, and the
provider knows its clients by their registration.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwt.algorithms import ECAlgorithm

from support import oidc_provider as support
from support.oidc_provider import API, OPAQUE_API, OTHER_OPAQUE_API, READ, WRITE, Mesh, OidcProvider
from support.sidecar_process import wait_until
from support.signing import Signer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

_AWKWARD = ' :%41+/&=?"~'  # differs between unencoded, encoded and double-encoded
_SECRET = f"s3cret{_AWKWARD}"
_RSA, _EC, _ED = Signer("RS256", "api-rsa"), Signer("ES256", "api-ec"), Signer("EdDSA", "api-ed")


def _pem(signer: Signer) -> str:
    pem: bytes = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


def _registered(client_id: str, method: str, **members: Any) -> dict[str, Any]:
    return {"client_id": client_id, "token_endpoint_auth_method": method, **members}


def _with_key(client_id: str, signer: Signer) -> dict[str, Any]:
    return _registered(client_id, "private_key_jwt", jwks={"keys": [signer.jwk()]})


_BASIC, _POST = f"basic{_AWKWARD}", f"post{_AWKWARD}"
_APIS = (
    _registered(_BASIC, "client_secret_basic", client_secret=_SECRET),
    _registered(_POST, "client_secret_post", client_secret=_SECRET),
    _with_key("rsa", _RSA),
    _with_key("ec", _EC),
    _with_key("ed", _ED) | {"token_endpoint_auth_signing_alg": "EdDSA"},
    _registered("signed", "client_secret_basic", client_secret=_SECRET, introspection_signed_response_alg="RS256"),
)
_JWK = json.dumps(ECAlgorithm.to_jwk(_EC.key, as_dict=True) | {"kid": _EC.kid})
_WAYS = {
    "client_secret_basic": (_BASIC, "client_secret_basic", "client_secret_file", _SECRET),
    "client_secret_post": (_POST, "client_secret_post", "client_secret_file", f"{_SECRET}\n"),
    "private_key_jwt, RS256, PEM": ("rsa", "private_key_jwt", "private_key_file", _pem(_RSA)),
    "private_key_jwt, ES256, JWK": ("ec", "private_key_jwt", "private_key_file", _JWK),
    "private_key_jwt, EdDSA, PEM": ("ed", "private_key_jwt", "private_key_file", _pem(_ED)),
}

_CONFIG = """\
issuers:
  - issuer: {issuer}
    name: real
    audiences: [{audiences}]
    introspection: {introspection}
rules:
  - name: appointments
    match: {{paths: [/appointments]}}
    require: {{scopes: [read:appointments]}}
  - name: the-client-as-an-api
    match: {{paths: [/client]}}
    require: {{audiences: [app]}}
"""


@asynccontextmanager
async def running(
    folder: Path, provider: OidcProvider, way: str = "client_secret_basic", **settings: Any
) -> AsyncIterator[Mesh]:
    client_id, method, key, content = _WAYS[way]
    file = folder / "proof"
    file.write_text(content)
    own = {"client_id": client_id, "auth_method": method, key: str(file)}
    configuration = _CONFIG.format(
        issuer=provider.issuer, audiences=f"{API}, {OPAQUE_API}", introspection=json.dumps(own | settings)
    )
    async with support.running(folder, provider, configuration) as mesh:
        yield mesh


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider(release: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OidcProvider]:
    async with OidcProvider(release, tmp_path_factory.mktemp("provider") / "provider.log", _APIS) as provider:
        yield provider


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def mesh(provider: OidcProvider, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with running(tmp_path_factory.mktemp("mesh"), provider) as mesh:
        yield mesh


@pytest.mark.parametrize("way", _WAYS)
async def test_an_opaque_token_is_accepted_with_each_client_authentication(
    provider: OidcProvider, tmp_path: Path, way: str
) -> None:
    async with running(tmp_path, provider, way) as mesh:
        tokens = [await provider.access_token(OPAQUE_API) for _ in range(2)]
        for token in tokens:  # two, because an assertion is valid for one call
            assert "." not in token
            result = await mesh.send(token)
            assert (result.status, result.reason) == (200, "ok")
            assert {name: value for name, value in result.upstream.items() if name.startswith("x-auth-")} == {
                "x-auth-issuer": provider.issuer,
                "x-auth-client": "service",
                "x-auth-scopes": READ,
            }
        assert (await mesh.send("guessed")).reason == "inactive"
    log = (tmp_path / "sidecar.log").read_text()
    assert not [secret for secret in (*tokens, _SECRET, "BEGIN", "client_assertion") if secret in log]


async def test_a_token_is_introspected_once(mesh: Mesh) -> None:
    before = await mesh.provider.introspections()
    token = await mesh.provider.access_token(OPAQUE_API)
    outcomes = await asyncio.gather(*(mesh.send(token) for _ in range(20)))
    assert {result.reason for result in (*outcomes, await mesh.send(token))} == {"ok"}
    assert await mesh.provider.introspections() - before == 1


async def test_its_jwts_are_verified_by_its_keys_and_not_introspected(mesh: Mesh) -> None:
    before = await mesh.provider.introspections()
    assert (await mesh.send(await mesh.provider.access_token())).reason == "ok"
    assert await mesh.provider.introspections() == before


async def test_the_opaque_token_of_a_logged_in_user_yields_subject_and_client(mesh: Mesh) -> None:
    tokens = await mesh.provider.login(scope=f"openid {READ} {WRITE}", resource=OPAQUE_API)
    assert "." not in tokens["access_token"]
    result = await mesh.send(tokens["access_token"])
    assert (result.status, result.reason) == (200, "ok")
    identity = [result.upstream[f"x-auth-{name}"] for name in ("subject", "client", "scopes")]
    assert identity == ["alice", "app", f"{READ} {WRITE}"]


async def test_an_active_token_for_another_resource_or_without_the_scope_is_denied(mesh: Mesh) -> None:
    result = await mesh.send(await mesh.provider.access_token(OTHER_OPAQUE_API))
    assert (result.status, result.reason) == (401, "wrong_audience")
    result = await mesh.send(await mesh.provider.access_token(OPAQUE_API, scope=WRITE))
    assert (result.status, result.reason) == (403, "insufficient_scope")
    assert f'scope="{READ}"' in result.challenge


@pytest.mark.parametrize("path", ["/appointments", "/client"])
async def test_active_refresh_tokens_and_login_tokens_are_denied(mesh: Mesh, path: str) -> None:
    tokens = await mesh.provider.login()
    for name in ("access_token", "refresh_token"):
        response = jwt.decode(await mesh.provider.introspection(tokens[name]), options={"verify_signature": False})[
            "token_introspection"
        ]
        assert response["active"] is True
        assert (await mesh.send(tokens[name], path)).status == 401


@pytest.mark.parametrize("path", ["/appointments", "/client"])
async def test_its_id_tokens_are_denied_and_not_introspected(mesh: Mesh, path: str) -> None:
    before = await mesh.provider.introspections()
    tokens = await mesh.provider.login(nonce="n-0S6_WzA2Mj")
    result = await mesh.send(tokens["id_token"], path)
    assert (result.status, result.reason) == (401, "id_token")
    assert await mesh.provider.introspections() == before


async def test_a_revoked_token_is_denied_within_the_cache_ttl(provider: OidcProvider, tmp_path: Path) -> None:
    async with running(tmp_path, provider, cache_ttl="1s", negative_cache_ttl="60s") as mesh:
        token, other = await provider.access_token(OPAQUE_API), await provider.access_token(OPAQUE_API)
        assert [(await mesh.send(each)).reason for each in (token, other)] == ["ok", "ok"]
        await provider.revoke(token)
        await mesh.wait_for(token, "inactive")
        result = await mesh.send(token)
        assert (result.status, result.reason) == (401, "inactive")
        assert 'error="invalid_token"' in result.challenge
        assert (await mesh.send(other)).reason == "ok"


async def test_a_wrong_secret_is_an_outage_and_not_an_invalid_token(provider: OidcProvider, tmp_path: Path) -> None:
    async with running(tmp_path, provider) as mesh:
        (tmp_path / "proof").write_text("of-yesterday")
        token = await provider.access_token(OPAQUE_API)
        while (result := await mesh.send(await provider.access_token(OPAQUE_API))).reason == "ok":  # noqa: ASYNC110 - the file is polled every second
            await asyncio.sleep(0.05)
        assert (result.status, result.reason, result.challenge) == (503, "introspection_unavailable", "")
        assert (await mesh.send(await provider.access_token())).reason == "ok"
        log = tmp_path / "sidecar.log"
        await wait_until(lambda: "the introspection server rejects this client" in log.read_text())
        (tmp_path / "proof").write_text(_SECRET)
        await mesh.wait_for(token, "ok")


@pytest.mark.parametrize("resource", [OPAQUE_API, OTHER_OPAQUE_API])
async def test_a_signed_response_is_verified_and_validated_like_a_plain_one(
    provider: OidcProvider, tmp_path: Path, resource: str
) -> None:
    endpoint = f"{provider.issuer}/signed/introspection"
    async with running(tmp_path, provider, client_id="signed", endpoint=endpoint) as mesh:
        result = await mesh.send(await provider.access_token(resource))
        assert result.reason == ("ok" if resource == OPAQUE_API else "wrong_audience")
        assert (await mesh.send("guessed")).reason == "inactive"


async def test_in_mode_always_a_provider_that_does_not_introspect_its_jwts_allows_none(
    provider: OidcProvider, tmp_path: Path, release: str
) -> None:
    async with running(tmp_path, provider, mode="always") as mesh:
        # The current release rejects the request (unsupported_token_type), the older one responds inactive.
        expected = {"oidc-provider": "introspection_unavailable", "oidc-provider-8": "inactive"}[release]
        assert (await mesh.send(await provider.access_token())).reason == expected
        assert (await mesh.send(await provider.access_token(OPAQUE_API))).reason == "ok"
    assert ("unsupported_token_type" in (tmp_path / "sidecar.log").read_text()) == (release == "oidc-provider")
