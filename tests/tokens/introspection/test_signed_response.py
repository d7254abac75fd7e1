"""Signed introspection responses (RFC 9701)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.core.errors import FetchFailed
from authz_service.tokens.introspection.signed_response import MEDIA_TYPE
from support.fake_introspection import active_response, http_client
from support.introspection_clients import ACTIVE, TOKEN, record_requests
from support.key_source import FakeSource
from support.signing import Signer
from support.trust import ES, ISSUER, OTHER, RS, STRANGER, jwks

if TYPE_CHECKING:
    from support.http_provider import Provider
    from support.introspection_clients import IntrospectionClients


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
        signed(header={"typ": MEDIA_TYPE}),
        signed(aud=["other", "my-api"]),
        signed(header={"kid": None}),
    ],
    ids=["RS256", "ES256", "case of the type", "full type", "several audiences", "no kid"],
)
async def test_a_signed_response_is_verified(provider: Provider, clients: IntrospectionClients, body: bytes) -> None:
    record_requests(provider, text=None, body=body, content_type=MEDIA_TYPE)
    assert await clients.introspect() == active_response()


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        (b"", "not a JWT"),
        (b"\xff", "not a JWT"),
        (ACTIVE.encode(), "not a JWT"),
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
        (signed(token_introspection=ACTIVE), "no object token_introspection"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_signed_response_must_be_from_the_issuer_for_this_client_and_of_its_type(
    provider: Provider, clients: IntrospectionClients, body: bytes, failure: str
) -> None:
    record_requests(provider, text=None, body=body, content_type=MEDIA_TYPE)
    assert failure in str(await clients.failure())


async def test_claims_beside_token_introspection_do_not_count(
    provider: Provider, clients: IntrospectionClients
) -> None:
    record_requests(
        provider, text=None, body=signed(token_introspection={"active": False}, active=True), content_type=MEDIA_TYPE
    )
    assert await clients.introspect() == {"active": False}


async def test_without_keys_a_signed_response_is_a_failure(provider: Provider, clients: IntrospectionClients) -> None:
    record_requests(provider, text=None, body=signed(), content_type=MEDIA_TYPE)
    assert "cannot be verified" in str(await clients.failure(keys={"discovery": False}))


async def test_an_unknown_key_is_fetched_for_a_signed_response(
    provider: Provider, clients: IntrospectionClients
) -> None:
    record_requests(provider, text=None, body=signed(), content_type=MEDIA_TYPE)
    keys = FakeSource(jwks(ES.jwk()))
    client = http_client(clients.issuer(), keys)
    with pytest.raises(FetchFailed, match="no such key"):
        await client.introspect(TOKEN)
    assert keys.fetches == 1
    await client.close()


async def test_a_rotation_of_keys_without_kid_is_noticed_by_a_signed_response(
    provider: Provider, clients: IntrospectionClients
) -> None:
    keys = FakeSource(jwks(RS.jwk(kid=None)))
    client = http_client(clients.issuer(), keys)
    await client._signed_responses._keys.refresh()
    record_requests(provider, text=None, body=signed(), content_type=MEDIA_TYPE)
    assert await client.introspect(TOKEN) == active_response()
    assert keys.fetches == 1
    keys.published = jwks(ES.jwk(kid=None))
    provider.handlers.clear()
    record_requests(provider, text=None, body=signed(ES), content_type=MEDIA_TYPE)
    assert await client.introspect(TOKEN) == active_response()
    assert keys.fetches == 2
    record_requests(provider, text=None, body=signed(STRANGER), content_type=MEDIA_TYPE)
    for _ in range(3):  # within the cooldown
        with pytest.raises(FetchFailed, match="does not verify"):
            await client.introspect(TOKEN)
    assert keys.fetches == 2
    await client.close()
