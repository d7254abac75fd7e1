"""What an issuer publishes is read with the sidecar's own client, and anything unusable counts as missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from authz_service.config.model import Keys
from authz_service.core.errors import FetchFailed
from authz_service.initial_config.published import Published, read
from support.http_provider import Provider

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OPENID = "/.well-known/openid-configuration"
OAUTH = "/.well-known/oauth-authorization-server"
SSF = "/.well-known/ssf-configuration"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider() as provider:
        publish_keys(provider, {"kty": "RSA", "alg": "RS256"})
        yield provider


def publish(provider: Provider, path: str = OPENID, **changes: Any) -> None:
    members = {"issuer": provider.origin, "jwks_uri": f"{provider.origin}/jwks"} | changes
    provider.serve(path, json.dumps({name: value for name, value in members.items() if value is not None}))


def publish_keys(provider: Provider, *keys: dict[str, Any]) -> None:
    provider.serve("/jwks", json.dumps({"keys": keys}))


async def published(provider: Provider, **changes: Any) -> Published:
    publish(provider, **changes)
    return await read(provider.origin, Keys())


async def test_little_is_published(provider: Provider) -> None:
    assert await published(provider) == Published(
        issuer=provider.origin,
        jwks_uri=f"{provider.origin}/jwks",
        algorithms=("RS256",),
        scopes=(),
        auth_method=None,
        dpop_algorithms=(),
        binds_to_certificates=False,
        polls_events=False,
        problem="",
    )


async def test_much_is_published(provider: Provider) -> None:
    provider.serve(
        SSF,
        json.dumps(
            {"issuer": provider.origin, "delivery_methods_supported": ["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"]}
        ),
    )
    found = await published(
        provider,
        id_token_signing_alg_values_supported=["none", "HS256", "RS256", "PS512", "X"],
        scopes_supported=["openid", "read", "not a scope", "caf\u00e9", 7],
        introspection_endpoint=f"{provider.origin}/introspect",
        introspection_endpoint_auth_methods_supported=["x", "private_key_jwt"],
        dpop_signing_alg_values_supported=["HS256", "ES256", "EdDSA"],
        tls_client_certificate_bound_access_tokens=True,
    )
    assert found == Published(
        issuer=provider.origin,
        jwks_uri=f"{provider.origin}/jwks",
        algorithms=("RS256", "PS512"),
        scopes=("openid", "read"),
        auth_method="private_key_jwt",
        dpop_algorithms=("ES256", "EdDSA"),
        binds_to_certificates=True,
        polls_events=True,
        problem="",
    )


@pytest.mark.parametrize("value", [None, 7, "RS256", {"a": 1}, [None, 7], True])
async def test_a_member_of_another_type_counts_as_missing(value: object, provider: Provider) -> None:
    names = ("id_token_signing_alg_values_supported", "scopes_supported", "dpop_signing_alg_values_supported")
    found = await published(
        provider,
        **dict.fromkeys(names, value),
        introspection_endpoint=7,
        tls_client_certificate_bound_access_tokens="yes",
    )
    assert found == await published(provider)


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        ({"kty": "EC", "crv": "P-256"}, ("ES256",)),
        ({"kty": "EC", "crv": "P-384", "alg": "ES384"}, ("ES384",)),
        ({"kty": "OKP", "crv": "Ed25519"}, ("EdDSA",)),
        ({"kty": "RSA"}, ()),
        ({"kty": "RSA", "alg": "RSA-OAEP", "use": "enc"}, ()),
        ({"kty": "RSA", "alg": "RS512", "use": "sig"}, ("RS512",)),
        ({"kty": "oct", "alg": "HS256"}, ()),
        ({"kty": "EC", "crv": ["P-256"]}, ()),
    ],
)
async def test_the_algorithms_of_published_keys_count(
    key: dict[str, Any], algorithms: tuple[str, ...], provider: Provider
) -> None:
    publish_keys(provider, key)
    assert (await published(provider)).algorithms == algorithms


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("{}", "has no keys"),
        ('{"keys": []}', "has no keys"),
        ('{"keys": 7}', "has no keys"),
        ("[", "is not strict JSON"),
        (None, "responded with status 404"),
    ],
)
async def test_an_unusable_key_set_is_reported_and_does_not_hide_the_metadata(
    body: str | None, problem: str, provider: Provider
) -> None:
    del provider.handlers["/jwks"]
    if body is not None:
        provider.serve("/jwks", body)
    found = await published(provider, id_token_signing_alg_values_supported=["ES256"])
    assert found.algorithms == ("ES256",)
    assert problem in found.problem


async def test_metadata_of_an_oauth_server_is_read_where_there_is_none_of_openid(provider: Provider) -> None:
    publish(provider, OAUTH)
    assert (await read(provider.origin, Keys())).issuer == provider.origin


@pytest.mark.parametrize("ends", [("", ""), ("/", ""), ("", "/"), (OPENID, ""), (OPENID, "/"), (OAUTH, "")])
async def test_the_issuer_may_be_written_as_people_copy_it(ends: tuple[str, str], provider: Provider) -> None:
    written, actual = ends
    publish(provider, issuer=provider.origin + actual)
    assert (await read(provider.origin + written, Keys())).issuer == provider.origin + actual


@pytest.mark.parametrize("path", ["/realms/a" + OPENID, OAUTH + "/realms/a"])
async def test_an_issuer_with_a_path_may_be_written_as_the_address_of_its_metadata(
    path: str, provider: Provider
) -> None:
    publish(provider, path, issuer=f"{provider.origin}/realms/a")
    assert (await read(provider.origin + path, Keys())).issuer == f"{provider.origin}/realms/a"


async def test_metadata_of_another_issuer_is_refused(provider: Provider) -> None:
    with pytest.raises(FetchFailed, match="issuer mismatch"):
        await published(provider, issuer="https://other.example")


async def test_an_issuer_without_metadata_is_refused_with_the_addresses_that_were_tried(provider: Provider) -> None:
    with pytest.raises(FetchFailed, match=r"openid-configuration.*oauth-authorization-server"):
        await read(provider.origin, Keys())


@pytest.mark.parametrize(
    ("transmitter", "polls"),
    [
        ({"delivery_methods_supported": ["urn:ietf:rfc:8936"]}, True),
        ({"delivery_methods_supported": ["urn:ietf:rfc:8935"]}, False),
        ({"delivery_methods_supported": "urn:ietf:rfc:8936"}, False),
        ({"issuer": "https://other.example", "delivery_methods_supported": ["urn:ietf:rfc:8936"]}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize("path", ["/a" + SSF, SSF + "/a"])
async def test_a_transmitter_counts_if_it_is_the_issuers_and_can_be_polled(
    path: str,
    transmitter: dict[str, Any],
    polls: bool,  # noqa: FBT001 - a table's column
    provider: Provider,
) -> None:
    issuer = f"{provider.origin}/a"
    publish(provider, f"/a{OPENID}", issuer=issuer)
    provider.serve(path, json.dumps({"issuer": issuer} | transmitter))
    assert (await read(issuer, Keys())).polls_events == polls


async def test_a_document_is_not_larger_than_the_sidecar_accepts(provider: Provider) -> None:
    with pytest.raises(FetchFailed, match="larger than"):
        await published(provider, padding="x" * (1 << 20))
