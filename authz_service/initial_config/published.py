"""What an issuer publishes about itself: its metadata, key set, and transmitter of security events.

Fetched by the client and within the limits of a running instance. Everything here is foreign: a value that its
standard does not allow counts as missing.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, get_args
from urllib.parse import urlsplit

from authz_service.config.model import CREDENTIAL_KEYS
from authz_service.config.values import ALGORITHM, Algorithm, is_scope
from authz_service.core.errors import FetchFailed
from authz_service.providers import json_object
from authz_service.providers.client import ProviderClient
from authz_service.providers.discovery import Discovery
from authz_service.providers.errors import fetch_timeout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz_service.config.model import Keys

_METADATA_PATH = re.compile(r"/\.well-known/(?:openid-configuration|oauth-authorization-server)(?=/|$)")
_ALGORITHMS: tuple[str, ...] = get_args(Algorithm)
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA", "Ed448": "EdDSA"}
_POLL = "urn:ietf:rfc:8936"
_MAX_ITEMS = 1000  # of a list in metadata
_TIMEOUT = 15.0  # seconds for everything: a person waits


class Published(NamedTuple):
    """What an issuer publishes, as far as a configuration can use it."""

    issuer: str
    jwks_uri: str
    algorithms: tuple[str, ...]  # those that it uses or announces, and the sidecar supports
    scopes: tuple[str, ...]
    auth_method: str | None  # for introspection; None: there is no introspection
    dpop_algorithms: tuple[str, ...]  # none: DPoP is not announced
    binds_to_certificates: bool
    polls_events: bool  # whether it transmits security events by polling
    problem: str  # with its key set; empty if there is none


async def read(issuer: str, keys: Keys) -> Published:
    """Read what an issuer publishes.

    The issuer may be written as the address of its metadata, or without the slash at its end that the metadata has, and
    the other way around.

    Raises:
        FetchFailed: if it has no usable metadata.
    """
    issuer = _METADATA_PATH.sub("", issuer)
    client = ProviderClient(keys, accept="application/json", max_connections=1, address=issuer)
    try:
        async with fetch_timeout(_TIMEOUT, "metadata"):
            issuer, metadata = await _metadata(issuer, keys, client)
            key_algorithms, problem = await _algorithms_of_keys(metadata["jwks_uri"], keys, client)
            polls_events = await _polls_events(issuer, keys, client)
    finally:
        await client.close()
    announced = _strings(metadata.get("id_token_signing_alg_values_supported"))
    introspection = isinstance(metadata.get("introspection_endpoint"), str)
    return Published(
        issuer=issuer,
        jwks_uri=metadata["jwks_uri"],
        algorithms=_supported([*announced, *key_algorithms]),
        scopes=tuple(filter(is_scope, _strings(metadata.get("scopes_supported")))),
        auth_method=_auth_method(metadata.get("introspection_endpoint_auth_methods_supported"))
        if introspection
        else None,
        dpop_algorithms=_supported(_strings(metadata.get("dpop_signing_alg_values_supported"))),
        binds_to_certificates=metadata.get("tls_client_certificate_bound_access_tokens") is True,
        polls_events=polls_events,
        problem=problem,
    )


async def _metadata(issuer: str, keys: Keys, client: ProviderClient) -> tuple[str, dict[str, Any]]:
    """The metadata, and the issuer that it names: this one, or this one with or without the slash at its end."""
    try:
        return issuer, await Discovery(issuer, keys, client).document()
    except FetchFailed as failure:
        other = issuer.removesuffix("/") if issuer.endswith("/") else f"{issuer}/"
        with suppress(FetchFailed):
            return other, await Discovery(other, keys, client).document()
        raise failure from None


async def _algorithms_of_keys(jwks_uri: str, keys: Keys, client: ProviderClient) -> tuple[list[str], str]:
    """The algorithms that the published keys name, and the problem with the key set, if there is one."""
    try:
        response = await client.get(jwks_uri, keys.max_bytes)
        published = json_object.parse(response.body, f"the key set at {jwks_uri}").get("keys")
    except FetchFailed as failure:
        return [], str(failure)
    members = [each for each in published if isinstance(each, dict)] if isinstance(published, list) else []
    if not members:
        return [], f"the key set at {jwks_uri} has no keys"
    return _strings([_algorithm_of(each) for each in members if each.get("use", "sig") == "sig"]), ""


def _algorithm_of(key: dict[str, Any]) -> object:
    """The algorithm that a JWK names, or that its curve implies; an RSA key implies none."""
    curve = key.get("crv")
    return key.get("alg") or (_CURVES.get(curve) if isinstance(curve, str) else None)


async def _polls_events(issuer: str, keys: Keys, client: ProviderClient) -> bool:
    """Whether the issuer's transmitter (OpenID Shared Signals 1.0 section 6.2) supports poll delivery."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    urls = {f"{parts.scheme}://{parts.netloc}/.well-known/ssf-configuration{path}": None}
    urls[f"{issuer.rstrip('/')}/.well-known/ssf-configuration"] = None  # where Keycloak has it as well
    for url in urls:
        with suppress(FetchFailed):  # most issuers have no transmitter
            response = await client.get(url, keys.max_bytes)
            transmitter = json_object.parse(response.body, "the transmitter's metadata")
            if transmitter.get("issuer") == issuer:
                return _POLL in _strings(transmitter.get("delivery_methods_supported"))
    return False


def _strings(value: object) -> list[str]:
    items = value[:_MAX_ITEMS] if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, str)]


def _supported(names: Iterable[str]) -> tuple[str, ...]:
    """Those of the algorithms that this installation supports, which may lack ML-DSA, in our order."""
    found = set(names)
    return tuple(each for each in _ALGORITHMS if each in found and ALGORITHM.accepts(each))


def _auth_method(supported: object) -> str:
    """The first of ours that the endpoint supports; by default, RFC 8414 section 2 has client_secret_basic."""
    announced = _strings(supported)
    return next((method for method in CREDENTIAL_KEYS if method in announced), "client_secret_basic")
