"""The development identity provider serves over HTTP what a real one serves; bad tokens exist in its process only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
import pytest

from authz_service.demo.dpop import DpopKey
from authz_service.demo.identity_provider import AUDIENCE, CLIENT_ID, CLIENT_SECRET, IdentityProvider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_GRANT = {"grant_type": "client_credentials"}
_BY_HEADER = {"Authorization": aiohttp.encode_basic_auth(CLIENT_ID, CLIENT_SECRET)}
_BY_FORM = {"client_id": CLIENT_ID, "client_secret": CLIENT_SECRET}


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    async with IdentityProvider() as provider:
        yield provider


async def fetch(url: str, method: str = "GET", **request: Any) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **request) as response:
        return response.status, await response.json()


async def metadata(provider: IdentityProvider) -> dict[str, Any]:
    return (await fetch(f"{provider.issuer}/.well-known/openid-configuration"))[1]


async def granted_claims(provider: IdentityProvider, **form: str) -> dict[str, Any]:
    """The claims of a token from the token endpoint."""
    endpoint = (await metadata(provider))["token_endpoint"]
    status, answer = await fetch(endpoint, "POST", data=_GRANT | form, headers=_BY_HEADER)
    assert status == 200
    return claims(answer["access_token"])


def claims(token: str) -> dict[str, Any]:
    return dict(jwt.decode(token, options={"verify_signature": False}))


async def published_key(provider: IdentityProvider, token: str) -> jwt.PyJWK:
    _, jwks = await fetch((await metadata(provider))["jwks_uri"])
    return jwt.PyJWKSet.from_dict(jwks)[jwt.get_unverified_header(token)["kid"]]


async def test_discovery_and_tokens_have_the_same_issuer(provider: IdentityProvider) -> None:
    assert (await metadata(provider))["issuer"] == provider.issuer == claims(provider.access_token())["iss"]


async def test_the_published_keys_have_no_private_part(provider: IdentityProvider) -> None:
    _, jwks = await fetch((await metadata(provider))["jwks_uri"])
    assert [(key["kid"], key["kty"]) for key in jwks["keys"]] == [("RS256", "RSA"), ("ES256", "EC")]
    assert not {"d", "p", "q", "dp", "dq", "qi"} & {name for key in jwks["keys"] for name in key}


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_access_tokens_follow_rfc_9068_and_verify(provider: IdentityProvider, algorithm: str) -> None:
    token = provider.access_token(algorithm=algorithm)
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": algorithm, "typ": "at+jwt"}
    key = await published_key(provider, token)
    verified = jwt.decode(token, key.key, [algorithm], audience=AUDIENCE, issuer=provider.issuer)
    assert set(verified) == {"iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti"}


async def test_a_forged_token_differs_only_in_its_signature(provider: IdentityProvider) -> None:
    forged, good = provider.forged_token(jti="1"), provider.access_token(jti="1")
    assert jwt.get_unverified_header(forged) == jwt.get_unverified_header(good)
    key = await published_key(provider, forged)
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(forged, key.key, ["RS256"], audience=AUDIENCE)


async def test_an_unsigned_token_has_alg_none_and_an_empty_signature(provider: IdentityProvider) -> None:
    token = provider.unsigned_token()
    assert jwt.get_unverified_header(token)["alg"] == "none"
    assert token.endswith(".")


async def test_an_expired_token_is_valid_except_for_its_expiry(provider: IdentityProvider) -> None:
    token = provider.expired_token()
    key = await published_key(provider, token)
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(token, key.key, ["RS256"], audience=AUDIENCE)


async def test_none_removes_a_claim_from_access_and_id_tokens(provider: IdentityProvider) -> None:
    assert "exp" not in claims(provider.access_token(exp=None))
    assert not {"nonce", "at_hash"} & set(claims(provider.id_token(nonce=None, at_hash=None)))


@pytest.mark.parametrize("credentials", [{"headers": _BY_HEADER, "data": _GRANT}, {"data": _GRANT | _BY_FORM}])
async def test_the_client_may_send_its_secret_in_header_or_form(
    provider: IdentityProvider, credentials: dict[str, Any]
) -> None:
    status, answer = await fetch(f"{provider.issuer}/token", "POST", **credentials)
    assert (status, answer["token_type"], answer["scope"]) == (200, "Bearer", "read:appointments")
    assert claims(answer["access_token"])["client_id"] == CLIENT_ID


async def test_format_opaque_requests_an_opaque_token(provider: IdentityProvider) -> None:
    form = _GRANT | _BY_FORM | {"format": "opaque", "scope": "write:appointments"}
    _, answer = await fetch(f"{provider.issuer}/token", "POST", data=form)
    assert "." not in answer["access_token"]
    assert provider.introspection.describe(answer["access_token"])["scope"] == "write:appointments"


async def test_the_token_has_the_requested_audience_and_scope(provider: IdentityProvider) -> None:
    assert (await granted_claims(provider))["aud"] == AUDIENCE
    assert (await granted_claims(provider, resource="https://other.demo/"))["aud"] == "https://other.demo/"
    assert (await granted_claims(provider, audience="https://other.demo/"))["aud"] == "https://other.demo/"
    assert (await granted_claims(provider, scope="write:appointments"))["scope"] == "write:appointments"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (_GRANT, (401, {"error": "invalid_client"})),
        (_GRANT | _BY_FORM | {"client_secret": "guess"}, (401, {"error": "invalid_client"})),
        (_BY_FORM | {"grant_type": "password"}, (400, {"error": "unsupported_grant_type"})),
    ],
)
async def test_a_missing_secret_a_wrong_secret_or_another_grant_gets_no_token(
    provider: IdentityProvider, form: dict[str, str], expected: tuple[int, dict[str, str]]
) -> None:
    assert await fetch(f"{provider.issuer}/token", "POST", data=form) == expected


async def test_a_login_returns_an_id_token_for_the_application(provider: IdentityProvider) -> None:
    _, answer = await fetch(f"{provider.issuer}/login", "POST")
    token = answer["id_token"]
    assert jwt.get_unverified_header(token)["typ"] == "JWT"
    key = await published_key(provider, token)
    assert {"nonce", "at_hash"} <= set(jwt.decode(token, key.key, ["RS256"], audience=CLIENT_ID))


async def test_a_proof_binds_the_token_to_its_key(provider: IdentityProvider) -> None:
    endpoint, key = f"{provider.issuer}/token", DpopKey()
    headers = _BY_HEADER | {"DPoP": key.proof("POST", endpoint)}
    status, answer = await fetch(endpoint, "POST", data=_GRANT, headers=headers)
    assert (status, answer["token_type"]) == (200, "DPoP")
    assert claims(answer["access_token"])["cnf"] == {"jkt": key.jkt}


@pytest.mark.parametrize(
    "proof", [DpopKey().proof("GET", "http://127.0.0.1/token"), "", "a.b.c", jwt.encode({}, "k" * 32, "HS256")]
)
async def test_an_invalid_proof_gets_no_token(provider: IdentityProvider, proof: str) -> None:
    headers = _BY_HEADER | {"DPoP": proof}
    status, answer = await fetch(f"{provider.issuer}/token", "POST", data=_GRANT, headers=headers)
    assert (status, answer) == (400, {"error": "invalid_dpop_proof"})


async def test_a_token_requested_without_a_proof_is_not_bound(provider: IdentityProvider) -> None:
    assert "cnf" not in await granted_claims(provider)
